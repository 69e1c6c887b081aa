"""scikit-learn's histogram gradient boosting, its trees called one after the other and no more.

The estimator's own sum over its trees makes two calls of Python and a new array for each tree: for
200 trees and few rows that is half of a prediction. Here the same compiled function is called for the
same trees in the same order, so every sum is the same to the bit. That function is not public:
where it is not what is expected, or a probe is not answered equally, the estimator is used as it is.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_log = logging.getLogger("treadle.server")
_NAMES = frozenset(("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"))
_PROBES = 16
"""Rows that are predicted in both ways when a model is loaded."""


def direct(estimator: Any) -> Any:
    """A copy of the estimator that sums its trees up directly, for matrices; else itself."""
    kind = type(estimator)
    if kind.__name__ not in _NAMES or not kind.__module__.startswith("sklearn."):
        return estimator
    try:
        copy: Any = object.__new__(kind)
        copy.__dict__.update(estimator.__dict__)
        copy._raw_predict = _Trees(estimator)
        probes = _probes(estimator)
        same = np.array_equal(copy._raw_predict(probes), estimator._raw_predict(probes))
    except (
        Exception
    ):  # another release of scikit-learn: whatever its insides are, they are not ours
        _log.info("the trees cannot be called directly", exc_info=True)
        return estimator
    return copy if same else estimator


def _probes(estimator: Any) -> Array:
    """Rows around the trees' own thresholds, and one of missing values."""
    nodes = np.concatenate([tree.nodes for step in estimator._predictors for tree in step])
    inner = nodes[nodes["is_leaf"] == 0]
    probes = np.zeros((_PROBES, estimator.n_features_in_), order="F")
    for feature in np.unique(inner["feature_idx"]):
        at = np.sort(inner["num_threshold"][inner["feature_idx"] == feature])
        probes[:, feature] = at[np.linspace(0, len(at) - 1, _PROBES).astype(int)]
        probes[1::2, feature] += 1e-3
    probes[-1] = np.nan
    return probes


class _Trees:
    """The estimator's `_raw_predict`: [rows, trees of an iteration] sums."""

    def __init__(self, estimator: Any) -> None:
        from sklearn.ensemble._hist_gradient_boosting import _predictor
        from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

        if getattr(estimator, "_preprocessor", None) is not None:
            raise ValueError("categories are encoded by names")
        self._estimator = estimator
        self._call = _predictor._predict_from_raw_data
        self._threads = _openmp_effective_n_threads
        self._steps = [
            [(tree.nodes, tree.raw_left_cat_bitsets) for tree in step]
            for step in estimator._predictors
        ]
        self._baseline = estimator._baseline_prediction
        self._categories, self._places = estimator._bin_mapper.make_known_categories_bitsets()
        self._width = estimator.n_features_in_

    def __call__(self, data: Any) -> Array:
        if type(data) is not np.ndarray or data.ndim != 2 or data.shape[1] != self._width:
            made: Array = self._estimator._raw_predict(data)  # or it says what is wrong
            return made
        if data.dtype != np.float64:
            if data.dtype.kind not in "fiu":
                made = self._estimator._raw_predict(data)
                return made
            data = data.astype(np.float64)
        rows = len(data)
        sums = np.zeros((rows, len(self._steps[0])), dtype=self._baseline.dtype, order="F")
        sums += self._baseline
        columns = [sums[:, at] for at in range(sums.shape[1])]
        one = np.empty(rows)
        call, categories, places, threads = (
            self._call, self._categories, self._places, self._threads(),
        )  # fmt: skip
        for step in self._steps:
            for column, (nodes, bits) in zip(columns, step, strict=True):
                call(nodes, data, bits, categories, places, threads, one)
                np.add(column, one, out=column)
        return sums
