"""`plan`, `train`, `up`, `test`: the commands that walk the chain from data to a served model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from treadle.base.digest import short
from treadle.cli.options import ENVIRONMENT, SET
from treadle.cli.output import Console, common, table
from treadle.loop.project import open_project
from treadle.loop.walk import walk

if TYPE_CHECKING:
    from treadle.base.records import Plan, Verdict
    from treadle.loop.outcome import TurnResult


@click.command()
@ENVIRONMENT
@SET
@click.option(
    "--exit-code", is_flag=True, help="Exit 0 when there is nothing to do, 10 on changes."
)
@common
def plan(
    *, environment: str | None, overrides: tuple[str, ...], exit_code: bool, console: Console
) -> int:
    """Show what would run and why, phase by phase; writes nothing."""
    project = open_project(create=False, report=console.report)
    chain = walk(project, project.environment(environment), overrides=overrides)
    found = chain.plan()
    console.result({"plan": found, "changes": found.changes}, lambda: render_plan(found))
    return 10 if exit_code and found.changes else 0


def render_plan(found: Plan) -> str:
    """The plan as lines: phase, subject, what would happen, why."""
    rows = [(a.phase, a.subject, a.action, a.reason) for a in found.actions]
    lines = [table(rows, ("phase", "subject", "action", "why"))]
    lines += [
        f"\n{a.phase} {a.subject}:\n" + "\n".join(f"  {words}" for words in a.changed)
        for a in found.actions
        if len(a.changed) > 1
    ]
    if found.changes:
        lines.append(f"\nnext: treadle up --env {found.environment}")
    else:
        lines.append("\nnothing to do")
    return "\n".join(lines)


@click.command()
@ENVIRONMENT
@SET
@common
def train(*, environment: str | None, overrides: tuple[str, ...], console: Console) -> int:
    """Data to verdict, stops before release: for experiments.

    `--set model.learning_rate=0.05,0.1` tries each value; the results stand side by side here and
    as runs in MLflow.
    """
    from treadle.loop.turn import train as train_all

    project = open_project(create=True, report=console.report)
    results = train_all(project, project.environment(environment), overrides)
    console.result(
        {"runs": [result.as_dict() for result in results]},
        lambda: render_runs(results, project.state is not None),
    )
    return max(result.exit_code for result in results)


def render_runs(results: list[TurnResult], recorded: bool) -> str:
    """Experiments side by side."""
    names = sorted({name for r in results if r.verdict for name in r.verdict.metrics})
    varied = sorted({name for r in results for name in r.parameters})
    if len(results) > 1:
        varied = [n for n in varied if len({repr(r.parameters.get(n)) for r in results}) > 1]
    rows = [
        (
            r.run or "-",
            *(r.parameters.get(name) for name in varied),
            *(r.verdict.metrics.get(name) if r.verdict else None for name in names),
            r.verdict.outcome if r.verdict else "failed",
        )
        for r in results
    ]
    text = table(rows, ("run", *varied, *names, "verdict"))
    if len(results) == 1 and results[0].verdict:
        text += "\n\n" + render_verdict(results[0].verdict)
    if recorded:
        text += "\n\nnothing was released; next: treadle up"
    return text


def render_verdict(verdict: Verdict) -> str:
    """A verdict: its outcome and each gate in a line."""
    rows = [(g.outcome, g.gate, g.text) for g in verdict.gates]
    head = (
        f"verdict {verdict.outcome}: model {short(verdict.model)} on {verdict.rows:,} rows"
        f" in {verdict.blocks} blocks"
    )
    if verdict.unlabelled:
        head += f" ({verdict.unlabelled:,} more have no label)"
    if verdict.attempts > 1:
        head += f"; {verdict.attempts} models were judged on this holdout"
    return head + "\n" + table(rows, ("", "gate", "why"))


@click.command()
@ENVIRONMENT
@SET
@click.option("--watch", is_flag=True, help="Stay, and turn when the retraining rule says so.")
@click.option(
    "--existing", is_flag=True, help="Refuse (exit 4) where the environment has no journal."
)
@click.option("--no-wait", is_flag=True, help="Do not wait for another turn; exit naming it.")
@click.option("--dry-run", is_flag=True, help="The same as `treadle plan`.")
@click.option(
    "--every", "interval", default="30s", show_default=True, help="With --watch: how often to look."
)
@common
def up(
    *,
    environment: str | None,
    overrides: tuple[str, ...],
    watch: bool,
    existing: bool,
    no_wait: bool,
    dry_run: bool,
    interval: str,
    console: Console,
) -> int:
    """One turn of the loop, all the way: data to a served and watched model.

    Runs what changed and keeps the rest. Nothing is released that did not pass its gates.
    """
    project = open_project(create=not dry_run, existing=existing, report=console.report)
    name = project.environment(environment)
    if dry_run:
        found = walk(project, name, overrides=overrides).plan()
        console.result({"plan": found, "changes": found.changes}, lambda: render_plan(found))
        return 0
    if watch:
        from treadle.base.clock import duration_s
        from treadle.loop.watch import watch as watch_loop

        return watch_loop(project, name, duration_s(interval))
    from treadle.loop.turn import up as turn_up

    result = turn_up(project, name, overrides, wait=not no_wait)
    console.result(result.as_dict(), lambda: render_turn(result))
    return result.exit_code


def render_turn(result: TurnResult) -> str:
    """What a turn made, where it is, and the next command."""
    lines = []
    if result.verdict and result.turned:
        lines.append(render_verdict(result.verdict) + "\n")
    rows = [(name, value) for name, value in result.made.items() if value]
    width = max((len(name) for name, _ in rows), default=0)
    lines += [f"{name.ljust(width)}  {value}" for name, value in rows]
    lines += [f"\n{note}" for note in result.notes]
    if result.next:
        lines.append(f"\nnext: {result.next}")
    return "\n".join(lines)


@click.command("test")
@click.argument("model", required=False)
@ENVIRONMENT
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the gates as JUnit XML, for a CI service.",
)
@common
def test(
    *, model: str | None, environment: str | None, junit: Path | None, console: Console
) -> int:
    """The gates alone: judge MODEL (a digest or `release N`; the newest by default) again."""
    from treadle.loop.turn import judge_again

    project = open_project(create=False, report=console.report)
    verdict = judge_again(project, project.environment(environment), model)
    if junit:
        from treadle.test.junit import to_junit

        junit.write_text(to_junit(verdict), encoding="utf-8")
        console.line(f"wrote {junit}")
    console.result({"verdict": verdict}, lambda: render_verdict(verdict))
    return {"pass": 0, "refuse": 3, "undecided": 5}[verdict.outcome]
