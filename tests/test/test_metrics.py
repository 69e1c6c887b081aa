"""The metrics are scikit-learn's, on all rows and under any weighting of the blocks."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from treadle.test import metrics
from treadle.test.metrics import METRICS, Judged

seeds = st.integers(0, 2**32 - 1)


def draw(task: str, seed: int, n: int | None = None) -> tuple[Judged, np.ndarray]:
    """Random rows with ties, and their blocks (each block has a row)."""
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(8, 60))
    block = np.concatenate([np.arange(4), rng.integers(0, 4, n - 4)])
    if task == "regression":
        truth, answer = rng.normal(size=n).round(1), rng.normal(size=n).round(1)
        return Judged("regression", truth, answer, None, ()), block
    k = 2 if task == "binary" else int(rng.integers(3, 5))
    raw = rng.integers(0, 5, (n, k)) + 0.01
    probability = raw / raw.sum(axis=1, keepdims=True)
    truth = rng.integers(0, k, n)
    return Judged(task, truth, probability.argmax(axis=1), probability, tuple(range(k))), block


def sklearn_value(name: str, judged: Judged, weights: np.ndarray) -> float:
    rows = np.repeat(np.arange(len(weights)), weights)
    truth, predicted = judged.truth[rows], judged.predicted[rows]
    if judged.probability is not None:
        probability = judged.probability[rows]
        labels = list(range(len(judged.classes)))
        one = probability[:, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(
            {
                "roc_auc": lambda: theirs.roc_auc_score(truth, one),
                "log_loss": lambda: theirs.log_loss(truth, probability, labels=labels),
                "brier": lambda: theirs.brier_score_loss(truth, one),
                "average_precision": lambda: theirs.average_precision_score(truth, one),
                "accuracy": lambda: theirs.accuracy_score(truth, predicted),
                "balanced_accuracy": lambda: theirs.balanced_accuracy_score(truth, predicted),
                "f1": lambda: theirs.f1_score(truth, predicted, zero_division=0),
                "precision": lambda: theirs.precision_score(truth, predicted, zero_division=0),
                "recall": lambda: theirs.recall_score(truth, predicted, zero_division=0),
                "f1_macro": lambda: theirs.f1_score(
                    truth, predicted, average="macro", zero_division=0
                ),
                "mae": lambda: theirs.mean_absolute_error(truth, predicted),
                "rmse": lambda: theirs.root_mean_squared_error(truth, predicted),
                "r2": lambda: theirs.r2_score(truth, predicted),
                "mape": lambda: theirs.mean_absolute_percentage_error(truth, predicted),
                "median_absolute_error": lambda: theirs.median_absolute_error(truth, predicted),
            }[name]()
        )


@pytest.mark.parametrize(("task", "name"), [(t, n) for t in METRICS for n in METRICS[t]])
@given(seed=seeds, weights=st.lists(st.integers(0, 3), min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_metric_under_block_weights_is_that_of_repeated_rows(
    task: str, name: str, seed: int, weights: list[int]
) -> None:
    judged, block = draw(task, seed)
    repeats = np.array(weights)[block]
    rows = np.repeat(np.arange(len(block)), repeats)
    assume(len(rows) > 1)
    truth = judged.truth[rows]
    if name in ("roc_auc", "average_precision", "r2"):
        assume(len(set(truth.tolist())) > 1)
    if name == "f1":
        assume(truth.any() or judged.predicted[rows].any())
    got = metrics.statistic(name, judged, block)(np.array([weights, [1, 1, 1, 1]], dtype=float))
    assert got[0] == pytest.approx(sklearn_value(name, judged, repeats), rel=1e-9, abs=1e-12)
    assert got.shape == (2,)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_values_lie_in_their_range(seed: int) -> None:
    for task in METRICS:
        judged, _ = draw(task, seed)
        for name, value in metrics.values(judged).items():
            metric = METRICS[task][name]
            assert metric.low - 1e-12 <= value <= metric.high + 1e-12


def test_a_perfect_answer_has_the_best_value_of_each_metric() -> None:
    truth = np.array([0, 1, 0, 1])
    judged = Judged("binary", truth, truth, np.stack([1.0 - truth, truth], axis=1), (0, 1))
    for name, value in metrics.values(judged).items():
        metric = METRICS["binary"][name]
        assert value == pytest.approx(metric.high if metric.greater else metric.low, abs=1e-12)


def test_without_probabilities_only_the_class_metrics_remain() -> None:
    judged = Judged("binary", np.array([0, 1]), np.array([0, 1]), None, (0, 1))
    assert set(metrics.values(judged)) == {
        "accuracy",
        "balanced_accuracy",
        "f1",
        "precision",
        "recall",
    }


def test_one_class_leaves_out_what_it_does_not_define() -> None:
    truth = np.zeros(5, dtype=int)
    judged = Judged("binary", truth, truth, np.tile([0.7, 0.3], (5, 1)), (0, 1))
    assert "roc_auc" not in metrics.values(judged)


def test_scikit_learn_is_not_imported() -> None:
    code = (
        "import sys; import treadle.test.judge; "
        "print([m for m in ('sklearn', 'scipy', 'pandas', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
