"""Which columns a model is fed, and their types in a signature's words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from treadle.base.errors import PipelineError
from treadle.base.spec import ModelSection


@dataclass(frozen=True)
class Feature:
    """One input column: its MLflow type (string, double, long, boolean, datetime, binary).

    `required` is False where the training rows have holes: such a column may be left out.
    """

    name: str
    type: str
    required: bool = True


def own_names(model: Any) -> tuple[str, ...] | None:
    """The column names a fitted model remembers, in its order; None if it remembers none."""
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        names = getattr(model, "feature_names", None)  # xgboost.Booster
    if names is None:
        feature_name = getattr(model, "feature_name", None)  # lightgbm.Booster: a method
        names = feature_name() if callable(feature_name) else None
    if names is None or isinstance(names, str):
        return None
    return tuple(str(name) for name in names) or None


def choose(
    model: Any,
    section: ModelSection,
    columns: Sequence[str] | None,
    excluded: Iterable[str] = (),
) -> tuple[str, ...]:
    """The model's input columns, in the order it takes them.

    `model.features` of the spec is an allow-list. A model that remembers its columns is fed exactly
    those, and all of them must be allowed; otherwise the allow-list itself, or else the columns of
    the training rows without the label and `excluded` (key, event time, known later).

    Raises PipelineError for a column that is not allowed or not there, and when nothing is left.
    """
    own = own_names(model)
    if own is not None and section.features is not None:
        lacking = [name for name in own if name not in section.features]
        if lacking:
            raise PipelineError(
                f"the model was fitted on {_names(lacking)}, which model.features does not list",
                hint="add it to model.features, or fit without it"
                + _meant(lacking[0], section.features),
            )
    if own is not None:
        chosen = own
    elif section.features is not None:
        chosen = section.features
    else:
        left_out = {section.label, *excluded}
        chosen = tuple(str(name) for name in columns or () if name not in left_out)
    if not chosen:
        raise PipelineError(
            "no columns are left to predict from",
            hint="list them under model.features in treadle.yaml",
        )
    if section.label in chosen:
        raise PipelineError(
            f"the label {section.label!r} is among the model's features",
            hint="fit on the features alone: model.label is what the model is to find out",
        )
    if columns is not None:
        missing = [name for name in chosen if name not in columns]
        if missing:
            raise PipelineError(
                f"the training rows have no column {_names(missing)}, which the model needs",
                hint="the columns are: "
                + ", ".join(map(str, columns))
                + _meant(missing[0], list(columns)),
            )
    return chosen


def describe(frame: Any, names: Sequence[str]) -> tuple[Feature, ...]:
    """The types of columns of a pandas frame. PipelineError for a type no request can carry."""
    return tuple(_feature(name, frame[name]) for name in names)


def _feature(name: str, column: Any) -> Feature:
    import pandas as pd

    holes = bool(column.isna().any())
    dtype = column.dtype
    kind: str | None
    if isinstance(dtype, pd.CategoricalDtype):
        kind = _feature(name, pd.Series(dtype.categories)).type
    elif pd.api.types.is_bool_dtype(dtype):
        kind = "boolean"
    elif pd.api.types.is_integer_dtype(dtype):
        # A hole arrives as NaN, which MLflow does not take for a long.
        kind = "double" if holes else "long"
        holes = holes and kind == "double"
    elif pd.api.types.is_float_dtype(dtype):
        # Missing numbers are ordinary values (NaN) of a float column: the column itself stays
        # required unless the training rows had some.
        kind = "double"
    elif pd.api.types.is_datetime64_any_dtype(dtype):
        kind = "datetime"
    elif isinstance(dtype, pd.StringDtype):
        kind = "string"
    elif pd.api.types.is_object_dtype(dtype):
        kind = _OBJECTS.get(pd.api.types.infer_dtype(column, skipna=True))
        if kind == "long" and holes:
            kind = "double"
    else:
        kind = None
    if kind is None:
        raise PipelineError(
            f"the column {name!r} is of type {dtype}, which a request cannot carry",
            hint="turn it into numbers, text, booleans or times before the model is fitted",
        )
    return Feature(name, kind, not holes)


_OBJECTS = {
    "string": "string", "empty": "string", "boolean": "boolean", "integer": "long",
    "floating": "double", "mixed-integer-float": "double", "decimal": "double",
    "datetime": "datetime", "datetime64": "datetime", "date": "datetime", "bytes": "binary",
}  # fmt: skip


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, [str(item) for item in known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
