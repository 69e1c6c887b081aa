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

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.operate import signature as signatures
from treadle.operate.query import Query
from treadle.operate.signature import Signature, Values, WrongInput

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

_NONE = type(None)
_LAYOUTS = 256
"""Tuples of names that are remembered; a client that sends ever new ones only costs itself time."""
_ROWS = 1024
"""Tuples of types that are remembered for each layout."""
_EMPTY = ("no rows",)
_NO_PARAMS: Mapping[str, Any] = {}


class Admitted:
    """A query that has the right names, widths and types of cells."""

    __slots__ = ("key", "layout", "params", "query", "rows")

    def __init__(
        self,
        query: Query,
        rows: int,
        key: Hashable,
        params: Mapping[str, Any],
        layout: Layout | None = None,
    ) -> None:
        self.query = query
        self.rows = rows
        self.key = key
        """Queries of equal key may share a call."""
        self.params = params
        self.layout = layout


class Prepared:
    """What the model is called with for one or more queries."""

    __slots__ = ("_extra", "_features", "admitted", "data", "params", "rows")

    def __init__(
        self,
        data: Any,
        rows: int,
        extra: Mapping[str, Values] | None = None,
        params: Mapping[str, Any] = _NO_PARAMS,
        admitted: Sequence[Admitted] = (),
        features: tuple[str, ...] = (),
    ) -> None:
        self._extra = extra
        self.data = data
        """A DataFrame, an array or a dict of arrays."""
        self.rows = rows
        self.params = params
        self.admitted = admitted
        self._features = features

    @property
    def columns(self) -> dict[str, Any]:
        """The model's input by column, as the model sees it: for capture."""
        data = self.data
        if data is None:
            return {}
        if isinstance(data, np.ndarray):
            if data.ndim == 2 and len(self._features) == data.shape[1]:
                return {name: data[:, i] for i, name in enumerate(self._features)}
            if data.ndim == 2:
                return {str(number): data[:, number] for number in range(data.shape[1])}
            return {self._features[0] if self._features else "input": data}
        names = data if isinstance(data, Mapping) else data.columns
        return {str(name): data[name] for name in names}

    @property
    def extra(self) -> Mapping[str, Values]:
        """Columns that came along and are no features, of a single query."""
        if self._extra is not None:
            return self._extra
        if len(self.admitted) != 1:
            return {}
        (one,) = self.admitted
        query, names = one.query, set(self._features)
        if one.layout is not None and query.cells is not None:
            return {
                name: [row[at] for row in query.cells] for name, at in one.layout.extras.items()
            }
        if not names or query.columns is None:
            return {}
        return {name: values for name, values in query.columns.items() if name not in names}


class Layout:
    """Where the features lie in the rows of queries with these names."""

    __slots__ = ("extras", "identity", "key", "names", "positions", "seen", "types", "width")

    def __init__(self, signature: Signature, given: tuple[str, ...] | None) -> None:
        names = signature.features if given is None else given
        places = {name: at for at, name in enumerate(names)}
        if len(places) != len(names):
            raise WrongInput("columns", "different names", "one name twice")
        present = require(signature, places)
        self.names = tuple(field.name for field in present)
        self.types = tuple(field.type for field in present)
        self.positions = tuple(places[name] for name in self.names)
        self.width = len(names)
        self.identity = self.positions == tuple(range(self.width))
        features = set(signature.features)
        self.extras = {name: at for name, at in places.items() if name not in features}
        self.key: Hashable = (self.names, ())
        self.seen: dict[tuple[type, ...], tuple[Hashable, tuple[int, ...]]] = {}
        """Types of a row that fits → its key, and where floats stand in whole-number columns."""

    def row_key(self, row: Sequence[Any], number: int) -> Hashable:
        """The key of a row, which says in which columns a missing value changes the type.

        Raises WrongInput.
        """
        if len(row) != self.width:
            raise WrongInput(f"row {number}", f"{self.width} cells", f"{len(row)}")
        types = tuple(map(type, row))
        found = self.seen.get(types)
        if found is None:
            found = self._learn(types, row, number)
        key, floats = found
        if floats:
            missing = {at for at in floats if row[at] != row[at]}
            if missing:
                key = (self.names, tuple(sorted(missing.union(key[1]))))  # type: ignore[index]
        return key

    def _learn(
        self, types: tuple[type, ...], row: Sequence[Any], number: int
    ) -> tuple[Hashable, tuple[int, ...]]:
        missing, floats = [], []
        for name, kind, at in zip(self.names, self.types, self.positions, strict=True):
            signatures.check(name, kind, row[at], number)
            if kind in signatures.CHANGED_BY_MISSING:
                if types[at] is _NONE:
                    missing.append(at)
                elif issubclass(types[at], float | np.floating):
                    floats.append(at)
        key = (self.names, tuple(missing)) if missing else self.key
        if len(self.seen) >= _ROWS:
            self.seen.clear()
        found = self.seen[types] = (key, tuple(floats))
        return found

    def admit(self, query: Query) -> Hashable:
        """The key of all rows of a query. Raises WrongInput."""
        cells = query.cells
        assert cells is not None
        if len(cells) == 1:
            return self.row_key(cells[0], 0)
        keys = {self.row_key(row, number) for number, row in enumerate(cells)}
        if len(keys) == 1:
            return keys.pop()
        together = set().union(*(key[1] for key in keys))  # type: ignore[index]
        return (self.names, tuple(sorted(together)))


def require(signature: Signature, given: Iterable[str]) -> list[signatures.Field]:
    """The columns of the signature that were given. WrongInput where a required one was not."""
    known = set(given)
    missing = [f.name for f in signature.inputs if f.required and f.name not in known]
    if missing:
        word = "a column of this name" if len(missing) == 1 else "columns of these names"
        raise WrongInput(", ".join(missing), word, "none")
    return [field for field in signature.inputs if field.name in known]


class Assembler:
    """Admits and assembles queries for one signature."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._layouts: dict[tuple[str, ...] | None, Layout] = {}
        self._last: tuple[str, ...] | None = None
        self._last_layout: Layout | None = None
        self._by_rows = bool(signature.inputs) and not signature.tensors

    def admit(self, query: Query) -> Admitted:
        """Check a query's names, widths and types of cells. Raises WrongInput."""
        params = query.params
        if params:
            params = self._signature.check_params(params)
        if not query.rows:
            return Admitted(query, 0, _EMPTY, params)
        if query.cells is not None and self._by_rows:
            names = query.names
            layout = self._last_layout
            if layout is None or names is not self._last:
                layout = self._layouts.get(names) or self._layout(names)
                self._last, self._last_layout = names, layout
            key = layout.admit(query)
            if params:
                key = (key, signatures.params_key(params))
            return Admitted(query, query.rows, key, params, layout)
        if not self._by_rows:
            key = object()  # what comes decides what the model sees: alone
            return Admitted(query, query.rows, key, params)
        query = _by_columns(query, self._signature)
        key = self._columns_key(query)
        if params:
            key = (key, signatures.params_key(params))
        return Admitted(query, query.rows, key, params)

    def assemble(self, admitted: Sequence[Admitted]) -> Prepared:
        """One input for all of them, in order; they have the same key. May raise WrongInput."""
        first = admitted[0]
        rows = first.rows if len(admitted) == 1 else sum(one.rows for one in admitted)
        signature, data = self._signature, None
        if rows:
            if signature.tensors:
                data = _tensors(first.query, signature)
            elif not signature.inputs:
                data = _as_it_came(first.query)
            else:
                data = _frame(_columns(signature, admitted))
        return Prepared(data, rows, None, first.params, admitted, signature.features)

    def _layout(self, names: tuple[str, ...] | None) -> Layout:
        if len(self._layouts) >= _LAYOUTS:
            self._layouts.clear()
        layout = self._layouts[names] = Layout(self._signature, names)
        return layout

    def _columns_key(self, query: Query) -> Hashable:
        columns = query.columns or {}
        present = require(self._signature, columns)
        changed: list[Any] = []
        for field in present:
            values = columns[field.name]
            if len(values) != query.rows:
                raise WrongInput(field.name, f"{query.rows} values", f"{len(values)}")
            if field.type in signatures.CHANGED_BY_MISSING and signatures.any_missing(values):
                changed.append(field.name)
            elif field.type == "any" and isinstance(values, np.ndarray):
                changed.append((field.name, values.dtype.str, values.shape[1:]))
        return (tuple(field.name for field in present), "columns", tuple(changed))


def _columns(signature: Signature, admitted: Sequence[Admitted]) -> dict[str, Any]:
    """The signature's columns of all queries, converted. They were all given as rows, or none."""
    layout = admitted[0].layout
    if layout is not None:
        rows = list(chain.from_iterable(one.query.cells or () for one in admitted))
        columns: dict[str, Any] = {}
        if all(one.layout is layout for one in admitted):
            turned = list(zip(*rows, strict=True))
            for name, kind, at in zip(layout.names, layout.types, layout.positions, strict=True):
                columns[name] = signatures.convert(name, kind, turned[at])
            return columns
        for index, (name, kind) in enumerate(zip(layout.names, layout.types, strict=True)):
            values = [
                row[one.layout.positions[index]]  # type: ignore[union-attr]
                for one in admitted
                for row in one.query.cells or ()
            ]
            columns[name] = signatures.convert(name, kind, values)
        return columns
    given = admitted[0].query.columns or {}
    return {
        field.name: _joined(field, [(one.query.columns or {})[field.name] for one in admitted])
        for field in signature.inputs
        if field.name in given
    }


def _joined(field: signatures.Field, parts: list[Values]) -> Any:
    """One column of all parts."""
    if len(parts) == 1:
        return signatures.convert(field.name, field.type, parts[0])
    if all(isinstance(part, list) for part in parts):
        return signatures.convert(field.name, field.type, list(chain.from_iterable(parts)))
    done = [signatures.convert(field.name, field.type, part) for part in parts]
    if all(isinstance(part, np.ndarray) for part in done):
        return np.concatenate(done)
    return done[0]._concat_same_type(done)  # a pandas array of texts


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


def _as_it_came(query: Query) -> pd.DataFrame:
    """Without a signature: what comes is what the model sees."""
    return _frame(_by_columns(query, Signature()).columns or {})


# ---- tensors -------------------------------------------------------------------------------------


def _tensors(query: Query, signature: Signature) -> Any:
    fields = signature.inputs
    if query.cells is not None and len(fields) == 1 and query.names is None:
        given = {fields[0].name: _cells_matrix(query)}
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
    return next(iter(tensors.values())) if len(fields) == 1 else tensors


def _cells_matrix(query: Query) -> Array:
    rows = query.cells or ()
    width = len(rows[0])
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
