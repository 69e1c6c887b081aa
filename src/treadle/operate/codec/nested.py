"""Nested lists of JSON as arrays: rectangular, of one kind of values, without a loop over cells."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from treadle.operate.model.signature import WrongInput

Array = np.ndarray[Any, Any]

_NONE = type(None)
_EXACT = 2**53
MOST_DIMENSIONS = 32


def tensor(where: str, value: list[Any], *, floats: bool = False) -> Array:
    """A rectangular array; object dtype where it holds anything but numbers of one kind.

    `floats`: the model takes floats, so integers among them need not keep all their digits.
    """
    shape, flat, kinds = leaves(where, value)
    return typed(flat, kinds, floats=floats).reshape(shape)


def leaves(where: str, value: list[Any]) -> tuple[tuple[int, ...], list[Any], set[type]]:
    """The shape of nested lists, their values row-major, and the values' types.

    WrongInput where they are ragged.
    """
    shape = [len(value)]
    level = value
    while True:
        found = set(map(type, level))
        if list not in found:
            return tuple(shape), level, found
        lengths = set(map(len, level)) if found == {list} else set()
        if len(lengths) != 1 or len(shape) == MOST_DIMENSIONS:
            raise WrongInput(where, "rows of equal length", "different lengths")
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))


def typed(flat: list[Any], kinds: set[type], *, floats: bool = False) -> Array:
    """Values as an array: int64, float64 or bool where all are of that kind, else objects."""
    try:
        if kinds == {int}:
            return np.array(flat, dtype=np.float64 if floats else np.int64)
        if kinds and kinds <= {int, float, _NONE} and float in kinds:
            if floats or int not in kinds or _small(flat):
                return np.array(flat, dtype=np.float64)
        elif floats and kinds and kinds <= {int, _NONE}:
            return np.array(flat, dtype=np.float64)
    except OverflowError:
        pass
    if kinds == {bool}:
        return np.array(flat, dtype=bool)
    return objects(flat)


def objects(flat: list[Any]) -> Array:
    """Values as they are, as an array."""
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array


def _small(flat: list[Any]) -> bool:
    """Whether no integer among the numbers would lose digits as a float."""
    return all(-_EXACT <= value <= _EXACT for value in flat if type(value) is int)
