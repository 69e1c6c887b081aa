"""Looking at a query as it comes: names, widths and types of cells, about a microsecond for a row.

It gets a key; queries have the same key only if together they are answered as each alone would be. A
missing value makes an integer column floats and a boolean column objects, so which of those have any
belongs to the key, as do the columns given and the params.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from treadle.operate.model import signature as signatures
from treadle.operate.model.signature import Signature, WrongInput
from treadle.operate.query import Query

_NONE = type(None)
_PLAIN_NUMBERS = {int, float, _NONE}
_ROWS = 1024
"""Tuples of types that are remembered for each layout."""
MATRIX = ("matrix", ())
MATRIX_MISSING = ("matrix", (0,))
"""Keys of queries that become a matrix; the second where whole numbers lack some."""
_CHANGED = signatures.CHANGED_BY_MISSING
_NUMBERS = frozenset(("integer", "long", "float", "double"))


class Admitted:
    """A query that has the right names, widths and types of cells."""

    __slots__ = ("data", "key", "layout", "params", "query", "rows", "several")

    def __init__(
        self,
        query: Query,
        rows: int,
        key: Hashable,
        params: Mapping[str, Any],
        layout: Layout | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        self.data = data
        """What was made of it already: tensors, or columns of a model without a signature."""
        self.query = query
        self.rows = rows
        self.key = key
        """Queries of equal key may share a call."""
        self.params = params
        self.layout = layout
        self.several = False
        """Whether its rows are those of several requests: then they share one matrix or nothing."""


class Layout:
    """Where the features lie in the rows of queries with these names."""

    __slots__ = ("extras", "key", "matrix", "names", "pick", "positions", "seen", "types", "width")

    def __init__(
        self, signature: Signature, given: tuple[str, ...] | None, matrix: np.dtype[Any] | None
    ) -> None:
        names = signature.features if given is None else given
        places = {name: at for at, name in enumerate(names)}
        if len(places) != len(names):
            raise WrongInput("columns", "different names", "one name twice")
        present = require(signature, places)
        self.names = tuple(field.name for field in present)
        self.types = tuple(field.type for field in present)
        self.positions = tuple(places[name] for name in self.names)
        self.width = len(names)
        self.pick: Callable[[Sequence[Any]], Sequence[Any]] | None = None
        """The features of a row, in order; None: the row is that already."""
        if self.positions != tuple(range(self.width)):
            first = self.positions[0]
            one = len(self.positions) == 1
            self.pick = (lambda row: (row[first],)) if one else itemgetter(*self.positions)
        features = set(signature.features)
        self.extras = {name: at for name, at in places.items() if name not in features}
        self.matrix = matrix is not None and len(present) == len(signature.inputs)
        """Whether these rows become a matrix."""
        self.key: Hashable = MATRIX if self.matrix else (self.names, ())
        # In a matrix of floats a missing value changes no type.
        watched = () if matrix is not None and matrix.kind == "f" else _CHANGED
        self.seen = _Seen(self, watched if self.matrix else _CHANGED)

    def admit(self, query: Query) -> Hashable:
        """The key of all rows of a query, which says where a missing value changes a type.

        Raises WrongInput.
        """
        cells, width = query.cells, self.width
        assert cells is not None
        if query.numbers and self.seen.any_number:
            if len(cells) == 1:
                if len(cells[0]) == width:
                    return self.key
            elif set(map(len, cells)) == {width}:
                return self.key
        if len(cells) == 1:
            return self.seen.row(cells[0], 0)
        if (
            self.seen.any_number
            and set(map(type, chain.from_iterable(cells))) <= _PLAIN_NUMBERS
            and set(map(len, cells)) == {width}
        ):
            return self.key
        keys = {self.seen.row(row, number) for number, row in enumerate(cells)}
        if len(keys) == 1:
            return keys.pop()
        return self.missing(set().union(*(key[1] for key in keys)))  # type: ignore[index]

    def missing(self, columns: Iterable[str]) -> Hashable:
        """The key of rows with missing values in these columns."""
        return MATRIX_MISSING if self.matrix else (self.names, tuple(sorted(set(columns))))


_Found = tuple[Hashable, tuple[str, ...], tuple[tuple[str, int], ...]]


class _Seen:
    """Types of rows that are known to fit: a row is looked up by the tuple of its cells' types."""

    __slots__ = ("_known", "_layout", "_watched", "any_number")

    def __init__(self, layout: Layout, watched: Iterable[str]) -> None:
        self._layout = layout
        self._watched = frozenset(watched)
        """Types of columns which a missing value changes."""
        numbers = all(kind in _NUMBERS for kind in layout.types)
        self.any_number = numbers and self._watched.isdisjoint(layout.types)
        """Whether rows of numbers and None need no look at all."""
        self._known: dict[tuple[type, ...], _Found] = {}
        """Types → key, columns missing, columns where a float may be a NaN that is missing."""

    def row(self, row: Sequence[Any], number: int) -> Hashable:
        """The key of a row. Raises WrongInput."""
        types = tuple(map(type, row))
        found = self._known.get(types)
        if found is None:
            found = self._learn(types, row, number)
        key, missing, floats = found
        if floats:
            more = [name for name, at in floats if row[at] != row[at]]
            if more:
                return self._layout.missing((*missing, *more))
        return key

    def _learn(self, types: tuple[type, ...], row: Sequence[Any], number: int) -> _Found:
        layout = self._layout
        if len(row) != layout.width:
            raise WrongInput(f"row {number}", f"{layout.width} cells", f"{len(row)}")
        missing, floats = [], []
        for name, kind, at in zip(layout.names, layout.types, layout.positions, strict=True):
            signatures.check(name, kind, row[at], number)
            if kind in self._watched:
                if types[at] is _NONE:
                    missing.append(name)
                elif issubclass(types[at], float | np.floating):
                    floats.append((name, at))
        key = layout.missing(missing) if missing else layout.key
        if len(self._known) >= _ROWS:
            self._known.clear()
        found = self._known[types] = (key, tuple(missing), tuple(floats))
        return found


def require(signature: Signature, given: Iterable[str]) -> list[signatures.Field]:
    """The columns of the signature that were given. WrongInput where a required one was not."""
    known = set(given)
    missing = [f.name for f in signature.inputs if f.required and f.name not in known]
    if missing:
        word = "a column of this name" if len(missing) == 1 else "columns of these names"
        raise WrongInput(", ".join(missing), word, "none")
    return [field for field in signature.inputs if field.name in known]


def picked(one: Admitted) -> Iterable[Sequence[Any]]:
    """The features of the rows of a query."""
    layout, cells = one.layout, one.query.cells or ()
    return cells if layout is None or layout.pick is None else map(layout.pick, cells)
