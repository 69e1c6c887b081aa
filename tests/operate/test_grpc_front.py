"""Clients of gRPC are told to go elsewhere between two frames, and lose no call by it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("grpc", reason="pip install 'treadle[grpc]'")

import grpc
from grpc import aio
from tests.operate import test_grpc as common
from tests.operate.test_grpc import ALONE, Asker, certificate

from treadle.operate import grpc as served
from treadle.operate.grpc_front import GOAWAY, Frames, Front
from treadle.operate.http.listener import Certificates
from treadle.operate.plane import Plane

folder, plane = common.folder, common.plane
SETTINGS, HEADERS, DATA, CONTINUATION = 4, 1, 0, 9


def frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + b"\0\0\0\1" + payload


def whole(said: bytes) -> list[bytes]:
    """The frames of a stream; what is no whole frame at its end fails."""
    found = []
    while said:
        size = 9 + int.from_bytes(said[:3], "big")
        assert len(said) >= size
        found.append(said[:size])
        said = said[size:]
    return found


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """What a server may say: settings first, header blocks of one or several frames, data."""
    said = [frame(SETTINGS, 0, draw(st.binary(max_size=12)))]
    for payload in draw(st.lists(st.binary(max_size=40), max_size=8)):
        more = draw(st.integers(0, 3))
        if more == 3:
            said.append(frame(DATA, draw(st.sampled_from([0, 1])), payload))
            continue
        kinds = [HEADERS] + [CONTINUATION] * more
        said += [frame(kind, 4 * (n == more), payload) for n, kind in enumerate(kinds)]
    return said


@given(streams(), st.lists(st.integers(1, 30)), st.integers(0, 30))
@settings(max_examples=300, deadline=None)
def test_the_word_stands_between_two_frames_however_the_bytes_come(
    said: list[bytes], cuts: list[int], when: int
) -> None:
    """As the relay does it: at `when` at once where that is allowed, else behind a frame that ends."""
    stream, frames, told = b"".join(said), Frames(), b""
    at, waiting, done = 0, False, False
    for turn in range(len(stream) + 1):
        if turn == when:
            if frames.between:
                told, done = told + GOAWAY, True
            else:
                waiting = True
        if at == len(stream):
            break
        size = cuts[turn % len(cuts)] if cuts else len(stream)
        data = stream[at : at + size]
        at += size
        place = frames.pass_on(data)
        if waiting and place is not None:
            data, waiting, done = data[:place] + GOAWAY + data[place:], False, True
        told += data
    found = whole(told)
    assert [one for one in found if one != GOAWAY] == said
    assert found.count(GOAWAY) == done
    if done:
        place = found.index(GOAWAY)
        assert place >= 1  # never before the settings
        before = found[place - 1]
        assert before[3] not in (HEADERS, CONTINUATION) or before[4] & 4


def run(work: Any, **more: Any) -> None:
    async def body(server: served.Server) -> None:
        await server.start()
        try:
            await work(server)
        finally:
            await server.drain(0.1)

    more["plane"].warm()
    uvloop.run(asyncio.wait_for(body(served.Server(more.pop("plane"), "127.0.0.1", 0, **more)), 60))


async def ask(channel: Any, value: float) -> None:
    answer = await Asker(channel).infer([value, 0.0])
    assert answer.outputs[0].contents.fp64_contents[:] == [value]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_drain_moves_idle_and_busy_clients_at_once_and_loses_no_call(
    plane: Plane, tmp_path: Path, secure: bool
) -> None:
    chain, key = certificate(tmp_path / "tls", "first")
    tls = Certificates(str(chain), str(key), protocols=("h2",)) if secure else None
    trusted = grpc.ssl_channel_credentials(chain.read_bytes())

    def opened(port: int) -> Any:
        if secure:
            return aio.secure_channel(f"localhost:{port}", trusted, options=ALONE)
        return aio.insecure_channel(f"127.0.0.1:{port}", options=ALONE)

    async def work(first: served.Server) -> None:
        stop = asyncio.Event()
        answered = [0] * 5

        async def caller(number: int) -> None:
            async with opened(first.port) as channel:
                while not stop.is_set():
                    await ask(channel, float(answered[number]))
                    answered[number] += 1
                    await asyncio.sleep(0.002 * number)

        async with opened(first.port) as idle:
            await ask(idle, 1.0)
            callers = [asyncio.ensure_future(caller(number)) for number in range(5)]
            await common.until(lambda: min(answered) > 20)
            # Another worker on the same port, as in a swap.
            second = served.Server(plane, "127.0.0.1", first.port, tls=tls)
            await second.start()
            begun, seen = time.monotonic(), list(answered)
            await first.drain(30)
            assert time.monotonic() - begun < served.LINGER_S
            await common.until(lambda: all(a > s + 20 for a, s in zip(answered, seen, strict=True)))
            await ask(idle, 2.0)
            stop.set()
            await asyncio.gather(*callers)
        await second.drain(5)

    run(work, plane=plane, tls=tls)


def test_a_client_that_speaks_no_http2_gets_nothing_and_ends_with_the_drain(plane: Plane) -> None:
    async def work(server: served.Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP/1.1 200" not in await asyncio.wait_for(reader.read(), 30)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.wait_for(server.drain(0.5), 10)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()

    run(work, plane=plane)


def test_a_large_answer_arrives_whole_at_a_slow_client_through_a_drain(plane: Plane) -> None:
    rows = 200_000

    async def work(server: served.Server) -> None:
        async with aio.insecure_channel(
            f"127.0.0.1:{server.port}", options=[*ALONE, ("grpc.max_receive_message_length", -1)]
        ) as channel:
            call = asyncio.ensure_future(
                common._answered(Asker(channel).infer(*[[1.0, 0.0]] * rows))
            )
            await common.until(lambda: server._front is not None and server._front.count() == 1)
            await asyncio.sleep(0.3)
            await server.drain(30)
            answer = await call
            assert len(answer.outputs[0].contents.fp64_contents) == rows

    run(work, plane=plane)


def test_where_there_is_no_abstract_socket_a_folder_is_made_and_cleared_away(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    front = Front()
    monkeypatch.undo()
    monkeypatch.setattr(served, "Front", lambda: front)
    (made,) = tmp_path.iterdir()
    assert made.stat().st_mode & 0o777 == 0o700

    async def work(server: served.Server) -> None:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}", options=ALONE) as channel:
            await ask(channel, 3.0)

    run(work, plane=plane)
    assert not made.exists()
