"""The tensors of a signature, made of whatever form a query has."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from treadle.operate.model import signature as signatures
from treadle.operate.model.matrix import number_matrix
from treadle.operate.model.rearrange import by_columns
from treadle.operate.model.signature import Signature, WrongInput
from treadle.operate.query import Query

Array = np.ndarray[Any, Any]


def tensors_of(query: Query, signature: Signature) -> dict[str, Array]:
    """The signature's tensors. Raises WrongInput."""
    fields = signature.inputs
    if query.cells is not None and len(fields) == 1:  # names or none: a matrix has only places
        given = {fields[0].name: _cells_matrix(query, fields[0])}
    elif query.tensors is not None:
        given = dict(query.tensors)
        if len(fields) == 1 and len(given) == 1:
            given = {fields[0].name: next(iter(given.values()))}
    else:
        if query.cells is not None:
            query = by_columns(query, signature)
        if len(fields) == 1 and query.columns is not None:
            given = {fields[0].name: _matrix(query)}
        else:
            given = {name: np.asarray(values) for name, values in (query.columns or {}).items()}
    tensors = {}
    for spec in fields:
        if spec.name not in given:
            raise WrongInput(spec.name, "a tensor", "none of that name")
        tensors[spec.name] = _fit_tensor(spec, given[spec.name])
    lengths = {array.shape[0] for array in tensors.values()}
    if len(lengths) > 1:
        raise WrongInput("inputs", "tensors of equal first dimension", "different ones")
    if lengths != {query.rows}:
        raise WrongInput("inputs", f"tensors of {query.rows} rows", "another number")
    return tensors


def _cells_matrix(query: Query, spec: signatures.Field) -> Array:
    """Rows of cells as a matrix: of the wanted type where they are numbers, else of objects."""
    rows = query.cells or ()
    width = len(rows[0])
    dtype = np.dtype(spec.dtype or "float64")
    known = query.numbers or set(map(type, chain.from_iterable(rows))) <= {int, float, type(None)}
    if dtype.kind == "f" and known and set(map(len, rows)) == {width}:
        made = number_matrix(list(rows), dtype, width)
        if made is not None:
            return made
    matrix = np.empty((len(rows), width), dtype=object)
    for number, row in enumerate(rows):
        if len(row) != width:
            raise WrongInput(f"row {number}", f"{width} cells", f"{len(row)}")
        matrix[number] = row
    return matrix


def _matrix(query: Query) -> Array:
    columns = query.columns or {}
    if not columns:
        return np.empty((0, 0))
    try:
        return np.column_stack([np.asarray(values) for values in columns.values()])
    except ValueError:
        raise WrongInput("input", "columns of equal length", "different lengths") from None


def _fit_tensor(spec: signatures.Field, array: Array) -> Array:
    shape = spec.shape or (-1,)
    wanted = "[" + ", ".join(str(n) for n in shape) + "]"
    if array.ndim != len(shape) or any(
        want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)
    ):
        raise WrongInput(spec.name, f"shape {wanted}", f"shape {list(array.shape)}")
    target = np.dtype(spec.dtype or "float64")
    if array.dtype == target:
        return array
    if array.dtype == object:
        kinds = set(map(type, array.ravel().tolist()))
        numbers = {int, float, type(None)} if target.kind == "f" else {int}
        fits = {"f": numbers, "i": numbers, "u": numbers, "b": {bool}}.get(
            target.kind, {str, bytes}
        )
        if not kinds <= fits:
            raise WrongInput(spec.name, f"values of type {target.name}", "values of another type")
    elif target.kind in "iub" and array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = array.astype(target)
        if not np.array_equal(whole, array):
            raise WrongInput(spec.name, f"values of type {target.name}", "a number out of it")
        return whole
    elif (array.dtype.kind in "USO") != (target.kind in "USO") or (
        (array.dtype.kind == "b") != (target.kind == "b")
    ):
        raise WrongInput(spec.name, f"values of type {target.name}", "values of another type")
    if target.kind in "iu" and array.dtype.kind in "iu" and array.size:
        info = np.iinfo(target)
        if int(array.min()) < info.min or int(array.max()) > info.max:
            raise WrongInput(
                spec.name, f"values of type {target.name}", "a number beyond its range"
            )
    try:
        return array.astype(target)
    except (ValueError, TypeError, OverflowError):
        raise WrongInput(
            spec.name, f"values of type {target.name}", "values that do not convert"
        ) from None


def places_of(signature: Signature) -> tuple[np.dtype[Any], int] | None:
    """Type and width of a model's one matrix of floats with any number of rows, or None."""
    if len(signature.inputs) != 1:
        return None
    (spec,) = signature.inputs
    dtype = np.dtype(spec.dtype or "float64") if spec.tensor else None
    if dtype is None or dtype.kind != "f" or spec.shape is None or len(spec.shape) != 2:
        return None
    rows, width = spec.shape
    return (dtype, width) if rows == -1 and width > 0 else None
