from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.test import compare
from treadle.test.compare import Estimate
from treadle.test.metrics import Judged, Sums, statistic


def days(rng: np.random.Generator, blocks: int, mean: float, *, skewed: bool = False) -> Sums:
    """Daily sums of a paired loss difference: 150 to 450 rows a day, correlation .05 within days."""
    sizes = rng.integers(150, 450, blocks)
    day = rng.exponential(size=blocks) - 1 if skewed else rng.normal(size=blocks)
    noise = np.sqrt(0.95 / sizes) * rng.normal(size=blocks)
    sums = sizes * (mean + math.sqrt(0.05) * day + noise)
    return Sums(np.stack([sums, sizes], axis=1), lambda s: s[:, 0] / s[:, 1])


def test_the_interval_of_14_days_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(20)
    estimates = [compare.estimate(days(rng, 14, 0.0), 14, draws=500) for _ in range(600)]
    cover = np.mean([e.low <= 0 <= e.high for e in estimates])
    assert cover >= 0.93  # .950 in 2000 repetitions; a plain percentile bootstrap: .912


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "skewed", "least"),
    [(6, False, 0.93), (8, False, 0.93), (14, False, 0.935), (28, False, 0.935), (14, True, 0.90)],
)
def test_the_cover_holds_for_few_and_for_skewed_blocks(
    blocks: int, skewed: bool, least: float
) -> None:
    rng = np.random.default_rng(21)
    estimates = [
        compare.estimate(days(rng, blocks, 0.0, skewed=skewed), blocks) for _ in range(1500)
    ]
    assert np.mean([e.low <= 0 <= e.high for e in estimates]) >= least


def test_a_model_worse_by_the_margin_passes_seldom_and_one_within_it_is_refused_seldom() -> None:
    """Error rates of the rule: each side of a 95 % interval errs in about 2.5 %."""
    rng = np.random.default_rng(22)
    margin = 0.1
    at_margin = [
        compare.no_worse(compare.estimate(days(rng, 14, -margin), 14, draws=300), margin)
        for _ in range(500)
    ]
    assert np.mean([outcome == "pass" for outcome in at_margin]) <= 0.05
    assert np.mean([outcome == "refuse" for outcome in at_margin]) <= 0.05
    far = compare.estimate(days(rng, 14, -1.0), 14)
    assert compare.no_worse(far, margin) == "refuse"
    good = compare.estimate(days(rng, 14, 0.5), 14)
    assert compare.no_worse(good, margin) == "pass"


def test_too_few_blocks_decide_nothing() -> None:
    measured = compare.estimate(days(np.random.default_rng(0), 5, 5.0), 5)
    assert not measured.known
    assert compare.no_worse(measured, 0.1) == "undecided"


def test_the_number_of_blocks_that_would_decide_does_decide_about_half_the_time() -> None:
    rng = np.random.default_rng(23)
    decided = []
    for _ in range(150):
        first = compare.estimate(days(rng, 14, 0.0), 14, draws=300)
        if compare.no_worse(first, 0.05) != "undecided":
            continue
        needed = compare.blocks_needed(
            Estimate(0.0, first.low - first.value, first.high - first.value, 14, first.error), -0.05
        )
        assert needed is not None
        assert needed > 14
        decided.append(
            compare.no_worse(compare.estimate(days(rng, needed, 0.0), needed, draws=300), 0.05)
            != "undecided"
        )
    assert 0.3 < np.mean(decided) < 0.85


def test_equal_models_differ_by_nothing_and_pass_any_margin() -> None:
    judged = Judged("regression", np.arange(50.0), np.arange(50.0) + 1, None, ())
    block = np.arange(50) % 10
    one = statistic("mae", judged, block)
    gained = compare.estimate(compare.gain(one, one, -1.0), 10)
    assert (gained.value, gained.low, gained.high) == (0, 0, 0)
    assert compare.no_worse(gained, 0.0) == "pass"
    assert compare.blocks_needed(gained, 0.0) is None


def test_rows_taken_for_independent_make_the_interval_too_narrow() -> None:
    rng = np.random.default_rng(5)
    day = np.repeat(np.arange(14), 300)
    truth = rng.normal(size=14)[day] * 0.5 + rng.normal(size=len(day))
    judged = Judged("regression", truth, np.zeros(len(day)), None, ())
    by_day = compare.estimate(statistic("rmse", judged, day), 14)
    rows = compare.blocks_of(None, None, len(day))
    by_row = compare.estimate(statistic("rmse", judged, rows), int(rows.max()) + 1)
    assert by_day.high - by_day.low > 1.5 * (by_row.high - by_row.low)


def test_days_begin_at_midnight_and_are_numbered_in_order_of_time() -> None:
    times = np.array(
        ["2013-01-02T00:00", "2013-01-01T23:59", "2013-01-05T12:00", "2013-01-02T08:00"],
        dtype="datetime64[us]",
    )
    assert compare.blocks_of(times, 86400, 4).tolist() == [1, 0, 2, 1]


@given(rows=st.integers(1, 2000))
def test_independent_rows_make_groups_of_nearly_equal_size(rows: int) -> None:
    sizes = np.bincount(compare.blocks_of(None, None, rows))
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) <= compare.MAX_BLOCKS


def test_many_blocks_are_joined_with_their_neighbours() -> None:
    times = np.arange(0, 86400 * 1000, 43200).astype("datetime64[s]")
    block = compare.blocks_of(times, 86400, len(times))
    assert block.max() == compare.MAX_BLOCKS - 1
    assert (np.diff(block) >= 0).all()
