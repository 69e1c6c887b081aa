from __future__ import annotations

import datetime
import functools

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from treadle.base.spec import FalseAlarms, MonitorSection
from treadle.monitor import quality
from treadle.monitor.quality import Judged, Measure

DAY_S = 86400.0


def auc(truth, prediction):
    ranks = stats.rankdata(prediction)
    positive = truth.sum()
    return (ranks[truth == 1].sum() - positive * (positive + 1) / 2) / (
        positive * (len(truth) - positive)
    )


def log_loss(truth, prediction):
    return float(-np.mean(np.where(truth == 1, np.log(prediction), np.log1p(-prediction))))


MEASURES = {"roc_auc": Measure(auc), "log_loss": Measure(log_loss, False, skill=True)}


def fake(name, truth, prediction):
    return MEASURES[name].score(truth, prediction)


def loss_by_sums(truth, prediction, block):
    """A metric as test/metrics gives it: values for any weights of blocks."""
    each = -np.where(truth == 1, np.log(prediction), np.log1p(-prediction))
    sums, counts = np.bincount(block, each), np.bincount(block)
    return lambda weights: (weights @ sums) / (weights @ counts)


def days(rng, count, rows=80, strength=1.0, day_effect=0.5, start=0):
    """Rows of `count` days; all rows of a day share an effect, as weather does."""
    day = np.repeat(np.arange(count), rows)
    score = rng.normal(size=len(day))
    shared = rng.normal(scale=day_effect, size=count)[day]
    chance = 1 / (1 + np.exp(-(-1 + strength * score + shared)))
    said = 1 / (1 + np.exp(-(-1 + score)))
    return Judged(
        (rng.random(len(day)) < chance).astype(float), said, day + start, "binary", (0, 1)
    )


def test_the_standard_error_is_that_of_the_days_and_not_of_the_rows():
    """Simulated: the jackknife's error is right on average; an error by rows is far too small."""
    values, errors, by_row = [], [], []
    for seed in range(150):
        rows = days(np.random.default_rng(seed), 14, day_effect=1.0)
        found = quality.measure(rows, {"rate": Measure(lambda t, p: t.mean())})["rate"]
        values.append(found.value)
        errors.append(found.standard_error**2)
        by_row.append(np.var(rows.truth) / len(rows))
    true = np.var(values)
    assert 0.75 < np.mean(errors) / true < 1.6
    assert np.mean(by_row) / true < 0.2


def test_t_intervals_over_fourteen_days_cover_what_they_say():
    covered = 0
    measures = {"auc": Measure(auc, True, auc_by_pairs)}
    for seed in range(200):
        found = quality.measure(days(np.random.default_rng(seed), 14), measures)["auc"]
        low, high = found.interval
        covered += low <= 0.733 <= high  # the AUC of this generator, by a million rows
    assert covered / 200 > 0.9


def test_leaving_blocks_out_in_one_call_is_the_same_as_one_by_one():
    rows = days(np.random.default_rng(0), 14)
    slow = quality.measure(rows, {"log_loss": Measure(log_loss, False, skill=True)})["log_loss"]
    fast = quality.measure(rows, {"log_loss": Measure(log_loss, False, loss_by_sums, skill=True)})[
        "log_loss"
    ]
    assert fast.goodness == pytest.approx(slow.goodness, abs=1e-12)
    assert fast.standard_error == pytest.approx(slow.standard_error, rel=0.02)
    assert slow.value < slow.constant


def test_without_a_change_decay_alarms_less_often_than_the_budget_allows():
    section = MonitorSection(window="7d", false_alarms=FalseAlarms(1, "90d"))
    alpha = quality.alpha_of_look(section, quality.DECAY_SHARE)
    assert alpha == pytest.approx(0.75 * 7 / 90)
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        release = quality.measure(days(rng, 14, 40), MEASURES_FAST)
        service = days(rng, 91, 40, start=100)
        for week in range(3, 14, 2):
            part = service.first(week * 7)
            alarms += any(
                o.alarm for o in quality.decay(part, release, MEASURES_FAST, alpha).comparisons
            )
    assert alarms / 40 * 13 / 6 <= 0.75


def test_a_real_fall_is_found_within_weeks_and_a_harmless_one_is_not_an_alarm():
    found = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        release = quality.measure(days(rng, 14, rows=200), MEASURES_FAST)
        before, after = days(rng, 42, 200), days(rng, 21, 200, strength=0.4, start=42)
        look = quality.decay(quality.concatenate([before, after]), release, MEASURES_FAST, 0.058)
        found += any(one.alarm for one in look.comparisons)
    assert found >= 9
    rng = np.random.default_rng(1)
    big = days(rng, 60, rows=1500, day_effect=0.0)
    release = quality.measure(big.first(30), MEASURES_FAST)
    tiny = days(rng, 28, rows=1500, strength=0.96, day_effect=0.0, start=60)
    assert not any(o.alarm for o in quality.decay(tiny, release, MEASURES_FAST, 0.058).comparisons)


def test_fewer_blocks_than_decide_say_so():
    rng = np.random.default_rng(0)
    release = quality.measure(days(rng, 14), MEASURES)
    look = quality.decay(days(rng, 13), release, MEASURES, 0.05)
    assert look.comparisons == () and "13 blocks" in look.reason
    assert quality.decay(days(rng, 20), {}, MEASURES, 0.05).reason.startswith("the release has no")
    assert quality.measure(days(rng, 1), MEASURES) == {}


def test_skill_is_relative_to_the_constant_of_the_same_rows():
    rows = days(np.random.default_rng(3), 20)
    seen = quality.values(rows, MEASURES)
    assert seen["log_loss_constant"] == pytest.approx(log_loss(rows.truth, quality.constant(rows)))
    assert seen["rate"] == pytest.approx(rows.truth.mean())
    found = quality.measure(rows, MEASURES)["log_loss"]
    assert found.goodness == pytest.approx(1 - seen["log_loss"] / seen["log_loss_constant"])


def test_the_metrics_of_a_task():
    assert set(quality.watched("binary", fake)) == {"roc_auc", "log_loss"}
    assert set(quality.watched("multiclass", fake)) == {"accuracy", "log_loss"}
    assert set(quality.watched("multiclass", fake, probabilities=False)) == {"accuracy"}
    ((name, how),) = quality.watched("regression", fake).items()
    assert name == "rmse" and how.skill and not how.higher_is_better
    assert isinstance(quality.watched("binary", fake)["roc_auc"].score, functools.partial)


def test_holm_is_holm():
    assert quality.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert quality.holm([]) == []


def joined(**columns):
    rows = len(columns["truth"])
    start = datetime.datetime(2013, 5, 6, tzinfo=datetime.UTC)
    base = {
        "release": [1] * rows,
        "judged": [True] * rows,
        "when": pa.array(
            [start + n * datetime.timedelta(days=1) for n in range(rows)],
            pa.timestamp("us", tz="UTC"),
        ),
    }
    return pa.table(base | columns)


def test_rows_are_judged_by_release_and_only_where_they_can_be():
    table = joined(
        truth=[1.0, 0.0, None, 1.0, 7.0],
        judged=[True, True, False, True, True],
        release=[1, 1, 1, 2, 1],
        prediction_0=[0.2, 0.6, 0.5, 0.5, 0.5],
        prediction_1=[0.8, 0.4, 0.5, 0.5, 0.5],
    )
    rows = quality.judged(table, "binary", (0, 1), DAY_S, releases=[1])
    assert rows.truth.tolist() == [1.0, 0.0], "7 is no class"
    assert rows.prediction.tolist() == [0.8, 0.4]
    assert np.diff(rows.block).tolist() == [1]
    assert len(quality.judged(table, "binary", (0, 1), DAY_S)) == 3


def test_classes_as_text_and_several_of_them():
    table = joined(
        truth=["b", "a", "c"],
        prediction_0=[0.2, 0.7, 0.1],
        prediction_1=[0.7, 0.2, 0.1],
        prediction_2=[0.1, 0.1, 0.8],
    )
    rows = quality.judged(table, "multiclass", ("a", "b", "c"), DAY_S)
    assert rows.truth.tolist() == [1.0, 0.0, 2.0] and rows.prediction.shape == (3, 3)
    assert quality.constant(rows)[0].tolist() == pytest.approx([1 / 3] * 3)
    answered = joined(truth=["b", "a"], prediction=["b", "b"])
    rows = quality.judged(answered, "multiclass", ("a", "b"), DAY_S)
    assert rows.prediction.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    rows = quality.judged(answered, "binary", ("a", "b"), DAY_S)
    assert rows.truth.tolist() == [1.0, 0.0] and rows.prediction.tolist() == [1.0, 1.0]


def test_whole_numbers_as_answers_are_classes():
    answered = joined(truth=[2, 1, 2], prediction=[2, 2, 1])
    rows = quality.judged(answered, "binary", (1, 2), DAY_S)
    assert rows.truth.tolist() == [1.0, 0.0, 1.0] and rows.prediction.tolist() == [1.0, 1.0, 0.0]


def test_regression_needs_no_classes():
    rows = quality.judged(joined(truth=[3, 5], prediction=[2.5, None]), "regression", (), DAY_S)
    assert rows.truth.tolist() == [3.0] and quality.constant(rows).tolist() == [3.0]


def test_the_estimate_without_truth_is_right_where_probabilities_are():
    rng = np.random.default_rng(0)
    chance = rng.beta(1, 3, size=60_000)
    truth = (rng.random(60_000) < chance).astype(float)
    guess = quality.estimate(
        pa.table({"prediction_0": 1 - chance, "prediction_1": chance}), "binary"
    )
    assert guess["roc_auc"] == pytest.approx(auc(truth, chance), abs=0.01)
    assert guess["log_loss"] == pytest.approx(log_loss(truth, chance), abs=0.01)
    assert quality.estimate(pa.table({"prediction": [1.0, 2.0]}), "regression") == {}
    assert quality.estimate(pa.table({"prediction": [0, 1, 1]}), "binary") == {}
    several = pa.table({"prediction_0": [0.5, 1.0], "prediction_1": [0.5, 0.0]})
    assert quality.estimate(several, "multiclass")["accuracy"] == 0.75


def auc_by_pairs(truth, prediction, block):
    """AUC for any weights of blocks, by a matrix of pairs of blocks (as test/metrics does)."""
    blocks = int(block.max()) + 1
    order = np.argsort(prediction)
    negative = np.zeros((len(order), blocks))
    negative[np.arange(len(order)), block[order]] = 1 - truth[order]
    before = np.cumsum(negative, axis=0)
    hits = truth[order] == 1
    wins = np.zeros((blocks, blocks))
    np.add.at(wins, block[order][hits], before[hits])
    negatives = np.bincount(block, 1 - truth, blocks)
    positives = np.bincount(block, truth, blocks)
    return lambda w: ((w @ wins) * w).sum(axis=1) / ((w @ positives) * (w @ negatives))


def test_auc_by_pairs_is_auc():
    rows = days(np.random.default_rng(5), 14)
    one = quality.measure(rows, {"a": Measure(auc)})["a"]
    two = quality.measure(rows, {"a": Measure(auc, True, auc_by_pairs)})["a"]
    assert one.goodness == pytest.approx(two.goodness)
    assert one.standard_error == pytest.approx(two.standard_error)


MEASURES_FAST = {
    "roc_auc": Measure(auc, True, auc_by_pairs),
    "log_loss": Measure(log_loss, False, loss_by_sums, skill=True),
}
