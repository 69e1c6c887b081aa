"""Rows of Python's numbers as one matrix, held to the types of their columns all at once.

What does not go in, or has more digits than a double, gives None: then each column is looked at by
itself (`signature.convert`), which says what is wrong in which row, or keeps the digits.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from treadle.operate.model.signature import Signature

Array = np.ndarray[Any, Any]

EXACT = 2**53 - 1
"""No whole number beyond this one is rounded to it or below in a double."""
_MANY = 300
"""From so many numbers on, their way through MessagePack is the shorter one."""
_DOUBLE = 0xCB
"""MessagePack's sign for a double, which follows in 8 bytes, big-endian (its specification)."""
_packed = msgspec.msgpack.Encoder().encode


class Whole:
    """Which columns of a matrix of floats hold whole numbers or single precision, and their bounds."""

    __slots__ = ("_high", "_low", "_single", "_which")

    def __init__(self, which: list[int], bounds: list[int], single: list[int]) -> None:
        self._which = which
        self._high = np.array(bounds, dtype=np.float64)
        self._low = -self._high - 1
        self._single = single

    @classmethod
    def of(cls, signature: Signature) -> Whole:
        """Those of a signature."""
        kinds = [field.type for field in signature.inputs]
        which = [at for at, kind in enumerate(kinds) if kind in ("integer", "long")]
        single = [at for at, kind in enumerate(kinds) if kind == "float"]
        bounds = [EXACT if kinds[at] == "long" else 2**31 - 1 for at in which]
        return cls(which, bounds, single if len(single) < len(kinds) else [])

    def fits(self, matrix: Array) -> bool:
        """Whether all whole numbers are such and in range; rounds single precision in place."""
        if self._single and matrix.dtype == np.float64:
            with np.errstate(over="ignore"):
                matrix[:, self._single] = matrix[:, self._single].astype(np.float32)
        if not self._which:
            return True
        part = matrix if len(self._which) == matrix.shape[1] else matrix[:, self._which]
        if part.dtype.kind == "f":
            missing = part != part  # noqa: PLR0124 - NaN
            fits = (part == np.floor(part)) & (part >= self._low) & (part <= self._high)
            return bool((fits | missing).all())
        return bool(((part >= self._low) & (part <= self._high)).all())


def number_matrix(rows: list[Sequence[Any]], dtype: np.dtype[Any], width: int) -> Array | None:
    """Rows of Python's numbers and None as a matrix; None where one does not go in."""
    try:
        with np.errstate(over="ignore"):
            if dtype.kind == "i":
                return _integer_matrix(rows, dtype)
            if len(rows) * width >= _MANY:
                doubles = _doubles(rows, width)
                if doubles is not None:
                    return doubles.astype(dtype)
            numbers = array("d")  # a third quicker than numpy at reading Python's numbers
            try:
                for row in rows:
                    numbers.fromlist(row)  # type: ignore[arg-type]  # else it is a TypeError
            except TypeError:  # a None
                return np.array(rows, dtype=dtype)
            made = np.frombuffer(numbers).reshape(len(rows), width)
            return made if dtype == made.dtype else made.astype(dtype)
    except (OverflowError, ValueError, TypeError):
        return None


def _doubles(rows: list[Sequence[Any]], width: int) -> Array | None:
    """Rows that hold floats alone, big-endian; None where they hold anything else.

    `array` and numpy look at each number through Python's protocols, a packer of MessagePack knows
    floats: 4 ns a number and not 13. Every float then lies 9 bytes behind the one before it.
    """
    try:
        packed = _packed(rows)
    except (TypeError, ValueError, OverflowError):
        return None  # what MessagePack has no word for, such as an integer beyond 64 bits
    begin, row = _header(len(rows)), _row(width)
    if len(packed) != begin + len(rows) * row.itemsize:
        return None
    # Of equal length by chance, with an array's header or a text somewhere, a sign would differ.
    cells = np.frombuffer(packed, row, len(rows), begin)["cells"]
    if not (cells["sign"] == _DOUBLE).all():
        return None
    values: Array = cells["value"]
    return values


@lru_cache(16)
def _row(width: int) -> np.dtype[Any]:
    """A row of floats in MessagePack; making the type costs as much as a hundred numbers."""
    cells = [("sign", "u1"), ("value", ">f8")]
    return np.dtype([("", f"V{_header(width)}"), ("cells", cells, (width,))])


def _header(length: int) -> int:
    """Bytes of the header of an array in MessagePack."""
    return 1 if length < 1 << 4 else 3 if length < 1 << 16 else 5


def _integer_matrix(rows: list[Sequence[Any]], dtype: np.dtype[Any]) -> Array | None:
    made = np.array(rows)
    if made.dtype.kind == "f":  # JSON has one type for 2 and 2.0
        whole = (made == np.floor(made)) & (made >= -EXACT) & (made <= EXACT)
        if not whole.all():
            return None
        made = made.astype(np.int64)
    elif made.dtype.kind != "i":
        return None
    info = np.iinfo(dtype)
    if int(made.min()) < info.min or int(made.max()) > info.max:
        return None
    return made.astype(dtype, copy=False)


def side_by_side(columns: Mapping[str, Array], rows: int, dtype: np.dtype[Any]) -> Array | None:
    """Typed columns as a matrix; None where some integer has more digits than a double."""
    made = np.empty((rows, len(columns)), dtype=dtype)
    for at, column in enumerate(columns.values()):
        long = column.dtype == np.int64 and dtype.kind == "f"
        if long and ((column > EXACT) | (column < -EXACT)).any():
            return None
        made[:, at] = column
    return made
