from __future__ import annotations

import dataclasses
import datetime

import numpy as np
import pyarrow as pa
import pytest

from treadle.base import clock
from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Finding, Window
from treadle.base.spec import MonitorSection, Truth
from treadle.data.profile import profile_frame
from treadle.monitor import drift, findings, quality
from treadle.monitor.quality import Judged, Measure
from treadle.monitor.truth import Coverage

START = datetime.datetime(2013, 5, 6, tzinfo=datetime.UTC)
NOW = START + datetime.timedelta(days=8)
SECTION = MonitorSection(truth=Truth("arrivals", "1d"))
COVERED = Coverage(100, 0, 100, 99, 1, 0, 0)


def rate_of_hits(truth, prediction):
    return float(np.mean((prediction > 0.5) == truth))


def brier(truth, prediction):
    return float(np.mean((prediction - truth) ** 2))


MEASURES = {"accuracy": Measure(rate_of_hits), "brier": Measure(brier, False, skill=True)}


def window(rows=100):
    return Window(
        id="20130506T000000Z-abcdef01",
        environment="local",
        start=clock.text(START),
        end=clock.text(START + datetime.timedelta(days=7)),
        releases=(1,),
        rows=rows,
        content="",
    )


def judged(days, right, seed=0, rows=100):
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), rows)
    truth = (rng.random(len(day)) < 0.3).astype(float)
    hit = rng.random(len(day)) < right
    said = np.where(hit, truth, 1 - truth) * 0.5 + 0.25
    return Judged(truth, said, day, "binary", (0, 1))


def traffic(rng, shift=0.0, days=7):
    day = np.repeat(np.arange(days), 100)
    when = START + datetime.timedelta(0)
    base = int(when.timestamp() * 1e6)
    return pa.table(
        {
            "x": rng.normal(size=len(day)) + shift,
            "c": pa.array(rng.choice(["a", "b"], len(day)).tolist()),
            "when": pa.array(base + day * 86_400_000_000, pa.timestamp("us", tz="UTC")),
        }
    )


def trained(rng):
    parts = [traffic(rng) for _ in range(10)]
    table = pa.concat_tables(parts)
    form = profile_frame(table.drop(["when"]).to_pandas())
    time = np.concatenate(
        [
            part["when"].cast(pa.int64()).to_numpy() + n * 7 * 86_400_000_000
            for n, part in enumerate(parts)
        ]
    )
    return form, drift.reference(table, time, form, 7 * 86400, ["x", "c"], block_s=86400)


def look(table, rows=None, section=SECTION, **more):
    rng = np.random.default_rng(0)
    form, placebo = trained(rng)
    given = {"training": form, "placebo": placebo} | more
    return findings.look_at_traffic(
        window(table.num_rows if rows is None else rows),
        table,
        section=section,
        now=NOW,
        columns=["x", "c"],
        block_s=86400,
        **given,
    )


def test_no_traffic_is_said():
    (found,) = look(traffic(np.random.default_rng(1)).slice(0, 0), rows=0)
    assert (found.kind, found.alarm) == ("volume", True)
    assert found.text.startswith("no request was captured from 2013-05-06 to 2013-05-13")


def test_a_partial_window_is_said_and_not_judged():
    (found,) = look(traffic(np.random.default_rng(1), days=4, shift=3.0))
    assert (found.kind, found.alarm) == ("volume", False)
    assert "traffic in 4 of 7 blocks" in found.text


def test_drift_is_one_sentence_with_numbers_and_a_quiet_window_has_none():
    assert look(traffic(np.random.default_rng(1))) == []
    (found,) = look(traffic(np.random.default_rng(1), shift=1.0))
    assert (found.kind, found.subject, found.alarm) == ("drift", "x", True)
    assert found.id == "20130506T000000Z-abcdef01/drift/x"
    assert found.value == found.effect > found.threshold == found.reference
    assert found.p_value <= found.alpha
    assert "PSI" in found.text and "differ among themselves by up to" in found.text
    assert look(traffic(np.random.default_rng(1), shift=1.0), training=None) == []


def test_unseen_categories_and_missing_values_have_their_own_words():
    table = traffic(np.random.default_rng(1))
    new = pa.array((["z"] + ["a", "b"] * 2) * (table.num_rows // 5))
    (found,) = look(table.set_column(1, "c", new))
    assert "c: 20.0% of the values are categories that training has no bin for" in found.text
    gone = pa.array([None if n % 4 == 0 else 0.1 * (n % 30 - 15) for n in range(table.num_rows)])
    texts = [one.text for one in look(table.set_column(0, "x", gone))]
    assert any("x: 25.0% of the values are missing, in training it was 0.0%" in t for t in texts)


def test_without_placebo_windows_the_words_say_so():
    (found,) = look(traffic(np.random.default_rng(1), shift=1.0), placebo=None)
    assert "training has no windows to say what is usual" in found.text


def test_decay_is_one_sentence_with_numbers():
    release = quality.measure(judged(14, 0.8), MEASURES)
    found = findings.look_at_quality(
        window(),
        section=SECTION,
        now=NOW,
        coverage=COVERED,
        judged=judged(28, 0.6, 1),
        release_quality=release,
        measures=MEASURES,
    )
    alarms = {one.subject: one for one in found if one.alarm}
    assert set(alarms) == {"accuracy", "brier"}
    text = alarms["accuracy"].text
    assert text.startswith("accuracy over the last") and "at release 0.8" in text
    assert text.endswith("the model is worse than when it was accepted")
    low, high = alarms["brier"].low, alarms["brier"].high
    assert low < alarms["brier"].value < high, "the interval is in the metric's own unit"
    (notice,) = [one for one in found if not one.alarm]
    assert (
        notice.subject == "brier versus constant" and "saying the same to everyone" in notice.text
    )


def test_a_good_model_is_not_spoken_of():
    release = quality.measure(judged(14, 0.9), MEASURES)
    assert (
        findings.look_at_quality(
            window(),
            section=SECTION,
            now=NOW,
            coverage=COVERED,
            judged=judged(28, 0.9, 1),
            release_quality=release,
            measures=MEASURES,
        )
        == []
    )


def test_little_truth_is_said():
    (found,) = findings.look_at_quality(
        window(),
        section=SECTION,
        now=NOW,
        coverage=Coverage(100, 0, 100, 30, 10, 60, 0),
        judged=None,
        release_quality={},
        measures={},
    )
    assert (found.kind, found.effect) == ("coverage", 0.3)
    assert "truth is known for 30 of 100 matured rows" in found.text


def test_quality_waits_until_the_truth_has_matured():
    given = dict(
        section=SECTION,
        columns=[],
        training=None,
        placebo=None,
        block_s=86400,
        coverage=Coverage(100, 0, 100, 0, 0, 100, 0),
    )
    table = traffic(np.random.default_rng(0))
    due = findings.matures_at(window(), SECTION)
    assert due == START + datetime.timedelta(days=8)
    early = due - datetime.timedelta(seconds=1)
    assert findings.examine(window(), table, now=early, **given) == []
    assert [one.kind for one in findings.examine(window(), table, now=due, **given)] == ["coverage"]


def test_the_budget_is_shared_between_decay_and_drift():
    both = findings.drift_alpha(SECTION) + findings.decay_alpha(SECTION)
    assert both == pytest.approx(7 / 90)
    alone = MonitorSection()
    assert findings.drift_alpha(alone) == pytest.approx(7 / 90), "without truth drift has it all"


def test_evidence_is_the_newest_alarm_of_each_subject_since_the_last_turn():
    def finding(subject, day, kind="decay", alarm=True, value=0.6):
        return Finding(
            id=f"w{day}/{kind}/{subject}",
            environment="local",
            window=f"w{day}",
            kind=kind,
            subject=subject,
            effect=0.1,
            threshold=0.02,
            p_value=0.001,
            alpha=0.05,
            alarm=alarm,
            text="",
            found=clock.text(START + datetime.timedelta(days=day)),
            value=value,
            reference=0.7,
            low=0.55,
            high=0.65,
        )

    seen = [
        finding("auc", 1),
        finding("auc", 8, value=0.5),
        finding("x", 8, "drift"),
        finding("y", 8, "drift", alarm=False),
        finding("requests", 8, "volume"),
        finding("future", 90),
    ]
    now = START + datetime.timedelta(days=10)
    found = findings.evidence(seen, now)
    assert found["decay"] == [
        {
            "subject": "auc",
            "value": 0.5,
            "reference": 0.7,
            "low": 0.55,
            "high": 0.65,
            "window": "w8",
        }
    ]
    assert [one["subject"] for one in found["drift"]] == ["x"]
    answered = findings.evidence(seen, now, since=START + datetime.timedelta(days=9))
    assert answered == {"decay": [], "drift": []}
    quiet = findings.evidence(seen, START + datetime.timedelta(days=30), section=SECTION)
    assert quiet == {"decay": [], "drift": []}, "two quiet windows withdraw an alarm"


def test_findings_and_measurements_survive_storage():
    release = quality.measure(judged(14, 0.8), MEASURES)
    for one in release.values():
        assert from_plain(quality.Measured, to_plain(one)) == one
    (found, *_) = look(traffic(np.random.default_rng(1), shift=1.0))
    assert from_plain(Finding, to_plain(found)) == found
    assert dataclasses.asdict(found)["alarm"] is True


def test_evidence_is_what_the_retraining_rule_takes():
    from treadle.plan.trigger import Alarm

    found = look(traffic(np.random.default_rng(1), shift=1.0))
    (alarm,) = findings.evidence(found, NOW)["drift"]
    assert Alarm(**alarm).subject == "x"
