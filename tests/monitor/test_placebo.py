"""The real year: monitoring is quiet where nothing changed, and sees what did (slow)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from treadle.monitor import findings, quality

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("placebo", ROOT / "benchmarks" / "placebo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def year(bench):
    return bench.Year()


def test_drift_alarms_at_most_once_in_the_real_year_where_ks_alarms_every_week(bench, year):
    from scipy import stats

    ours = plain = 0
    for closed in year.windows:
        found = bench.look(year, closed.table)
        ours += any(one.alarm for one in found)
        plain += any(
            stats.ks_2samp(
                bench._finite(year.train[name]), bench._finite(closed.table[name])
            ).pvalue
            < 0.05 / 3
            for name in ("distance", "sched_hour", "wind_speed")
        )
    assert len(year.windows) == 35
    assert ours <= 1
    assert plain >= 30


def test_every_flight_of_the_year_is_in_one_window_and_truth_covers_nearly_all(year):
    assert sum(closed.window.rows for closed in year.windows) >= 227_657 - 2 * 1_000
    for coverage in year.coverage:
        assert coverage.share > 0.9
        assert coverage.matured == coverage.covered + coverage.no_truth + coverage.absent


def test_the_april_model_is_quiet_in_spring_and_alarms_from_autumn_at_the_latest(bench, year):
    how = bench.measures()
    release = quality.measure(year.holdout, how)
    alarms = []
    for number, closed in enumerate(year.windows):
        rows = quality.concatenate(year.judged[: number + 1])
        found = findings.look_at_quality(
            closed.window,
            section=bench.SECTION,
            now=findings.matures_at(closed.window, bench.SECTION),
            coverage=year.coverage[number],
            judged=rows,
            release_quality=release,
            measures=how,
        )
        alarms += [closed.window.start[:7]] if any(one.alarm for one in found) else []
    assert not {"2013-04", "2013-05", "2013-06"} & set(alarms), "its AUC is .69 in May"
    assert "2013-09" in alarms and "2013-12" in alarms, "its AUC is .61 and .60 there"


def test_days_in_random_order_keep_decay_within_its_budget(bench, year):
    rows = quality.concatenate(year.judged)
    days = [np.flatnonzero(rows.block == block) for block in np.unique(rows.block)]
    how = bench.measures()
    alpha = findings.decay_alpha(bench.SECTION)
    rng = np.random.default_rng(3)
    looks, repeats = 0, 40
    for _ in range(repeats):
        chosen = [days[i][::4] for i in rng.permutation(len(days))[: 14 + 91]]
        parts = [
            quality.Judged(
                rows.truth[np.concatenate(part)],
                rows.prediction[np.concatenate(part)],
                np.repeat(np.arange(len(part)), [len(one) for one in part]),
                "binary",
                (0, 1),
            )
            for part in (chosen[:14], chosen[14:])
        ]
        release = quality.measure(parts[0], how)
        for week in range(2, 14):
            look = quality.decay(parts[1].first(7 * week), release, how, alpha)
            looks += any(one.alarm for one in look.comparisons)
    assert looks / repeats <= alpha * 90 / 7
