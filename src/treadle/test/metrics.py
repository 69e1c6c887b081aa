"""Metrics as sums over rows, so that blocks can be left out, drawn again and compared at once.

A metric is either a function of sums of per-row numbers (`Sums`), a function of pairs of rows
(`roc_auc`, by a matrix of blocks), or a function of weighted sorted rows (`average_precision`,
`median_absolute_error`). All three answer for many weightings of the blocks in one vectorised call:
`weights` has the shape (replicates, blocks), and a weight of 2 means that the block counts twice.

Definitions are scikit-learn's (a test compares them on random rows); it is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from treadle.base.spec import Task

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric's name, direction and range.

    `needs`: `probability` (of classes), `class` (the most probable one) or `number`.
    """

    name: str
    greater: bool
    low: float
    high: float
    needs: str

    @property
    def sign(self) -> float:
        """1 where more is better, -1 where less is: `sign * value` is better when it grows."""
        return 1.0 if self.greater else -1.0


@dataclass(frozen=True)
class Judged:
    """Truth and prediction of rows that have a label, in a metric's terms.

    truth: class numbers 0..k-1 (int64), or the number itself (float64); shape (n,).
    probability: (n, k) or None where the model gives classes alone; predicted: as truth, (n,).
    """

    task: Task
    truth: Array
    predicted: Array
    probability: Floats | None
    classes: tuple[Any, ...]


class Statistic(Protocol):
    """One metric on rows grouped into blocks, for any weighting of the blocks."""

    def __call__(self, weights: Floats, /) -> Floats:
        """Values, shape (replicates,), for weights of shape (replicates, blocks)."""


@dataclass(frozen=True)
class Sums:
    """A function of per-block sums; `sums` has the shape (blocks, terms)."""

    sums: Floats
    combine: Callable[[Floats], Floats]

    def __call__(self, weights: Floats, /) -> Floats:
        """See `Statistic`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.combine(weights @ self.sums)


@dataclass(frozen=True)
class Pairs:
    """The area under the ROC curve: the share of pairs (positive, negative) in the right order.

    `wins[i, j]`: pairs of a positive of block i and a negative of block j in the right order, ties
    counted half. Mann and Whitney (1947); Hanley and McNeil (1982).
    """

    wins: Floats
    positives: Floats
    negatives: Floats

    def __call__(self, weights: Floats, /) -> Floats:
        """See `Statistic`."""
        won = ((weights @ self.wins) * weights).sum(axis=1)
        pairs = (weights @ self.positives) * (weights @ self.negatives)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(won / pairs)


@dataclass(frozen=True)
class Rows:
    """A function of all rows with a weight for each: `evaluate(row weights (r, n)) -> (r,)`."""

    block: NDArray[np.int64]
    evaluate: Callable[[Floats], Floats]

    def __call__(self, weights: Floats, /) -> Floats:
        """See `Statistic`."""
        step = max(1, 4_000_000 // max(1, len(self.block)))  # at most 32 MB of row weights at once
        parts = [
            self.evaluate(weights[i : i + step][:, self.block])
            for i in range(0, len(weights), step)
        ]
        return np.concatenate(parts)


_PROBABILITY, _CLASS, _NUMBER = "probability", "class", "number"
_INFINITE = math.inf

METRICS: dict[Task, dict[str, Metric]] = {
    "binary": {
        m.name: m
        for m in (
            Metric("roc_auc", True, 0, 1, _PROBABILITY),
            Metric("log_loss", False, 0, _INFINITE, _PROBABILITY),
            Metric("brier", False, 0, 1, _PROBABILITY),
            Metric("average_precision", True, 0, 1, _PROBABILITY),
            Metric("accuracy", True, 0, 1, _CLASS),
            Metric("balanced_accuracy", True, 0, 1, _CLASS),
            Metric("f1", True, 0, 1, _CLASS),
            Metric("precision", True, 0, 1, _CLASS),
            Metric("recall", True, 0, 1, _CLASS),
        )
    },
    "multiclass": {
        m.name: m
        for m in (
            Metric("log_loss", False, 0, _INFINITE, _PROBABILITY),
            Metric("accuracy", True, 0, 1, _CLASS),
            Metric("balanced_accuracy", True, 0, 1, _CLASS),
            Metric("f1_macro", True, 0, 1, _CLASS),
        )
    },
    "regression": {
        m.name: m
        for m in (
            Metric("mae", False, 0, _INFINITE, _NUMBER),
            Metric("rmse", False, 0, _INFINITE, _NUMBER),
            Metric("r2", True, -_INFINITE, 1, _NUMBER),
            Metric("mape", False, 0, _INFINITE, _NUMBER),
            Metric("median_absolute_error", False, 0, _INFINITE, _NUMBER),
        )
    },
}


def usable(judged: Judged) -> tuple[Metric, ...]:
    """The task's metrics that these predictions allow (no probabilities: classes only)."""
    known = METRICS[judged.task].values()
    return tuple(m for m in known if m.needs != _PROBABILITY or judged.probability is not None)


def values(judged: Judged) -> dict[str, float]:
    """Every usable metric on all rows; one that the rows do not define (one class) is left out."""
    block = np.zeros(len(judged.truth), dtype=np.int64)
    one = np.ones((1, 1))
    found = {m.name: float(statistic(m.name, judged, block)(one)[0]) for m in usable(judged)}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def value(name: str, judged: Judged) -> float:
    """One metric on all rows; NaN where the rows do not define it."""
    block = np.zeros(len(judged.truth), dtype=np.int64)
    return float(statistic(name, judged, block)(np.ones((1, 1)))[0])


def statistic(name: str, judged: Judged, block: NDArray[np.int64]) -> Statistic:
    """The metric `name` on rows whose blocks are numbered 0..b-1 by `block`, shape (n,).

    KeyError for a metric that the task does not have.
    """
    metric = METRICS[judged.task][name]
    if metric.needs == _PROBABILITY and judged.probability is None:
        raise KeyError(f"{name} needs probabilities")
    blocks = int(block.max()) + 1 if len(block) else 0
    if judged.task == "regression":
        return _regression(name, judged, block, blocks)
    if name == "roc_auc":
        return _auc(judged, block, blocks)
    if name == "average_precision":
        return _average_precision(judged, block)
    if name == "log_loss":
        return _mean(log_losses(judged), block, blocks)
    if name == "brier":
        assert judged.probability is not None
        return _mean((judged.probability[:, 1] - judged.truth) ** 2, block, blocks)
    return _confusion(name, judged, block, blocks)


def log_losses(judged: Judged) -> Floats:
    """Minus the logarithm of the probability given to what happened, per row; (n,).

    Probabilities are normalised and kept from 0 and 1 by the machine epsilon, as scikit-learn does.
    """
    assert judged.probability is not None
    given = judged.probability
    epsilon = np.finfo(np.float64).eps
    given = np.clip(given / given.sum(axis=1, keepdims=True), epsilon, 1 - epsilon)
    return np.asarray(-np.log(given[np.arange(len(given)), judged.truth]))


def _by_block(rows: Floats, block: NDArray[np.int64], blocks: int) -> Floats:
    """Sums of columns by block: (n, terms) → (blocks, terms)."""
    return np.stack(
        [np.bincount(block, weights=column, minlength=blocks) for column in rows.T], axis=1
    )


def _mean(rows: Floats, block: NDArray[np.int64], blocks: int) -> Sums:
    terms = np.stack([rows, np.ones(len(rows))], axis=1)
    return Sums(_by_block(terms, block, blocks), lambda s: s[:, 0] / s[:, 1])


def _confusion(name: str, judged: Judged, block: NDArray[np.int64], blocks: int) -> Sums:
    """Per class: hits, rows of the class, rows predicted as it; then what the metric makes of it."""
    k = len(judged.classes)
    truth, predicted = judged.truth, judged.predicted
    terms = np.zeros((blocks, 3 * k))
    for c in range(k):
        for column, rows in enumerate(
            ((truth == c) & (predicted == c), truth == c, predicted == c)
        ):
            terms[:, 3 * c + column] = np.bincount(block, weights=rows, minlength=blocks)

    def combine(sums: Floats) -> Floats:
        table = sums.reshape(len(sums), k, 3)
        hits, actual, given = table[..., 0], table[..., 1], table[..., 2]
        if name == "accuracy":
            return np.asarray(hits.sum(axis=1) / actual.sum(axis=1))
        if name == "balanced_accuracy":
            # Classes without a row do not count.
            recall = np.where(actual > 0, hits / np.maximum(actual, 1), np.nan)
            return np.asarray(np.nanmean(recall, axis=1))
        if name == "f1_macro":
            there = (actual > 0) | (given > 0)
            f1 = np.where(there, 2 * hits / np.maximum(actual + given, 1), np.nan)
            return np.asarray(np.nanmean(f1, axis=1))
        hit, one, said = hits[:, 1], actual[:, 1], given[:, 1]
        if name == "precision":
            return np.where(said > 0, hit / np.maximum(said, 1), 0.0)
        if name == "recall":
            return np.where(one > 0, hit / np.maximum(one, 1), 0.0)
        return np.where(one + said > 0, 2 * hit / np.maximum(one + said, 1), 0.0)

    return Sums(terms, combine)


def _auc(judged: Judged, block: NDArray[np.int64], blocks: int) -> Pairs:
    assert judged.probability is not None
    score, positive = judged.probability[:, 1], judged.truth == 1
    high, high_block = score[positive], block[positive]
    wins = np.zeros((blocks, blocks))
    for j in range(blocks):
        low = np.sort(score[~positive & (block == j)])
        if len(low) and len(high):
            below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
            wins[:, j] = np.bincount(high_block, weights=below / 2, minlength=blocks)
    return Pairs(
        wins,
        np.bincount(high_block, minlength=blocks).astype(np.float64),
        np.bincount(block[~positive], minlength=blocks).astype(np.float64),
    )


def _average_precision(judged: Judged, block: NDArray[np.int64]) -> Rows:
    """Sum over thresholds of precision times the growth of recall; tied scores are one threshold."""
    assert judged.probability is not None
    score = judged.probability[:, 1]
    order = np.argsort(-score, kind="stable")
    positive = (judged.truth == 1)[order].astype(np.float64)
    last = np.append(np.diff(score[order]) != 0, True)

    def evaluate(weights: Floats) -> Floats:
        hits = np.cumsum(weights * positive, axis=1)[:, last]
        said = np.cumsum(weights, axis=1)[:, last]
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = np.diff(hits, axis=1, prepend=0.0) / hits[:, -1:]
            precision = np.where(said > 0, hits / said, 0.0)
        return np.asarray((precision * growth).sum(axis=1))

    return Rows(block[order], evaluate)


def _regression(name: str, judged: Judged, block: NDArray[np.int64], blocks: int) -> Statistic:
    truth, error = judged.truth, judged.truth - judged.predicted
    if name == "mae":
        return _mean(np.abs(error), block, blocks)
    if name == "mape":
        epsilon = np.finfo(np.float64).eps
        return _mean(np.abs(error) / np.maximum(np.abs(truth), epsilon), block, blocks)
    if name == "rmse":
        mean = _mean(error**2, block, blocks)
        return Sums(mean.sums, lambda s: np.sqrt(s[:, 0] / s[:, 1]))
    if name == "r2":
        centred = truth - truth.mean() if len(truth) else truth  # against cancellation
        terms = np.stack([error**2, centred, centred**2, np.ones(len(truth))], axis=1)
        return Sums(
            _by_block(terms, block, blocks),
            lambda s: 1 - s[:, 0] / (s[:, 2] - s[:, 1] ** 2 / s[:, 3]),
        )
    order = np.argsort(np.abs(error), kind="stable")
    sizes = np.abs(error)[order]

    def median(weights: Floats) -> Floats:
        """The weighted median: the mean of the lower and the upper one."""
        total = np.cumsum(weights, axis=1)
        half = total[:, -1:] / 2
        lower = (total < half).sum(axis=1)
        upper = (total <= half).sum(axis=1)
        last = len(sizes) - 1
        both = sizes[np.minimum(lower, last)] + sizes[np.minimum(upper, last)]
        return np.asarray(both / 2)

    return Rows(block[order], median)
