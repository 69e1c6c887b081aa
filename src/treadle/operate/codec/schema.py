"""JSON Schemas of what a model takes and gives, from its signature: the parts of its OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.operate.codec import binary
from treadle.operate.codec.v2 import described
from treadle.operate.model.signature import Field, Parameter, Signature

Array = np.ndarray[Any, Any]
Schema = dict[str, Any]

_TYPES: dict[str, Schema] = {
    "boolean": {"type": ["boolean", "null"]},
    "integer": {"type": ["integer", "null"], "format": "int32",
                "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": ["integer", "null"], "format": "int64",
             "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": ["number", "null"], "format": "float"},
    "double": {"type": ["number", "null"], "format": "double"},
    "string": {"type": ["string", "null"]},
    "datetime": {"type": ["string", "null"], "format": "date-time",
                 "description": "ISO 8601; with an offset it is converted to UTC"},
    "binary": {"type": ["string", "null"], "contentEncoding": "base64"},
}  # fmt: skip
_KINDS: dict[str, Schema] = {
    "b": {"type": "boolean"},
    "i": {"type": "integer"},
    "u": {"type": "integer", "minimum": 0},
    "f": {"type": ["number", "null"], "description": "null is NaN or an infinity"},
    "M": {"type": ["string", "null"], "format": "date-time"},
}


def cell(field: Field) -> Schema:
    """One value of a column."""
    return dict(_TYPES.get(field.type, {}))


def row(signature: Signature) -> Schema:
    """One row as an object; other columns may come along."""
    return {
        "type": "object",
        "properties": {f.name: value(f) for f in signature.inputs},
        "required": [f.name for f in signature.inputs if f.required],
    }


def value(field: Field) -> Schema:
    """One row's part of an input: a cell, or a tensor without its first dimension."""
    return nested(_leaf(field), (field.shape or (-1,))[1:]) if field.tensor else cell(field)


def _leaf(field: Field) -> Schema:
    try:
        kind = np.dtype(field.dtype or "float64").kind
    except TypeError:  # a dtype of another library
        return {}
    return dict(_KINDS.get(kind, {"type": ["string", "null"]}))


def nested(leaf: Schema, shape: Sequence[int]) -> Schema:
    """Nested arrays of a shape, -1: any length."""
    for length in reversed(shape):
        leaf = {"type": "array", "items": leaf}
        if length >= 0:
            leaf |= {"minItems": length, "maxItems": length}
    return leaf


def whole(field: Field) -> Schema:
    """All rows' part of an input."""
    if field.tensor:
        return nested(_leaf(field), field.shape or (-1,))
    return {"type": "array", "items": cell(field)}


def _exactly(items: list[Schema]) -> Schema:
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def rows_by_position(signature: Signature) -> Schema:
    """All rows as arrays, in the signature's order."""
    if signature.tensors:
        return whole(signature.inputs[0]) if len(signature.inputs) == 1 else {"type": "array"}
    return {"type": "array", "items": _exactly([cell(f) for f in signature.inputs])}


def split(signature: Signature) -> Schema:
    """`dataframe_split`. Any order of columns is taken; the schema says the signature's own."""
    columns: Schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    data: Schema = {"type": "array", "items": {"type": "array"}}
    if signature.inputs and not signature.tensors:
        columns = _exactly([{"const": f.name} for f in signature.inputs])
        columns["description"] = "in any order, and others beside them"
        data = rows_by_position(signature)
    index = {"type": ["array", "null"], "description": "is not looked at"}
    forms: list[Schema] = [columns, {"type": "null", "description": "by position"}]
    width = signature.width
    if width:
        forms.append(_exactly([{"const": number} for number in range(width)]))
    return {
        "type": "object", "required": ["data"], "additionalProperties": False,
        "properties": {"columns": {"anyOf": forms}, "index": index, "data": data},
    }  # fmt: skip


def instances(signature: Signature) -> Schema:
    """`instances`: rows as objects or as arrays."""
    if not signature.inputs:
        return {"type": "array"}
    records = {"type": "array", "items": row(signature)}
    return {"anyOf": [records, rows_by_position(signature)]}


def inputs(signature: Signature) -> Schema:
    """`inputs`: columns by name, rows as objects or as arrays, or a tensor."""
    if not signature.inputs:
        return {"type": ["array", "object"]}
    columns = {
        "type": "object", "properties": {f.name: whole(f) for f in signature.inputs},
        "required": [f.name for f in signature.inputs if f.required],
    }  # fmt: skip
    return {"anyOf": [columns, *instances(signature)["anyOf"]]}


def params(signature: Signature) -> Schema:
    """`params`, or the request's `parameters` in Open Inference."""
    known = {parameter.name: parameter for parameter in signature.parameters}
    return {
        "type": "object", "additionalProperties": False,
        "properties": {n: _parameter(known[n]) if n in known else {} for n in signature.params},
    }  # fmt: skip


def _parameter(parameter: Parameter) -> Schema:
    schema: Schema = dict(_TYPES.get(parameter.type, {}))
    if parameter.listed:
        schema = {"type": "array", "items": schema}
    return {**schema, "default": parameter.default}


def tensors(signature: Signature) -> Schema:
    """`inputs` of an Open Inference request."""
    kinds = ["BYTES", *binary.DTYPES]
    tensor: Schema = {
        "type": "object", "required": ["name", "shape", "datatype"], "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "datatype": {"type": "string", "enum": kinds},
            "parameters": {
                "type": "object",
                "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
            },
            "data": {"type": "array", "description": "flat or nested, row-major; FP16: not here"},
        },
    }  # fmt: skip
    names = [f.name for f in signature.inputs]
    if names:
        tensor["properties"]["name"]["examples"] = names
    return {"type": "array", "items": tensor, "minItems": 1}


def outputs(signature: Signature, known: Mapping[str, Array]) -> dict[str, Schema]:
    """Each output's value for one row, by name; `known` are arrays of the warm-up."""
    if known:
        return {
            name: nested(
                dict(_KINDS.get(array.dtype.kind, {})), (-1,) * max(0, array.ndim - 1)
            ) if array.dtype.kind != "O" else {}
            for name, array in known.items()
        }  # fmt: skip
    return {field.name: value(field) for field in signature.outputs}


def predictions(signature: Signature, known: Mapping[str, Array]) -> Schema:
    """`predictions` of an answer: an entry for each row."""
    by_name = outputs(signature, known)
    if len(by_name) == 1:
        return {"type": "array", "items": next(iter(by_name.values()))}
    if not by_name:
        return {"type": "array"}
    item = {"type": "object", "properties": by_name, "required": list(by_name)}
    return {"type": "array", "items": item}


def tensor_names(signature: Signature, known: Mapping[str, Array]) -> list[str]:
    """The outputs' names, where they are known."""
    return list(known) or [described(field)["name"] for field in signature.outputs]
