"""What a codec hands to the model and gets back: a query decoded, an answer to encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from treadle.operate.codec import json
from treadle.operate.model.signature import Values

Array = np.ndarray[Any, Any]


# Not frozen, as all other records are: that would cost a microsecond a request. Never written to.
@dataclass(slots=True)
class Query:
    """What was asked, decoded, in exactly one of three forms; each is `rows` long.

    `cells` is the fast one for few rows: row by row, as JSON has them, so that rows of several
    queries are put together before anything is made of them.
    """

    rows: int
    columns: Mapping[str, Values] | None = None
    """Column name → values."""
    tensors: Mapping[str, Array] | None = None
    """Named tensors, first dimension `rows`; one alone may have the name ""."""
    params: Mapping[str, Any] = field(default_factory=dict)
    cells: Sequence[Sequence[Any]] | None = None
    """Rows of plain values, all as wide as `names`, or of one width where there are no names."""
    names: tuple[str, ...] | None = None
    """The columns of `cells`; None: by position, in the signature's order."""
    numbers: bool = False
    """Whether every one of `cells` is known to be an int, a float or None, no bool."""


class Together:
    """Rows of several requests, all of the same columns: of each its rows, at least one."""

    __slots__ = ("counts", "names", "numbers", "parts")

    def __init__(
        self, parts: Sequence[Sequence[Sequence[Any]]], names: tuple[str, ...] | None, numbers: bool
    ) -> None:
        self.parts, self.names, self.numbers = parts, names, numbers
        self.counts = list(map(len, parts))
        """Rows of each request."""

    def query(self, number: int) -> Query:
        """What one of them asked."""
        return Query(
            self.counts[number], cells=self.parts[number], names=self.names, numbers=self.numbers
        )

    def whole(self) -> Query:
        """All rows as one query."""
        cells = list(chain.from_iterable(self.parts))
        return Query(len(cells), cells=cells, names=self.names, numbers=self.numbers)


class Outputs:
    """What one call of the model gave: arrays by name, and their lists for JSON, made once."""

    __slots__ = ("_lists", "arrays")

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self._lists: dict[str, list[Any]] = {}

    def values(self, name: str) -> list[Any]:
        """An output as nested lists for JSON: see codec/json."""
        found = self._lists.get(name)
        if found is None:
            found = self._lists[name] = json.values(self.arrays[name])
        return found


@dataclass(slots=True)
class Answer:
    """Predictions with their id; row i (from 0) has the id `<id>.<i>`.

    The rows `start` to `stop` of a call that may have answered several queries.
    """

    id: str
    outputs: Outputs
    start: int
    stop: int
    latency_s: float
    """From the query's arrival to its predictions."""

    @property
    def rows(self) -> int:
        """How many rows were predicted."""
        return self.stop - self.start

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs, in the model's order."""
        return tuple(self.outputs.arrays)

    def array(self, name: str) -> Array:
        """One output of these rows."""
        return self.outputs.arrays[name][self.start : self.stop]

    def values(self, name: str) -> list[Any]:
        """One output of these rows as nested lists for JSON."""
        return self.outputs.values(name)[self.start : self.stop]
