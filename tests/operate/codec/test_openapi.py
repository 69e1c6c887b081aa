"""The OpenAPI document says what the codecs do: bodies that fit it decode, answers fit it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tests.operate.codec import tables
from tests.operate.codec.tables import Table

from treadle.operate.codec import json as codec_json
from treadle.operate.codec import mlflow, openapi, v1, v2
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Parameter, Signature
from treadle.operate.query import Answer, Outputs

jsonschema = pytest.importorskip("jsonschema")
SIGNATURES = [
    Signature((Field("s", "string"), Field("i", "integer", False), Field("t", "datetime"),
               Field("x", "any"), Field("b", "binary"), Field("f", "boolean"))),
    Signature((Field("x", "tensor", True, "float32", (-1, 2)),)),
    Signature((Field("x", "tensor", True, "int64", (-1,)), Field("y", "tensor", True, "str", (-1, 2))),
              params=("top", "old"), parameters=(Parameter("top", "long", 3),)),
    Signature(),
]  # fmt: skip
OUTPUTS = {"label": np.array([1]), "scores": np.array([[0.5, np.nan]]), "o": np.array([None])}


def document(signature: Signature, outputs: Any = OUTPUTS, **more: Any) -> dict[str, Any]:
    made = openapi.document(signature, outputs, model="m", version="3", **more)
    read: dict[str, Any] = json.loads(codec_json.dumps(made))
    return read


def fits(told: dict[str, Any], name: str, value: Any) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": told["components"]}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@pytest.mark.parametrize("signature", SIGNATURES)
def test_every_endpoint_is_there_with_its_statuses(signature: Signature) -> None:
    paths = document(signature)["paths"]
    for path in ("/invocations", "/v2/models/m/infer", "/v2/models/m/versions/3/infer",
                 "/v1/models/m:predict"):  # fmt: skip
        statuses = set(paths[path]["post"]["responses"])
        assert statuses >= {"200", "400", "404", "405", "413", "415", "500", "503", "504"}
    for path in ("/", "/ping", "/health", "/version", "/metrics", "/openapi.json", "/v2",
                 "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/m",
                 "/v2/models/m/ready", "/v2/models/m/versions/3", "/v2/models/m/versions/3/ready",
                 "/v1/models", "/v1/models/m"):  # fmt: skip
        assert {"200", "405", "503"} <= set(paths[path]["get"]["responses"])
    assert "post" in paths["/v2/repository/index"]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_every_reference_leads_somewhere_and_every_schema_is_one(signature: Signature) -> None:
    told = document(signature)
    schemas = told["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)

    def references(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(references, value))
        if isinstance(value, dict):
            found = {value["$ref"]} if "$ref" in value else set()
            return found.union(*map(references, value.values()))
        return set()

    assert references(told) <= {f"#/components/schemas/{name}" for name in schemas}
    names = [o["operationId"] for p in told["paths"].values() for o in p.values()]
    assert len(names) == len(set(names))


@given(tables.tables())
@settings(max_examples=25, deadline=None)
def test_the_forms_that_clients_send_fit_the_schema(table: Table) -> None:
    told = document(table.signature)
    for form, body in tables.json_forms(table).items():
        text = json.dumps(body)
        if "NaN" in text or "Infinity" in text or "turned" in form or "without" in form:
            continue  # JSON has no NaN; the schema shows the signature's own order
        assert fits(told, "Scoring", body), form
        assert fits(told, "PredictV1", body) == bool(body.keys() & {"inputs", "instances"})
    body, _ = tables.v2_body(table, binary=False, nested=False)
    if b"NaN" not in body and b"Infinity" not in body:
        assert fits(told, "InferenceRequest", json.loads(body))


@pytest.mark.parametrize("body", [{}, {"inputs": [], "instances": []}, {"dataframe_split": {}},
                                  {"inputs": [[1]], "more": 1}, []])  # fmt: skip
def test_what_the_codecs_refuse_does_not_fit(body: Any) -> None:
    for signature in SIGNATURES:
        assert not fits(document(signature), "Scoring", body)


def test_answers_fit_the_schema() -> None:
    told = document(SIGNATURES[0])
    answer = Answer("id", Outputs(OUTPUTS), 0, 1, 0.0)
    scoring = mlflow.Scoring(SIGNATURES[0], Limits())
    assert fits(told, "Predictions", json.loads(scoring.encode(answer)))
    codec = v2.Inference(SIGNATURES[0], Limits(), model="m", version="3")
    item = {"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}
    for more in ({}, {"id": "7"}, {"outputs": [{"name": "scores"}]}):
        request = codec.decode(json.dumps({"inputs": [item], **more}).encode())
        assert fits(told, "Inference", json.loads(codec.encode(answer, request)[0]))
    metadata = v2.metadata(SIGNATURES[0], model="m", version="3", platform="p", outputs=OUTPUTS)
    assert fits(told, "Model", metadata)
    assert fits(told, "Server", v2.server("1"))
    assert fits(told, "Index", v2.index(b"", model="m", version="3", ready=False))
    assert fits(told, "Error", json.loads(v1.encode_error("x")))
    assert fits(told, "Error", json.loads(v2.encode_error("x")))
    assert fits(told, "ScoringError", json.loads(mlflow.encode_error("BAD_REQUEST", "x")))


def test_the_input_example_is_shown_where_it_fits() -> None:
    body = b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}'
    signature = Signature((Field("a", "double"),))
    told = document(signature, example=body)
    shown = told["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]
    assert shown["example"] == json.loads(body) and fits(told, "Scoring", shown["example"])
    for broken in (None, b"{", b"[" * 50, b" " * 200_000 + b"{}"):
        told = document(signature, example=broken)
        shown = told["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]
        assert "example" not in shown
