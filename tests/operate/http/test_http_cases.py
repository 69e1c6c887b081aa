"""What becomes of good and of broken requests: by our protocol, beside uvicorn, and however cut."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.echo import Echo
from tests.support.http_cases import CASES, CLOSED, KEPT, LIMITS, WAITS, Case, Expected
from tests.support.wire import Answer, read_answers, serving, talk

from treadle.operate.http.connections import Connections

PROBE = b"GET /probe HTTP/1.1\r\nHost: x\r\n\r\n"
QUIET_S = 0.4
"""So long without a byte means that a server has nothing more to say."""


def told(answers: list[Answer]) -> list[int | bytes]:
    return [answer.body if answer.status == 200 else answer.status for answer in answers]


async def outcome(port: int, case: Case) -> Expected:
    """What a server does, found over a real connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def listen() -> tuple[bytes, bool]:
        got = b""
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    data = await reader.read(65536)
            except TimeoutError:
                return got, False
            if not data:
                return got, True
            got += data

    try:
        writer.write(case.raw)
        got, ended = await listen()
        answers, left = read_answers(got, case.methods)
        assert not left
        if ended or not answers:
            return told(answers), CLOSED if ended else WAITS
        writer.write(PROBE)
        probed, ended = await listen()
        kept = told(read_answers(probed)[0]) == [b"GET /probe? 0 e3b0c44298fc1c14\n"]
        return told(answers), KEPT if kept else WAITS
    finally:
        writer.close()


def outcomes(front: str) -> list[Expected]:
    async def ask(port: int) -> list[Expected]:
        return await asyncio.gather(*(outcome(port, case) for case in CASES))

    with serving(Echo(), LIMITS, front=front) as (port, _):
        return asyncio.run(ask(port))


def test_each_case_ends_as_the_table_says() -> None:
    for case, found in zip(CASES, outcomes("own"), strict=True):
        assert found == (case.answers, case.state), case.name


def test_uvicorn_differs_only_where_the_table_says_why() -> None:
    found = outcomes("uvicorn")
    for case, theirs in zip(CASES, found, strict=True):
        expected = case.uvicorn or (case.answers, case.state)
        assert theirs == expected, case.name
        assert bool(case.why) == (expected != (case.answers, case.state)), case.name


def without_the_moment(answers: list[Answer]) -> list[tuple[int, dict[str, str], bytes]]:
    return [
        (a.status, {k: v for k, v in a.headers.items() if k != "date"}, a.body) for a in answers
    ]


async def end(case: Case, pieces: list[bytes]) -> tuple[object, ...]:
    wire = talk(Connections(Echo(), LIMITS), pieces)
    for _ in range(3):
        await asyncio.sleep(0)  # /late answers in the next turn of the loop
    answers, left = read_answers(bytes(wire.written), case.methods)
    assert not left
    return without_the_moment(answers), wire.ended


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_the_answer_is_the_same_however_the_bytes_are_cut(case: Case) -> None:
    async def compare() -> None:
        raw = case.raw
        whole = await end(case, [raw])
        assert told_of(whole) == case.answers
        step = max(1, len(raw) // 300)
        for cut in range(1, len(raw), step):
            assert await end(case, [raw[:cut], raw[cut:]]) == whole, cut
        assert await end(case, [raw[i : i + 1] for i in range(len(raw))]) == whole

    def told_of(found: tuple[object, ...]) -> list[int | bytes]:
        return [body if status == 200 else status for status, _, body in found[0]]  # type: ignore[attr-defined]

    asyncio.run(compare())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 400), max_size=8))
def test_the_answer_is_the_same_in_several_pieces(case: Case, cuts: list[int]) -> None:
    bounds = sorted({0, len(case.raw), *(cut % (len(case.raw) + 1) for cut in cuts)})
    pieces = [case.raw[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]

    async def compare() -> None:
        assert await end(case, pieces) == await end(case, [case.raw])

    asyncio.run(compare())
