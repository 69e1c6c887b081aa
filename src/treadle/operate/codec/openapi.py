"""The OpenAPI 3.1 document of one model's server, made from its signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from treadle import __version__
from treadle.operate.codec import json, schema
from treadle.operate.codec.schema import Schema
from treadle.operate.model.signature import Signature, WrongInput

Array = np.ndarray[Any, Any]

_JSON = "application/json"
_ERRORS = {
    400: "the input is wrong: the field, what was expected and what came",
    401: "a bearer token is needed (where the server has one)",
    404: "there is nothing at this path",
    405: "another method is needed: see the header Allow",
    408: "the request did not arrive in time",
    413: "the body is too large",
    415: "the content type is not known",
    431: "the head is too large",
    500: "the model or the server failed; the log has the request's id",
    503: "not ready, or too many requests wait: see Retry-After",
    504: "the deadline passed",
}


def document(
    signature: Signature,
    outputs: Mapping[str, Array],
    *,
    model: str,
    version: str,
    example: bytes | None = None,
) -> dict[str, Any]:
    """The document as a plain value.

    `outputs`: arrays of the warm-up, which say what the signature does not; `example`: a body for
    `/invocations`.
    """
    given = _example(example)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Model {model}", "version": version,
            "description": "Predictions by MLflow's scoring protocol, Open Inference V2 (with "
            "binary tensors) and KServe's V1. NaN and infinities are null in JSON answers.",
        },
        "security": [{}, {"token": []}],
        "paths": {
            **_scoring(given), **_open_inference(model, version), **_kserve(model, given),
            **_operating(),
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(signature, outputs, model, version),
        },
        "x-treadle": __version__,
    }  # fmt: skip


def _example(body: bytes | None) -> Any:
    if body is None or len(body) > 100_000:
        return None
    try:
        return json.loads(body)
    except WrongInput:
        return None


# ---- paths ---------------------------------------------------------------------------------------


def _scoring(example: Any) -> dict[str, Any]:
    forms = {
        _JSON: _content(_ref("Scoring"), example),
        "text/csv": {"schema": {"type": "string", "description": "with a header line"}},
    }
    return {
        "/invocations": {"post": _predicting("Predict (MLflow)", forms, "Predictions", "MLflow")},
    }


def _open_inference(model: str, version: str) -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/v2": _looking("Server metadata", "Server", "Open Inference"),
        "/v2/health/live": _looking("Server alive", "Live", "Open Inference"),
        "/v2/health/ready": _looking("Server ready", "Ready", "Open Inference", _ref("Ready")),
        "/v2/models": _looking("Models", "Models", "Open Inference"),
        "/v2/repository/index": {"post": {
            **_looking("Models and their states", "Index", "Open Inference")["get"],
            "operationId": "repositoryIndex",
            "requestBody": {"content": {_JSON: _content({
                "type": "object", "additionalProperties": False,
                "properties": {"ready": {"type": "boolean"}},
            })}},
        }},
    }  # fmt: skip
    header = {
        "name": "Inference-Header-Content-Length", "in": "header", "required": False,
        "schema": {"type": "integer", "minimum": 0},
        "description": "the length of the JSON part, where binary tensors follow it; "
                       "0: the body is the values of the model's one input",
    }  # fmt: skip
    for path in (f"/v2/models/{model}", f"/v2/models/{model}/versions/{version}"):
        of = " of the version" if path.endswith(f"/versions/{version}") else ""
        paths[path] = _looking(f"Model metadata{of}", "Model", "Open Inference")
        paths[f"{path}/ready"] = _looking(
            f"Model ready{of}", "ModelReady", "Open Inference", _ref("ModelReady")
        )
        binary = {"schema": {"type": "string", "contentEncoding": "binary"}}
        forms = {_JSON: _content(_ref("InferenceRequest")), "application/octet-stream": binary}
        infer = _predicting(f"Predict{of} (Open Inference)", forms, "Inference", "Open Inference")
        infer["responses"]["200"]["content"]["application/octet-stream"] = binary
        infer["parameters"] = [*infer["parameters"], header]
        paths[f"{path}/infer"] = {"post": infer}
    return paths


def _kserve(model: str, example: Any) -> dict[str, Any]:
    if not (isinstance(example, dict) and example.keys() <= {"inputs", "instances"}):
        example = None
    forms = {_JSON: _content(_ref("PredictV1"), example)}
    return {
        "/v1/models": _looking("Models", "Models", "KServe V1"),
        f"/v1/models/{model}": _looking(
            "Model ready", "ModelReady", "KServe V1", _ref("ModelReady")
        ),
        f"/v1/models/{model}:predict": {
            "post": _predicting("Predict (KServe V1)", forms, "Predictions", "KServe V1")
        },
    }


def _operating() -> dict[str, Any]:
    text, html = {"text/plain": {"schema": {"type": "string"}}}, {"schema": {"type": "string"}}
    root = _looking("The page for people, or that the server is alive", "Alive", "Operation")
    root["get"]["responses"]["200"]["content"]["text/html"] = html
    paths = {
        "/": root,
        "/version": _looking("What is served", "Version", "Operation"),
        "/openapi.json": _looking("This document", None, "Operation"),
        "/metrics": _looking("Metrics for Prometheus", None, "Operation"),
        "/ping": _looking("Ready (MLflow, SageMaker)", None, "Operation"),
        "/health": _looking("Ready (MLflow)", None, "Operation"),
    }
    for path in ("/metrics", "/ping", "/health"):
        paths[path]["get"]["responses"]["200"]["content"] = text
    for path in ("/ping", "/health"):
        paths[path]["get"]["responses"]["503"] = {"description": _ERRORS[503], "content": text}
    return paths


def _predicting(summary: str, forms: Mapping[str, Any], answer: str, tag: str) -> dict[str, Any]:
    error = "ScoringError" if tag == "MLflow" else "Error"
    return {
        "summary": summary, "tags": [tag], "operationId": _identity(summary),
        "parameters": [{
            "name": "X-Request-Id", "in": "header", "required": False,
            "schema": {"type": "string"},
            "description": "comes back in the answer, and stands in the log of a failure, if it is "
            "1 to 128 of A-Z a-z 0-9 . _ : -; else one is made",
        }],
        "requestBody": {"required": True, "content": dict(forms)},
        "responses": {
            "200": {
                "description": "predictions, one for each row",
                "headers": {
                    "X-Prediction-Id": {
                        "schema": {"type": "string"},
                        "description": "row i of the answer (from 0) has this id and .i",
                    },
                    **_headers(),
                },
                "content": {_JSON: _content(_ref(answer))},
            },
            **_failures(error),
        },
    }  # fmt: skip


def _looking(
    summary: str, answer: str | None, tag: str, not_ready: Schema | None = None
) -> dict[str, Any]:
    schema_of = _ref(answer) if answer else {"type": "object"}
    failures = _failures("Error")
    if not_ready is not None:
        failures["503"] = {"description": "not ready", "content": {_JSON: _content(
            {"anyOf": [not_ready, _ref("Error")]}
        )}}  # fmt: skip
    return {"get": {
        "summary": summary, "tags": [tag], "operationId": _identity(f"{tag} {summary}"),
        "responses": {
            "200": {"description": summary, "content": {_JSON: _content(schema_of)}}, **failures,
        },
    }}  # fmt: skip


def _failures(error: str) -> dict[str, Any]:
    return {
        str(status): {
            "description": words, "headers": _headers(), "content": {_JSON: _content(_ref(error))},
        }
        for status, words in _ERRORS.items()
    }  # fmt: skip


def _headers() -> dict[str, Any]:
    return {
        "X-Request-Id": {"schema": {"type": "string"}},
        "X-Model-Version": {"schema": {"type": "string"}},
    }


def _identity(words: str) -> str:
    kept = "".join(c if c.isalnum() else " " for c in words).split()
    return kept[0].lower() + "".join(word.capitalize() for word in kept[1:])


def _content(content: Schema, example: Any = None) -> dict[str, Any]:
    return {"schema": content} if example is None else {"schema": content, "example": example}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


# ---- schemas -------------------------------------------------------------------------------------


def _closed(properties: dict[str, Any], required: list[str]) -> Schema:
    return {
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": False,
    }  # fmt: skip


def _schemas(
    signature: Signature, outputs: Mapping[str, Array], model: str, version: str
) -> dict[str, Schema]:
    text, flag = {"type": "string"}, {"type": "boolean"}
    params = {"params": schema.params(signature)} if signature.params else {}
    rows = schema.row(signature)
    forms = {
        "dataframe_split": schema.split(signature),
        "dataframe_records": {"type": "array", "items": _ref("Row")},
        "instances": schema.instances(signature),
        "inputs": schema.inputs(signature),
    }
    described = {
        "type": "object", "required": ["name", "datatype", "shape"],
        "properties": {
            "name": text, "datatype": text,
            "shape": {"type": "array", "items": {"type": "integer"}},
        },
    }  # fmt: skip
    tensors = {"type": "array", "items": _ref("Tensor")}
    names = schema.tensor_names(signature, outputs)
    output_name = {"type": "string", "enum": names} if names else text
    return {
        "Row": rows,
        "Scoring": {"oneOf": [_closed({n: s, **params}, [n]) for n, s in forms.items()]},
        "PredictV1": {"oneOf": [_closed({n: forms[n]}, [n]) for n in ("instances", "inputs")]},
        "Predictions": _closed({"predictions": schema.predictions(signature, outputs)},
                               ["predictions"]),
        "InferenceRequest": _closed({
            "id": text, "model_name": text, "model_version": text,
            "inputs": schema.tensors(signature),
            "parameters": _request_parameters(signature),
            "outputs": {"type": "array", "items": _closed({
                "name": output_name,
                "parameters": {"type": "object", "properties": {"binary_data": flag}},
            }, ["name"])},
        }, ["inputs"]),
        "Inference": {
            "type": "object", "required": ["model_name", "model_version", "id", "outputs"],
            "properties": {
                "model_name": {"const": model}, "model_version": {"const": version}, "id": text,
                "parameters": {"type": "object"},
                "outputs": {"type": "array", "items": {
                    "type": "object", "required": ["name", "datatype", "shape"],
                    "properties": {
                        **described["properties"],  # type: ignore[dict-item]
                        "parameters": {"type": "object"}, "data": {"type": "array"},
                    },
                }},
            },
        },
        "Tensor": described,
        "Server": _closed({"name": text, "version": text,
                           "extensions": {"type": "array", "items": text}},
                          ["name", "version", "extensions"]),
        "Model": _closed({
            "name": {"const": model}, "versions": {"type": "array", "items": text},
            "platform": text, "inputs": tensors, "outputs": tensors,
        }, ["name", "platform"]),
        "Index": {"type": "array", "items": _closed(
            {"name": text, "version": text, "state": {"enum": ["READY", "UNAVAILABLE"]},
             "reason": text}, ["name", "state"],
        )},
        "Models": _closed({"models": {"type": "array", "items": text}}, ["models"]),
        "Live": _closed({"live": flag}, ["live"]),
        "Ready": _closed({"live": flag, "ready": flag}, ["live", "ready"]),
        "ModelReady": _closed({"name": text, "ready": flag}, ["name", "ready"]),
        "Alive": _closed({"status": {"const": "alive"}}, ["status"]),
        "Version": {"type": "object", "additionalProperties": text},
        "Error": _closed({"error": text}, ["error"]),
        "ScoringError": _closed({"error_code": text, "message": text}, ["error_code", "message"]),
    }  # fmt: skip


def _request_parameters(signature: Signature) -> Schema:
    found = schema.params(signature)
    found["properties"] |= {
        "binary_data_output": {"type": "boolean"},
        "timeout": {"type": "integer", "minimum": 0, "description": "microseconds"},
    }
    return found
