"""From queries to the one input that a call of the model gets.

Two steps, so that a batch costs what one request costs: `admit` looks at each query as it comes and
gives it a key (see admit.py); `assemble` makes one input of the queries of one key, column by column
or as one matrix, never cell by cell. What only shows in the values (range, fraction, a text that is
no date) shows in `assemble`, which then raises; alone, the query raises the same, with row numbers of
its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.operate.model import signature as signatures
from treadle.operate.model.admit import MATRIX, MATRIX_MISSING, Admitted, Layout, picked, require
from treadle.operate.model.matrix import EXACT, Whole, number_matrix, side_by_side
from treadle.operate.model.rearrange import as_rows, by_columns, end_to_end, kind_of, query_of
from treadle.operate.model.signature import Signature, Values, WrongInput
from treadle.operate.model.tensors import places_of, tensors_of
from treadle.operate.query import Query

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

__all__ = ["Admitted", "Assembler", "Prepared", "query_of"]

_LAYOUTS = 256
"""Tuples of names that are remembered; a client that sends ever new ones only costs itself time."""
_FEW = 16
"""Columns of so few rows are put together as rows, with those of other queries."""
_EMPTY = ("no rows",)
_DOUBLE = np.dtype(np.float64)
_CHANGED = signatures.CHANGED_BY_MISSING
_NO_PARAMS: Mapping[str, Any] = {}


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
        self._whole = Whole.of(signature) if self._matrix is not None else None
        self._places = places_of(signature)
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
                key: Hashable = (MATRIX, signatures.params_key(params)) if params else MATRIX
                return Admitted(query, query.rows, key, params, None, {"": matrix})
            query = by_columns(query, self._signature)
            if query.rows <= _FEW and self._by_rows:
                query = as_rows(query) or query
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

    def plain(self, admitted: Admitted) -> bool:
        """Whether its rows have nothing, such as a missing value, that would change how the rows of
        others are read beside them."""
        layout, key = admitted.layout, admitted.key
        if layout is not None:
            return key == layout.key
        return key is self._places_key

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
            tensors = tensors_of(query, self._signature)
            if self._places is not None:
                return tensors, self._places_key
            shapes = tuple([(name, array.shape[1:]) for name, array in tensors.items()])
            return tensors, ("tensors", shapes)
        columns = by_columns(query, self._signature).columns or {}
        kinds = []
        for name, values in columns.items():
            if len(values) != query.rows:
                raise WrongInput(name, f"{query.rows} values", f"{len(values)}")
            kinds.append((name, kind_of(values)))
        return columns, ("columns", tuple(kinds))

    def _as_it_came(self, admitted: Sequence[Admitted]) -> Any:
        if self._places is not None:
            return self._by_places(admitted, self._places)
        parts = [one.data or {} for one in admitted]
        made = parts[0]
        if len(parts) > 1:
            made = {name: end_to_end([part[name] for part in parts]) for name in made}
        if not self._signature.tensors:
            return made if self._columns else _frame(made)
        return next(iter(made.values())) if len(self._signature.inputs) == 1 else made

    def _by_places(self, admitted: Sequence[Admitted], places: tuple[np.dtype[Any], int]) -> Array:
        """One matrix of floats: rows of numbers wait as they came and become one together."""
        if any(one.data is not None for one in admitted):
            parts = [self._by_places([one], places) if one.data is None
                     else next(iter(one.data.values())) for one in admitted]  # fmt: skip
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        matrix = number_matrix(list(chain.from_iterable(map(picked, admitted))), *places)
        if matrix is not None:
            return matrix
        if len(admitted) > 1 or admitted[0].several:
            raise WrongInput("rows", "numbers that go into one matrix", "other rows")
        return next(iter(tensors_of(admitted[0].query, self._signature).values()))

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
            return MATRIX if self._matrix.kind == "f" or not changed else MATRIX_MISSING
        return (tuple(field.name for field in present), "columns", tuple(changed))

    def _input(self, admitted: Sequence[Admitted], rows: int) -> Any:
        key = admitted[0].key[0] if admitted[0].params else admitted[0].key  # type: ignore[index]
        if key is MATRIX or key is MATRIX_MISSING:
            matrix = self._as_matrix(admitted, key is MATRIX_MISSING)
            if matrix is not None:
                return matrix
            if len(admitted) > 1 or admitted[0].several:
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
            cells += picked(one)
        made = number_matrix(cells, dtype, len(self._signature.inputs))
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
                part = side_by_side(self._converted([one]), one.rows, dtype)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _from_matrix(self, given: Array, dtype: np.dtype[Any]) -> Array | None:
        if given.dtype.kind != "f" and ((given > EXACT) | (given < -EXACT)).any():
            return None
        with np.errstate(over="ignore"):
            made = given.astype(dtype)  # a copy: it is ours to round, and never the client's
        assert self._whole is not None
        return made if self._whole.fits(made) else None

    def _converted(self, admitted: Sequence[Admitted]) -> dict[str, Any]:
        """The signature's columns of all queries. They were all given as rows, or none."""
        layout = admitted[0].layout
        if layout is None:
            parts = [by_columns(one.query, self._signature).columns or {} for one in admitted]
            return {
                field.name: self._joined(field, [part[field.name] for part in parts])
                for field in self._signature.inputs
                if field.name in parts[0]
            }
        convert = signatures.convert_plain if self._columns else signatures.convert
        turned = list(zip(*chain.from_iterable(map(picked, admitted)), strict=True))
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
