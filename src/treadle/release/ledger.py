"""What the ledger alone says: the state of an environment's releases, now or at a moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, get_args

from treadle.base import clock
from treadle.base.records import Decision
from treadle.release.promote import EMPTY, Action, after


def replay(decisions: Iterable[Decision]) -> dict[str, Any]:
    """The release state that one environment's decisions lead to.

    `decisions`: newest first, as the journal gives them. Entries that moved no release (verdicts,
    approvals of a verdict or of a retraining …) are passed over.
    """
    state: dict[str, Any] = {"champion": EMPTY["champion"], "previous": [], "held": {}}
    for decision in reversed(list(decisions)):
        action = decision.evidence.get("action")
        if decision.kind == action and action in get_args(Action):
            state = after(
                state, action, int(decision.evidence["release"]), str(decision.evidence["reason"])
            )
    return state


def champion_as_of(decisions: Iterable[Decision], moment: str) -> int | None:
    """The number of the release that was champion at `moment`; None before the first.

    `moment`: ISO 8601; a bare date means the end of that day (UTC). `decisions`: newest first.
    """
    limit = clock.parse(moment)
    if len(moment) <= len("2013-01-31"):
        limit += dt.timedelta(days=1, microseconds=-1)
    until = clock.text(limit)
    champion: int | None = replay(d for d in decisions if d.at <= until)["champion"]
    return champion
