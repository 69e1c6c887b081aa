from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base.clock import duration_s
from treadle.base.spec import RetrainSection
from treadle.plan.trigger import Alarm, RetrainEvidence, decide

NOW = datetime(2013, 6, 20, 12, tzinfo=UTC)
DECAY = (Alarm("log_loss", 0.61, 0.52, 0.58, 0.64, "2013-06-10 to 2013-06-17"),)
DRIFT = (Alarm("dest", 0.31, 0.2), Alarm("temp", 0.5, 0.1))


def days(number: float) -> datetime:
    return NOW - timedelta(days=number)


def test_decay_after_the_cooldown_is_a_yes_with_its_numbers():
    answer = decide(RetrainEvidence(NOW, days(30), decay=DECAY), RetrainSection())
    assert answer.answer == "yes"
    assert answer.words == (
        "Retraining: log_loss is 0.61 (95 %: 0.58 to 0.64) in 2013-06-10 to 2013-06-17, "
        "at release it was 0.52."
    )
    assert answer.brakes == ()


def test_within_the_cooldown_the_answer_is_no_and_names_the_reason_it_stopped():
    answer = decide(RetrainEvidence(NOW, days(2), decay=DECAY), RetrainSection())
    assert answer.answer == "no"
    assert "2 days ago and the cooldown of 7d lasts 5 days more" in answer.words
    assert "log_loss is 0.61" in answer.words


def test_the_cooldown_ends_to_the_microsecond_and_counts_from_the_last_yes_too():
    section = RetrainSection(cooldown="7d")
    assert decide(RetrainEvidence(NOW, days(7), decay=DECAY), section).answer == "yes"
    short = NOW - timedelta(days=7) + timedelta(microseconds=1)
    assert decide(RetrainEvidence(NOW, short, decay=DECAY), section).answer == "no"
    failed = RetrainEvidence(NOW, days(30), last_yes=days(1), decay=DECAY)
    assert decide(failed, section).answer == "no"


def test_a_clock_that_went_back_brakes_and_says_so():
    answer = decide(RetrainEvidence(NOW, days(-3), decay=DECAY), RetrainSection())
    assert answer.answer == "no"
    assert "later than now" in answer.words


def test_drift_names_the_worst_columns_first():
    answer = decide(RetrainEvidence(NOW, drift=DRIFT), RetrainSection())
    assert answer.reasons == ("temp 0.5 (threshold 0.1), dest 0.31 (threshold 0.2) drifted",)


def test_an_alarm_that_when_does_not_list_is_no_reason_but_is_told():
    answer = decide(RetrainEvidence(NOW, decay=DECAY), RetrainSection(when=("drift",)))
    assert answer.answer == "no"
    assert "Decay was seen, but `retrain.when` does not list it" in answer.words


def test_new_labelled_rows_count_from_the_number_of_the_spec():
    section = RetrainSection(when=(), new_rows=20_000)
    assert decide(RetrainEvidence(NOW, new_labelled_rows=19_999), section).answer == "no"
    answer = decide(RetrainEvidence(NOW, new_labelled_rows=20_000), section)
    assert answer.answer == "yes"
    assert "20,000 new labelled rows" in answer.words


def test_a_schedule_is_a_reason_when_its_time_has_come():
    section = RetrainSection(when=(), every="30d", cooldown="0s")
    assert decide(RetrainEvidence(NOW, days(29.9)), section).answer == "no"
    assert decide(RetrainEvidence(NOW, days(30)), section).answer == "yes"
    assert "nothing was trained yet" in decide(RetrainEvidence(NOW), section).words


def test_without_new_data_a_retraining_cannot_help():
    answer = decide(RetrainEvidence(NOW, decay=DECAY, data_changed=False), RetrainSection())
    assert answer.answer == "no"
    assert "would give the same model" in answer.words


def test_approval_is_asked_once_and_then_obeyed():
    section = RetrainSection(approve="person")
    asked = decide(RetrainEvidence(NOW, decay=DECAY), section)
    assert asked.answer == "approval"
    assert "a person has to approve it" in asked.words
    waiting = decide(RetrainEvidence(NOW, decay=DECAY, pending="01X"), section)
    assert (waiting.answer, "awaits approval as 01X" in waiting.words) == ("approval", True)
    approved = decide(RetrainEvidence(NOW, decay=DECAY, approval="01Y"), section)
    assert (approved.answer, "Approved as 01Y" in approved.words) == ("yes", True)


def test_an_approval_does_not_shorten_the_cooldown():
    evidence = RetrainEvidence(NOW, days(1), decay=DECAY, approval="01Y")
    assert decide(evidence, RetrainSection(approve="person")).answer == "no"


def test_a_person_outweighs_cooldown_hold_and_unchanged_data_and_the_answer_says_so():
    evidence = RetrainEvidence(
        NOW, days(1), requested_by="ada", data_changed=False, held="ada waits for a fix"
    )
    answer = decide(evidence, RetrainSection())
    assert answer.answer == "yes"
    assert "ada asked for it" in answer.words
    assert "A person's request outweighs: held: ada waits for a fix; " in answer.words
    assert len(answer.brakes) == 3


def test_without_a_retrain_section_only_a_person_starts_one():
    assert decide(RetrainEvidence(NOW, decay=DECAY), None).answer == "no"
    assert "1 alarms" in decide(RetrainEvidence(NOW, decay=DECAY), None).words
    assert decide(RetrainEvidence(NOW, requested_by="ada"), None).answer == "yes"


def test_every_combination_keeps_the_three_promises():
    seen = set()
    for decay, drift, rows, asked, approval, held, changed, last, when, every, new_rows, approve in product(
        ((), DECAY), ((), DRIFT), (0, 100), (None, "ada"), (None, "01Y"), (None, "h"), (True, False),
        (None, days(1), days(60)), ((), ("decay",), ("decay", "drift")), (None, "30d"), (None, 50),
        ("auto", "person"),
    ):  # fmt: skip
        section = RetrainSection(when, every, new_rows, "7d", approve)
        evidence = RetrainEvidence(
            NOW, last, new_labelled_rows=rows, decay=decay, drift=drift, requested_by=asked,
            approval=approval, held=held, data_changed=changed,
        )  # fmt: skip
        answer = decide(evidence, section)
        seen.add(answer.answer)
        reason = bool(
            asked or (decay and "decay" in when) or (drift and "drift" in when)
            or (new_rows and rows >= new_rows)
            or (every and (last is None or last == days(60)))
        )  # fmt: skip
        brake = held is not None or not changed or last == days(1)
        assert bool(answer.reasons) == reason
        assert bool(answer.brakes) == brake
        due = reason and (asked is not None or not brake)
        expected = "no" if not due else "yes" if approve == "auto" or approval else "approval"
        assert answer.answer == expected
    assert seen == {"yes", "no", "approval"}


FINITE = st.floats(allow_nan=True, allow_infinity=True)
ALARMS = st.lists(
    st.builds(Alarm, st.text(max_size=5), FINITE, FINITE, st.none() | FINITE, st.none() | FINITE),
    max_size=4,
).map(tuple)
MOMENTS = st.datetimes(datetime(2012, 1, 1), datetime(2014, 1, 1)).map(
    lambda t: t.replace(tzinfo=UTC)
)
EVIDENCE = st.builds(
    RetrainEvidence, MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS, st.integers(0, 10**6), ALARMS,
    ALARMS, st.none() | st.text(max_size=4), st.none() | st.text(min_size=1, max_size=4),
    st.none() | st.text(max_size=4), st.booleans(), st.none() | st.text(max_size=4),
)  # fmt: skip
SECTIONS = st.builds(
    RetrainSection,
    st.lists(st.sampled_from(["decay", "drift"]), unique=True).map(tuple),
    st.none() | st.sampled_from(["1d", "30d", "1h30m"]),
    st.none() | st.integers(1, 10**6),
    st.sampled_from(["0s", "1h", "7d", "400d"]),
    st.sampled_from(["auto", "person"]),
)


@given(EVIDENCE, st.none() | SECTIONS)
def test_no_reason_never_yes_cooldown_never_yes_unless_asked_approval_never_yes_without(
    evidence, section
):
    answer = decide(evidence, section)
    assert answer.words.endswith(".")
    if not answer.reasons:
        assert answer.answer == "no"
    if answer.brakes and evidence.requested_by is None:
        assert answer.answer == "no"
    if section is not None:
        for last in filter(None, (evidence.last_turn, evidence.last_yes)):
            if evidence.now < last + timedelta(seconds=duration_s(section.cooldown)):
                assert answer.answer != "yes" or evidence.requested_by is not None
        if section.approve == "person" and evidence.approval is None:
            assert answer.answer != "yes"
    json.dumps(answer.evidence)


@given(EVIDENCE, SECTIONS)
def test_the_answer_is_a_function_of_the_evidence_alone(evidence, section):
    assert repr(decide(evidence, section)) == repr(decide(evidence, section))


@pytest.mark.parametrize("number", [3, 4])
def test_many_drifting_columns_are_counted_not_listed(number):
    drift = tuple(Alarm(f"c{n}", 1.0, 0.1) for n in range(number))
    (reason,) = decide(RetrainEvidence(NOW, drift=drift), RetrainSection()).reasons
    assert ("and 1 more" in reason) == (number == 4)
