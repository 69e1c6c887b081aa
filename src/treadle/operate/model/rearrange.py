"""A query in another of its forms: rows, columns, tensors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.operate.model import signature as signatures
from treadle.operate.model.signature import Signature, Values, WrongInput
from treadle.operate.query import Query

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]


def query_of(data: pd.DataFrame | Array | Mapping[str, Values]) -> Query:
    """A query from what a Python caller has."""
    if isinstance(data, np.ndarray):
        return Query(len(data), tensors={"": data})
    if isinstance(data, Mapping):
        return Query(len(next(iter(data.values()), ())), columns=data)
    return Query(len(data), columns=signatures.frame_columns(data))


def by_columns(query: Query, signature: Signature) -> Query:
    """The same query in the form of columns."""
    if query.columns is not None:
        return query
    names = list(signature.features)
    if query.cells is not None:
        return Query(query.rows, columns=_turned(query, names), params=query.params)
    return Query(query.rows, columns=_named(query, names), params=query.params)


def _turned(query: Query, names: Sequence[str]) -> dict[str, Values]:
    """The columns of a query that came as rows."""
    rows = query.cells or ()
    width = len(query.names) if query.names is not None else len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != width:
            raise WrongInput(f"row {number}", f"{width} cells", f"{len(row)}")
    if query.names is not None:
        names = query.names
    elif not names:
        names = [str(number) for number in range(width)]
    elif len(names) != width:
        raise WrongInput("row 0", f"{len(names)} cells", f"{width}")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def as_rows(query: Query) -> Query | None:
    """The same query in the form of rows; None where an array holds more than plain values."""
    columns: list[Sequence[Any]] = []
    for values in (query.columns or {}).values():
        if len(values) != query.rows:
            return None
        if not isinstance(values, np.ndarray):
            columns.append(values)
        elif values.ndim == 1 and values.dtype.kind in "biufUT":
            columns.append(values.tolist())
        else:
            return None
    cells = list(zip(*columns, strict=True))
    return Query(query.rows, cells=cells, names=tuple(query.columns or ()), params=query.params)


def _named(query: Query, names: list[str]) -> dict[str, Values]:
    """Columns of a query that came as tensors: by name, or one matrix by position."""
    tensors = dict(query.tensors or {})
    if len(tensors) == 1 and not set(tensors) & set(names):
        matrix = next(iter(tensors.values()))
        if matrix.ndim == 1 and len(names) == 1:
            matrix = matrix.reshape(-1, 1)
        if matrix.ndim == 2 and not names:
            names = [str(number) for number in range(matrix.shape[1])]
        if matrix.ndim != 2 or matrix.shape[1] != len(names):
            shape = "x".join(str(n) for n in matrix.shape)
            raise WrongInput(
                "input",
                f"{len(names)} named columns, or a matrix of as many",
                f"values of shape {shape}",
            )
        return {
            name: matrix[:, i].tolist() if matrix.dtype == object else matrix[:, i]
            for i, name in enumerate(names)
        }
    columns: dict[str, Values] = {}
    for name, tensor in tensors.items():
        flat = tensor[:, 0] if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor
        if flat.ndim != 1:
            raise WrongInput(
                name, "a column: shape [rows] or [rows, 1]", f"{tensor.ndim} dimensions"
            )
        columns[name] = flat.tolist() if flat.dtype == object else flat
    return columns


def kind_of(values: Values) -> Hashable:
    """What pandas makes a column's type of, where other values of that kind change nothing of it.

    A kind of its own where they might.
    """
    if isinstance(values, np.ndarray):
        return (values.dtype.str, values.ndim) if values.dtype.kind in "biuf" else object()
    found = set(map(type, values))
    if found == {int}:
        return int if max(values) < 2**63 and min(values) >= -(2**63) else object()
    return found.pop() if found in ({float}, {bool}, {str}) else object()


def end_to_end(parts: list[Values]) -> Values:
    """Columns of several queries as one, an array if all of them are."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return list(chain.from_iterable(parts))
