"""The journal's contract, kept by every implementation."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from treadle.base.errors import StateError
from treadle.base.records import Decision, Message, Step
from treadle.clients.journal import Changes, SqliteJournal
from treadle.clients.memory import MemoryJournal


def decision(number: int = 1, environment: str = "local", at: str = "2026-01-01", **evidence):
    return Decision(
        id=f"d{number}",
        at=at,
        environment=environment,
        kind="release",
        subject="release 1",
        outcome="promoted",
        rule="promote",
        words="because",
        evidence=evidence,
        by="treadle",
    )


@pytest.fixture(params=["sqlite", "memory"])
def journal(request, tmp_path):
    made = SqliteJournal(tmp_path / "journal.db") if request.param == "sqlite" else MemoryJournal()
    yield made
    made.close()


def test_what_was_put_is_got_and_what_was_not_is_none(journal):
    journal.commit(Changes().put("run", "a", {"x": [1, 2.5, None, True, "ü\0\ud800"]}))
    assert journal.get("run", "a") == {"x": [1, 2.5, None, True, "ü\0\ud800"]}
    assert journal.get("run", "b") is None
    assert journal.get("model", "a") is None


def test_a_record_is_put_as_plain_values_and_a_later_put_replaces(journal):
    step = Step("split", "k", {"code split()": "d"}, ())
    journal.commit(
        Changes().put("step", "k", step).put("step", "k", dataclasses.replace(step, key="l"))
    )
    assert journal.get("step", "k")["key"] == "l"
    assert Step(**{**journal.get("step", "k"), "results": ()}).name == "split"


def test_list_is_ordered_by_key_within_a_prefix(journal):
    for key in ("local/000010", "local/000002", "nightly/000001", "local"):
        journal.commit(Changes().put("release", key, key))
    assert [k for k, _ in journal.list("release", "local/")] == ["local/000002", "local/000010"]
    assert journal.list("release", "local/", newest_first=True, limit=1) == [
        ("local/000010", "local/000010")
    ]
    assert len(journal.list("release")) == 4
    assert journal.list("run") == []


def test_deletes_come_before_puts_and_delete_undoes_an_earlier_put(journal):
    journal.commit(Changes().put("k", "a", 1).put("k", "b", 1))
    journal.commit(Changes().delete("k", "a").put("k", "a", 2).put("k", "c", 3).delete("k", "c"))
    assert journal.list("k") == [("a", 2), ("b", 1)]


def test_the_ledger_chains_every_entry_to_the_one_before_across_environments(journal):
    journal.commit(Changes().decide(decision(1)).decide(decision(2, "production")))
    journal.commit(Changes().decide(decision(3, at="2026-02-01", score=0.1, nan=math.nan)))
    newest = journal.ledger()
    assert [d.id for d in newest] == ["d3", "d2", "d1"]
    assert newest[2].previous == ""
    assert newest[1].previous == newest[2].digest
    assert newest[0].previous == newest[1].digest
    assert [d.id for d in journal.ledger("local")] == ["d3", "d1"]
    assert [d.id for d in journal.ledger(until="2026-01-15")] == ["d2", "d1"]
    assert [d.id for d in journal.ledger("local", until="2026-01-15", limit=1)] == ["d1"]
    journal.verify()


def test_messages_stay_pending_until_delivered(journal):
    journal.commit(Changes().tell(Message("run", {"n": 1})).tell(Message("run", {"n": 2})))
    journal.commit(Changes().tell(Message("alias", {"n": 3})))
    (first, _), (_, second), _ = journal.pending()
    assert second == Message("run", {"n": 2})
    journal.delivered([first])
    journal.delivered([first, 999])
    assert [m.payload["n"] for _, m in journal.pending()] == [2, 3]
    assert [m.payload["n"] for _, m in journal.pending(limit=1)] == [2]


@pytest.mark.parametrize(
    "bad",
    [
        Changes().put("k", "a", {1: "numbers are no keys"}),
        Changes().put("k", "a", [{"x": object()}]),
        Changes().put("k", "a", 1).tell(Message("run", {"x": b"bytes"})),
        Changes().put("k", "a", 1).decide(decision(1, x=object())),
    ],
)
def test_what_json_cannot_keep_is_refused_and_nothing_of_the_commit_happens(journal, bad):
    with pytest.raises(TypeError):
        journal.commit(dataclasses.replace(bad, puts=[("k", "b", 1), *bad.puts]))
    assert journal.list("k") == []
    assert journal.pending() == []
    assert journal.ledger() == []


def test_a_key_that_is_no_unicode_is_refused_by_name(journal):
    with pytest.raises(StateError, match="no valid Unicode"):
        journal.commit(Changes().put("memo", "data/\udcff.csv", 1))
    assert journal.list("memo") == []


def test_a_closed_journal_says_so(journal):
    journal.close()
    journal.close()
    with pytest.raises(StateError, match="closed"):
        journal.get("run", "a")


def test_changes_add_up_in_order_and_are_false_when_empty():
    assert not Changes()
    both = Changes().put("k", "a", 1).add(Changes().delete("k", "a").put("k", "b", 2))
    assert both.puts == [("k", "b", 2)]
    assert both.deletes == [("k", "a")]
    assert both


keys = st.text(alphabet=st.sampled_from("ab/\0é\uffff\U0010ffff\ud7ff\ue000"), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class JournalModel(RuleBasedStateMachine):
    """Both journals do what a dict and two lists do, also when closed and opened again."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.journals = [SqliteJournal(self.folder / "journal.db"), MemoryJournal()]
        self.records, self.entries, self.outbox = {}, [], {}

    @rule(
        puts=st.lists(st.tuples(st.sampled_from("xy"), keys, values), max_size=3),
        deletes=st.lists(st.tuples(st.sampled_from("xy"), keys), max_size=2),
        decisions=st.lists(st.tuples(st.sampled_from(["l", "p"]), keys, values), max_size=2),
        messages=st.lists(values, max_size=2),
    )
    def commit(self, puts, deletes, decisions, messages):
        made = [
            Decision(
                f"{len(self.entries) + n}", at, env, "data", "s", "pass", "r", "w", {"e": e}, "t"
            )
            for n, (env, at, e) in enumerate(decisions)
        ]
        told = [Message("run", {"m": value}) for value in messages]
        for journal in self.journals:
            journal.commit(Changes(list(puts), list(deletes), list(made), list(told)))
        for key in deletes:
            self.records.pop(key, None)
        self.records.update({(kind, key): value for kind, key, value in puts})
        self.entries += made
        for message in told:
            self.outbox[max(self.outbox, default=0) + 1] = [message, False]

    @rule(data=st.data())
    def deliver(self, data):
        if not self.outbox:
            return
        numbers = data.draw(st.lists(st.sampled_from(sorted(self.outbox)), max_size=2))
        for journal in self.journals:
            journal.delivered(numbers)
        for number in numbers:
            self.outbox[number][1] = True

    @rule()
    def open_again(self):
        self.journals[0].close()
        self.journals[0] = SqliteJournal(self.folder / "journal.db", create=False)

    @rule(
        kind=st.sampled_from("xy"),
        prefix=keys,
        newest=st.booleans(),
        limit=st.none() | st.integers(0, 3),
    )
    def look(self, kind, prefix, newest, limit):
        wanted = sorted(
            ((k, v) for (of, k), v in self.records.items() if of == kind and k.startswith(prefix)),
            key=lambda pair: pair[0],
            reverse=newest,
        )[:limit]
        for journal in self.journals:
            assert journal.list(kind, prefix, newest_first=newest, limit=limit) == wanted

    @invariant()
    def same(self):
        if not hasattr(self, "journals"):
            return
        pending = [(n, m) for n, (m, done) in self.outbox.items() if not done]
        for journal in self.journals:
            assert journal.pending() == pending
            got = [dataclasses.replace(d, previous="") for d in reversed(journal.ledger())]
            assert got == self.entries
            journal.verify()

    def teardown(self):
        if hasattr(self, "journals"):
            self.journals[0].close()
            shutil.rmtree(self.folder)


TestJournalModel = JournalModel.TestCase
TestJournalModel.settings = settings(
    max_examples=25,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@given(st.dictionaries(keys, values, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_decision_read_back_has_the_digest_it_was_chained_with(evidence):
    journal = MemoryJournal()
    journal.commit(Changes().decide(decision(1, **{f"k{k}": v for k, v in evidence.items()})))
    journal.verify()
