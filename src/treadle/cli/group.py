"""The command group: names and one-line helps stand here, the commands' modules load when called."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click

from treadle import __version__
from treadle.cli.output import Console, report_error

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module:function, one line)
    "init": (
        "project:init",
        "Adopt this folder (or make a sample): detects data, entry point, git.",
    ),
    "doctor": (
        "project:doctor",
        "Check python, git, disk, MLflow, docker, cluster; name each fix.",
    ),
    "plan": ("turn:plan", "Show what would run and why; writes nothing."),
    "train": ("turn:train", "Data to verdict, stops before release: for experiments."),
    "build": ("build:build", "A container image of the champion, without a daemon."),
    "lint": ("cluster:lint", "What is wrong with Kubernetes YAML: where, what and the fix."),
    "render": ("cluster:render", "The champion's Kubernetes objects as YAML; nothing is sent."),
    "up": ("turn:up", "One turn of the loop, all the way to a watched service."),
    "status": (
        "look:status",
        "The loop at a glance: data, champion, deployment, health, attention.",
    ),
    "serve": ("service:serve", "Serve any MLflow model directory: no project needed."),
    "predict": ("service:predict", "Ask the running service; prints predictions with their ids."),
    "score": ("service:score", "The champion over a file, glob or query, streaming, into Parquet."),
    "test": ("turn:test", "The gates alone."),
    "monitor": ("watch:monitor", "Windows, findings and quality of the traffic so far."),
    "truth": ("watch:truth", "Hand in what became known later."),
    "approve": ("decide:approve", "A person's answer where a rule asks for one."),
    "explain": ("look:explain", "Why did, or didn't, something happen."),
    "lineage": ("look:lineage", "From a prediction id back to its data, and the reverse."),
    "ledger": ("look:ledger", "Every decision: what, by which rule, on which evidence, by whom."),
    "promote": (
        "decide:promote",
        "The champion of one environment to another: the same image, no rebuild.",
    ),
    "rollback": ("decide:rollback", "Back to the previous (or a named) release; no retraining."),
    "traffic": ("decide:traffic", "A share of the requests for another release (Kubernetes)."),
    "logs": ("service:logs", "The model server's log."),
    "down": ("service:down", "Stop the service; nothing recorded is lost."),
    "gc": ("state:gc", "Delete blobs that nothing needs any more."),
    "data": ("data:data", "Show data sets, compare snapshots, accept what was refused."),
    "config": ("project:config", "Show the resolved configuration and where each value is from."),
    "service": ("project:service", "Install a user service that runs `up --watch`."),
    "demo": ("demo:demo", "Watch the loop turn on a year of real flights."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order of the loop."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        """Load one command's module."""
        if name not in COMMANDS:
            return None
        module, function = COMMANDS[name][0].split(":")
        return getattr(importlib.import_module(f"treadle.cli.{module}"), function)  # type: ignore[no-any-return]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """An unknown command is answered with the nearest known one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean `treadle {near[0]}`?" if near else ""
            ctx.fail(f"there is no command `{args[0]}`.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Help from the table above: no command's module is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 refused by a gate or by data, "
    "4 backend unreachable, 5 undecided, 10 changes (plan --exit-code), 130 interrupted.",
)
@click.version_option(__version__, prog_name="treadle")
def treadle() -> None:
    """Turns the DevOps loop for one engineer with a model, driven by data."""


def command_line(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code and never lets a traceback out (but with --debug)."""
    console = Console.from_arguments(arguments)
    try:
        result: Any = treadle.main(args=list(arguments), prog_name="treadle", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.exceptions.Abort:  # also what click makes of Ctrl-C
        console.line("interrupted; what was done before is kept")
        return 130
    except click.ClickException as mistake:
        return report_error(console, mistake)
    except (BrokenPipeError, SystemExit):  # the latter is what click makes of it
        return 141
    except BaseException as error:
        if "--debug" in arguments:
            raise
        return report_error(console, error)
    return result if isinstance(result, int) else 0
