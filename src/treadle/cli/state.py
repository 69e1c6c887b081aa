"""`gc`: what nothing needs any more."""

from __future__ import annotations

import click

from treadle.cli.output import Console, common
from treadle.loop.project import open_project


@click.command()
@click.option(
    "--keep",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="So many releases before the champion stay rollback targets, in each environment.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go; delete nothing.")
@common
def gc(*, keep: int, dry_run: bool, console: Console) -> int:
    """Delete stored blobs that nothing needs: never what the champion, a rollback target, the
    latest data or an open window needs."""
    from treadle.loop.collect import collect

    project = open_project(create=False, write=True, report=console.report)
    done = collect(project, keep=keep, dry_run=dry_run)
    verb = "would delete" if dry_run else "deleted"
    console.result(
        done,
        f"{verb} {done.deleted} blobs, {done.freed_bytes / 1e6:,.1f} MB; "
        f"{done.kept} blobs stay, {done.kept_bytes / 1e6:,.1f} MB",
    )
    return 0
