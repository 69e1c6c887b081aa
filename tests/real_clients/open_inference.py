"""The Open Inference protocol V2 over REST as an OpenAPI description, in our own words.

It is written from the protocol's text (kserve/open-inference-protocol, `inference_rest.md`), not
from our server: what the server serves as /openapi.json is tested besides it.
"""

from __future__ import annotations

from typing import Any

DATATYPES = [
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
    "FP32", "FP64", "BYTES",
]  # fmt: skip
_TEXT = {"type": "string"}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": -1}}


def _object(required: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties, **more}


def _answer(schema: dict[str, Any], words: str = "an answer") -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def document(model: str, version: str) -> dict[str, Any]:
    """The description of a server that has one model in one version."""
    parameters = {"type": "object"}
    tensor = _object(
        "name shape datatype data",
        {
            "name": _TEXT,
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 100}},
            "datatype": {"enum": DATATYPES},
            "parameters": {"type": ["object", "null"], "maxProperties": 0},
            "data": {"type": "array"},
        },
    )
    answered = _object(
        "name shape datatype data",
        {
            "name": _TEXT, "shape": _SHAPE, "datatype": {"enum": DATATYPES},
            "parameters": parameters, "data": {"type": "array"},
        },
    )  # fmt: skip
    described = _object(
        "name datatype shape", {"name": _TEXT, "datatype": {"enum": DATATYPES}, "shape": _SHAPE}
    )
    schemas = {
        "Error": _object("error", {"error": _TEXT}),
        "Server": _object(
            "name version extensions",
            {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}},
        ),
        "Model": _object(
            "name platform inputs outputs",
            {
                "name": {"const": model}, "platform": _TEXT,
                "versions": {"type": "array", "items": {"const": version}},
                "inputs": {"type": "array", "items": described},
                "outputs": {"type": "array", "items": described},
            },
        ),
        "Request": _object(
            "inputs",
            {
                # `null` stands for what is not given: clients made with pydantic write it.
                "id": {"type": ["string", "null"]},
                "parameters": {"type": ["object", "null"], "maxProperties": 0},
                "inputs": {"type": "array", "items": tensor, "minItems": 1},
                "outputs": {
                    "type": ["array", "null"],
                    "items": _object("name", {"name": _TEXT}, additionalProperties=False),
                },
            },
        ),
        "Response": _object(
            "model_name outputs",
            {
                "model_name": {"const": model}, "model_version": {"const": version}, "id": _TEXT,
                "parameters": parameters, "outputs": {"type": "array", "items": answered},
            },
        ),
        "Live": _object("live", {"live": {"const": True}}),
        "Ready": _object("ready", {"ready": {"const": True}}),
    }  # fmt: skip
    refused = {str(code): _answer(_reference("Error"), "an error") for code in (400, 404, 413, 415)}
    base, one = f"/v2/models/{model}", f"/v2/models/{model}/versions/{version}"
    # An example that the model takes, so that a right request is among those that are sent.
    example = {
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}]
    }
    asked = {"required": True, "content": {
        "application/json": {"schema": _reference("Request"), "example": example}
    }}  # fmt: skip

    def get(name: str) -> dict[str, Any]:
        return {"get": {"responses": {"200": _answer(_reference(name))}}}

    infer = {"post": {
        "requestBody": asked, "responses": {"200": _answer(_reference("Response")), **refused},
    }}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "Open Inference protocol V2", "version": "2"},
        "paths": {
            "/v2": get("Server"),
            "/v2/health/live": get("Live"),
            "/v2/health/ready": get("Ready"),
            base: get("Model"), one: get("Model"),
            f"{base}/ready": get("Ready"), f"{one}/ready": get("Ready"),
            f"{base}/infer": infer, f"{one}/infer": infer,
        },
        "components": {"schemas": schemas},
    }  # fmt: skip
