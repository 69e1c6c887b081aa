"""CSV with a header line as a query.

An empty cell is a missing value; in columns that are not texts, so are NA, NaN, nan, null and None.
The signature says what a cell is; without one, a column of nothing but numbers is numbers.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from treadle.operate.codec.forms import require
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Signature, Values, WrongInput
from treadle.operate.query import Query

_MISSING = frozenset(("", "NA", "NaN", "nan", "null", "None"))
_LARGE = 2**64
_TEXTS = ("string", "any", "binary")


def decode(body: bytes, signature: Signature, limits: Limits) -> Query:
    """The query in a CSV text. WrongInput."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise WrongInput("body", "CSV in UTF-8", "other bytes") from None
    lines = (line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line)
    try:
        names = next(lines, None)
        if names is None:
            raise WrongInput("body", "CSV with a header line", "an empty text")
        rows = list(islice(lines, limits.max_rows + 1))
    except csv.Error:
        raise WrongInput("body", "CSV", "a mistake in its quotes, or a cell too long") from None
    if len(rows) > limits.max_rows:
        raise WrongInput("body", f"at most {limits.max_rows} rows", "more")
    if len(set(names)) != len(names):
        raise WrongInput("header", "different names", "one name twice")
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise WrongInput(f"row {number}", f"{len(names)} cells", f"{len(row)}")
    if not rows:
        require(signature, names)
    if len(signature.inputs) == 1 and signature.tensors:
        shape = signature.inputs[0].shape or (-1,)
        if len(shape) == 2 and shape[1] not in (-1, len(names)):
            raise WrongInput("header", f"{shape[1]} columns", f"{len(names)}")
    kinds = {field.name: field.type for field in signature.inputs if not field.tensor}
    numbers = signature.tensors
    default = "double" if numbers else "text" if signature.inputs else "number"
    columns: dict[str, Values] = {}
    turned: Sequence[Sequence[str]] = list(zip(*rows, strict=True)) or [()] * len(names)
    for position, (name, cells) in enumerate(zip(names, turned, strict=True)):
        # A stranger's name stays out of messages: it may be a value whose header is missing.
        told = name if name in kinds else f"column {position}"
        columns[name] = _cells(told, kinds.get(name, default), cells)
    if numbers and len(signature.inputs) == 1:
        matrix = np.array(list(columns.values()), dtype=np.float64).T
        return Query(len(rows), tensors={"": matrix})
    if numbers:
        return Query(len(rows), tensors={n: np.array(v, np.float64) for n, v in columns.items()})
    return Query(len(rows), columns)


def _cells(name: str, kind: str, cells: Sequence[str]) -> list[Any]:
    if kind in _TEXTS or kind == "text":
        return [cell or None for cell in cells]
    parse = _PARSERS.get(kind, _number)
    whole = _all_at_once(parse, cells)
    if whole is not None:
        return whole
    column: list[Any] = []
    for row, cell in enumerate(cells):
        if cell in _MISSING:
            column.append(None)
            continue
        try:
            column.append(parse(cell))
        except ValueError:
            if kind == "number":
                return [cell or None for cell in cells]
            raise WrongInput(f"{name}, row {row}", f"a {kind}", "another text") from None
    return column


def _all_at_once(parse: Callable[[str], Any], cells: Sequence[str]) -> list[Any] | None:
    """A column of numbers of which none is missing or odd; None: look at each."""
    texts = "".join(cells)
    if parse not in _PLAIN or not texts or "_" in texts:
        return None
    try:
        column = list(map(_PLAIN[parse], cells))
    except ValueError:
        return None
    if parse is _whole:
        return column if min(column) > -_LARGE and max(column) < _LARGE else None
    return None if math.isnan(sum(column)) else column


def _number(cell: str) -> float:
    if "_" in cell:  # Python's own way to write thousands
        raise ValueError
    return float(cell)


def _whole(cell: str) -> int | float:
    if "_" in cell or len(cell) > 400:  # longer than any number that a type takes
        raise ValueError
    try:
        return int(cell)
    except ValueError:
        return float(cell)  # 5.0 is a whole number; 5.5 is refused by the signature


def _boolean(cell: str) -> bool:
    word = cell.strip().lower()
    if word not in ("true", "false", "0", "1"):
        raise ValueError
    return word in ("true", "1")


_PLAIN: dict[Callable[[str], Any], Callable[[str], Any]] = {_number: float, _whole: int}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "boolean": _boolean, "datetime": str, "integer": _whole, "long": _whole, "number": _whole,
}  # fmt: skip
