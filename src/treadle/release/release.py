"""Release numbers, and which model may get one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from treadle.base import clock
from treadle.base.errors import Refused
from treadle.base.records import Model, Release


def next_number(releases: Iterable[Release]) -> int:
    """One more than the highest number; numbers are never given twice."""
    return max((release.number for release in releases), default=0) + 1


def held_release(
    held: Mapping[str, str], releases: Iterable[Release], content: str
) -> tuple[int, str] | None:
    """The newest held release with this model directory, and why it is held; None if none is.

    A hold binds what was served, not its number: the same bytes under a new number stay held.
    """
    for release in sorted(releases, key=lambda r: r.number, reverse=True):
        if release.content == content and str(release.number) in held:
            return release.number, held[str(release.number)]
    return None


def propose(
    held: Mapping[str, str],
    releases: Iterable[Release],
    model: Model,
    *,
    environment: str,
    run: str,
    verdict: str,
    by: str,
    reason: str = "",
    compiled: dict[str, Any] | None = None,
) -> Release:
    """The next release of an environment. Refused where the same model is held."""
    known = list(releases)
    found = held_release(held, known, model.content)
    if found is not None:
        number, why = found
        raise Refused(
            f"release {number} is this same model, and it is held: {why}",
            hint=f"change the data or the code, or say yes to it: treadle approve {number} "
            "--reason …",
        )
    return Release(
        number=next_number(known), environment=environment, model=model.digest,
        content=model.content, run=run, verdict=verdict, created=clock.text(clock.now()), by=by,
        reason=reason, compiled=compiled,
    )  # fmt: skip
