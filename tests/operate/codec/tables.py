"""Random typed tables, and the bodies in which clients send them."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from treadle.operate.model.signature import Field, Signature
from treadle.operate.query import Query

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(),
    "float": st.floats(width=32),
    "long": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
    "string": TEXT | st.sampled_from(["UA", "AA", "naïve \U0001f600", '"[{', "\\"]),
    "datetime": st.datetimes().map(lambda time: time.isoformat()),
}
DATATYPES = {
    "double": "FP64", "float": "FP32", "long": "INT64", "integer": "INT32", "boolean": "BOOL",
    "string": "BYTES", "datetime": "BYTES",
}  # fmt: skip


@dataclass
class Table:
    signature: Signature
    columns: dict[str, list[Any]]
    rows: int

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    @property
    def seen(self) -> dict[str, list[Any]]:
        """The columns as they arrive in JSON: NaN is a missing value."""
        return {
            name: [None if isinstance(v, float) and math.isnan(v) else v for v in values]
            for name, values in self.columns.items()
        }

    @property
    def data(self) -> list[list[Any]]:
        return [list(row) for row in zip(*self.columns.values(), strict=True)]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.data]

    def kind(self, name: str) -> str:
        return next(field.type for field in self.signature.inputs if field.name == name)


@st.composite
def tables(
    draw: st.DrawFn, kinds: tuple[str, ...] = tuple(VALUES), missing: bool = True, max_rows: int = 4
) -> Table:
    rows = draw(st.integers(1, max_rows))
    names = draw(st.lists(TEXT, min_size=1, max_size=4, unique=True))
    fields, columns = [], {}
    for name in names:
        kind = draw(st.sampled_from(kinds))
        fields.append(Field(name, kind))
        value = VALUES[kind]
        if missing and draw(st.booleans()):
            value = st.none() | value
        columns[name] = draw(st.lists(value, min_size=rows, max_size=rows))
    return Table(Signature(tuple(fields)), columns, rows)


def json_forms(table: Table) -> dict[str, dict[str, Any]]:
    return {
        "split": {"dataframe_split": {"columns": table.names, "data": table.data}},
        "split with index": {
            "dataframe_split": {
                "columns": table.names,
                "index": list(range(table.rows)),
                "data": table.data,
            }
        },
        "split turned": {
            "dataframe_split": {
                "columns": table.names[::-1],
                "data": [row[::-1] for row in table.data],
            }
        },
        "records": {"dataframe_records": table.records},
        "records turned": {
            "dataframe_records": [dict(reversed(list(r.items()))) for r in table.records]
        },
        "instances": {"instances": table.records},
        "instances by position": {"instances": table.data},
        "inputs by position": {"inputs": table.data},
        "inputs": {"inputs": table.columns},
        "inputs as records": {"inputs": table.records},
        "split without names": {
            "dataframe_split": {"columns": list(range(len(table.names))), "data": table.data}
        },
    }


def csv_text(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.names)
    writer.writerows([["" if cell is None else cell for cell in row] for row in table.data])
    return text.getvalue()


def columns_of(query: Query, signature: Signature) -> dict[str, list[Any]]:
    """What a query holds, by column."""
    if query.cells is not None:
        assert len(query.cells) == query.rows
        if query.numbers:
            kinds = {type(cell) for row in query.cells for cell in row}
            assert kinds <= {int, float, type(None)}
        names = query.names if query.names is not None else signature.features
        return {n: [row[i] for row in query.cells] for i, n in enumerate(names)}
    if query.columns is not None:
        found = {name: list(values) for name, values in query.columns.items()}
    else:
        tensors = dict(query.tensors or {})
        if set(tensors) == {""} and tensors[""].ndim == 2 and len(signature.features) > 1:
            matrix = tensors[""]
            return {n: matrix[:, i].tolist() for i, n in enumerate(signature.features)}
        found = {name: array.ravel().tolist() for name, array in tensors.items()}
    assert all(len(values) == query.rows for values in found.values())
    return found


def same(left: Any, right: Any) -> bool:
    """Equal, of the same type, and NaN like NaN."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    return type(left) is type(right) and left == right


def v2_body(table: Table, *, binary: bool, nested: bool) -> tuple[bytes, int | None]:
    """An Open Inference request as a client writes it; missing values only in JSON."""
    inputs, tail = [], []
    shape = [table.rows, 1] if nested else [table.rows]
    for name, values in table.columns.items():
        datatype = DATATYPES[table.kind(name)]
        item: dict[str, Any] = {"name": name, "shape": shape, "datatype": datatype}
        if binary and None not in values:
            data = v2_bytes(datatype, values)
            item["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            item["data"] = [[value] for value in values] if nested else values
        inputs.append(item)
    head = json.dumps({"id": "7", "inputs": inputs}).encode()
    return b"".join((head, *tail)), len(head) if tail or binary else None


def v2_bytes(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        parts = [value.encode() if isinstance(value, str) else value for value in values]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    kinds = {
        "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "?", "INT8": "i1", "UINT8": "u1",
        "INT16": "<i2", "UINT16": "<u2", "INT32": "<i4", "UINT32": "<u4", "INT64": "<i8",
        "UINT64": "<u8",
    }  # fmt: skip
    return np.array(values, dtype=kinds[datatype]).tobytes()
