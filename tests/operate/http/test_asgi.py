"""The service as an ASGI application: what uvicorn makes of it beyond the table of requests."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.support.echo import Echo, echo
from tests.support.wire import read_answers, serving

from treadle.operate.http.asgi import Application
from treadle.operate.limits import Limits

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = Limits(max_body_bytes=3_000_000)


@pytest.fixture
def service() -> Echo:
    return Echo()


@pytest.fixture
def port(service: Echo) -> Iterator[int]:
    with serving(service, LIMITS, front="uvicorn") as (port, _):
        yield port


def ask(port: int, raw: bytes) -> Any:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        connection.sendall(raw)
        got = b""
        while not (found := read_answers(got)[0]):
            got += connection.recv(1 << 20)
        return found[0]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gzipped(data: bytes) -> bytes:
    body = gzip.compress(data)
    lines = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    return lines % len(body) + body


def test_a_client_that_leaves_is_dropped_from_the_queue(port: int, service: Echo) -> None:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        connection.sendall(GET % b"/never")
        until(lambda: bool(service.answered))
    until(lambda: service.cancelled == ["/never"])


def test_late_answers_and_their_headers_arrive(port: int) -> None:
    assert ask(port, GET % b"/slow").body == echo("GET", "/slow")
    refused = ask(port, GET % b"/refused")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert "date" in refused.headers


def test_a_draining_service_closes(port: int, service: Echo) -> None:
    assert "connection" not in ask(port, GET % b"/a").headers
    service.draining = True
    assert ask(port, GET % b"/a").headers["connection"] == "close"


def test_gzip_small_large_and_bombs(port: int) -> None:
    for size in (10, 2_500_000):
        assert ask(port, gzipped(b"x" * size)).body == echo("POST", "/a", body=b"x" * size)
    assert ask(port, gzipped(b"x" * 4_000_000)).status == 413
    assert ask(port, gzipped(b"x")[:-3] + b"yyy").status == 400


def test_a_body_in_pieces_is_put_together_up_to_the_limit(port: int, service: Echo) -> None:
    start = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"f4240\r\n" + b"c" * 1_000_000 + b"\r\n"
    whole = ask(port, start + chunk * 3 + b"0\r\n\r\n")
    assert whole.body == echo("POST", "/a", body=b"c" * 3_000_000)
    too_much = ask(port, start + chunk * 3 + b"1\r\nc\r\n0\r\n\r\n")
    assert (too_much.status, too_much.headers["connection"]) == (413, "close")
    assert [length for _, length in service.refusals] == [None, None]


def play(scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What the application sends when it is told this."""
    given, sent = list(messages), []

    async def receive() -> dict[str, Any]:
        return given.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Application(Echo(), LIMITS)(scope, receive, send))
    return sent


def test_a_server_that_begins_and_ends_it_is_answered() -> None:
    told = play({"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    assert [message["type"] for message in told] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_a_web_socket_is_closed() -> None:
    assert play({"type": "websocket"}, {"type": "websocket.connect"}) == [
        {"type": "websocket.close", "code": 1000}
    ]


def test_half_a_body_is_answered_by_nothing() -> None:
    scope = {"type": "http", "method": "POST", "path": "/a", "headers": [(b"content-length", b"9")]}
    assert play(scope, {"type": "http.request", "body": b"x", "more_body": True},
                {"type": "http.disconnect"}) == []  # fmt: skip
