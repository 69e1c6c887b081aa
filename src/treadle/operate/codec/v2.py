"""The Open Inference protocol V2, REST with JSON, for one model.

Columns are tensors of shape [rows] or [rows, 1]; a model of columns also takes one matrix by
position. `data` may be nested or flat, row-major; `null` in it is a missing value. Binary tensors are
refused in words (an issue to come builds them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from treadle.operate.codec import json
from treadle.operate.query import Query
from treadle.operate.signature import Field, Signature, WrongInput

Array = np.ndarray[Any, Any]

_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, kind in _DTYPES.items()}
_COLUMN_TYPES = {
    "boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64",
}  # fmt: skip


def decode(body: bytes) -> tuple[Query, str | None, tuple[str, ...] | None]:
    """The query, the client's id and the names of the requested outputs (None: all)."""
    document = json.loads(body)
    if not isinstance(document, dict):
        raise WrongInput("body", "an object with inputs", "no object")
    unknown = document.keys() - {"id", "parameters", "inputs", "outputs"}
    if unknown:
        raise WrongInput("body", "id, parameters, inputs and outputs alone", "other fields")
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise WrongInput("id", "a text", "something else")
    _no_binary("parameters", document.get("parameters"))
    tensors: dict[str, Array] = {}
    items = document.get("inputs")
    if not isinstance(items, list) or not items:
        raise WrongInput("inputs", "a list of tensors", "none")
    for position, item in enumerate(items):
        name, array = _tensor(f"inputs[{position}]", item)
        if name in tensors:
            raise WrongInput(f"inputs[{position}].name", "different names", "one name twice")
        tensors[name] = array
    lengths = {array.shape[0] for array in tensors.values()}
    if len(lengths) > 1:
        raise WrongInput("inputs", "tensors of equal first dimension", "different ones")
    return Query(lengths.pop(), tensors=tensors), identity, _requested(document.get("outputs"))


def _requested(items: Any) -> tuple[str, ...] | None:
    if items is None or items == []:
        return None
    if not isinstance(items, list):
        raise WrongInput("outputs", "a list of objects with a name", "something else")
    names = []
    for position, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise WrongInput(f"outputs[{position}]", "an object with a name", "something else")
        _no_binary(f"outputs[{position}].parameters", item.get("parameters"))
        names.append(item["name"])
    return tuple(names)


def _no_binary(where: str, parameters: Any) -> None:
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise WrongInput(where, "an object", "something else")
    for name in ("binary_data", "binary_data_output", "binary_data_size"):
        if parameters.get(name):
            raise WrongInput(where, "tensors as JSON data", f"{name}, which is not supported yet")


def _tensor(where: str, item: Any) -> tuple[str, Array]:
    if not isinstance(item, dict):
        raise WrongInput(where, "an object", "something else")
    _no_binary(f"{where}.parameters", item.get("parameters"))
    name, shape, kind = item.get("name"), item.get("shape"), item.get("datatype")
    if not isinstance(name, str):
        raise WrongInput(f"{where}.name", "a text", "none")
    if not isinstance(shape, list) or not shape or any(type(n) is not int or n < 0 for n in shape):
        raise WrongInput(f"{where}.shape", "a list of lengths", "something else")
    if kind != "BYTES" and kind not in _DTYPES:
        raise WrongInput(f"{where}.datatype", f"BYTES or one of {', '.join(_DTYPES)}", "another")
    data = item.get("data")
    if not isinstance(data, list):
        raise WrongInput(f"{where}.data", "a list", "none")
    flat = _flat(where, data)
    size = 1
    for length in shape:
        size *= length  # Python's integers: no overflow, and nothing is allocated by the shape
    if size != len(flat):
        raise WrongInput(f"{where}.data", f"{size} values for its shape", f"{len(flat)}")
    return name, _typed(where, kind, flat).reshape(shape)


def _flat(where: str, data: list[Any]) -> list[Any]:
    flat = data
    while flat and list in (found := set(map(type, flat))):
        if found != {list}:
            raise WrongInput(f"{where}.data", "flat or evenly nested lists", "a mixture")
        flat = [value for row in flat for value in row]
    return flat


def _typed(where: str, kind: str, flat: list[Any]) -> Array:
    found = set(map(type, flat))
    if kind == "BYTES":
        if not found <= {str, type(None)}:
            raise WrongInput(f"{where}.data", "texts", "other values")
        texts = np.empty(len(flat), dtype=object)
        texts[:] = flat
        return texts
    target = np.dtype(_DTYPES[kind])
    allowed: set[type] = {int, type(None)}
    if target.kind == "b":
        allowed = {bool}
    elif target.kind == "f":
        allowed = {int, float, type(None)}
    if not found <= allowed:
        raise WrongInput(f"{where}.data", f"values of {kind}", "other values")
    if type(None) in found and target.kind != "f":
        missing = np.empty(len(flat), dtype=object)  # the signature decides on missing integers
        missing[:] = flat
        return missing
    try:
        if target.kind in "iu" and flat:
            info = np.iinfo(target)
            if min(flat) < info.min or max(flat) > info.max:
                raise OverflowError
        return np.array(flat, dtype=target)
    except OverflowError:
        raise WrongInput(
            f"{where}.data", f"values of {kind}", "a number beyond its range"
        ) from None


def encode(
    outputs: Mapping[str, Array],
    *,
    model: str,
    version: str,
    identity: str,
    requested: tuple[str, ...] | None = None,
) -> bytes:
    """The body of an answer with the requested outputs, flat and row-major."""
    for name in requested or ():
        if name not in outputs:
            raise WrongInput("outputs", f"some of {', '.join(outputs)}", "another name")
    names = requested if requested is not None else tuple(outputs)
    return json.dumps({
        "model_name": model, "model_version": version, "id": identity,
        "outputs": [_output(name, outputs[name]) for name in names],
    })  # fmt: skip


def _output(name: str, array: Array) -> dict[str, Any]:
    kind = _NAMES.get(array.dtype, "BYTES")
    flat: list[Any] = json.values(array.ravel())
    if kind == "BYTES":
        flat = [value if isinstance(value, str) else json.dumps(value).decode() for value in flat]
    return {"name": name, "datatype": kind, "shape": list(array.shape), "data": flat}


def encode_error(message: str) -> bytes:
    """The body of an error."""
    return json.dumps({"error": message})


def metadata(
    signature: Signature, *, model: str, version: str, platform: str, outputs: Mapping[str, Array]
) -> dict[str, Any]:
    """The model's metadata; `outputs` of the warm-up say what the signature does not."""
    known = [
        {"name": name, "datatype": _NAMES.get(array.dtype, "BYTES"),
         "shape": [-1, *array.shape[1:]]}
        for name, array in outputs.items()
    ]  # fmt: skip
    return {
        "name": model, "versions": [version], "platform": platform,
        "inputs": [_described(field) for field in signature.inputs],
        "outputs": known or [_described(field) for field in signature.outputs],
    }  # fmt: skip


def _described(field: Field) -> dict[str, Any]:
    if field.tensor:
        kind = _NAMES.get(np.dtype(field.dtype or "float64"), "BYTES")
        return {"name": field.name, "datatype": kind, "shape": list(field.shape or (-1,))}
    kind = _COLUMN_TYPES.get(field.type, "BYTES")
    return {"name": field.name, "datatype": kind, "shape": [-1]}
