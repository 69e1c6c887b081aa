"""A linear pipeline as one matrix product: scaling and choosing columns go into the coefficients.

Sums are made with `math.fsum`, so that the same fitted pipeline gives the same numbers on every
machine (a matrix product of the linear algebra library would not).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from treadle.base.forms import Linear

_IDENTITY = frozenset({
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "Lars",
    "LarsCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV", "BayesianRidge", "ARDRegression", "HuberRegressor",
    "QuantileRegressor", "TheilSenRegressor", "SGDRegressor", "LinearSVR", "MultiTaskLasso",
    "MultiTaskElasticNet",
})  # fmt: skip
_EXP = frozenset({"PoissonRegressor", "GammaRegressor"})
_PROBABILITIES = frozenset({"LogisticRegression", "LogisticRegressionCV",
                            "LinearDiscriminantAnalysis"})  # fmt: skip


class NotLinear(Exception):
    """Why a pipeline is no one matrix product."""


@dataclass(frozen=True)
class _Column:
    """A column of an intermediate matrix: `factor` × feature `source` + `offset`."""

    source: int
    factor: float = 1.0
    offset: float = 0.0

    def then(self, factor: float, offset: float) -> _Column:
        return _Column(self.source, self.factor * factor, self.offset * factor + offset)


def fold(model: Any, names: Sequence[str], function: str) -> Linear:
    """The linear form of a fitted scikit-learn model on features called `names`. NotLinear."""
    *transformers, last = _steps(model)
    columns = [_Column(number) for number in range(len(names))]
    named: Sequence[str] = names
    for transformer in transformers:
        before, columns = columns, _apply(transformer, columns, named)
        if columns is not before:
            named = ()  # the next one sees no frame any more, but a matrix
    return _predictor(last, columns, len(names), function)


def _own(value: Any) -> bool:
    """Whether it is scikit-learn's own class: a subclass may do anything."""
    return type(value).__module__.startswith("sklearn.")


def _steps(model: Any) -> list[Any]:
    if _own(model) and type(model).__name__ == "Pipeline":
        steps = [step for _, step in model.steps]
        return [*(s for step in steps[:-1] for s in _steps(step)), *_steps(steps[-1])]
    return [model]


def _apply(transformer: Any, columns: list[_Column], names: Sequence[str]) -> list[_Column]:
    if transformer is None or transformer == "passthrough":
        return columns
    if transformer == "drop":
        return []
    kind = type(transformer).__name__
    if not _own(transformer):
        raise NotLinear(f"{kind} is no class of scikit-learn")
    if kind == "FunctionTransformer" and transformer.func is None:
        return columns
    if kind == "ColumnTransformer":
        return _choose(transformer, columns, names)
    factors, offsets = _scaling(transformer, kind, len(columns))
    return [c.then(f, o) for c, f, o in zip(columns, factors, offsets, strict=True)]


def _scaling(scaler: Any, kind: str, width: int) -> tuple[list[float], list[float]]:
    """Factor and offset of each column."""
    if kind == "StandardScaler":
        scale = _list(scaler.scale_, width, 1.0)
        mean = _list(scaler.mean_ if scaler.with_mean else None, width, 0.0)
        return [1.0 / s for s in scale], [-m / s for m, s in zip(mean, scale, strict=True)]
    if kind == "MinMaxScaler" and not scaler.clip:
        return _list(scaler.scale_, width, 1.0), _list(scaler.min_, width, 0.0)
    if kind == "MaxAbsScaler" and not getattr(scaler, "clip", False):
        return [1.0 / s for s in _list(scaler.scale_, width, 1.0)], [0.0] * width
    if kind == "RobustScaler":
        scale = _list(scaler.scale_ if scaler.with_scaling else None, width, 1.0)
        center = _list(scaler.center_ if scaler.with_centering else None, width, 0.0)
        return [1.0 / s for s in scale], [-c / s for c, s in zip(center, scale, strict=True)]
    raise NotLinear(f"{kind} is more than scaling")


def _list(values: Any, width: int, default: float) -> list[float]:
    found = [default] * width if values is None else [float(value) for value in values]
    if len(found) != width:
        raise NotLinear("a scaler of another width")
    return found


def _choose(chooser: Any, columns: list[_Column], names: Sequence[str]) -> list[_Column]:
    names = names or [""] * len(columns)
    if getattr(chooser, "transformer_weights", None):
        raise NotLinear("ColumnTransformer weighs its parts")
    chosen: list[_Column] = []
    for _, transformer, wanted in chooser.transformers_:
        chosen += _apply(transformer, [columns[i] for i in positions(wanted, names)], ())
    return chosen


def positions(wanted: Any, names: Sequence[str]) -> list[int]:
    """The columns that a part of a ColumnTransformer takes, as numbers. NotLinear."""
    if isinstance(wanted, str | int):
        wanted = [wanted]
    if isinstance(wanted, slice):
        if not all(end is None or isinstance(end, int) for end in (wanted.start, wanted.stop)):
            raise NotLinear("ColumnTransformer takes columns from one name to another")
        return list(range(*wanted.indices(len(names))))
    items = list(wanted)
    if items and all(type(item).__name__ in ("bool", "bool_") for item in items):
        return [number for number, taken in enumerate(items) if taken]
    try:
        return [names.index(i) if isinstance(i, str) else int(i) for i in items]
    except (ValueError, TypeError) as error:
        raise NotLinear(f"ColumnTransformer takes a column that is not there: {error}") from None


def _predictor(model: Any, columns: list[_Column], width: int, function: str) -> Linear:
    import numpy as np

    kind = type(model).__name__
    if not _own(model):
        raise NotLinear(f"{kind} is no class of scikit-learn")
    if function == "predict" and kind in _IDENTITY:
        link = "identity"
    elif function == "predict" and kind in _EXP:
        link = "exp"
    elif function == "predict_proba" and kind in _PROBABILITIES:
        link = "logistic" if len(model.classes_) == 2 else "softmax"
    else:
        raise NotLinear(f"{kind} is no linear model")
    vector = function == "predict" and np.ndim(model.coef_) == 1
    coefficients = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
    intercepts = np.broadcast_to(
        np.asarray(model.intercept_, dtype=np.float64).ravel(), coefficients.shape[:1]
    )
    if coefficients.shape[1] != len(columns):
        raise NotLinear(f"{kind} takes another number of columns")
    weights = np.zeros((width, len(coefficients)))
    bias = np.zeros(len(coefficients))
    for output, (row, intercept) in enumerate(zip(coefficients, intercepts, strict=True)):
        terms: list[list[float]] = [[] for _ in range(width)]
        offsets = [float(intercept)]
        for coefficient, column in zip(row.tolist(), columns, strict=True):
            terms[column.source].append(coefficient * column.factor)
            offsets.append(coefficient * column.offset)
        weights[:, output] = [math.fsum(items) for items in terms]
        bias[output] = math.fsum(offsets)
    return Linear(weights, bias, link, vector=vector)
