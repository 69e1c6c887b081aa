from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base.records import GateResult
from treadle.base.spec import GateSection
from treadle.test import compare, gate
from treadle.test.compare import Estimate
from treadle.test.metrics import METRICS, Sums

AREA = METRICS["binary"]["roc_auc"]


def days(rng: np.random.Generator, mean: float) -> Estimate:
    """14 days of 150 to 450 rows with a correlation of .05 within days."""
    sizes = rng.integers(150, 450, 14)
    values = (
        mean + math.sqrt(0.05) * rng.normal(size=14) + np.sqrt(0.95 / sizes) * rng.normal(size=14)
    )
    sums = np.stack([sizes * values, sizes], axis=1)
    return compare.estimate(Sums(sums, lambda s: s[:, 0] / s[:, 1]), 14, draws=300)


def test_a_model_that_stands_on_its_floor_is_seldom_refused() -> None:
    rng = np.random.default_rng(1)
    floor = GateSection("roc_auc", at_least=0.6)
    outcomes = [gate.floor(floor, days(rng, 0.6), "").outcome for _ in range(600)]
    assert outcomes.count("refuse") / 600 <= 0.05  # one end of a 95 % interval: .025
    assert 0.4 < outcomes.count("pass") / 600 < 0.6


def test_a_model_that_is_a_constant_seldom_beats_one() -> None:
    rng = np.random.default_rng(2)
    outcomes = [
        gate.baseline(AREA, days(rng, 0.0), (0.5, 0.5), "a constant", "").outcome
        for _ in range(600)
    ]
    assert outcomes.count("pass") / 600 <= 0.05
    assert outcomes.count("refuse") / 600 > 0.4


ends = st.floats(-2, 2)


@given(value=ends, low=ends, high=ends, wanted=ends)
def test_a_floor_and_the_mirrored_ceiling_answer_alike(
    value: float, low: float, high: float, wanted: float
) -> None:
    low, value, high = sorted((low, value, high))
    up = gate.floor(GateSection("x", at_least=wanted), Estimate(value, low, high, 14, 1), "")
    down = gate.floor(GateSection("x", at_most=-wanted), Estimate(-value, -high, -low, 14, 1), "")
    assert up.outcome == down.outcome
    assert (up.outcome == "pass") == (value >= wanted)
    assert (up.outcome == "refuse") == (high < wanted)


def test_a_missed_floor_without_an_interval_is_undecided() -> None:
    answer = gate.floor(
        GateSection("roc_auc", at_least=0.6),
        Estimate(0.5, math.nan, math.nan, 3, math.nan),
        "3 blocks",
    )
    assert answer.outcome == "undecided"
    assert answer.low is None
    assert answer.text == (
        "roc_auc is 0.5 (3 blocks); at least 0.6 is wanted: missed, and 6 blocks at least would tell "
        "by chance or not"
    )


@pytest.mark.parametrize(
    ("outcomes", "all_of_them"),
    [
        (["pass", "pass"], "pass"),
        ([], "pass"),
        (["pass", "undecided"], "undecided"),
        (["undecided", "refuse", "pass"], "refuse"),
    ],
)
def test_the_worst_gate_decides(outcomes: list[str], all_of_them: str) -> None:
    gates = [GateResult("g", outcome, None, None) for outcome in outcomes]
    assert gate.combined(gates) == all_of_them


def test_times_that_touch_are_not_in_order() -> None:
    days_ = np.array(["2013-01-01", "2013-01-02", "NaT"], dtype="datetime64[us]")
    later = np.array(["NaT", "2013-01-02", "2013-01-03"], dtype="datetime64[us]")
    assert gate.time_order(days_, later, 0, "time").outcome == "refuse"
    assert gate.time_order(days_, later + np.timedelta64(1, "s"), 0, "time").outcome == "pass"
    assert gate.time_order(None, later, None, "time").outcome == "pass"
