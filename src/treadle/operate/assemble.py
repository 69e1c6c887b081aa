"""From queries to the one input that a call of the model gets.

Two steps, so that a batch costs what one request costs: `admit` looks at each query as it comes
(names, widths, types of cells; about a microsecond for one row) and gives it a key; `assemble` makes
one input of the queries of one key, column by column, never cell by cell. What only shows in the
values (range, fraction, a text that is no date) shows in `assemble`, which then raises; alone, the
query raises the same, with row numbers of its own.

Queries have the same key only if together they are answered as each alone would be. A missing value
makes an integer column floats and a boolean column objects, so which of those have any belongs to
the key, as do the columns given and the params.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.operate import signature as signatures
from treadle.operate.query import Query
from treadle.operate.signature import Signature, Values, WrongInput

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

_NONE = type(None)
_PLAIN_NUMBERS = {int, float, _NONE}
_LAYOUTS = 256
"""Tuples of names that are remembered; a client that sends ever new ones only costs itself time."""
_ROWS = 1024
"""Tuples of types that are remembered for each layout."""
_FEW = 16
"""Columns of so few rows are put together as rows, with those of other queries."""
_EMPTY = ("no rows",)
_MATRIX = ("matrix", ())
_MATRIX_MISSING = ("matrix", (0,))
"""Keys of queries that become a matrix; the second where whole numbers lack some."""
_EXACT = 2**53 - 1
"""No whole number beyond this one is rounded to it or below in a double."""
_DOUBLE = np.dtype(np.float64)
_CHANGED = signatures.CHANGED_BY_MISSING
_NUMBERS = frozenset(("integer", "long", "float", "double"))
_NO_PARAMS: Mapping[str, Any] = {}


class Admitted:
    """A query that has the right names, widths and types of cells."""

    __slots__ = ("data", "key", "layout", "params", "query", "rows")

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


class Prepared:
    """What the model is called with for one or more queries."""

    __slots__ = ("_extra", "_kinds", "admitted", "data", "params", "rows")

    def __init__(
        self,
        data: Any,
        rows: int,
        extra: Mapping[str, Values] | None = None,
        params: Mapping[str, Any] = _NO_PARAMS,
        admitted: Sequence[Admitted] = (),
        kinds: Mapping[str, str] = _NO_PARAMS,
    ) -> None:
        self._extra = extra
        self.data = data
        """A DataFrame, an array or a dict of arrays."""
        self.rows = rows
        self.params = params
        self.admitted = admitted
        self._kinds = kinds

    @property
    def columns(self) -> dict[str, Any]:
        """The model's input by column, as the model sees it: for capture."""
        data, kinds = self.data, self._kinds
        if data is None:
            return {}
        if not isinstance(data, np.ndarray):
            names = data if isinstance(data, Mapping) else data.columns
            return {str(name): data[name] for name in names}
        if data.ndim != 2:
            return {next(iter(kinds), "input"): data}
        if len(kinds) != data.shape[1]:
            return {str(number): data[:, number] for number in range(data.shape[1])}
        return {name: _as_typed(data[:, at], kind) for at, (name, kind) in enumerate(kinds.items())}

    @property
    def extra(self) -> Mapping[str, Values]:
        """Columns that came along and are no features, of a single query."""
        if self._extra is not None:
            return self._extra
        if len(self.admitted) != 1:
            return {}
        (one,) = self.admitted
        query, names = one.query, self._kinds.keys()
        layout, cells = one.layout, query.cells
        if layout is not None and cells is not None:
            return {name: [row[at] for row in cells] for name, at in layout.extras.items()}
        if not names or query.columns is None:
            return {}
        return {name: values for name, values in query.columns.items() if name not in names}


def _as_typed(column: Array, kind: str) -> Array:
    """A column of a matrix in the type that it has alone."""
    if kind == "float":
        return column.astype(np.float32)
    if kind in ("integer", "long") and column.dtype.kind == "f":
        return column if np.isnan(column).any() else column.astype(np.int64)
    return column


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
        self.key: Hashable = _MATRIX if self.matrix else (self.names, ())
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

    def missing(self, columns: Iterable[int]) -> Hashable:
        """The key of rows with missing values in these columns (positions in a row)."""
        if self.matrix:
            return _MATRIX_MISSING
        return (self.names, tuple(sorted(columns)))


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
        self._known: dict[tuple[type, ...], tuple[Hashable, tuple[int, ...], tuple[int, ...]]] = {}
        """Types → key, columns missing, columns where a float may be a NaN that is missing."""

    def row(self, row: Sequence[Any], number: int) -> Hashable:
        """The key of a row. Raises WrongInput."""
        types = tuple(map(type, row))
        found = self._known.get(types)
        if found is None:
            found = self._learn(types, row, number)
        key, missing, floats = found
        if floats:
            more = [at for at in floats if row[at] != row[at]]
            if more:
                return self._layout.missing((*missing, *more))
        return key

    def _learn(
        self, types: tuple[type, ...], row: Sequence[Any], number: int
    ) -> tuple[Hashable, tuple[int, ...], tuple[int, ...]]:
        layout = self._layout
        if len(row) != layout.width:
            raise WrongInput(f"row {number}", f"{layout.width} cells", f"{len(row)}")
        missing, floats = [], []
        for name, kind, at in zip(layout.names, layout.types, layout.positions, strict=True):
            signatures.check(name, kind, row[at], number)
            if kind in self._watched:
                if types[at] is _NONE:
                    missing.append(at)
                elif issubclass(types[at], float | np.floating):
                    floats.append(at)
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


class Assembler:
    """Admits and assembles queries for one signature, in the form that an engine wants."""

    def __init__(
        self, signature: Signature, matrix: np.dtype[Any] | None = None, columns: bool = False
    ) -> None:
        self._signature = signature
        self._named = bool(signature.inputs) and not signature.tensors
        self._matrix = matrix if self._named else None
        self._columns = columns
        self._kinds = {field.name: field.type for field in signature.inputs}
        self._whole = _Whole.of(signature) if self._matrix is not None else None
        self._places = _places(signature)
        self._places_key: Hashable = ("matrix by places",)
        # What comes as an array of its own type stays one in a column of anything.
        self._by_rows = "any" not in self._kinds.values()
        self._layouts: dict[tuple[str, ...] | None, Layout] = {}
        self._last: tuple[tuple[str, ...] | None, Layout] | None = None

    def admit(self, query: Query) -> Admitted:
        """Check a query's names, widths and types of cells. Raises WrongInput."""
        params: Mapping[str, Any] = query.params
        if params:
            params = self._signature.check_params(params)
        if not query.rows:
            return Admitted(query, 0, _EMPTY, params)
        layout: Layout | None = None
        if query.cells is None and self._named:
            matrix = self._given_matrix(query)
            if matrix is not None:
                key: Hashable = (_MATRIX, signatures.params_key(params)) if params else _MATRIX
                return Admitted(query, query.rows, key, params, None, {"": matrix})
            query = _by_columns(query, self._signature)
            if query.rows <= _FEW and self._by_rows:
                query = _as_rows(query) or query
        if query.cells is not None and self._named:
            last = self._last
            if last is not None and last[0] is query.names:
                layout = last[1]
            else:
                layout = self._layout(query.names)
            key = layout.admit(query)
        elif not self._named:
            places = self._places
            cells = query.cells
            if (
                places is not None
                and query.numbers
                and cells is not None
                and set(map(len, cells)) == {places[1]}
            ):
                data, key = None, self._places_key
            else:
                data, key = self._unnamed(query)
            if params:
                key = (key, signatures.params_key(params))
            return Admitted(query, query.rows, key, params, None, data)
        else:
            key = self._columns_key(query)
        if params:
            key = (key, signatures.params_key(params))
        return Admitted(query, query.rows, key, params, layout)

    def assemble(self, admitted: Sequence[Admitted]) -> Prepared:
        """One input for all of them, in order; they have the same key. May raise WrongInput."""
        first = admitted[0]
        rows = first.rows if len(admitted) == 1 else sum([one.rows for one in admitted])
        data = None
        if rows:
            if not self._named:
                data = self._as_it_came(admitted)
            else:
                data = self._input(admitted, rows)
        return Prepared(data, rows, None, first.params, admitted, self._kinds)

    def _unnamed(self, query: Query) -> tuple[Mapping[str, Any], Hashable]:
        """Tensors, or columns of a model without a signature, and their key."""
        if self._signature.tensors:
            tensors = _tensors(query, self._signature)
            if self._places is not None:
                return tensors, self._places_key
            shapes = tuple([(name, array.shape[1:]) for name, array in tensors.items()])
            return tensors, ("tensors", shapes)
        columns = _by_columns(query, self._signature).columns or {}
        kinds = []
        for name, values in columns.items():
            if len(values) != query.rows:
                raise WrongInput(name, f"{query.rows} values", f"{len(values)}")
            kinds.append((name, _kind(values)))
        return columns, ("columns", tuple(kinds))

    def _as_it_came(self, admitted: Sequence[Admitted]) -> Any:
        if self._places is not None:
            return self._by_places(admitted, self._places)
        parts = [one.data or {} for one in admitted]
        made = parts[0]
        if len(parts) > 1:
            made = {name: _end_to_end([part[name] for part in parts]) for name in made}
        if not self._signature.tensors:
            return made if self._columns else _frame(made)
        return next(iter(made.values())) if len(self._signature.inputs) == 1 else made

    def _by_places(self, admitted: Sequence[Admitted], places: tuple[np.dtype[Any], int]) -> Array:
        """One matrix of floats: rows of numbers wait as they came and become one together."""
        if any(one.data is not None for one in admitted):
            parts = [self._by_places([one], places) if one.data is None
                     else next(iter(one.data.values())) for one in admitted]  # fmt: skip
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        matrix = _numbers(list(chain.from_iterable(map(_picked, admitted))), *places)
        if matrix is not None:
            return matrix
        if len(admitted) > 1:
            raise WrongInput("rows", "numbers that go into one matrix", "other rows")
        return next(iter(_tensors(admitted[0].query, self._signature).values()))

    def _given_matrix(self, query: Query) -> Array | None:
        """The one tensor of a query, where it is a matrix of numbers for all columns by position."""
        matrix = self._matrix
        if query.tensors is None or len(query.tensors) != 1 or matrix is None or matrix.kind != "f":
            return None
        ((name, tensor),) = query.tensors.items()
        wide = tensor.ndim == 2 and tensor.shape == (query.rows, len(self._kinds))
        if name in self._kinds or not wide or tensor.dtype.kind not in "iuf":
            return None
        return tensor

    def _layout(self, names: tuple[str, ...] | None) -> Layout:
        layout = self._layouts.get(names)
        if layout is None:
            layout = Layout(self._signature, names, self._matrix)
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            self._layouts[names] = layout
        self._last = (names, layout)
        return layout

    def _columns_key(self, query: Query) -> Hashable:
        columns = query.columns or {}
        present = require(self._signature, columns)
        changed: list[Any] = []
        for field in present:
            values = columns[field.name]
            if len(values) != query.rows:
                raise WrongInput(field.name, f"{query.rows} values", f"{len(values)}")
            if field.type in _CHANGED and signatures.any_missing(values):
                changed.append(field.name)
            elif field.type == "any" and isinstance(values, np.ndarray):
                changed.append((field.name, values.dtype.str, values.shape[1:]))
        if self._matrix is not None and len(present) == len(self._signature.inputs):
            return _MATRIX if self._matrix.kind == "f" or not changed else _MATRIX_MISSING
        return (tuple(field.name for field in present), "columns", tuple(changed))

    def _input(self, admitted: Sequence[Admitted], rows: int) -> Any:
        key = admitted[0].key[0] if admitted[0].params else admitted[0].key  # type: ignore[index]
        if key is _MATRIX or key is _MATRIX_MISSING:
            matrix = self._as_matrix(admitted, key is _MATRIX_MISSING)
            if matrix is not None:
                return matrix
            if len(admitted) > 1:
                raise WrongInput("rows", "numbers that go into one matrix", f"{rows} other rows")
        columns = self._converted(admitted)
        return columns if self._columns else _frame(columns)

    def _as_matrix(self, admitted: Sequence[Admitted], missing: bool) -> Array | None:
        """All rows as one matrix; None where single columns are needed.

        That is, for digits which a double has not, or to say what is wrong in which row.
        """
        dtype = _DOUBLE if missing or self._matrix is None else self._matrix
        cells: list[Sequence[Any]] = []
        for one in admitted:
            if one.layout is None:
                return self._as_parts(admitted, dtype, missing)
            cells += _picked(one)
        made = _numbers(cells, dtype, len(self._signature.inputs))
        assert self._whole is not None
        return made if made is not None and self._whole.fits(made) else None

    def _as_parts(
        self, admitted: Sequence[Admitted], dtype: np.dtype[Any], missing: bool
    ) -> Array | None:
        """The same where some queries came as columns or as a matrix."""
        first = admitted[0].data
        if first is not None and all(
            one.data is not None and one.data[""].dtype == first[""].dtype for one in admitted
        ):
            given = [one.data[""] for one in admitted if one.data is not None]
            return self._from_matrix(given[0] if len(given) == 1 else np.concatenate(given), dtype)
        parts = []
        for one in admitted:
            if one.layout is not None:
                part = self._as_matrix([one], missing)
            elif one.data is not None:
                part = self._from_matrix(one.data[""], dtype)
            else:
                part = _side_by_side(self._converted([one]), one.rows, dtype)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _from_matrix(self, given: Array, dtype: np.dtype[Any]) -> Array | None:
        if given.dtype.kind != "f" and ((given > _EXACT) | (given < -_EXACT)).any():
            return None
        with np.errstate(over="ignore"):
            made = given.astype(dtype)  # a copy: it is ours to round, and never the client's
        assert self._whole is not None
        return made if self._whole.fits(made) else None

    def _converted(self, admitted: Sequence[Admitted]) -> dict[str, Any]:
        """The signature's columns of all queries. They were all given as rows, or none."""
        layout = admitted[0].layout
        if layout is None:
            parts = [_by_columns(one.query, self._signature).columns or {} for one in admitted]
            return {
                field.name: self._joined(field, [part[field.name] for part in parts])
                for field in self._signature.inputs
                if field.name in parts[0]
            }
        convert = signatures.convert_plain if self._columns else signatures.convert
        turned = list(zip(*chain.from_iterable(map(_picked, admitted)), strict=True))
        return {
            name: convert(name, kind, values)
            for name, kind, values in zip(layout.names, layout.types, turned, strict=True)
        }

    def _joined(self, field: signatures.Field, parts: list[Values]) -> Any:
        """One column of all parts."""
        if len(parts) > 1 and all(isinstance(part, list) for part in parts):
            parts = [list(chain.from_iterable(parts))]
        convert = signatures.convert_plain if self._columns else signatures.convert
        return _concatenated([convert(field.name, field.type, part) for part in parts])


class _Whole:
    """Which columns of a matrix of floats hold whole numbers or single precision, and their bounds."""

    __slots__ = ("_high", "_low", "_single", "_which")

    def __init__(self, which: list[int], bounds: list[int], single: list[int]) -> None:
        self._which = which
        self._high = np.array(bounds, dtype=np.float64)
        self._low = -self._high - 1
        self._single = single

    @classmethod
    def of(cls, signature: Signature) -> _Whole:
        """Those of a signature."""
        kinds = [field.type for field in signature.inputs]
        which = [at for at, kind in enumerate(kinds) if kind in ("integer", "long")]
        single = [at for at, kind in enumerate(kinds) if kind == "float"]
        bounds = [_EXACT if kinds[at] == "long" else 2**31 - 1 for at in which]
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


def _numbers(rows: list[Sequence[Any]], dtype: np.dtype[Any], width: int) -> Array | None:
    """Rows of Python's numbers and None as a matrix; None where one does not go in."""
    try:
        with np.errstate(over="ignore"):
            if dtype.kind == "i":
                return _integer_matrix(rows, dtype)
            try:
                flat = np.fromiter(chain.from_iterable(rows), dtype, len(rows) * width)
            except TypeError:  # a None
                return np.array(rows, dtype=dtype)
            return flat.reshape(len(rows), width)
    except (OverflowError, ValueError, TypeError):
        return None


def _integer_matrix(rows: list[Sequence[Any]], dtype: np.dtype[Any]) -> Array | None:
    made = np.array(rows)
    if made.dtype.kind == "f":  # JSON has one type for 2 and 2.0
        whole = (made == np.floor(made)) & (made >= -_EXACT) & (made <= _EXACT)
        if not whole.all():
            return None
        made = made.astype(np.int64)
    elif made.dtype.kind != "i":
        return None
    info = np.iinfo(dtype)
    if int(made.min()) < info.min or int(made.max()) > info.max:
        return None
    return made.astype(dtype, copy=False)


def _side_by_side(columns: Mapping[str, Array], rows: int, dtype: np.dtype[Any]) -> Array | None:
    """Typed columns as a matrix; None where some integer has more digits than a double."""
    made = np.empty((rows, len(columns)), dtype=dtype)
    for at, column in enumerate(columns.values()):
        long = column.dtype == np.int64 and dtype.kind == "f"
        if long and ((column > _EXACT) | (column < -_EXACT)).any():
            return None
        made[:, at] = column
    return made


def _picked(one: Admitted) -> Iterable[Sequence[Any]]:
    """The features of the rows of a query."""
    layout, cells = one.layout, one.query.cells or ()
    return cells if layout is None or layout.pick is None else map(layout.pick, cells)


def _concatenated(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return parts[0]._concat_same_type(parts)  # pandas arrays of texts


def _frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    # copy=False: every column is ours; pandas still may not alias what the client sent.
    return pd.DataFrame(dict(columns), copy=False)


# ---- the forms of a query ------------------------------------------------------------------------


def query_of(data: pd.DataFrame | Array | Mapping[str, Values]) -> Query:
    """A query from what a Python caller has."""
    if isinstance(data, np.ndarray):
        return Query(len(data), tensors={"": data})
    if isinstance(data, Mapping):
        return Query(len(next(iter(data.values()), ())), columns=data)
    return Query(len(data), columns=signatures.frame_columns(data))


def _by_columns(query: Query, signature: Signature) -> Query:
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


def _as_rows(query: Query) -> Query | None:
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


def _kind(values: Values) -> Hashable:
    """What pandas makes a column's type of, where other values of that kind change nothing of it.

    A kind of its own where they might.
    """
    if isinstance(values, np.ndarray):
        return (values.dtype.str, values.ndim) if values.dtype.kind in "biuf" else object()
    found = set(map(type, values))
    if found == {int}:
        return int if max(values) < 2**63 and min(values) >= -(2**63) else object()
    return found.pop() if found in ({float}, {bool}, {str}) else object()


def _end_to_end(parts: list[Values]) -> Values:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return list(chain.from_iterable(parts))


def _places(signature: Signature) -> tuple[np.dtype[Any], int] | None:
    """Type and width of a model's one matrix of floats with any number of rows, or None."""
    if len(signature.inputs) != 1:
        return None
    (spec,) = signature.inputs
    dtype = np.dtype(spec.dtype or "float64") if spec.tensor else None
    if dtype is None or dtype.kind != "f" or spec.shape is None or len(spec.shape) != 2:
        return None
    rows, width = spec.shape
    return (dtype, width) if rows == -1 and width > 0 else None


# ---- tensors -------------------------------------------------------------------------------------


def _tensors(query: Query, signature: Signature) -> dict[str, Array]:
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
            query = _by_columns(query, signature)
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
    known = query.numbers or set(map(type, chain.from_iterable(rows))) <= {int, float, _NONE}
    if dtype.kind == "f" and known and set(map(len, rows)) == {width}:
        made = _numbers(list(rows), dtype, width)
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
