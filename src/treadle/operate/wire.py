"""The messages of the Open Inference protocol over gRPC, made here from its names and numbers.

No generated code: a `.proto` compiler at build time, or its output in the tree, would be one more
thing to keep equal to the protocol; the numbers below are the protocol. Sources: the Open Inference
specification (kserve/open-inference-protocol, `inference_grpc.md`) and Triton's two further kinds of
parameter. A test compares them with the stubs that tritonclient and KServe ship.

The pool is our own: a process that has also loaded one of those stubs sees no conflict.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"

_TENSOR = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "int64[]")}
_TENSOR_WITH_CONTENTS = {
    **_TENSOR, "parameters": (4, "InferParameter{}"), "contents": (5, "InferTensorContents"),
}  # fmt: skip
_NAMED = {"name": (1, "string"), "version": (2, "string")}

MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_NAMED, "extensions": (3, "string[]")},
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": {
        "name": (1, "string"), "versions": (2, "string[]"), "platform": (3, "string"),
        "inputs": (4, "ModelMetadataResponse.TensorMetadata[]"),
        "outputs": (5, "ModelMetadataResponse.TensorMetadata[]"),
    },
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": {
        "bool_param": (1, "bool|"), "int64_param": (2, "int64|"), "string_param": (3, "string|"),
        "double_param": (4, "double|"), "uint64_param": (5, "uint64|"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "bool[]"), "int_contents": (2, "int32[]"),
        "int64_contents": (3, "int64[]"), "uint_contents": (4, "uint32[]"),
        "uint64_contents": (5, "uint64[]"), "fp32_contents": (6, "float[]"),
        "fp64_contents": (7, "double[]"), "bytes_contents": (8, "bytes[]"),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"), "model_version": (2, "string"), "id": (3, "string"),
        "parameters": (4, "InferParameter{}"),
        "inputs": (5, "ModelInferRequest.InferInputTensor[]"),
        "outputs": (6, "ModelInferRequest.InferRequestedOutputTensor[]"),
        "raw_input_contents": (7, "bytes[]"),
    },
    "ModelInferRequest.InferInputTensor": _TENSOR_WITH_CONTENTS,
    "ModelInferRequest.InferRequestedOutputTensor": {
        "name": (1, "string"), "parameters": (2, "InferParameter{}"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"), "model_version": (2, "string"), "id": (3, "string"),
        "parameters": (4, "InferParameter{}"),
        "outputs": (5, "ModelInferResponse.InferOutputTensor[]"),
        "raw_output_contents": (6, "bytes[]"),
    },
    "ModelInferResponse.InferOutputTensor": _TENSOR_WITH_CONTENTS,
    "RepositoryIndexRequest": {"repository_name": (1, "string"), "ready": (2, "bool")},
    "RepositoryIndexResponse": {"models": (1, "RepositoryIndexResponse.ModelIndex[]")},
    "RepositoryIndexResponse.ModelIndex": {
        "name": (1, "string"), "version": (2, "string"), "state": (3, "string"),
        "reason": (4, "string"),
    },
}  # fmt: skip
"""Message → field → number and type: `[]` repeated, `{}` a map from texts, `|` one of a choice."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: dict[str, Any] = {
    "bool": _Field.TYPE_BOOL, "string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32, "int64": _Field.TYPE_INT64, "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64, "float": _Field.TYPE_FLOAT, "double": _Field.TYPE_DOUBLE,
}  # fmt: skip


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="treadle/inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
        for field, (number, kind) in fields.items():
            _add(made[name], name, field, number, kind)
    return file


def _add(message: Any, owner: str, field: str, number: int, kind: str) -> None:
    bare = kind.rstrip("[]{}|")
    added = message.field.add(name=field, number=number)
    added.label = _Field.LABEL_REPEATED if kind.endswith(("[]", "{}")) else _Field.LABEL_OPTIONAL
    if kind.endswith("{}"):  # a map is a repeated message of keys and values
        entry = message.nested_type.add(name=f"{field.capitalize()}Entry")
        entry.options.map_entry = True
        _add(entry, f"{owner}.{entry.name}", "key", 1, "string")
        _add(entry, f"{owner}.{entry.name}", "value", 2, bare)
        bare = f"{owner}.{entry.name}"
    if bare in _SCALARS:
        added.type = _SCALARS[bare]
    else:
        added.type, added.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{bare}"
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        added.oneof_index = 0


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_file().SerializeToString())


@functools.cache
def message(name: str) -> Any:
    """The class of a message, by its name in the protocol."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
