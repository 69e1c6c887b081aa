"""`init`, `doctor`, `config`, `service`: the project and the machine it stands on."""

from __future__ import annotations

from pathlib import Path

import click

from treadle.base.errors import UsageError
from treadle.cli.options import ENVIRONMENT
from treadle.cli.output import Console, common, table
from treadle.loop.project import SPEC_FILE, find_folder, open_project


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Take every default; ask nothing.")
@click.option("--ci", type=click.Choice(["github", "gitlab"]), help="Also write its workflow.")
@click.option("--dry-run", is_flag=True, help="Show what would be written; write nothing.")
@common
def init(*, folder: Path, yes: bool, ci: str | None, dry_run: bool, console: Console) -> int:
    """Adopt FOLDER (or make a sample): detects data, entry point and git, prints each default with
    its reason, checks everything before the first write and never overwrites."""
    from treadle.loop.adopt import propose, write

    proposal = propose(folder, ci)
    if not console.as_json:
        console.line(
            table(
                [(g.name, g.value, g.reason) for g in proposal.guesses],
                ("what", "value", "because"),
            )
        )
    for path in proposal.existing:
        console.report(f"{path} exists and stays as it is", warning=True)
    files = [str(path) for path in (*proposal.files, *proposal.appends)]
    if not files:
        raise UsageError(f"{folder} already has everything: nothing to write", hint="treadle plan")
    if dry_run:
        console.result({"would_write": files}, "would write " + ", ".join(files))
        return 0
    if not yes and not console.ask(f"write {', '.join(files)}?", "--yes", default=True):
        return 1
    write(proposal)
    where = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    console.result(
        {"written": files, "guesses": [vars(g) for g in proposal.guesses]},
        f"wrote {', '.join(files)}\n\nnext: {where}treadle plan",
    )
    return 0


@click.command()
@ENVIRONMENT
@click.option("--no-probe", is_flag=True, help="With --env: start no pods to find out more.")
@common
def doctor(*, environment: str | None, no_probe: bool, console: Console) -> int:
    """Check python, git, disk, network file system, MLflow, docker, cluster: ok, or what is missing
    and the command that fixes it; with --env what its cluster has and lacks."""
    from treadle.loop.doctor import examine, examine_environment

    if no_probe and not environment:
        raise click.UsageError("--no-probe is about the cluster of an environment: --env NAME")
    if environment:
        checks = examine_environment(environment, probes=not no_probe, report=console.report)
    else:
        checks = examine(Path.cwd())
    below = [c.fix for c in checks if c.fix and "\n" in c.fix]  # YAML, to be applied

    def render() -> str:
        fixes = ["kubectl apply what stands below" if c.fix in below else c.fix for c in checks]
        rows = [(c.state, c.name, c.found, fix or "") for c, fix in zip(checks, fixes, strict=True)]
        return "\n\n".join([table(rows, ("", "what", "found", "fix")), *below])

    console.result({"checks": checks}, render)
    return 1 if any(c.state == "missing" for c in checks) else 0


@click.group()
def config() -> None:
    """Show the resolved configuration and where each value is from."""


@config.command()
@click.option("--origin", is_flag=True, help="Where each value is from: file and line, or default.")
@common
def show(*, origin: bool, console: Console) -> int:
    """Every setting of the project with its value."""
    from treadle.plan.spec import origins

    found = origins(find_folder() / SPEC_FILE)
    head = ("setting", "value", "from", "why") if origin else ("setting", "value")
    rows = [(o.key, o.value, o.where, o.why)[: len(head)] for o in found]
    console.result({"settings": found}, lambda: table(rows, head))
    return 0


@config.command()
@common
def schema(*, console: Console) -> int:
    """The JSON Schema of treadle.yaml, for editors."""
    import json

    from treadle.plan.spec import json_schema

    found = json_schema()
    console.result(found, json.dumps(found, indent=2))
    return 0


@click.group()
def service() -> None:
    """A user service that runs `treadle up --watch`."""


@service.command()
@ENVIRONMENT
@click.option("--print", "only_print", is_flag=True, help="Print the file; write nothing.")
@click.option(
    "--system", type=click.Choice(["systemd", "launchd"]), help="By default this machine's."
)
@common
def install(
    *, environment: str | None, only_print: bool, system: str | None, console: Console
) -> int:
    """Write a systemd user unit or a launchd file that runs `up --watch` for this project."""
    from treadle.loop.unit import install as write_unit
    from treadle.loop.unit import render

    project = open_project(create=False, report=console.report)
    unit = render(project, project.environment(environment), system)
    if only_print:
        console.result({"path": str(unit.path), "text": unit.text}, unit.text)
        return 0
    write_unit(unit)
    console.result(
        {"path": str(unit.path), "next": unit.start}, f"wrote {unit.path}\n\nnext: {unit.start}"
    )
    return 0
