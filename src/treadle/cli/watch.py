"""`monitor` and `truth`: the return half of the loop, by hand."""

from __future__ import annotations

from pathlib import Path

import click

from treadle.cli.options import ENVIRONMENT
from treadle.cli.output import Console, common, table
from treadle.loop.project import open_project


@click.command()
@ENVIRONMENT
@click.option(
    "-n",
    "--limit",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="The newest windows.",
)
@common
def monitor(*, environment: str | None, limit: int, console: Console) -> int:
    """Make windows of the traffic so far, look for drift and decay, say whether a retraining is
    due; every answer, a no too, goes to the ledger."""
    from treadle.loop.monitor import monitor as look

    project = open_project(create=False, write=True, report=console.report)
    found = look(project, project.environment(environment), limit=limit)

    def render() -> str:
        rows = []
        for window in found.windows:
            quality = ", ".join(f"{n} {v:.3f}" for n, v in window.realised.items())
            guess = ", ".join(f"{n} {v:.3f}" for n, v in window.estimated.items())
            rows.append(
                (
                    window.start[:10],
                    window.end[:10],
                    "+".join(str(r) for r in window.releases),
                    window.rows,
                    f"{window.coverage:.0%}",
                    quality or "-",
                    guess or "-",
                )
            )
        text = (
            table(rows, ("from", "to", "release", "rows", "truth", "quality", "estimated"))
            if rows
            else "no window has closed yet"
        )
        alarms = [f.text for f in found.findings if f.alarm]
        notices = [f.text for f in found.findings if not f.alarm]
        if alarms:
            text += "\n\nalarms:\n" + "\n".join(f"  - {line}" for line in alarms)
        if not console.verbose:
            last = found.windows[-1].id if found.windows else ""
            notices = [f.text for f in found.findings if not f.alarm and f.window == last]
        if notices:
            text += "\n\nseen, no alarm:\n" + "\n".join(f"  - {line}" for line in notices)
        text += f"\n\nretrain: {found.answer}: {found.words}"
        return text + f"\n\nnext: {found.next}"

    console.result(found, render)
    return 0


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@ENVIRONMENT
@common
def truth(*, file: Path, environment: str | None, console: Console) -> int:
    """Hand in what became known later: FILE (Parquet, CSV, JSON lines) with the label and the key
    or prediction_id of each row."""
    from treadle.loop.truth import hand_in_truth

    project = open_project(create=False, write=True, report=console.report)
    done = hand_in_truth(project, project.environment(environment), file)
    console.result(done, f"{done.words}\n\nnext: treadle monitor")
    return 0
