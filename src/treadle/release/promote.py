"""Promotion, hold, rollback and approval: one function, from a state to the next and its reason.

An environment's release state is plain (it is stored as it is):

    {"champion": 7, "previous": [3, 5], "held": {"6": "why"}}

`previous` are the champions before, newest last. What always holds: the champion is not held and
not among the previous; nobody is previous twice; replaying the ledger gives the state.

| action | release | effect |
|---|---|---|
| promote | the new champion | the old champion becomes the newest of the previous |
| rollback | where to go (a previous champion) | it is champion; the one rolled back is held |
| hold | what to hold | held; a champion is first rolled back to the previous one |
| approve | a held release | no longer held: a person named it |
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from treadle.base import clock
from treadle.base.errors import Bug, Refused, UsageError
from treadle.base.records import Decision

Action = Literal["promote", "rollback", "hold", "approve"]
EMPTY: Mapping[str, Any] = {"champion": None, "previous": [], "held": {}}
"""The state of an environment before its first release."""
_OUTCOMES: dict[Action, str] = {
    "promote": "promoted", "rollback": "rolled back", "hold": "held", "approve": "approved",
}  # fmt: skip


@dataclass(frozen=True)
class Move:
    """The next state (plain) and the ledger's entry for it; `previous` of the entry is empty."""

    state: dict[str, Any]
    decisions: tuple[Decision, ...]


def move(
    state: Mapping[str, Any],
    action: Action,
    *,
    release: int,
    environment: str,
    by: str,
    reason: str,
    rule: str,
    evidence: Mapping[str, Any] | None = None,
) -> Move:
    """The only way in which an environment's releases change.

    Raises Refused for what a hold forbids, UsageError for a release that cannot be meant. The
    entry's evidence holds `evidence`, and what a replay needs: action, release, champion before and
    after, reason.
    """
    following = after(state, action, release, reason)
    before, champion = state.get("champion"), following["champion"]
    decision = Decision(
        id=clock.ulid(),
        at=clock.text(clock.now()),
        environment=environment,
        kind=action,
        subject=f"release {release}",
        outcome=_OUTCOMES[action],
        rule=rule,
        words=_words(action, release, before, champion, reason),
        evidence={
            **(evidence or {}),
            "action": action, "release": release, "before": before, "champion": champion,
            "reason": reason,
        },
        by=by,
    )  # fmt: skip
    return Move(following, (decision,))


def after(state: Mapping[str, Any], action: str, release: int, reason: str) -> dict[str, Any]:
    """The state after an action; also what a replay of the ledger calls."""
    champion, previous, held = _read(state)
    if action == "promote":
        if str(release) in held:
            raise Refused(
                f"release {release} is held: {held[str(release)]}",
                hint=f"treadle approve {release} --reason … lets it go again",
            )
        if champion != release:
            previous = [number for number in previous if number != release]
            previous += [] if champion is None else [champion]
        champion = release
    elif action == "rollback":
        target = rollback_target(state, release)
        # A person who names a held release means it.
        held.pop(str(target), None)
        previous = [number for number in previous if number not in (target, champion)]
        held[str(champion)] = reason
        champion = target
    elif action == "hold":
        if release == champion:
            champion = rollback_target(state, None)
        previous = [number for number in previous if number not in (release, champion)]
        held[str(release)] = reason
    elif action == "approve":
        if str(release) not in held:
            raise UsageError(
                f"release {release} is not held",
                hint=f"held: {_listed(held)}" if held else "no release is held",
            )
        del held[str(release)]
    else:
        close = difflib.get_close_matches(action, get_args(Action), n=1)
        raise Bug(f"no such action on a release: {action!r}{f', {close[0]}?' if close else ''}")
    return {"champion": champion, "previous": previous, "held": held}


def rollback_target(state: Mapping[str, Any], number: int | None) -> int:
    """Where a rollback goes: the newest previous champion that is not held, or the one named.

    A release that is named may be held (a person names it), but it must have been champion. Raises
    UsageError where there is nowhere to go.
    """
    champion, previous, held = _read(state)
    if champion is None:
        raise UsageError("there is no champion to roll back", hint="`treadle up` makes the first")
    if number == champion:
        raise UsageError(f"release {number} is the champion already")
    open_ = [one for one in previous if str(one) not in held]
    if number is None:
        if not open_:
            raise UsageError(
                f"there is no release before release {champion} to go back to",
                hint="`treadle down` stops the service; `treadle up` makes a new release",
            )
        return open_[-1]
    if number not in previous and str(number) not in held:
        known = sorted({*previous, *map(int, held)})
        raise UsageError(
            f"release {number} was never champion of this environment",
            hint=f"there are {', '.join(map(str, known))}" if known else "there is no earlier one",
        )
    return number


def _read(state: Mapping[str, Any]) -> tuple[int | None, list[int], dict[str, str]]:
    """Copies of a state's parts."""
    champion = cast("int | None", state.get("champion"))
    return champion, list(state.get("previous") or []), dict(state.get("held") or {})


def _words(
    action: Action, release: int, before: int | None, champion: int | None, reason: str
) -> str:
    why = f": {reason}" if reason else ""
    if action == "promote":
        instead = f" instead of release {before}" if before not in (None, release) else ""
        return f"release {release} is champion{instead}{why}"
    if action == "rollback":
        return f"release {release} is champion again; release {before} is held{why}"
    if action == "hold":
        again = f"; release {champion} is champion again" if champion != before else ""
        return f"release {release} is held{again}{why}"
    return f"release {release} is no longer held{why}"


def _listed(held: Mapping[str, str]) -> str:
    return ", ".join(sorted(held, key=int))
