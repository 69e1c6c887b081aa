"""A pipeline that begins with a ColumnTransformer, given plain columns and no frame.

ColumnTransformer takes a frame apart by names, gives each of its transformers a smaller frame, and
each makes a matrix of that: most of a prediction's time, where it is followed by trees. Here each
transformer gets the matrix at once (numbers in the type that the frame's columns would have together,
texts as objects, missing ones NaN, as a frame's texts become), and what they give is put side by
side, as ColumnTransformer does. That is done for transformers that are known to give the same for
both (encoders, and the classes that sklearn_model knows), and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from treadle.operate.model import sklearn_model
from treadle.operate.model.signature import Signature

Array = np.ndarray[Any, Any]
Columns = Mapping[str, Array]

_NUMBERS = frozenset(("integer", "long", "float", "double"))
_ENCODERS = frozenset(("OrdinalEncoder", "OneHotEncoder"))


def plan(estimator: Any, function: str, signature: Signature) -> Callable[[Columns], Any] | None:
    """The pipeline's function for a dict of columns; None where it must be given a frame."""
    if type(estimator).__name__ != "Pipeline" or sklearn_model.routed():
        return None
    steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    first = steps[0]
    if f"{type(first).__module__}.{type(first).__name__}" != (
        "sklearn.compose._column_transformer.ColumnTransformer"
    ):
        return None
    if any(map(sklearn_model.gives_frames, steps)) or not callable(
        getattr(first, "transform", None)
    ):
        return None
    parts = _parts(first, {field.name: field.type for field in signature.inputs})
    if not parts:
        return None
    transforms = [step.transform for step in steps[1:-1]]
    last = sklearn_model.in_steps(steps[-1], function)

    def call(columns: Columns) -> Any:
        data: Any = np.hstack([part(columns) for part in parts])
        for transform in transforms:
            data = transform(data)
        return last(data)

    return call


def _parts(chosen: Any, types: Mapping[str, str]) -> list[Callable[[Columns], Array]]:
    """What a ColumnTransformer puts side by side, as functions of columns; none: not known here."""
    names = getattr(chosen, "feature_names_in_", None)
    places = getattr(chosen, "_transformer_to_input_indices", None)
    weights = getattr(chosen, "transformer_weights", None)
    if names is None or places is None or weights or getattr(chosen, "sparse_output_", True):
        return []
    parts = []
    for name, transformer, columns in chosen.transformers_:
        if transformer == "drop" or (not np.isscalar(columns) and not len(places[name])):
            continue
        wanted = tuple(str(names[at]) for at in places[name])
        part = None
        if not np.isscalar(columns) and types.keys() >= set(wanted):
            part = _part(transformer, wanted, {types[each] for each in wanted})
        if part is None:
            return []
        parts.append(part)
    return parts


def _part(
    transformer: Any, names: tuple[str, ...], types: set[str]
) -> Callable[[Columns], Array] | None:
    kind = type(transformer).__name__
    ours = type(transformer).__module__.startswith("sklearn.")
    if sklearn_model.gives_frames(transformer):
        return None
    gather: Callable[[Columns], Array]
    if types <= _NUMBERS:
        gather = _numbers(names)
        if transformer == "passthrough" or (
            ours and kind == "FunctionTransformer" and transformer.func is None
        ):
            return gather
        if ours and kind in _ENCODERS and len(types) == 1:
            return _dense(_bare(transformer).transform, gather)
        bare = sklearn_model.nameless(transformer, names)
        return _dense(sklearn_model.in_steps(bare, "transform"), gather) if bare else None
    if types == {"string"} and ours and kind in _ENCODERS:
        return _dense(_bare(transformer).transform, _texts(names))
    return None


def _bare(transformer: Any) -> Any:
    return sklearn_model.stripped(transformer)


def _dense(
    transform: Callable[[Array], Any], gather: Callable[[Columns], Array]
) -> Callable[[Columns], Array]:
    def part(columns: Columns) -> Array:
        made = transform(gather(columns))
        dense: Array = made.toarray() if hasattr(made, "toarray") else made
        return dense

    return part


def _numbers(names: Sequence[str]) -> Callable[[Columns], Array]:
    def gather(columns: Columns) -> Array:
        chosen = [columns[name] for name in names]
        # Column by column in memory, as a frame's matrix is.
        made = np.empty((len(chosen[0]), len(chosen)), np.result_type(*chosen), order="F")
        for at, column in enumerate(chosen):
            made[:, at] = column
        return made

    return gather


def _texts(names: Sequence[str]) -> Callable[[Columns], Array]:
    def gather(columns: Columns) -> Array:
        made = np.empty((len(columns[names[0]]), len(names)), dtype=object, order="F")
        for at, name in enumerate(names):
            made[:, at] = columns[name]
        made[np.equal(made, None)] = np.nan  # type: ignore[call-overload]
        return made

    return gather
