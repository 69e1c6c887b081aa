"""NVIDIA's tritonclient against a real server, over HTTP and gRPC, every answer checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.real_clients import models
from tests.real_clients.conftest import HAS_GRPC, Client, Serve, Served
from tests.real_clients.exchange import packed, unpacked

pytestmark = pytest.mark.slow
OVER = ["http", "grpc"]
X = np.array([[1, 2, 3], [-0.5, 1e-3, 7.25]], dtype=np.float32)


def ask(client: Client, served: Served, over: str, *steps: dict[str, Any]) -> list[Any]:
    port = served.port if over == "http" else served.grpc_port
    return client("triton", over=over, port=port, steps=list(steps))


def outputs(told: dict[str, Any]) -> dict[str, Any]:
    return {name: unpacked(array) for name, array in told["outputs"].items()}


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("over", OVER)
def test_health_metadata_and_index(client: Client, linear: Served, over: str) -> None:
    told = ask(client, linear, over, {"do": "health"})[0]
    assert told["live"] and told["ready"] and told["model"] and told["version"]
    assert told["server"]["name"] == "treadle" and told["metadata"]["name"] == "demo"
    inputs = told["metadata"]["inputs"]
    assert [(i["name"], i["datatype"], [int(n) for n in i["shape"]]) for i in inputs] == [
        ("x", "FP32", [-1, 3])
    ]
    assert [(o["name"], o["datatype"]) for o in told["metadata"]["outputs"]] == [
        ("total", "FP32"), ("double", "FP32")
    ]  # fmt: skip
    index = told["index"] if over == "http" else told["index"]["models"]
    assert [(m["name"], m["state"]) for m in index] == [("demo", "READY")]


@pytest.mark.parametrize("over", OVER)
def test_the_default_request_is_answered_bit_for_bit(
    client: Client, linear: Served, over: str
) -> None:
    told = ask(client, linear, over, {"do": "infer", "inputs": {"x": packed(X)}})[0]
    assert (told["model"], told["version"], told["order"]) == ("demo", "7", ["total", "double"])
    same(outputs(told)["double"], X + X)
    assert outputs(told)["total"].shape == (2,)
    np.testing.assert_allclose(outputs(told)["total"], (X @ models.WEIGHTS)[:, 0], rtol=1e-6)


@pytest.mark.parametrize("over", OVER)
def test_the_outputs_that_were_asked_for_come_and_no_others(
    client: Client, linear: Served, over: str
) -> None:
    """MLServer #514 and #312: requested outputs were ignored."""
    one, both = ask(
        client, linear, over,
        {"do": "infer", "inputs": {"x": packed(X)}, "outputs": ["total"]},
        {"do": "infer", "inputs": {"x": packed(X)}, "outputs": ["double", "total"]},
    )  # fmt: skip
    assert one["order"] == ["total"] and both["order"] == ["double", "total"]


@pytest.mark.parametrize("over", OVER)
def test_the_clients_id_comes_back(client: Client, linear: Served, over: str) -> None:
    told = ask(
        client, linear, over,
        {"do": "infer", "inputs": {"x": packed(X)}, "request_id": "mine"},
        {"do": "infer", "inputs": {"x": packed(X)}},
    )  # fmt: skip
    assert told[0]["id"] == "mine" and told[1]["id"].startswith("local.7.abc")


def test_json_instead_of_binary(client: Client, linear: Served) -> None:
    told = ask(
        client, linear, "http",
        {"do": "infer", "inputs": {"x": packed(X)}, "outputs": ["double"], "binary": False},
    )[0]  # fmt: skip
    same(outputs(told)["double"], X + X)


def test_a_body_of_the_clients_bytes_alone(client: Client, linear: Served) -> None:
    """Triton's raw binary request: the answer is bytes too, of as many rows as the body held."""
    told = ask(client, linear, "http", {"do": "raw", "array": packed(X)})[0]
    same(outputs(told)["double"], X + X)
    wrong = ask(client, linear, "http", {"do": "raw", "array": packed(X[0, :2])})[0]
    assert wrong["status"] == "400" and "a multiple of 12 bytes" in wrong["message"]


VALUES: dict[str, list[Any]] = {
    "i8": [-128, 0, 127], "i16": [-32768, 0, 32767], "i32": [-(2**31), 0, 2**31 - 1],
    "i64": [-(2**63), 2**53 + 1, 2**63 - 1], "u8": [0, 1, 255], "u16": [0, 1, 65535],
    "u32": [0, 1, 2**32 - 1], "u64": [0, 2**53 + 1, 2**64 - 1],
    "f16": [0.1, -65504.0, 6e-8], "f32": [0.1, 16777217.0, 1e-45],
    "f64": [0.1, 2.0**-1074, 1.7976931348623157e308], "flag": [True, False, True],
    "text": ["", "日本 ✈ \U0001f680", "quote \" back\\slash\nline\x00end"],
}  # fmt: skip


def every_type(**more: list[Any]) -> dict[str, Any]:
    arrays = {}
    for name, values in {**VALUES, **more}.items():
        kind = models.TYPES[name]
        dtype = object if kind == "str" else kind
        with np.errstate(over="ignore"):
            array = np.array([v.encode() for v in values] if kind == "str" else values, dtype=dtype)
        arrays[name] = packed(array)
    return arrays


@pytest.mark.parametrize("over", OVER)
def test_every_type_comes_back_as_it_went(client: Client, echo: Served, over: str) -> None:
    """mlflow #1286 (float32 lost) and integers beyond 2^53, among others."""
    sent = every_type()
    told = ask(client, echo, over, {"do": "infer", "inputs": sent})[0]
    assert {name.removesuffix("_back"): array for name, array in told["outputs"].items()} == sent


@pytest.mark.parametrize("over", OVER)
def test_nan_and_infinities_are_exact_in_binary(client: Client, echo: Served, over: str) -> None:
    """pytorch/serve #1304, triton #3711."""
    special = [float("nan"), float("inf"), float("-inf")]
    sent = every_type(f16=special, f32=special, f64=special)
    told = ask(client, echo, over, {"do": "infer", "inputs": sent})[0]
    assert {name.removesuffix("_back"): array for name, array in told["outputs"].items()} == sent


@pytest.mark.parametrize("over", OVER)
def test_simultaneous_requests_get_their_own_answers(
    client: Client, linear: Served, over: str
) -> None:
    """MLServer #1306 and #1911: batching gave rows to other callers."""
    arrays = [np.full((1 + n % 5, 3), n, dtype=np.float32) for n in range(300)]
    told = ask(
        client, linear, over,
        {"do": "many", "inputs": [packed(a) for a in arrays], "how_many_at_once": 64},
    )[0]  # fmt: skip
    assert [answer["id"] for answer in told] == [f"n{n}" for n in range(300)]
    for answer, array in zip(told, arrays, strict=True):
        same(outputs(answer)["double"], array + array)
        assert outputs(answer)["total"].tolist() == [np.float32(2.25 * array[0, 0])] * len(array)


@pytest.mark.parametrize("over", OVER)
def test_two_workers_answer_on_one_port(
    client: Client, serve: Serve, folders: dict[str, Path], over: str
) -> None:
    if over == "grpc" and not HAS_GRPC:
        pytest.skip("the server has no gRPC here: pip install 'treadle[grpc]'")
    served = serve(folders["linear"], "--workers", "2", grpc=over == "grpc")
    arrays = [np.full((1, 3), n, dtype=np.float32) for n in range(200)]
    step = {"do": "many", "inputs": [packed(a) for a in arrays], "how_many_at_once": 32}
    told = ask(client, served, over, step)[0]
    for answer, array in zip(told, arrays, strict=True):
        same(outputs(answer)["double"], array + array)


def test_nan_and_infinities_are_null_in_json(client: Client, linear: Served) -> None:
    x = np.array([[np.nan, np.inf, -1.0]], dtype=np.float32)
    step = {"do": "infer", "inputs": {"x": packed(x)}, "outputs": ["double"], "binary": False}
    told = ask(client, linear, "http", step)[0]
    np.testing.assert_array_equal(outputs(told)["double"], [[np.nan, np.nan, -2.0]])


@pytest.mark.parametrize("over", OVER)
def test_a_wrong_request_is_told_in_words(client: Client, linear: Served, over: str) -> None:
    wide = packed(np.zeros((1, 4), dtype=np.float32))
    refusals = ask(
        client, linear, over,
        {"do": "refused", "what": "infer", "inputs": {"x": wide}},
        {"do": "refused", "what": "infer", "inputs": {"x": packed(X)}, "outputs": ["none"]},
        {"do": "refused", "what": "infer", "inputs": {"x": packed(X)}, "model_version": "8"},
        {"do": "refused", "what": "load", "model_name": "demo"},
    )  # fmt: skip
    assert None not in refusals
    statuses = [refusal["status"].removeprefix("StatusCode.") for refusal in refusals]
    if over == "grpc":
        assert statuses == [*["INVALID_ARGUMENT"] * 2, "NOT_FOUND", "UNIMPLEMENTED"]
    else:
        assert statuses == ["400", "400", "404", "404"]
    for refusal, word in zip(refusals, ["x", "total", "demo", ""], strict=True):
        assert word in refusal["message"] and "Traceback" not in refusal["message"]
