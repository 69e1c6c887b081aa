"""Every path answers in its protocol's words; nothing of an input or of the inside is told."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from treadle.operate import counters
from treadle.operate.limits import Limits
from treadle.operate.metrics import Metrics
from treadle.operate.model import loaded as model
from treadle.operate.plane import Identity, Plane
from treadle.operate.request import Head, Reply
from treadle.operate.service import Predictor

ROW = {"carrier": "UA", "day": 1, "distance": 500, "temp": None, "rain": True}
INPUTS = [
    {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["UA"]},
    {"name": "day", "shape": [1], "datatype": "INT32", "data": [1]},
    {"name": "distance", "shape": [1], "datatype": "INT64", "data": [500]},
    {"name": "temp", "shape": [1], "datatype": "FP64", "data": [None]},
    {"name": "rain", "shape": [1], "datatype": "BOOL", "data": [True]},
]
SCORING = {"dataframe_records": [ROW]}
PATHS: dict[str, Any] = {
    "/invocations": SCORING,
    "/v2/models/flights/infer": {"inputs": INPUTS},
    "/v2/models/flights/versions/7/infer": {"inputs": INPUTS, "id": "mine"},
    "/v1/models/flights:predict": {"instances": [ROW]},
}


class Asked:
    """A service without sockets: one question at a time."""

    def __init__(self, service: Predictor) -> None:
        self.service = service

    async def __call__(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Reply, dict[str, str]]:
        given = {"content-type": "application/json"} if headers is None else headers
        head = Head(method, path, "", {k.lower().encode(): v.encode() for k, v in given.items()})
        data = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        reply = self.service.refusal(head, len(data))
        if reply is None:
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            ticket = self.service.answer(head, data, future.set_result)
            assert (ticket is None) == future.done()
            reply = await asyncio.wait_for(future, 20)
        lines = [line.partition(": ") for line in reply.headers.decode().split("\r\n") if line]
        return reply, {name: value for name, _, value in lines}


@pytest.fixture(scope="module")
def loaded(sklearn_folder: Path) -> model.LoadedModel:
    return model.load(sklearn_folder)


@pytest.fixture
def asking(loaded: model.LoadedModel) -> Callable[..., None]:
    def run(body: Callable[[Asked], Coroutine[Any, Any, None]], **more: Any) -> None:
        async def inside() -> None:
            metrics = Metrics()
            metrics.shared.header[counters.READY] = 1  # what a worker's start says
            limits = more.pop("limits", Limits())
            identity = Identity("local", 7, "abc", "flights", "sha256:aa", "", "sha256:bb")
            plane = Plane(more.pop("loaded", loaded), identity, limits=limits, watch=metrics)
            plane.warm()
            service = Predictor(plane, metrics, **more)
            try:
                await body(Asked(service))
            finally:
                service.close()

        asyncio.run(inside())

    return run


def test_every_protocol_gives_the_models_answer_with_ids_and_digests(
    asking: Any, loaded: model.LoadedModel
) -> None:
    expected = loaded.predict({name: [value] for name, value in ROW.items()})[0].tolist()

    async def body(ask: Asked) -> None:
        for path, question in PATHS.items():
            reply, headers = await ask("POST", path, question)
            told = json.loads(reply.body)
            found = told["predictions"][0] if "predictions" in told else told["outputs"][0]["data"]
            assert reply.status == 200 and found == expected, path
            assert headers["x-prediction-id"].startswith("local.7.abc.")
            assert headers["x-model-version"] == "7" and headers["x-model-digest"] == "sha256:aa"
            assert headers["x-image-digest"] == "sha256:bb"
            if "v2" in path:
                assert told["model_version"] == "7"
                assert told["id"] == question.get("id", headers["x-prediction-id"])

    asking(body)


def test_a_request_id_is_kept_if_well_formed_and_a_trace_is_passed_on(asking: Any) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def body(ask: Asked) -> None:
        kind = {"content-type": "application/json"}
        _, headers = await ask("POST", "/invocations", SCORING,
                               {**kind, "x-request-id": "a-1", "traceparent": trace})  # fmt: skip
        assert headers["x-request-id"] == "a-1" and headers["traceparent"] == trace
        _, headers = await ask("POST", "/invocations", SCORING,
                               {**kind, "x-request-id": "a b", "traceparent": "00-xyz"})  # fmt: skip
        assert headers["x-prediction-id"].endswith(headers["x-request-id"])
        assert "traceparent" not in headers

    asking(body)


@pytest.mark.parametrize(("path", "word"), [("/invocations", "message"), ("/v2/x", "error")])
def test_lost_requests_are_told_in_the_words_of_their_protocol(
    asking: Any, path: str, word: str
) -> None:
    async def body(ask: Asked) -> None:
        reply, headers = await ask("GET", path)
        assert reply.status == (405 if path == "/invocations" else 404)
        assert word in json.loads(reply.body) and "x-request-id" in headers
        assert headers.get("allow") == ("POST" if path == "/invocations" else None)

    asking(body)


def test_another_model_or_version_is_not_here(asking: Any) -> None:
    async def body(ask: Asked) -> None:
        for path in ("/v2/models/other/infer", "/v2/models/flights/versions/6/infer",
                     "/v1/models/other:predict", "/v2/repository/models/flights/load"):  # fmt: skip
            reply, _ = await ask("POST", path, {})
            assert reply.status == 404 and "flights, version 7" in json.loads(reply.body)["error"]

    asking(body)


def test_without_the_token_only_probes_are_answered(asking: Any) -> None:
    async def body(ask: Asked) -> None:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}):
            for method, path in (("POST", "/invocations"), ("GET", "/metrics"), ("GET", "/")):
                reply, more = await ask(method, path, None, headers)
                assert reply.status == 401 and more["www-authenticate"] == "Bearer"
            assert (await ask("GET", "/ping", None, headers))[0].status == 200
        told = {"authorization": "bearer secret", "content-type": "application/json"}
        assert (await ask("POST", "/invocations", SCORING, told))[0].status == 200

    asking(body, token="secret")


def test_a_wrong_input_is_400_and_never_comes_back(asking: Any) -> None:
    async def body(ask: Asked) -> None:
        wrong = {**ROW, "day": "SECRET"}
        reply, _ = await ask("POST", "/invocations", {"dataframe_records": [wrong]})
        told = json.loads(reply.body)
        assert (reply.status, told["error_code"]) == (400, "BAD_REQUEST")
        assert told["message"] == "day, row 0: expected an integer, got a text" or (
            "day, row 0" in told["message"] and "SECRET" not in told["message"]
        )
        reply, _ = await ask("POST", "/v1/models/flights:predict", {"instances": [wrong]})
        assert reply.status == 400 and b"SECRET" not in reply.body
        reply, _ = await ask("POST", "/invocations", b"{}", {})
        assert reply.status == 400
        reply, _ = await ask("POST", "/invocations", b"{}", {"content-type": "text/html"})
        assert reply.status == 415

    asking(body)


def test_a_failing_model_is_500_with_a_request_id_and_the_cause_only_in_the_log(
    asking: Any, loaded: model.LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(data: Any, _params: Any) -> Any:
        if len(data) == 3:
            return np.zeros((3, 2))  # the warm-up
        raise RuntimeError("a secret of /the/model")

    async def body(ask: Asked) -> None:
        with caplog.at_level(logging.ERROR):
            reply, headers = await ask("POST", "/invocations", SCORING)
        told = json.loads(reply.body)
        assert reply.status == 500 and told["error_code"] == "INTERNAL_ERROR"
        assert headers["x-request-id"] in told["message"] and b"secret" not in reply.body
        assert headers["x-request-id"] in caplog.text and "a secret of /the/model" in caplog.text

    asking(body, loaded=with_call(loaded, broken))


def test_33_a_model_that_is_too_slow_is_504_and_a_full_queue_503(
    asking: Any, loaded: model.LoadedModel
) -> None:
    def slow(data: Any, _params: Any) -> Any:
        time.sleep(0 if len(data) == 3 else 0.5)
        return np.zeros((len(data), 2))

    async def body(ask: Asked) -> None:
        asked = [asyncio.ensure_future(ask("POST", "/invocations", SCORING)) for _ in range(6)]
        replies = await asyncio.gather(*asked)
        assert sorted({reply.status for reply, _ in replies}) == [503, 504]
        for reply, headers in replies:
            if reply.status == 503:
                assert headers["retry-after"] == "1"

    asking(
        body, loaded=with_call(loaded, slow), limits=Limits(max_queue_requests=2, deadline_s=0.2)
    )


def test_a_large_question_is_answered_like_a_small_one(
    asking: Any, loaded: model.LoadedModel
) -> None:
    rows = 20_000
    columns = {name: [value] * rows for name, value in ROW.items()}
    expected = loaded.predict({name: [value] for name, value in ROW.items()})[0].tolist()

    async def body(ask: Asked) -> None:
        reply, _ = await ask("POST", "/invocations", {"inputs": columns})
        assert reply.status == 200 and json.loads(reply.body)["predictions"] == [expected] * rows

    asking(body)


def test_who_looks_around_finds_what_is_there(asking: Any) -> None:
    async def body(ask: Asked) -> None:
        for path in ("/ping", "/health", "/version", "/metrics", "/openapi.json", "/v2",
                     "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/flights",
                     "/v2/models/flights/ready", "/v2/models/flights/versions/7",
                     "/v1/models", "/v1/models/flights"):  # fmt: skip
            reply, _ = await ask("GET", path, None, {})
            assert reply.status == 200, path
        reply, _ = await ask("GET", "/", None, {"accept": "*/*"})
        assert json.loads(reply.body) == {"status": "alive"}  # KServe's V1
        reply, _ = await ask("GET", "/", None, {"accept": "text/html,*/*"})
        assert reply.kind.startswith(b"text/html") and b"flights" in reply.body
        reply, _ = await ask("POST", "/v2/repository/index", {})
        assert json.loads(reply.body)[0]["name"] == "flights"

    asking(body)


def test_json_is_not_taken_for_the_values_of_a_tensor(asking: Any) -> None:
    """Its length may be that of some numbers."""

    async def body(ask: Asked) -> None:
        for kind, words in (
            ("application/json", "the JSON that the Content-Type announces"),
            ("application/octet-stream", "only a model of one input takes a body of values alone"),
        ):
            given = {"content-type": kind, "inference-header-content-length": "0"}
            reply, _ = await ask("POST", "/v2/models/flights/infer", {"inputs": []}, given)
            assert reply.status == 400
            assert words in json.loads(reply.body)["error"]

    asking(body)


def test_every_answer_says_which_model_and_which_request(asking: Any) -> None:
    async def body(ask: Asked) -> None:
        for method, path, given in (
            ("GET", "/ping", None), ("GET", "/", None), ("GET", "/metrics", None),
            ("GET", "/v2", None), ("GET", "/openapi.json", None), ("GET", "/nowhere", None),
            ("POST", "/v2/repository/index", {}), ("POST", "/invocations", {"inputs": []}),
            ("POST", "/ping", {}),
        ):  # fmt: skip
            _, headers = await ask(method, path, given, {"x-request-id": "mine"})
            assert headers["x-model-version"] == "7", path
            assert headers["x-request-id"] == "mine", path

    asking(body)


def test_06_nobody_is_ready_before_the_model_has_answered_its_example(
    loaded: model.LoadedModel,
) -> None:
    async def inside() -> None:
        metrics = Metrics()
        metrics.shared.header[counters.READY] = 1
        fails = [True]

        def call(data: Any, _params: Any) -> Any:
            if fails:
                raise RuntimeError("not yet")
            return np.zeros((len(data), 2))

        plane = Plane(with_call(loaded, call), Identity(model="flights"), watch=metrics)
        ask = Asked(Predictor(plane, metrics))

        async def asked(expected: int) -> None:
            for path in ("/v2/health/ready", "/v2/models/flights/ready"):
                assert (await ask("GET", path, None, {}))[0].status == expected
            assert (await ask("GET", "/v2/health/live", None, {}))[0].status == 200

        try:
            await asked(503)
            with pytest.raises(Exception, match="not yet|failed"):
                plane.warm()
            await asked(503)  # a model that fails its example never gets ready
            fails.clear()
            plane.warm()
            await asked(200)
        finally:
            ask.service.close()

    asyncio.run(inside())


def test_not_ready_is_503_on_every_ready_path(asking: Any) -> None:
    async def body(ask: Asked) -> None:
        ask.service.plane.ready = False
        for path in ("/ping", "/health", "/v2/health/ready", "/v2/models/flights/ready",
                     "/v1/models/flights"):  # fmt: skip
            assert (await ask("GET", path, None, {}))[0].status == 503
        assert (await ask("GET", "/v2/health/live", None, {}))[0].status == 200

    asking(body)


def with_call(loaded: model.LoadedModel, call: Any) -> model.LoadedModel:
    """The same model with another function behind it."""
    return replace(loaded, call=call)
