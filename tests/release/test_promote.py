from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from treadle.base import clock
from treadle.base.digest import canonical
from treadle.base.errors import Bug, Refused, UsageError
from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Decision
from treadle.release.ledger import champion_as_of, replay
from treadle.release.promote import EMPTY, Move, after, move, rollback_target


def do(state: dict, action: str, release: int, reason: str = "because") -> Move:
    return move(state, action, release=release, environment="local", by="ada", reason=reason,
                rule="a rule", evidence={"model": "sha256:m"})  # fmt: skip


def states(*actions: tuple[str, int]) -> dict:
    state: dict = dict(EMPTY)
    for action, release in actions:
        state = do(state, action, release).state
    return state


def test_a_promotion_remembers_the_champion_before() -> None:
    state = states(("promote", 1), ("promote", 2), ("promote", 3))
    assert state == {"champion": 3, "previous": [1, 2], "held": {}}


def test_a_promotion_of_the_champion_changes_nothing() -> None:
    state = states(("promote", 1), ("promote", 2))
    assert do(state, "promote", 2).state == state


def test_a_rollback_goes_to_the_release_before_and_holds_the_one_rolled_back() -> None:
    state = states(("promote", 1), ("promote", 2), ("promote", 3))
    target = rollback_target(state, None)
    assert target == 2
    done = do(state, "rollback", target, "answers nonsense")
    assert done.state == {"champion": 2, "previous": [1], "held": {"3": "answers nonsense"}}
    assert done.decisions[0].words == (
        "release 2 is champion again; release 3 is held: answers nonsense"
    )
    assert rollback_target(done.state, None) == 1


def test_a_rollback_may_name_its_release_even_a_held_one() -> None:
    state = states(("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2))
    assert do(state, "rollback", 3).state == {
        "champion": 3,
        "previous": [1],
        "held": {"2": "because"},
    }
    assert do(state, "rollback", 1).state["champion"] == 1


def test_without_an_earlier_release_there_is_nowhere_to_go() -> None:
    with pytest.raises(UsageError, match="no release before release 1"):
        rollback_target(states(("promote", 1)), None)
    with pytest.raises(UsageError, match="no champion to roll back"):
        rollback_target(dict(EMPTY), None)
    with pytest.raises(UsageError, match="release 9 was never champion"):
        rollback_target(states(("promote", 1), ("promote", 2)), 9)
    with pytest.raises(UsageError, match="release 2 is the champion already"):
        rollback_target(states(("promote", 1), ("promote", 2)), 2)


def test_a_held_release_is_not_promoted_until_a_person_approves_it() -> None:
    state = states(("promote", 1), ("promote", 2), ("rollback", 1))
    with pytest.raises(Refused, match="release 2 is held: because") as caught:
        do(state, "promote", 2)
    assert "treadle approve 2" in str(caught.value.hint)
    approved = do(state, "approve", 2).state
    assert approved["held"] == {}
    assert do(approved, "promote", 2).state["champion"] == 2


def test_holding_the_champion_goes_back_to_the_release_before() -> None:
    state = states(("promote", 1), ("promote", 2))
    done = do(state, "hold", 2, "too slow")
    assert done.state == {"champion": 1, "previous": [], "held": {"2": "too slow"}}
    assert "release 1 is champion again" in done.decisions[0].words
    with pytest.raises(UsageError, match="no release before"):
        do(done.state, "hold", 1)


def test_only_a_held_release_can_be_approved() -> None:
    with pytest.raises(UsageError, match="release 1 is not held"):
        do(states(("promote", 1)), "approve", 1)


def test_no_other_action_is_known() -> None:
    with pytest.raises(Bug, match="no such action"):
        after(EMPTY, "promotes", 1, "")


def test_the_entry_holds_who_why_and_what_a_replay_needs() -> None:
    entry = do(states(("promote", 1)), "promote", 2).decisions[0]
    assert (entry.kind, entry.subject, entry.outcome) == ("promote", "release 2", "promoted")
    assert entry.by == "ada"
    assert entry.evidence == {
        "model": "sha256:m",
        "action": "promote",
        "release": 2,
        "before": 1,
        "champion": 2,
        "reason": "because",
    }
    assert entry.previous == ""
    assert from_plain(Decision, to_plain(entry)) == entry


def test_the_state_given_is_not_changed() -> None:
    state = states(("promote", 1), ("promote", 2))
    before = canonical(state)
    do(state, "rollback", 1)
    do(state, "hold", 2)
    assert canonical(state) == before


class Releases(RuleBasedStateMachine):
    """Any sequence of actions, those that are refused included."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict = dict(EMPTY)
        self.ledger: list[Decision] = []

    @rule(action=st.sampled_from(["promote", "rollback", "hold", "approve"]),
          release=st.integers(1, 6))  # fmt: skip
    def act(self, action: str, release: int) -> None:
        try:
            done = do(self.state, action, release)
        except (Refused, UsageError):
            return
        self.state = done.state
        self.ledger = [*reversed(done.decisions), *self.ledger]

    @invariant()
    def the_champion_is_free_and_only_itself(self) -> None:
        champion, previous, held = (self.state[k] for k in ("champion", "previous", "held"))
        assert str(champion) not in held
        assert champion not in previous
        assert len(set(previous)) == len(previous)
        assert not {str(number) for number in previous} & set(held)

    @invariant()
    def the_ledger_tells_the_state(self) -> None:
        assert replay(self.ledger) == self.state

    @invariant()
    def a_champion_once_there_stays_there(self) -> None:
        promoted = any(entry.kind == "promote" for entry in self.ledger)
        assert (self.state["champion"] is not None) == promoted


TestReleases = Releases.TestCase
TestReleases.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_the_ledger_says_who_was_champion_then(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TREADLE_CLOCK", str(tmp_path / "clock"))
    state: dict = dict(EMPTY)
    ledger: list[Decision] = []
    for day, action, release in ((1, "promote", 1), (3, "promote", 2), (5, "rollback", 1)):
        clock.set_replay(tmp_path / "clock", dt.datetime(2013, 5, day, 12, tzinfo=dt.UTC))
        done = do(state, action, release)
        state, ledger = done.state, [*done.decisions, *ledger]
    moments = {
        "2013-04-30": None,
        "2013-05-01": 1,
        "2013-05-01T11:59:59": None,
        "2013-05-02": 1,
        "2013-05-03T12:00:00Z": 2,
        "2013-05-04": 2,
        "2013-05-05": 1,
        "2014-01-01": 1,
    }
    assert {m: champion_as_of(ledger, m) for m in moments} == moments


@given(st.lists(st.sampled_from(["verdict", "retrain", "data", "approve"]), max_size=4))
def test_entries_that_move_no_release_are_passed_over(kinds: list[str]) -> None:
    entry = do(dict(EMPTY), "promote", 1).decisions[0]
    others = [
        Decision(str(i), entry.at, "local", kind, "x", "yes", "r", "w", {"release": 3}, "ada")
        for i, kind in enumerate(kinds)
    ]
    assert replay([*others, entry, *others])["champion"] == 1
