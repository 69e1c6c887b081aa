"""A scikit-learn model as an ONNX graph: one float32 matrix in, probabilities or numbers out.

skl2onnx does the work. What it does wrong or not at all with the scikit-learn of today is met here:
its boosting converter (1.20) writes NumPy's booleans and integers, which onnx refuses; it takes named
columns one by one, so those of a ColumnTransformer become numbers first; it knows nothing of
categories that boosting splits on, and would ignore them. The comparison that follows finds the rest.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

from treadle.base.errors import MissingExtra
from treadle.base.forms import INPUT
from treadle.build.fold import NotLinear, positions

_BOOSTING = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
_SLOWER = ("KNeighborsClassifier", "KNeighborsRegressor", "RadiusNeighborsClassifier",
           "RadiusNeighborsRegressor", "GaussianProcessClassifier",
           "GaussianProcessRegressor")  # fmt: skip
"""Models that ONNX Runtime computes no faster: they compare with every training row."""


class NotConvertible(Exception):
    """Why a model has no ONNX graph."""


def convert(model: Any, names: Sequence[str], function: str) -> bytes:
    """The graph's bytes, equal for equal models. NotConvertible; MissingExtra without skl2onnx."""
    try:
        import onnxruntime  # noqa: F401
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise MissingExtra("skl2onnx", "compile", "`model: {compile: auto}`") from error
    parts = list(_parts(model))
    for part in parts:
        kind = type(part).__name__
        if kind in _SLOWER:
            raise NotConvertible(f"{kind} would not be faster")
        categories = getattr(part, "is_categorical_", None)
        if kind in _BOOSTING and categories is not None and categories.any():
            raise NotConvertible(f"{kind} splits on categories, which skl2onnx ignores")
    try:
        model = _by_position(model, names)
    except NotLinear as error:
        raise NotConvertible(str(error)) from None
    options = {id(model): {"zipmap": False}} if function == "predict_proba" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = skl2onnx.convert_sklearn(
                model,
                name="compiled",  # by default a random one
                initial_types=[(INPUT, FloatTensorType([None, len(names)]))],
                options=options,
                custom_conversion_functions=_conversions(parts),
            )
        except Exception as error:
            told = (str(error).strip().splitlines() or [""])[0][:200]
            raise NotConvertible(
                f"skl2onnx does not convert it: {type(error).__name__}: {told}"
            ) from error
    return bytes(graph.SerializeToString(deterministic=True))


def _parts(model: Any) -> Any:
    """The model and the models within it: steps, parts of columns, members."""
    yield model
    inner = [step for _, step in getattr(model, "steps", ())]
    inner += [part for _, part, _ in getattr(model, "transformers_", ())]
    for word in ("estimators_", "calibrated_classifiers_"):
        found = getattr(model, word, None)
        inner += list(found) if isinstance(found, list | tuple) else []
    for word in ("estimator", "estimator_", "best_estimator_", "regressor_", "final_estimator_"):
        found = getattr(model, word, None)
        inner += [found] if found is not None else []
    for item in inner:
        if hasattr(item, "get_params") and item is not model:
            yield from _parts(item)


def _by_position(model: Any, names: Sequence[str]) -> Any:
    """The model with numbers for the column names of its first step."""
    first = model
    while getattr(first, "steps", None):
        first = first.steps[0][1]
    if not hasattr(first, "transformers_"):
        return model
    model = first = copy.deepcopy(model)
    while getattr(first, "steps", None):
        first = first.steps[0][1]
    first.transformers_ = [
        (name, part, positions(wanted, names)) for name, part, wanted in first.transformers_
    ]
    return model


def _conversions(parts: Sequence[Any]) -> dict[type, Any]:
    from skl2onnx.common._registration import get_converter

    def plainly(alias: str) -> Any:
        def conversion(scope: Any, operator: Any, container: Any) -> None:
            get_converter(alias)(scope, operator, _PlainAttributes(container))

        return conversion

    kinds = {type(part) for part in parts if type(part).__name__ in _BOOSTING}
    return {kind: plainly(f"Sklearn{kind.__name__}") for kind in kinds}


class _PlainAttributes:
    """skl2onnx's container of nodes; numbers of attributes arrive in it as Python's."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *positional: Any, **named: Any) -> None:
        """As the container's, with plain numbers in lists."""
        plain = {
            name: [_plain(item) for item in value] if isinstance(value, list) else value
            for name, value in named.items()
        }
        self._container.add_node(*positional, **plain)


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    value = item() if callable(item) else value
    return int(value) if isinstance(value, bool) else value
