"""`data show | diff | accept`: the data sets and their snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from treadle.base.digest import short
from treadle.cli.output import Console, common, table
from treadle.loop.project import open_project

if TYPE_CHECKING:
    from treadle.data.diff import DataDiff


@click.group()
def data() -> None:
    """Show data sets, compare snapshots, accept what was refused."""


@data.command()
@common
def show(*, console: Console) -> int:
    """Data sets and their snapshots, newest first."""
    from treadle.loop.datasets import show as look

    project = open_project(create=False, report=console.report)
    found = look(project)
    rows = [(d.dataset, short(d.digest), d.rows, d.files, d.size_bytes, d.used_by) for d in found]
    console.result(
        {"snapshots": found},
        lambda: (
            table(rows, ("data set", "snapshot", "rows", "files", "bytes", "runs"))
            if rows
            else "no data was read yet; next: treadle up"
        ),
    )
    return 0


@data.command()
@click.argument("a")
@click.argument("b", required=False)
@common
def diff(*, a: str, b: str | None, console: Console) -> int:
    """Rows, schema and per-column distribution between snapshots A and B (by default what the
    files hold now); A and B are digests or a data set's name."""
    from treadle.loop.datasets import diff as compare

    project = open_project(create=False, report=console.report)
    found = compare(project, a, b)
    console.result(found, lambda: render_diff(found))
    return 0


def render_diff(found: DataDiff) -> str:
    """A difference: files and rows, then the columns that moved most."""
    more = found.rows_after - found.rows_before
    lines = [
        f"{found.dataset}@{short(found.before)} → {short(found.after)}: {found.rows_before:,} → "
        f"{found.rows_after:,} rows ({more:+,}), {len(found.parts_added)} files added, "
        f"{len(found.parts_removed)} removed"
    ]
    rows = [
        (c.name, c.change, c.before, c.after, c.psi, c.ks, c.missing_before, c.missing_after)
        for c in sorted(found.columns, key=lambda c: (c.change == "same", -(c.psi or 0.0)))
    ]
    head = ("column", "change", "type", "to", "PSI", "KS", "missing", "to")
    return "\n".join([*lines, table(rows, head)])


@data.command()
@click.argument("dataset", required=False)
@click.option("--reason", required=True, help="Why; it stands in the ledger under your name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def accept(*, dataset: str | None, reason: str, yes: bool, console: Console) -> int:
    """Accept what learned rules refused or warned of: widens them in data.schema.yaml, which you
    own. Structure (a missing column, a duplicate key) is not for accepting: mend the data or the
    schema."""
    from treadle.loop.datasets import accept as take

    project = open_project(create=False, write=True, report=console.report)
    done = take(
        project,
        dataset,
        reason,
        confirm=lambda text: yes or console.ask(f"{text}\naccept?", "--yes"),
    )
    console.result(done, f"{done.words}\n\nnext: treadle up")
    return 0
