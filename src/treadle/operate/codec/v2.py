"""The Open Inference protocol V2 over REST, for one model.

Columns are tensors of shape [rows] or [rows, 1]; a model of columns also takes one matrix by
position, and a model of one tensor takes it by whatever name (clients of MLServer and KServe make one
up). `data` may be nested or flat, row-major; `null` in it is a missing value. Tensors come and
go as JSON or as bytes behind it (`binary`). FP16 has no JSON, here as in Triton and KServe: it is
taken and given as bytes alone. Where the JSON part is 0 bytes long, the whole body is the values of
the model's one input (Triton's raw binary request), and the answer's tensors are bytes.

Beyond the specification we read what real clients send: `model_name` and `model_version` in the body
(KServe's), Triton's `timeout` (µs), and its other reserved parameters, which mean nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from treadle.operate.codec import binary, json, nested
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature, WrongInput
from treadle.operate.query import Answer, Query

Array = np.ndarray[Any, Any]

_COLUMN_TYPES = {
    "boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64",
}  # fmt: skip
_NONE = type(None)
_SCALAR = bool | int | float | str | None
_RESERVED = {"binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority",
             "timeout", "headers", "content_type"}  # fmt: skip
"""Request parameters with a meaning of their own in Triton or MLServer; none reaches the model."""
_REFUSED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
EXTENSIONS = ("binary_tensor_data", "parameters")
"""Not `model_repository`: its index is answered, but nothing is loaded on a stranger's word."""


class Request(NamedTuple):
    """A decoded request, and how it wants to be answered."""

    query: Query
    id: str | None
    """The client's."""
    requested: tuple[str, ...] | None
    """Names of outputs; None: all."""
    binary: Mapping[str, bool]
    """Of requested outputs, where they say so: whether they are wanted as bytes."""
    binary_output: bool
    """Whether outputs that do not say so are wanted as bytes."""
    deadline_s: float | None = None
    """The client's own, from its parameter `timeout`."""


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: list[_SCALAR | list[_SCALAR]] | UnsetType = UNSET
    parameters: dict[str, Any] | None = None


class WantedOutput(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One of the outputs that a request names."""

    name: str
    parameters: dict[str, Any] | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[WantedOutput] | None = None
    model_name: str | None = None
    model_version: str | None = None


_FIELDS = {"inputs", "id", "parameters", "outputs", "model_name", "model_version"}
_TENSOR_FIELDS = {"name", "shape", "datatype", "data", "parameters"}
_decoder = msgspec.json.Decoder(_Document)


class Inference:
    """The codec of one model."""

    def __init__(self, signature: Signature, limits: Limits, *, model: str, version: str) -> None:
        self._limits = limits
        self._params = frozenset(signature.params)
        self._raw = {f.name for f in signature.inputs
                     if f.type == "binary" or (f.dtype or "").lstrip("|<>=").startswith("S")}  # fmt: skip
        """Inputs whose BYTES are bytes and no texts."""
        self._signature = signature
        self._model, self._version = model, version

    def decode(self, body: bytes, header_length: int | None = None) -> Request:
        """What a body asks; `header_length`: of its JSON part, where tensors follow. WrongInput."""
        if header_length == 0:
            return self._whole(body)
        tail = memoryview(b"")
        if header_length is not None:
            if not 0 <= header_length <= len(body):
                raise WrongInput(
                    "Inference-Header-Content-Length", f"at most {len(body)}, as the body is long",
                    "another number",
                )  # fmt: skip
            body, tail = body[:header_length], memoryview(body)[header_length:]
        try:
            document = _decoder.decode(body)
        except json.BROKEN:
            document = _document(json.loads(body, self._limits.max_depth))
        tensors = self._tensors(document.inputs, tail, header_length is not None)
        lengths = {array.shape[0] for array in tensors.values()}
        if len(lengths) > 1:
            raise WrongInput("inputs", "tensors of equal first dimension", "different ones")
        rows = self._held(lengths.pop())
        parameters, outputs = document.parameters, document.outputs
        if not parameters and not outputs:
            return Request(Query(rows, tensors=tensors), document.id, None, {}, False)
        params, deadline_s = self._parameters(parameters or {})
        requested, wanted = requested_of(outputs or [])
        return Request(
            Query(rows, tensors=tensors, params=params), document.id, requested, wanted,
            _flag(
                "parameters.binary_data_output",
                (parameters or {}).get("binary_data_output", False),
            ),
            deadline_s,
        )  # fmt: skip

    def check(self, request: Request, outputs: Mapping[str, Any]) -> None:
        """WrongInput where an output is asked for that the model has not, before it is called.

        `outputs` are the model's, by name: the arrays of its warm-up; none: nothing is known.
        """
        if not outputs:
            return
        for name in request.requested or ():
            if name not in outputs:
                raise WrongInput("outputs", f"some of {', '.join(outputs)}", "another name")
        for name in request.requested or outputs:
            array = outputs[name]
            if isinstance(array, np.ndarray):
                _check_half(name, array, request)

    def encode(self, answer: Answer, request: Request) -> tuple[bytes, int | None]:
        """The body of an answer and, where tensors follow it, the length of its JSON part."""
        names = request.requested or answer.names
        described: list[dict[str, Any]] = []
        tail: list[bytes] = []
        for name in names:
            if name not in answer.names:
                raise WrongInput("outputs", f"some of {', '.join(answer.names)}", "another name")
            array = answer.array(name)
            kind = binary.name_of(array.dtype)
            output: dict[str, Any] = {"name": name, "datatype": kind, "shape": array.shape}
            if request.binary.get(name, request.binary_output):
                data = binary.encode(array)
                output["parameters"] = {"binary_data_size": len(data)}
                tail.append(data)
            else:
                _check_half(name, array, request)
                flat = json.flatten(answer.values(name), array.ndim)
                output["data"] = _plain(flat) if kind == "BYTES" else flat
            described.append(output)
        told: dict[str, Any] = {"model_name": self._model, "model_version": self._version}
        if request.id is None:
            told["id"] = answer.id
        else:
            told["id"] = request.id
            told["parameters"] = {"prediction_id": answer.id}
        told["outputs"] = described
        head = json.dumps(told)
        return (b"".join((head, *tail)), len(head)) if tail else (head, None)

    def _whole(self, body: bytes) -> Request:
        """A request without a JSON part: its body is the one input, whose shape its length tells."""
        if len(self._signature.inputs) != 1:
            raise WrongInput(
                "Inference-Header-Content-Length", "more than 0, as only a model of one input takes "
                "a body of values alone", "0",
            )  # fmt: skip
        if not body:
            raise WrongInput("body", "the values of one tensor", "nothing")
        (field,) = self._signature.inputs
        told = described(field)
        kind, shape = (
            told["datatype"],
            binary.deduced("body", told["datatype"], told["shape"], len(body)),
        )
        if kind == "BYTES":  # one element, without its length before it
            array = binary.texts("body", [body], raw=field.name in self._raw)
        else:
            array = binary.decode("body", kind, binary.size("body", shape), body)
        query = Query(self._held(shape[0]), tensors={field.name: array.reshape(shape)})
        return Request(query, None, None, {}, binary_output=True)

    def _held(self, rows: int) -> int:
        if rows > self._limits.max_rows:
            raise WrongInput("inputs", f"at most {self._limits.max_rows} rows", f"{rows}")
        return rows

    def _tensors(
        self, items: Sequence[_Tensor], tail: memoryview, has_tail: bool
    ) -> dict[str, Array]:
        if not items:
            raise WrongInput("inputs", "a list of tensors", "none")
        tensors: dict[str, Array] = {}
        at = 0
        for position, item in enumerate(items):
            where = f"inputs[{position}]"
            size = _binary_size(where, item.parameters)
            count = binary.size(where, item.shape)
            kind = item.datatype
            if kind != "BYTES" and kind not in binary.DTYPES:
                kinds = ", ".join(binary.DTYPES)
                raise WrongInput(f"{where}.datatype", f"BYTES or one of {kinds}", "another")
            if size is None:
                array = _from_json(where, kind, count, item.data)
            else:
                if item.data is not UNSET:
                    raise WrongInput(where, "data or binary_data_size", "both")
                if not has_tail:
                    raise WrongInput(
                        "Inference-Header-Content-Length", "the length of the JSON part", "none"
                    )
                if at + size > len(tail):
                    raise WrongInput(
                        f"{where}.parameters.binary_data_size",
                        f"at most the {len(tail) - at} bytes that follow", f"{size}",
                    )  # fmt: skip
                part = tail[at : at + size]
                array = binary.decode(where, kind, count, part, raw=item.name in self._raw)
                at += size
            if item.name in tensors:
                raise WrongInput(f"{where}.name", "different names", "one name twice")
            tensors[item.name] = array.reshape(item.shape)
        if at != len(tail):
            raise WrongInput("body", f"{at} bytes behind the JSON part", f"{len(tail)}")
        return tensors

    def _parameters(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
        """The model's own parameters, and the client's deadline."""
        params = {name: value for name, value in given.items() if name in self._params}
        for name in given:
            if name not in self._params and name not in _RESERVED and name[:7] != "triton_":
                known = ", ".join(sorted(self._params)) or "none (this model takes no parameters)"
                raise WrongInput("parameters", known, "another parameter")
        timeout = given.get("timeout")
        if timeout is None or "timeout" in self._params:
            return params, None
        if type(timeout) is not int or timeout < 0:
            raise WrongInput("parameters.timeout", "microseconds", "something else")
        return params, min(timeout, 10**12) / 1e6 or None  # 0: no deadline, as in Triton


def _document(value: Any) -> _Document:
    """A document that the typed decoder refused: what is wrong, or it was a bare NaN."""
    if not isinstance(value, dict):
        raise WrongInput("body", "an object with inputs", "no object")
    if value.keys() - _FIELDS:
        raise WrongInput("body", "id, parameters, inputs and outputs alone", "other fields")
    for name in ("id", "model_name", "model_version"):
        if not isinstance(value.get(name), str | _NONE):
            raise WrongInput(name, "a text", "something else")
    inputs, outputs = value.get("inputs"), value.get("outputs")
    if not isinstance(inputs, list) or not inputs:
        raise WrongInput("inputs", "a list of tensors", "none")
    if not isinstance(outputs, list | _NONE):
        raise WrongInput("outputs", "a list of objects with a name", "something else")
    return _Document(
        [_tensor(f"inputs[{position}]", item) for position, item in enumerate(inputs)],
        value.get("id"),
        _object("parameters", value.get("parameters")),
        [_output(f"outputs[{position}]", item) for position, item in enumerate(outputs or ())],
    )


def _tensor(where: str, item: Any) -> _Tensor:
    if not isinstance(item, dict):
        raise WrongInput(where, "an object", "something else")
    if item.keys() - _TENSOR_FIELDS:
        raise WrongInput(where, f"{', '.join(sorted(_TENSOR_FIELDS))} alone", "other fields")
    name, shape, kind = item.get("name"), item.get("shape"), item.get("datatype")
    if not isinstance(name, str):
        raise WrongInput(f"{where}.name", "a text", "none")
    if not isinstance(shape, list):
        raise WrongInput(f"{where}.shape", "a list of lengths", "something else")
    if not isinstance(kind, str):
        raise WrongInput(f"{where}.datatype", "a text", "none")
    data = item.get("data", UNSET)
    if data is not UNSET and not isinstance(data, list):
        raise WrongInput(f"{where}.data", "a list", "something else")
    return _Tensor(name, shape, kind, data, _object(f"{where}.parameters", item.get("parameters")))


def _output(where: str, item: Any) -> WantedOutput:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise WrongInput(where, "an object with a name", "something else")
    if item.keys() - {"name", "parameters"}:
        raise WrongInput(where, "name and parameters alone", "other fields")
    return WantedOutput(item["name"], _object(f"{where}.parameters", item.get("parameters")))


def _object(where: str, value: Any) -> dict[str, Any] | None:
    if value is None or isinstance(value, dict):
        return value
    raise WrongInput(where, "an object", "something else")


def _flag(where: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise WrongInput(where, "true or false", "something else")


def _binary_size(where: str, parameters: Mapping[str, Any] | None) -> int | None:
    if not parameters:
        return None
    refuse_shared_memory(where, parameters)
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise WrongInput(f"{where}.parameters.binary_data_size", "a length", "something else")
    return size


def refuse_shared_memory(where: str, parameters: Mapping[str, Any]) -> None:
    """Triton's other way to hand tensors over, which reaches into another process: WrongInput."""
    if any(name in parameters for name in _REFUSED):
        raise WrongInput(f"{where}.parameters", "data in the body", "shared memory")


def requested_of(items: Sequence[WantedOutput]) -> tuple[tuple[str, ...] | None, dict[str, bool]]:
    """The names of the requested outputs (None: all), and whether each is wanted as binary."""
    names: list[str] = []
    wanted: dict[str, bool] = {}
    for position, item in enumerate(items):
        where = f"outputs[{position}]"
        if item.name in names:
            raise WrongInput(f"{where}.name", "different names", "one name twice")
        names.append(item.name)
        parameters = item.parameters or {}
        refuse_shared_memory(where, parameters)
        if parameters.get("classification"):
            raise WrongInput(f"{where}.parameters", "an output as it is", "classification")
        if "binary_data" in parameters:
            wanted[item.name] = _flag(f"{where}.parameters.binary_data", parameters["binary_data"])
    return (tuple(names) or None), wanted


def _check_half(name: str, array: Array, request: Request) -> None:
    if array.dtype == np.float16 and not request.binary.get(name, request.binary_output):
        raise WrongInput(
            f"outputs.{name}", "binary_data: true, as FP16 has no JSON", "a request for JSON"
        )


def _from_json(where: str, kind: str, count: int, data: Any) -> Array:
    if data is UNSET:
        raise WrongInput(f"{where}.data", "a list", "none")
    _, flat, found = nested.leaves(f"{where}.data", data)
    if len(flat) != count:
        raise WrongInput(f"{where}.data", f"{count} values for its shape", f"{len(flat)}")
    if kind == "BYTES":
        return _objects(where, kind, flat, found <= {str, _NONE})
    if kind == "FP16":
        raise WrongInput(f"{where}.data", "FP16 as binary data", "JSON, which has no FP16")
    target = binary.DTYPES[kind]
    if not flat or (target.kind == "b" and found == {bool}):
        return np.array(flat, dtype=target)
    if target.kind == "b":
        return _objects(where, kind, flat, found <= {bool, _NONE})
    if target.kind != "f" and found != {int}:
        # The signature decides on missing integers.
        return _objects(where, kind, flat, found <= {int, _NONE})
    if not found <= {int, float, _NONE}:
        raise WrongInput(f"{where}.data", f"values of {kind}", "other values")
    try:
        if target.kind in "iu":
            info = np.iinfo(target)
            if min(flat) < info.min or max(flat) > info.max:
                raise OverflowError
        if target.itemsize == 8:
            return np.array(flat, dtype=target)
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=target)
    except OverflowError:
        raise WrongInput(
            f"{where}.data", f"values of {kind}", "a number beyond its range"
        ) from None


def _objects(where: str, kind: str, flat: list[Any], fits: bool) -> Array:
    if not fits:
        raise WrongInput(f"{where}.data", f"values of {kind}", "other values")
    return nested.objects(flat)


def _plain(flat: list[Any]) -> list[str | None]:
    """Values of BYTES in JSON: texts; a missing one is null."""
    return [value if value is None or type(value) is str else binary.as_text(value)
            for value in flat]  # fmt: skip


def encode_error(message: str) -> bytes:
    """The body of an error."""
    return json.dumps({"error": message})


def metadata(
    signature: Signature, *, model: str, version: str, platform: str, outputs: Mapping[str, Array]
) -> dict[str, Any]:
    """The model's metadata; `outputs` of the warm-up say what the signature does not."""
    known = [
        {"name": name, "datatype": binary.name_of(array.dtype), "shape": [-1, *array.shape[1:]]}
        for name, array in outputs.items()
    ]
    return {
        "name": model, "versions": [version], "platform": platform,
        "inputs": [described(field) for field in signature.inputs],
        "outputs": known or [described(field) for field in signature.outputs],
    }  # fmt: skip


def described(field: Field) -> dict[str, Any]:
    """An input or output of the signature in the protocol's words."""
    if field.tensor:
        try:
            kind = binary.name_of(np.dtype(field.dtype or "float64"))
        except TypeError:  # a dtype of another library
            kind = "BYTES"
        return {"name": field.name, "datatype": kind, "shape": list(field.shape or (-1,))}
    kind = _COLUMN_TYPES.get(field.type, "BYTES")
    return {"name": field.name, "datatype": kind, "shape": [-1]}


def server(version: str) -> dict[str, Any]:
    """The server's metadata."""
    return {"name": "treadle", "version": version, "extensions": list(EXTENSIONS)}


def index(body: bytes, *, model: str, version: str, ready: bool) -> list[dict[str, str]]:
    """The answer to `POST /v2/repository/index`. WrongInput."""
    document = json.loads(body) if body.strip() else {}
    if not isinstance(document, dict) or document.keys() - {"ready", "repository_name"}:
        raise WrongInput("body", "an object with ready alone", "something else")
    if _flag("ready", document.get("ready", False)) and not ready:
        return []
    state, reason = ("READY", "") if ready else ("UNAVAILABLE", "it is not ready yet")
    return [{"name": model, "version": version, "state": state, "reason": reason}]
