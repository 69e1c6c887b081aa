"""Reading the ledger: verified before it is shown, and who was champion when."""

from __future__ import annotations

import datetime

from treadle.base import clock
from treadle.base.errors import UsageError
from treadle.base.records import Decision
from treadle.loop.project import Project


def ledger(
    project: Project, environment: str | None, *, until: str | None, limit: int | None
) -> list[Decision]:
    """Decisions, newest first; the chain is verified before anything is shown."""
    project.journal.verify()
    return project.journal.ledger(environment, until=until, limit=limit)


def champion_as_of(project: Project, environment: str, moment: str) -> int | None:
    """The number of the release that was champion at `moment` (ISO 8601), from the ledger alone."""
    from treadle.release.ledger import champion_as_of as replay

    project.journal.verify()
    until = end_of(moment)
    return replay(project.journal.ledger(environment, until=until), until)


def end_of(moment: str) -> str:
    """A moment that a person names, as the journal writes times; a bare date is the end of its day."""
    try:
        at = clock.parse(moment)
    except ValueError as error:
        raise UsageError(f"`{moment}` is no date such as 2013-09-30: {error}") from None
    if len(moment) <= len("2013-09-30"):
        at += datetime.timedelta(days=1, microseconds=-1)
    return clock.text(at)
