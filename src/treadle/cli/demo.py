"""`demo drift`: the loop turning through a year of real flights."""

from __future__ import annotations

from pathlib import Path

import click

from treadle.cli.output import Console, common


@click.group()
def demo() -> None:
    """Watch the loop turn on a year of real flights."""


@demo.command()
@click.option(
    "--project",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The flights example; by default the one here or in examples/flights.",
)
@click.option(
    "--until",
    default="2013-12-31",
    show_default=True,
    metavar="DATE",
    help="Where the replayed year ends.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path),
    help="Where the copy is made; by default a new temporary folder.",
)
@common
def drift(*, folder: Path | None, until: str, scratch: Path | None, console: Console) -> int:
    """Replay 2013 from May on, on a scratch copy of the flights example.

    Hour by hour one request asks the running service for all flights of that hour; the truth of
    each arrives a day later. Quality decays, the rules say when a retraining is due, the challenger
    is judged against the champion, and the service is swapped under traffic. Every figure is
    computed then and there.
    """
    from treadle.loop.demo import drift as replay

    done = replay(
        folder,
        until=until,
        scratch=scratch,
        report=console.report,
        say=(lambda _: None) if console.as_json else print,
    )
    console.result(done, done.text)
    return 0 if done.failed_requests == 0 else 1
