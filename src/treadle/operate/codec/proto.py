"""The Open Inference protocol in gRPC's messages: requests to queries, answers to responses.

A tensor comes raw (little-endian bytes, as in the binary extension of REST) or typed (in the field
of its datatype), one way for all tensors of a request. The answer takes the same way; FP16 has no
typed field, so an FP16 output makes the whole answer raw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from treadle.operate import wire
from treadle.operate.codec import binary, v2
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Signature, WrongInput
from treadle.operate.query import Answer, Query

Array = np.ndarray[Any, Any]

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Datatype → its field of `InferTensorContents`."""
SERVICE = wire.SERVICE
message = wire.message


def parsed(name: str, body: bytes) -> Any:
    """A message of the protocol. WrongInput where the bytes are none."""
    try:
        return wire.message(name).FromString(body)
    except DecodeError:
        raise WrongInput("message", f"a {name}", "other bytes") from None


class Inference:
    """The codec of one model: that of REST, but for how tensors travel."""

    def __init__(self, signature: Signature, limits: Limits, *, model: str, version: str) -> None:
        self._rest = v2.Inference(signature, limits, model=model, version=version)
        self._limits, self._model, self._version = limits, model, version

    def decode(self, request: Any) -> v2.Request:
        """What a ModelInferRequest asks; `binary_output` means raw here. WrongInput."""
        raws = request.raw_input_contents
        if not request.inputs:
            raise WrongInput("inputs", "one tensor or more", "none")
        if raws and len(raws) != len(request.inputs):
            raise WrongInput(
                "raw_input_contents", f"{len(request.inputs)} of them, one an input", f"{len(raws)}"
            )
        tensors: dict[str, Array] = {}
        for position, item in enumerate(request.inputs):
            where = f"inputs[{position}]"
            if item.name in tensors:
                raise WrongInput(f"{where}.name", "different names", "one name twice")
            if raws and item.HasField("contents"):
                raise WrongInput(where, "contents or raw_input_contents", "both")
            raw = raws[position] if raws else None
            tensors[item.name] = self._tensor(where, item, raw)
        lengths = {array.shape[0] for array in tensors.values()}
        if len(lengths) > 1:
            raise WrongInput("inputs", "tensors of equal first dimension", "different ones")
        rows = lengths.pop()
        if rows > self._limits.max_rows:
            raise WrongInput("inputs", f"at most {self._limits.max_rows} rows", f"{rows}")
        params, deadline_s = self._rest._parameters(_plain(request.parameters))
        requested, _ = v2.requested_of(
            [v2.WantedOutput(item.name, _plain(item.parameters)) for item in request.outputs]
        )
        return v2.Request(Query(rows, tensors=tensors, params=params), request.id or None,
                          requested, {}, bool(raws), deadline_s)  # fmt: skip

    def check(self, request: v2.Request, outputs: Mapping[str, Any]) -> None:
        """WrongInput where an output is asked for that the model has not, before it is called."""
        self._rest.check(request._replace(binary_output=True), outputs)  # FP16 is no obstacle here

    def encode(self, answer: Answer, request: v2.Request) -> Any:
        """The ModelInferResponse."""
        names = request.requested or answer.names
        self.check(request, dict.fromkeys(answer.names))
        response = wire.message("ModelInferResponse")(
            model_name=self._model, model_version=self._version, id=request.id or answer.id
        )
        response.parameters["prediction_id"].string_param = answer.id
        response.parameters["model_version"].string_param = self._version
        arrays = [answer.array(name) for name in names]
        kinds = [binary.name_of(array.dtype) for array in arrays]
        raw = request.binary_output or "FP16" in kinds
        for name, kind, array in zip(names, kinds, arrays, strict=True):
            output = response.outputs.add(name=name, datatype=kind, shape=array.shape)
            if raw:
                response.raw_output_contents.append(binary.encode(array))
            else:
                flat = binary.elements_of(array) if kind == "BYTES" else array.ravel().tolist()
                getattr(output.contents, _CONTENTS[kind]).extend(flat)
        return response

    def _tensor(self, where: str, item: Any, raw: bytes | None) -> Array:
        kind, shape = item.datatype, tuple(item.shape)
        if kind != "BYTES" and kind not in binary.DTYPES:
            known = ", ".join(binary.DTYPES)
            raise WrongInput(f"{where}.datatype", f"BYTES or one of {known}", "another")
        v2.refuse_shared_memory(where, item.parameters)
        size = binary.size(where, shape)
        as_bytes = item.name in self._rest._raw
        if raw is not None:
            flat = binary.decode(where, kind, size, raw, raw=as_bytes)
        else:
            flat = _typed(where, kind, size, item.contents, raw=as_bytes)
        return flat.reshape(shape)


def _plain(parameters: Any) -> dict[str, Any]:
    """Parameters as plain values; one that says nothing is None."""
    return {
        name: getattr(value, chosen) if (chosen := value.WhichOneof("parameter_choice")) else None
        for name, value in parameters.items()
    }


def _typed(where: str, kind: str, size: int, contents: Any, *, raw: bool) -> Array:
    """A flat array of the one field that belongs to the datatype."""
    if kind == "FP16":
        raise WrongInput(where, "FP16 in raw_input_contents", "typed contents, which have no FP16")
    wanted = _CONTENTS[kind]
    others = [field.name for field, _ in contents.ListFields() if field.name != wanted]
    if others:
        raise WrongInput(f"{where}.contents", f"{kind} in {wanted}", others[0])
    values = getattr(contents, wanted)
    if len(values) != size:
        raise WrongInput(f"{where}.contents", f"{size} values for its shape", f"{len(values)}")
    if kind == "BYTES":
        return binary.texts(where, list(values), raw=raw)
    dtype = binary.DTYPES[kind]
    if dtype.kind in "iu" and dtype.itemsize < 4 and size:  # it travels in 32 bits
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if min(values) < low or max(values) > high:
            raise WrongInput(f"{where}.contents", f"values of {kind}", "a number beyond its range")
    return np.array(values, dtype=dtype)
