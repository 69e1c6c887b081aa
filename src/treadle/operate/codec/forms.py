"""The JSON forms that a table or a tensor comes in, as queries: shared by MLflow's protocol and V1.

Two ways to the same query. `quick` reads the usual bodies with a decoder typed for the model's
signature, so that nothing is looked at twice; whatever it refuses (and it refuses without a reason)
goes to `general`, which takes every form and says what is wrong.

A bare NaN in a model's columns is a missing value, also among texts: so pandas writes one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from treadle.operate.codec import json, nested
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Signature, Values, WrongInput
from treadle.operate.query import Query, Together

_NUMERIC = {"integer", "long", "float", "double"}
_NUMBER = int | float | None
_SCALAR = bool | int | float | str | None


class Forms:
    """Reads bodies for one model."""

    def __init__(self, signature: Signature, limits: Limits, names: tuple[str, ...]) -> None:
        """`names`: the forms that the protocol knows."""
        self._limits = limits
        fields = signature.inputs
        self._tensors = signature.tensors
        self._signature = signature
        self._width = signature.width
        self._features = frozenset(signature.features)
        floats = [np.dtype(f.dtype or "float64").kind == "f" for f in fields if f.tensor]
        self._floats = bool(floats) and all(floats)
        # One matrix of floats is rows of numbers, as columns are.
        matrix = len(fields) == 1 and self._floats and len(fields[0].shape or ()) == 2
        self._by_rows = matrix or bool(fields and not self._tensors)
        flat = self._by_rows and all(field.type != "any" for field in fields)
        self._numbers = matrix or (flat and all(field.type in _NUMERIC for field in fields))
        self._flat = flat
        """Whether a container in a body is a row, and no cell is one."""
        self._decoder = _decoder(_NUMBER if self._numbers else _SCALAR, names) if flat else None
        self._last: tuple[list[str], tuple[str, ...]] = ([], ())

    def quick(self, body: bytes) -> Query | None:
        """The query of a usual body; None: ask `general`."""
        if self._decoder is None:
            return None
        if len(body) > self._limits.max_rows:
            self._check_containers(body)
        try:
            document = self._decoder.decode(body)
        except json.BROKEN:
            if b"NaN" not in body or b"\\" in body:
                return None
            try:
                document = self._decoder.decode(_null_for_nan(body))
            except json.BROKEN:
                return None
        return self._usual(document)

    def together(self, bodies: Sequence[bytes]) -> Together | None:
        """The rows of usual bodies of one form and the same columns; None: read each by itself."""
        if self._decoder is None or sum(map(len, bodies)) > self._limits.max_rows:
            return None
        try:
            documents = list(map(self._decoder.decode, bodies))
        except json.BROKEN:
            return None
        parts = [document.inputs for document in documents]
        names: tuple[str, ...] | None = None
        if UNSET not in parts:
            for document in documents:
                if (
                    document.instances is not UNSET
                    or document.dataframe_split is not UNSET
                    or document.dataframe_records is not UNSET
                ):
                    return None
        else:
            queries = [self._usual(document) for document in documents]
            first = queries[0]
            if first is None:
                return None
            names, parts = first.names, []
            for query in queries:
                if query is None or query.names is not names:
                    return None
                parts.append(query.cells)
        if not all(parts):
            return None
        return Together(parts, names, self._numbers)

    def _usual(self, document: Any) -> Query | None:
        inputs = document.inputs
        if inputs is UNSET:
            inputs = document.instances
        elif document.instances is not UNSET:
            return None
        if inputs is UNSET:
            return self._quick_frame(document)
        if document.dataframe_split is not UNSET or document.dataframe_records is not UNSET:
            return None
        rows = len(inputs)
        if rows == 0 or rows > self._limits.max_rows:
            return None
        if rows > 1 and len(set(map(len, inputs))) != 1:
            return None
        return Query(rows, cells=inputs, numbers=self._numbers)

    def _quick_frame(self, document: Any) -> Query | None:
        split = document.dataframe_split
        if split is UNSET:
            records = document.dataframe_records
            if records is UNSET or not records or len(records) > self._limits.max_rows:
                return None
            columns = list(records[0])
            if not columns or (len(records) > 1 and any(list(row) != columns for row in records)):
                return None
            cells = [list(row.values()) for row in records]
            return Query(len(cells), cells=cells, names=self._known(columns), numbers=self._numbers)
        if document.dataframe_records is not UNSET:
            return None
        cells, columns = split.data, split.columns
        rows = len(cells)
        if rows == 0 or rows > self._limits.max_rows or columns is UNSET:
            return None
        names = self._known(columns)
        if not names or set(map(len, cells)) != {len(names)}:
            return None
        return Query(rows, cells=cells, names=names, numbers=self._numbers)

    def _known(self, columns: list[str]) -> tuple[str, ...] | None:
        """The columns as the tuple of the query before, where they are the same; None: doubled."""
        known, names = self._last
        if columns == known:
            return names
        if len(set(columns)) != len(columns):
            return None
        names = tuple(columns)
        self._last = (columns, names)  # at once: large bodies are decoded on another thread
        return names

    def _check_containers(self, body: bytes) -> None:
        """Refuse too many rows before memory is taken for each: a row is an array or an object."""
        most = self._limits.max_rows + self._limits.max_depth
        if json.containers(body, most) > most:
            raise WrongInput("body", f"at most {self._limits.max_rows} rows", "more")

    def document(self, body: bytes) -> dict[str, Any]:
        """A body as an object. WrongInput."""
        if self._flat and len(body) > self._limits.max_rows:
            self._check_containers(body)
        document = json.loads(body, self._limits.max_depth)
        if not isinstance(document, dict):
            raise WrongInput("body", "an object", _word(document))
        if self._flat and b"NaN" in body:
            return {n: v if n == "params" else _missing(v) for n, v in document.items()}
        return document

    def general(self, form: str, value: Any, params: Mapping[str, Any]) -> Query:
        """The query of a form. WrongInput."""
        if form == "dataframe_split":
            query = self._split(value)
        elif form == "dataframe_records":
            query = self._records(form, value)
        elif form == "instances":
            query = self._instances(value)
        else:
            query = self._inputs(value)
        if params:
            query = Query(
                query.rows, query.columns, query.tensors, params, query.cells, query.names
            )
        return query

    # ---- frames ----

    def _split(self, value: Any) -> Query:
        where = "dataframe_split"
        if not isinstance(value, dict):
            raise WrongInput(where, "an object with data and columns", _word(value))
        if value.keys() - {"data", "columns", "index"}:
            raise WrongInput(where, "data, columns and index alone", "other fields")
        if "data" not in value:
            raise WrongInput(f"{where}.data", "a list of rows, each a list", "none")
        data, columns = value["data"], value.get("columns")
        if not isinstance(data, list) or not set(map(type, data)) <= {list}:
            raise WrongInput(f"{where}.data", "a list of rows, each a list", "something else")
        if not isinstance(value.get("index"), list | None):
            raise WrongInput(f"{where}.index", "a list", _word(value["index"]))
        rows = self._count(where, data)
        widths = set(map(len, data))
        if columns is not None and not isinstance(columns, list):
            raise WrongInput(f"{where}.columns", "a list of texts", _word(columns))
        if columns is None or _numbered(columns):
            width = len(data[0]) if columns is None and rows else len(columns or ())
            if rows and widths != {width}:
                self._ragged(f"{where}.data", data, width)
            if columns and self._width not in (0, len(columns)):
                raise WrongInput(f"{where}.columns", f"{self._width} columns", f"{len(columns)}")
            return self._by_position(f"{where}.data", data)
        if not set(map(type, columns)) <= {str}:
            raise WrongInput(f"{where}.columns", "a list of texts", "something else")
        if len(set(columns)) != len(columns):
            raise WrongInput(f"{where}.columns", "different names", "one name twice")
        if rows and widths != {len(columns)}:
            self._ragged(f"{where}.data", data, len(columns))
        return self._named(where, columns, data)

    def _ragged(self, where: str, data: list[Any], width: int) -> None:
        for row, cells in enumerate(data):
            if len(cells) != width:
                raise WrongInput(f"{where}, row {row}", f"{width} cells", f"{len(cells)}")

    def _records(self, where: str, value: Any) -> Query:
        if not isinstance(value, list) or not set(map(type, value)) <= {dict}:
            raise WrongInput(where, "a list of objects", _word(value, "a list of other values"))
        rows = self._count(where, value)
        names: dict[str, None] = {}
        for record in value:
            names.update(dict.fromkeys(record))
        columns = list(names)
        if all(len(record) == len(columns) for record in value):
            return self._named(
                where, columns, [[record[name] for name in columns] for record in value]
            )
        table: dict[str, list[Any]] = {n: [record.get(n) for record in value] for n in columns}
        return self._of_columns(where, rows, table)

    def _named(self, where: str, columns: list[str], data: list[list[Any]]) -> Query:
        if not data:
            if columns:  # no records at all have no names either
                require(self._signature, columns)
            return Query(0, columns={name: [] for name in columns})
        if self._tensors and not self._by_rows:
            turned = map(list, zip(*data, strict=True))
            return self._of_columns(where, len(data), dict(zip(columns, turned, strict=True)))
        if not columns:
            raise WrongInput(where, "columns", "rows without any")
        return Query(len(data), cells=data, names=self._known(columns))

    def _of_columns(self, where: str, rows: int, columns: dict[str, list[Any]]) -> Query:
        if not self._tensors:
            return Query(rows, columns)
        # A stranger's name stays out of messages: of an unknown column the position is told.
        tensors = {
            name: nested.tensor(
                f"{where}.{name}" if name in self._features else f"{where}, column {position}",
                values,
                floats=self._floats,
            )
            for position, (name, values) in enumerate(columns.items())
        }
        return Query(rows, tensors=tensors)

    # ---- rows and tensors ----

    def _by_position(self, where: str, value: list[Any]) -> Query:
        if not value:
            return Query(0, tensors={"": np.empty(0)})
        if self._by_rows and set(map(type, value)) == {list}:
            if len(set(map(len, value))) != 1:
                self._ragged(where, value, len(value[0]))
            if not self._tensors or not any(type(cell) is list for cell in value[0]):
                return Query(len(value), cells=value)
        return Query(len(value), tensors={"": nested.tensor(where, value, floats=self._floats)})

    def _instances(self, value: Any) -> Query:
        if not isinstance(value, list):
            raise WrongInput("instances", "a list", _word(value))
        self._count("instances", value)
        if value and isinstance(value[0], dict):
            return self._records("instances", value)
        return self._by_position("instances", value)

    def _inputs(self, value: Any) -> Query:
        if isinstance(value, list):
            self._count("inputs", value)
            if value and isinstance(value[0], dict):
                return self._records("inputs", value)
            return self._by_position("inputs", value)
        if not isinstance(value, dict):
            raise WrongInput("inputs", "a list or an object of lists", _word(value))
        # MLflow takes one row as bare values too.
        columns = {n: v if isinstance(v, list) else [v] for n, v in value.items()}
        lengths = set(map(len, columns.values()))
        if len(lengths) > 1:
            raise WrongInput("inputs", "lists of equal length", "different lengths")
        if not lengths:
            raise WrongInput("inputs", "a list or an object of lists", "an empty object")
        rows: int = lengths.pop()
        if not rows:
            require(self._signature, columns)
        self._count("inputs", range(rows))
        return self._of_columns("inputs", rows, columns)

    def _count(self, where: str, rows: Values | range) -> int:
        count = len(rows)
        if count > self._limits.max_rows:
            raise WrongInput(where, f"at most {self._limits.max_rows} rows", f"{count}")
        return count


def require(signature: Signature, columns: Collection[str]) -> None:
    """WrongInput where a column is missing, of a table without rows; of others the model says it."""
    for field in signature.inputs:
        if field.required and not field.tensor and field.name not in columns:
            raise WrongInput(field.name, "a column of this name", "none")


def _null_for_nan(body: bytes) -> bytes:
    """A body with every bare NaN as null; it has no backslash, so each second part is a text."""
    parts = body.split(b'"')
    parts[::2] = [part.replace(b"NaN", b"null") for part in parts[::2]]
    return b'"'.join(parts)


def _missing(value: Any) -> Any:
    """The same with None for every NaN."""
    if isinstance(value, list):
        return [_missing(item) for item in value]
    if isinstance(value, dict):
        return {name: _missing(item) for name, item in value.items()}
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124


def _numbered(columns: list[Any]) -> bool:
    """Whether these are the numbers that pandas gives columns without names."""
    return set(map(type, columns)) == {int} and columns == list(range(len(columns)))


def _word(value: Any, listed: str = "a list") -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return listed
    return "null" if value is None else "a single value"


def _decoder(cell: Any, names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """A decoder of an object with one of the forms, of flat rows of such cells."""
    rows, records = list[list[cell]], list[dict[str, cell]]
    split = msgspec.defstruct(
        "Split",
        [("data", rows), ("columns", list[str] | UnsetType, UNSET),
         ("index", list[_SCALAR] | UnsetType, UNSET)],
        forbid_unknown_fields=True, gc=False,
    )  # fmt: skip
    kinds: dict[str, Any] = {
        "inputs": rows, "instances": rows, "dataframe_split": split, "dataframe_records": records,
    }  # fmt: skip
    document = msgspec.defstruct(
        "Document",
        [(name, (kind | UnsetType) if name in names else UnsetType, UNSET)
         for name, kind in kinds.items()],
        forbid_unknown_fields=True, gc=False,
    )  # fmt: skip
    return msgspec.json.Decoder(document)
