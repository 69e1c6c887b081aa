"""What a loader gives: a function of the library, and the form in which it wants its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from treadle.operate.model.signature import Signature

Call = Callable[[Any, Mapping[str, Any]], Any]
"""Data and params → whatever the library returns: an array, a frame, arrays by name."""

_NUMBERS = {
    "integer": np.dtype(np.int32),
    "long": np.dtype(np.int64),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
}


@dataclass(frozen=True)
class Engine:
    """A model of one library, ready to be called.

    Tensors and models without a signature come as they are; named columns come as a DataFrame unless
    the engine asks for something simpler. One that takes a matrix must take a DataFrame of the same
    columns too (or a dict of columns, with `columns`): a matrix is not made where that would lose
    digits, or where an optional column is absent.
    """

    native: Any
    """The library's model object."""
    call: Call
    matrix: np.dtype[Any] | None = None
    """The type of one matrix for all columns (the signature's features in order), or None."""
    columns: bool = False
    """Whether named columns come as a dict of arrays and not as a DataFrame."""


def common_type(signature: Signature, *more: Any) -> np.dtype[Any] | None:
    """The type that all columns have together, as NumPy and pandas join them; None: not numbers.

    `more` are types that the library joins in.
    """
    kinds: list[Any] = [
        _NUMBERS[field.type] for field in signature.inputs if field.type in _NUMBERS
    ]
    if not kinds or len(kinds) < len(signature.inputs):
        return None
    return np.result_type(*kinds, *more)
