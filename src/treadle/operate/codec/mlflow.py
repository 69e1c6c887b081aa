"""MLflow's scoring protocol: the bodies of `POST /invocations` and its answers.

JSON with exactly one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, and
optional `params`; or CSV with a header. Answers are `{"predictions": …}`: a list with one entry a
row, or records for a model with several outputs. In CSV an empty cell is a missing value; in columns
that are not texts, so are NA, NaN, nan, null and None.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from treadle.operate.codec import json
from treadle.operate.query import Query
from treadle.operate.signature import Signature, Values, WrongInput

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_MISSING = {"", "NA", "NaN", "nan", "null", "None"}
Array = np.ndarray[Any, Any]


class WrongType(Exception):
    """A content type that this protocol does not know (415)."""


def decode(body: bytes, content_type: str | None, signature: Signature) -> Query:
    """The query in a body. WrongInput (400) or WrongType (415)."""
    kind, _, parameter = (content_type or "").partition(";")
    kind, parameter = kind.strip().lower(), parameter.strip().lower()
    if parameter and parameter.replace('"', "") not in ("charset=utf-8", "charset=utf8"):
        raise WrongType("the only parameter of the content type is charset=utf-8")
    if kind == "application/json":
        return _decode_json(json.loads(body), signature)
    if kind == "text/csv":
        return _decode_csv(body, signature)
    raise WrongType("send application/json or text/csv in the Content-Type")


def encode(outputs: Mapping[str, Array]) -> bytes:
    """The body of an answer."""
    if len(outputs) == 1:
        return json.dumps({"predictions": json.values(next(iter(outputs.values())))})
    columns = {name: json.values(array) for name, array in outputs.items()}
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return json.dumps({"predictions": rows})


def encode_error(code: str, message: str) -> bytes:
    """The body of an error: `code` is MLflow's word, such as BAD_REQUEST."""
    return json.dumps({"error_code": code, "message": message})


def _decode_json(document: Any, signature: Signature) -> Query:
    if not isinstance(document, dict):
        raise WrongInput("body", f"an object with one of {', '.join(_FORMS)}", "no object")
    given = [name for name in _FORMS if name in document]
    unknown = sorted(document.keys() - set(_FORMS) - {"params"})
    if len(given) != 1:
        raise WrongInput(
            "body", f"exactly one of {', '.join(_FORMS)}", " and ".join(given) or "none of them"
        )
    if unknown:
        raise WrongInput("body", f"{given[0]} and params alone", f"{len(unknown)} other fields")
    params = document.get("params") or {}
    if not isinstance(params, dict):
        raise WrongInput("params", "an object", "none")
    form, value = given[0], document[given[0]]
    if form == "dataframe_split":
        query = _split(value)
    elif form == "dataframe_records":
        query = _records(form, value)
    elif form == "instances":
        query = _instances(value, signature)
    else:
        query = _inputs(value, signature)
    return Query(query.rows, query.columns, query.tensors, params) if params else query


def _split(value: Any) -> Query:
    where = "dataframe_split"
    if not isinstance(value, dict) or "data" not in value:
        raise WrongInput(where, "an object with data and columns", "none")
    if value.keys() - {"data", "columns", "index"}:
        raise WrongInput(where, "data, columns and index alone", "other fields")
    data, names = value["data"], value.get("columns")
    if not isinstance(data, list) or not set(map(type, data)) <= {list}:
        raise WrongInput(f"{where}.data", "a list of rows, each a list", "something else")
    if names is None:
        return Query(len(data), tensors={"": _tensor(f"{where}.data", data)})
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WrongInput(f"{where}.columns", "a list of texts", "something else")
    if len(set(names)) != len(names):
        raise WrongInput(f"{where}.columns", "different names", "one name twice")
    for row, cells in enumerate(data):
        if len(cells) != len(names):
            raise WrongInput(f"{where}.data, row {row}", f"{len(names)} cells", f"{len(cells)}")
    columns = list(map(list, zip(*data, strict=True))) if data else [[] for _ in names]
    return Query(len(data), dict(zip(names, columns, strict=True)))


def _records(where: str, value: Any) -> Query:
    if not isinstance(value, list) or not set(map(type, value)) <= {dict}:
        raise WrongInput(where, "a list of objects", "something else")
    names: dict[str, None] = {}
    for record in value:
        names.update(dict.fromkeys(record))
    return Query(len(value), {name: [record.get(name) for record in value] for name in names})


def _instances(value: Any, signature: Signature) -> Query:
    if not isinstance(value, list):
        raise WrongInput("instances", "a list", "something else")
    if value and isinstance(value[0], dict):
        query = _records("instances", value)
        if signature.tensors:
            columns = query.columns or {}
            tensors = {n: _tensor(f"instances.{n}", list(v)) for n, v in columns.items()}
            return Query(query.rows, tensors=tensors)
        return query
    return Query(len(value), tensors={"": _tensor("instances", value)})


def _inputs(value: Any, signature: Signature) -> Query:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _records("inputs", value)
    if isinstance(value, list):
        return Query(len(value), tensors={"": _tensor("inputs", value)})
    if not isinstance(value, dict):
        raise WrongInput("inputs", "a list or an object of lists", "something else")
    # MLflow takes one row as bare values too.
    columns = {n: v if isinstance(v, list) else [v] for n, v in value.items()}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise WrongInput("inputs", "lists of equal length", "different lengths")
    rows = lengths.pop() if lengths else 0
    if signature.tensors:
        return Query(rows, tensors={n: _tensor(f"inputs.{n}", v) for n, v in columns.items()})
    return Query(rows, columns)


def _tensor(where: str, value: list[Any]) -> Array:
    """A rectangular array; object dtype where it holds anything but numbers of one kind."""
    kinds: set[type] = set()
    lengths = _shape(where, value, kinds)
    if kinds <= {int, float, type(None)} and kinds:
        try:
            if kinds == {int}:
                return np.array(value, dtype=np.int64)
            if int not in kinds:
                return np.array(value, dtype=np.float64)
        except OverflowError:
            pass
    if kinds == {bool}:
        return np.array(value, dtype=bool)
    array = np.empty(lengths, dtype=object)
    flat: list[Any] = value
    for _ in lengths[1:]:
        flat = [item for row in flat for item in row]
    array.ravel()[:] = flat
    return array


def _shape(where: str, value: list[Any], kinds: set[type]) -> tuple[int, ...]:
    """The shape of nested lists; WrongInput where they are ragged. Adds the leaves' types."""
    shape: list[int] = []
    level: list[Any] = value
    while True:
        shape.append(len(level) if not shape else len(level) // max(1, _product(shape)))
        found = set(map(type, level))
        if list not in found:
            kinds |= found
            return tuple(shape)
        lengths = {len(item) for item in level if type(item) is list}
        if found != {list} or len(lengths) != 1:
            raise WrongInput(where, "rows of equal length", "different lengths")
        level = [leaf for item in level for leaf in item]
        if not level:
            return (*shape, 0)


def _product(shape: list[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


# ---- CSV -----------------------------------------------------------------------------------------


def _decode_csv(body: bytes, signature: Signature) -> Query:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise WrongInput("body", "CSV in UTF-8", "other bytes") from None
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error:
        raise WrongInput("body", "CSV", "a mistake in its quotes") from None
    if not rows:
        raise WrongInput("body", "CSV with a header line", "an empty text")
    names, *lines = rows
    if len(set(names)) != len(names):
        raise WrongInput("header", "different names", "one name twice")
    for number, line in enumerate(lines):
        if len(line) != len(names):
            raise WrongInput(f"row {number}", f"{len(names)} cells", f"{len(line)}")
    kinds = {field.name: field.type for field in signature.inputs if not field.tensor}
    default = "number" if signature.tensors or not signature.inputs else "text"
    columns: dict[str, Values] = {}
    for position, name in enumerate(names):
        cells = [line[position] for line in lines]
        columns[name] = _cells(name, kinds.get(name, default), cells)
    if signature.tensors and len(signature.inputs) == 1:
        matrix = np.array([[column[row] for column in columns.values()]
                           for row in range(len(lines))], dtype=np.float64)  # fmt: skip
        return Query(len(lines), tensors={"": matrix.reshape(len(lines), len(names))})
    return Query(len(lines), columns)


def _cells(name: str, kind: str, cells: Sequence[str]) -> list[Any]:
    if kind in ("string", "text", "any", "binary"):
        return [cell or None for cell in cells]
    parsers: dict[str, Callable[[str], Any]] = {
        "boolean": _boolean, "datetime": str, "integer": _whole, "long": _whole,
    }  # fmt: skip
    parse = parsers.get(kind, float)
    column: list[Any] = []
    for row, cell in enumerate(cells):
        if cell in _MISSING:
            column.append(None)
            continue
        try:
            column.append(parse(cell))
        except ValueError:
            if kind == "number":  # no signature: a column that is no number is text
                return [cell or None for cell in cells]
            raise WrongInput(f"{name}, row {row}", f"a {kind}", "another text") from None
    return column


def _boolean(cell: str) -> bool:
    word = cell.strip().lower()
    if word not in ("true", "false", "0", "1"):
        raise ValueError(cell)
    return word in ("true", "1")


def _whole(cell: str) -> int | float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)  # 5.0 is a whole number; 5.5 is refused by the signature
