"""Requests of one turn of the loop are answered as each would be alone, by one call of the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.base import segments
from treadle.operate import batch
from treadle.operate.capture import Capture
from treadle.operate.limits import Limits
from treadle.operate.metrics import Metrics
from treadle.operate.model import loaded as model
from treadle.operate.plane import Identity, Plane
from treadle.operate.request import Head, Reply
from treadle.operate.service import Predictor

ROW = {"carrier": "UA", "day": 1, "distance": 500, "temp": 40.5, "rain": True}
JSON = {b"content-type": b"application/json"}


class World:
    """A service whose model is taken to be quick, and what its model was called with."""

    def __init__(self, loaded: model.LoadedModel, capture: Capture | None = None) -> None:
        self.calls: list[int] = []

        def call(data: Any, params: Any) -> Any:
            self.calls.append(
                len(data if not isinstance(data, dict) else next(iter(data.values())))
            )
            return loaded.call(data, params)

        self.metrics = Metrics()
        self.plane = Plane(
            replace(loaded, call=call), Identity("local", 7, "abc", "flights"), capture,
            limits=Limits(deadline_s=600.0), watch=self.metrics,
        )  # fmt: skip
        self.plane.ready = True
        self.plane.batcher._cost_s = [0.0] * 48  # known to be quick for any number of rows
        self.calls.clear()
        self.service = Predictor(self.plane, self.metrics)

    async def ask(
        self, bodies: Sequence[Any], path: str = "/invocations", headers: Any = JSON
    ) -> list[Reply]:
        """All of them in one turn of the loop."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Reply]] = []
        for body in bodies:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            futures.append(loop.create_future())
            self.service.answer(Head("POST", path, "", headers), data, futures[-1].set_result)
        return await asyncio.wait_for(asyncio.gather(*futures), 60)

    def together(self, bodies: Sequence[Any], **more: Any) -> list[Reply]:
        return asyncio.run(self.ask(bodies, **more))

    def alone(self, bodies: Sequence[Any], **more: Any) -> list[Reply]:
        async def inside() -> list[Reply]:
            return [(await self.ask([body], **more))[0] for body in bodies]

        return asyncio.run(inside())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "INLINE_S", 1000.0)


@pytest.fixture(scope="module")
def loaded(sklearn_folder: Path) -> model.LoadedModel:
    return model.load(sklearn_folder)


def rows(count: int, **more: Any) -> dict[str, Any]:
    return {"dataframe_records": [{**ROW, "distance": 300 * n, **more} for n in range(count)]}


def said(replies: Sequence[Reply]) -> list[Any]:
    return [(reply.status, json.loads(reply.body)) for reply in replies]


def test_all_requests_of_a_turn_are_one_call_and_each_gets_its_own_rows(
    loaded: model.LoadedModel,
) -> None:
    bodies = [rows(1), rows(3), rows(2, carrier="AA"), rows(1, rain=False)]
    world = World(loaded)
    found = world.together(bodies)
    assert world.calls == [7]
    assert said(found) == said(World(loaded).alone(bodies))
    ids = [reply.headers.split(b"\r\n")[0] for reply in found]
    assert len(set(ids)) == 4 and all(
        one.startswith(b"x-prediction-id: local.7.abc.") for one in ids
    )
    text = world.metrics.render().decode()
    assert 'treadle_requests_total{path="/invocations",status="200"} 4.0' in text
    assert "treadle_prediction_duration_seconds_count 4.0" in text
    assert "treadle_predictions_total 7.0" in text


def test_v1_is_answered_together_too(loaded: model.LoadedModel) -> None:
    bodies = [{"instances": [ROW]}, {"instances": [{**ROW, "distance": 2000}]}]
    world = World(loaded)
    path = "/v1/models/flights:predict"
    assert said(world.together(bodies, path=path)) == said(World(loaded).alone(bodies, path=path))
    assert world.calls == [2]


def test_a_request_that_spoils_it_fails_alone(loaded: model.LoadedModel) -> None:
    wrong: list[Any] = [
        b"{", b"[]", {"dataframe_records": [{**ROW, "day": 1.5}]},
        {"dataframe_records": [{**ROW, "day": 2**40}]}, {"dataframe_records": [{"carrier": "UA"}]},
        b'{"dataframe_records":[[1]]},{"dataframe_records":[[2]]}',
    ]  # fmt: skip
    for body in wrong:
        replies = World(loaded).together([rows(1), body, rows(2)])
        assert [reply.status for reply in replies] == [200, 400, 200], body
        assert said(replies) == said(World(loaded).alone([rows(1), body, rows(2)]))


def test_two_halves_of_a_body_never_become_one(loaded: model.LoadedModel) -> None:
    text = json.dumps(rows(1)).encode()
    halves = [text[:-30], text[-30:], rows(1), text + b"," + text]
    assert [reply.status for reply in World(loaded).together(halves)] == [400, 400, 200, 400]


def test_a_trace_and_a_request_id_come_back(loaded: model.LoadedModel) -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    (reply,) = World(loaded).together(
        [rows(1)], headers={**JSON, b"x-request-id": b"mine", b"traceparent": trace}
    )
    assert b"x-request-id: mine\r\n" in reply.headers and trace in reply.headers


def test_a_client_that_left_within_the_turn_is_not_predicted(loaded: model.LoadedModel) -> None:
    world = World(loaded)

    async def inside() -> None:
        told: list[Reply] = []
        data = json.dumps(rows(1)).encode()
        head = Head("POST", "/invocations", "", JSON)
        left = world.service.answer(head, data, told.append)
        world.service.answer(head, data, told.append)
        assert left is not None
        left.cancel()
        await asyncio.sleep(0.05)
        assert len(told) == 1

    asyncio.run(inside())
    assert world.calls == [1]


def test_while_the_model_is_slow_or_busy_each_waits_by_itself_and_may_leave(
    loaded: model.LoadedModel,
) -> None:
    world = World(loaded)
    world.plane.batcher._cost_s = [None] * 48

    async def inside() -> None:
        told: list[Reply] = []
        answered = asyncio.Event()

        def respond(reply: Reply) -> None:
            told.append(reply)
            answered.set()

        data = json.dumps(rows(1)).encode()
        head = Head("POST", "/invocations", "", JSON)
        tickets = [world.service.answer(head, data, respond) for _ in range(3)]
        await asyncio.sleep(0)  # the turn is over: they wait in the batcher's queue
        for ticket in tickets[1:]:
            assert ticket is not None
            ticket.cancel()
        await asyncio.wait_for(answered.wait(), 60)
        assert len(told) == 1 and told[0].status == 200

    asyncio.run(inside())
    assert world.calls == [1]


def test_each_of_a_turn_is_captured_with_its_own_id_and_rows(
    loaded: model.LoadedModel, tmp_path: Path
) -> None:
    capture = Capture(tmp_path, environment="local", release=7, instance="abc")
    world = World(loaded, capture)
    bodies = [rows(1), rows(2, carrier="AA"), rows(1, rain=False)]
    replies = world.together(bodies)
    world.service.close()
    records = [found.record for found in segments.read_segments(tmp_path)]
    ids = [
        reply.headers.split(b"\r\n")[0].decode().removeprefix("x-prediction-id: ")
        for reply in replies
    ]
    assert [record.id for record in records] == ids
    assert [record.inputs["carrier"] for record in records] == [["UA"], ["AA", "AA"], ["UA"]]
    for record, reply in zip(records, replies, strict=True):
        predicted = json.loads(reply.body)["predictions"]
        assert record.outputs["prediction_0"] == [row[0] for row in predicted]


CELL = {
    "carrier": st.sampled_from(["UA", "AA", "é", None, 5]),
    "day": st.sampled_from([0, 3, 6, None, 2.0, 1.5, 2**31]),
    "distance": st.sampled_from([100, 2**53 + 1, None, 5e3, True]),
    "temp": st.one_of(st.none(), st.floats(-50, 120), st.just(float("nan"))),
    "rain": st.sampled_from([True, False, None, 1]),
}
RECORD = st.fixed_dictionaries(CELL)
BODY = st.one_of(
    st.lists(RECORD, min_size=1, max_size=3).map(lambda r: {"dataframe_records": r}),
    st.lists(RECORD, min_size=1, max_size=2).map(lambda r: {"instances": r}),
    st.lists(RECORD, min_size=1, max_size=2).map(
        lambda r: {
            "dataframe_split": {"columns": list(CELL), "data": [list(one.values()) for one in r]}
        }
    ),
    st.lists(RECORD, min_size=1, max_size=2).map(lambda r: {"inputs": [list(one.values()) for one in r]}),
    st.sampled_from([b"{}", b"nonsense", {"dataframe_records": []}, {"params": {}}]),
)  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(BODY, min_size=1, max_size=5))
def test_any_mix_is_answered_as_each_alone(loaded: model.LoadedModel, bodies: list[Any]) -> None:
    assert said(World(loaded).together(bodies)) == said(World(loaded).alone(bodies))


NUMBERS = st.lists(
    st.lists(st.one_of(st.integers(-(2**60), 2**60), st.floats(-1e9, 1e9), st.none()),
             min_size=3, max_size=3),
    min_size=1, max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module", params=["double", "long", "float", "tensor"])
def of_numbers(request: pytest.FixtureRequest) -> model.LoadedModel:
    """A model that sums its three columns, digits kept."""
    from treadle.operate.model.signature import Field, Signature

    kind = request.param
    if kind == "tensor":
        inputs = (Field("input", "tensor", dtype="float64", shape=(-1, 3)),)
    else:
        inputs = tuple(Field(name, kind) for name in "abc")

    def call(data: Any, params: Any) -> Any:
        if isinstance(data, np.ndarray):
            return np.asarray(data, dtype=np.float64) @ np.array([1.0, 2.0, 3.0])
        return [
            float(a) + 2 * float(b) + 3 * float(c)
            for a, b, c in zip(*map(list, data.values()), strict=True)
        ]

    return model.LoadedModel(
        Path("/nowhere"), "test", Signature(inputs, (), ()), "predict", call, None,
        matrix=None if kind == "long" else np.dtype(np.float32 if kind == "float" else np.float64),
        columns=True,
    )  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_any_mix_of_numbers_is_answered_as_each_alone(
    of_numbers: model.LoadedModel, parts: list[Any]
) -> None:
    bodies = [msgspec.json.encode({"inputs": part}) for part in parts]
    assert said(World(of_numbers).together(bodies)) == said(World(of_numbers).alone(bodies))


def test_request_whose_answering_raises_is_answered_with_500(
    loaded: model.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("of the server itself")

    world = World(loaded)
    monkeypatch.setattr(world.service._scorings, "_alone", fails)
    (reply,) = world.together([rows(1)])
    assert (reply.status, json.loads(reply.body)["message"]) == (500, "the server failed")


def test_answers_that_cannot_be_encoded_are_captured_once_and_fail_each(
    loaded: model.LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> list[bytes]:
        raise TypeError("no JSON for it")

    world = World(loaded, Capture(tmp_path, environment="local", release=7, instance="abc"))
    monkeypatch.setattr(world.service._scoring, "encode_all", fails)
    replies = world.together([rows(1), rows(1)])
    world.service.close()
    assert [reply.status for reply in replies] == [200, 200]  # by the ordinary way
    assert len(list(segments.read_segments(tmp_path))) == 2
