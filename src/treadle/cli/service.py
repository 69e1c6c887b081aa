"""`serve`, `predict`, `score`, `logs`, `down`: the running service."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from treadle.cli.options import ENVIRONMENT
from treadle.cli.output import Console, common, table
from treadle.loop.project import open_project


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(*, arguments: tuple[str, ...]) -> None:
    """Serve one model directory: `python -m treadle.operate serve`, with all its options."""
    # A process of its own: the server holds nothing of the command line in memory.
    program = [sys.executable, "-P", "-m", "treadle.operate", "serve", *arguments]
    os.execv(sys.executable, program)


@click.command()
@click.argument("file", type=click.Path(allow_dash=True))
@ENVIRONMENT
@click.option("-n", "--limit", type=click.IntRange(1), help="Only the first rows of the file.")
@common
def predict(*, file: str, environment: str | None, limit: int | None, console: Console) -> int:
    """Ask the running service about the rows of FILE (Parquet, CSV, JSON lines; - for JSON lines
    on standard input); prints predictions with their prediction ids."""
    from treadle.loop.service import predict as ask

    project = open_project(create=False, report=console.report)
    text = sys.stdin.read() if file == "-" else None
    answer = ask(
        project,
        project.environment(environment),
        None if file == "-" else Path(file),
        text=text,
        limit=limit,
    )

    def render() -> str:
        return table(
            [(i, p) for i, p in zip(answer.ids, answer.predictions, strict=True)],
            ("prediction id", "prediction"),
        )

    console.result(answer, render)
    console.line(f"\nnext: treadle lineage {answer.ids[0]}" if answer.ids else "no rows")
    return 0


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@ENVIRONMENT
@click.option(
    "--release", "number", type=click.IntRange(1), help="A release instead of the champion."
)
@click.option("--as-of", "moment", metavar="DATE", help="The release that was champion then.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@common
def score(
    *,
    source: str,
    target: Path,
    environment: str | None,
    number: int | None,
    moment: str | None,
    force: bool,
    console: Console,
) -> int:
    """The champion over IN (a file, a glob, or a data set's name), streaming, into OUT: Parquet
    with predictions, prediction ids and lineage columns."""
    from treadle.loop.service import score as score_rows

    project = open_project(create=False, report=console.report)
    done = score_rows(
        project,
        project.environment(environment),
        source,
        target,
        number=number,
        moment=moment,
        force=force,
    )
    console.result(
        done,
        f"scored {done.rows:,} rows with release {done.release} into {done.output}"
        f"\n\nnext: treadle lineage {done.first_id}",
    )
    return 0


@click.command()
@ENVIRONMENT
@click.option("-f", "--follow", is_flag=True, help="Go on as lines arrive.")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0))
@common
def logs(*, environment: str | None, follow: bool, lines: int, console: Console) -> int:
    """The model server's log."""
    from treadle.loop.service import log_lines

    project = open_project(create=False, report=console.report)
    found = log_lines(project, project.environment(environment), lines, follow=follow)
    if console.as_json and not follow:
        console.result({"lines": list(found)}, "")
        return 0
    for line in found:
        console.item({"line": line}, line)
    return 0


@click.command()
@ENVIRONMENT
@click.option(
    "--everything", is_flag=True, help="On a cluster: the namespace and what claims hold, too."
)
@common
def down(*, environment: str | None, everything: bool, console: Console) -> int:
    """Stop the service after it has finished what is in flight; nothing recorded is lost."""
    from treadle.loop.service import down as stop

    project = open_project(create=False, report=console.report)
    words = stop(project, project.environment(environment), everything=everything)
    console.result({"done": words}, f"{words}\n\nnext: treadle up")
    return 0
