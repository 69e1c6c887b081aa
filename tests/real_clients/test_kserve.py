"""KServe's own clients against a real server: V1 and V2 over REST, V2 over gRPC."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.real_clients import models
from tests.real_clients.conftest import Client, Served
from tests.real_clients.exchange import packed, unpacked
from tests.real_clients.test_triton import every_type

pytestmark = pytest.mark.slow
V2 = ["v2", "grpc"]
X = np.array([[1, 2, 3], [-0.5, 1e-3, 7.25]], dtype=np.float32)


def ask(client: Client, served: Served, over: str, *steps: dict[str, Any]) -> list[Any]:
    port = served.grpc_port if over == "grpc" else served.port
    return client("kserve_client", over=over, port=port, steps=list(steps))


@pytest.mark.parametrize("over", ["v1", *V2])
def test_it_is_live_and_ready(client: Client, linear: Served, over: str) -> None:
    told = ask(client, linear, over, {"do": "health"})[0]
    assert set(told.values()) == {True}


def test_v1_rows_as_lists(client: Client, linear: Served) -> None:
    told = ask(client, linear, "v1", {"do": "infer", "body": {"instances": X.tolist()}})[0]
    total = (X @ models.WEIGHTS)[:, 0]
    rows = told["answer"]["predictions"]
    np.testing.assert_allclose([row["total"] for row in rows], total, rtol=1e-6)
    assert np.array([row["double"] for row in rows], np.float32).tolist() == (X + X).tolist()
    assert told["headers"]["x-prediction-id"].startswith("local.7.abc.")


def test_v1_rows_with_names_are_what_the_model_itself_says(
    client: Client, columns: Served, pipeline: Any
) -> None:
    frame = models.frame(40, seed=1)
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    told = ask(client, columns, "v1", {"do": "infer", "body": {"instances": rows}})[0]
    assert told["answer"]["predictions"] == pipeline.predict_proba(frame).tolist()


def test_v1_errors_have_its_shape(client: Client, linear: Served) -> None:
    told = ask(client, linear, "v1", {"do": "infer", "body": {"instances": [[1, 2]]}})[0]
    assert told["status"] == 400 and list(told["body"]) == ["error"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("over", V2)
def test_v2_is_answered_bit_for_bit(
    client: Client, linear: Served, over: str, binary: bool
) -> None:
    step = {"do": "infer", "inputs": {"x": packed(X)}, "binary": binary, "request_id": "mine"}
    told = ask(client, linear, over, step)[0]
    # Its REST client reads no version from the answer.
    assert (told["model"], told["id"]) == ("demo", "mine")
    assert told["version"] == ("7" if over == "grpc" else None)
    double = unpacked(told["outputs"]["double"])
    assert double.dtype == np.float32
    np.testing.assert_array_equal(double, X + X)
    if over == "grpc":
        assert told["parameters"]["prediction_id"].startswith("local.7.abc.")


@pytest.mark.parametrize("over", V2)
def test_requested_outputs(client: Client, linear: Served, over: str) -> None:
    told = ask(
        client, linear, over, {"do": "infer", "inputs": {"x": packed(X)}, "outputs": ["total"]}
    )
    assert told[0]["order"] == ["total"]


@pytest.mark.parametrize("over", V2)
def test_every_type_goes_there_in_binary(client: Client, echo: Served, over: str) -> None:
    sent = every_type()
    # KServe's decoder makes texts of whatever bytes there are; an empty one ends its loop early.
    sent["text"]["values"] = ["a", "日本 ✈ \U0001f680", "z"]
    if over == "v2":  # without `binary_data` asked for, answers are JSON, which FP16 has no form in
        sent_outputs = [f"{name}_back" for name in sent if name != "f16"]
    else:
        sent_outputs = [f"{name}_back" for name in sent]
    told = ask(
        client, echo, over, {"do": "infer", "inputs": sent, "outputs": sent_outputs}
    )[0]  # fmt: skip
    assert {name.removesuffix("_back"): array for name, array in told["outputs"].items()} == {
        name: array for name, array in sent.items() if f"{name}_back" in sent_outputs
    }


@pytest.mark.parametrize("over", V2)
def test_a_wrong_request_is_told_in_words(client: Client, linear: Served, over: str) -> None:
    wide = packed(np.zeros((1, 4), dtype=np.float32))
    told = ask(client, linear, over, {"do": "infer", "inputs": {"x": wide}})[0]
    assert told["status"] in (400, "INVALID_ARGUMENT") and "x" in told["message"]
