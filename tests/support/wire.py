"""The other end of a connection: an in-memory transport, and a reader of what a server wrote."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

import uvloop

from treadle.operate.http.connections import Connections
from treadle.operate.http.listener import Certificates, Listener, bind
from treadle.operate.limits import Limits
from treadle.operate.request import Service


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def read_answers(data: bytes, methods: Sequence[str] = ()) -> tuple[list[Answer], bytes]:
    """The answers in a stream, interim ones left out, and what is left over.

    `methods` are those of the requests in order: an answer to HEAD has no body.
    """
    found: list[Answer] = []
    while True:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return found, data
        first, *lines = data[:end].decode("latin-1").split("\r\n")
        status = re.fullmatch(r"HTTP/1\.1 (\d\d\d)( [ -~]*)?", first)
        assert status, first
        headers = {}
        for line in lines:
            name, value = re.fullmatch(r"([!-9;-~]+): ([ -~]*)", line).groups()
            assert name.lower() not in headers, line
            headers[name.lower()] = value
        rest = data[end + 4 :]
        if status[1] == "100":
            assert not headers
            data = rest
            continue
        bodiless = status[1] in ("204", "304")
        if bodiless:
            assert "content-length" not in headers
        size = 0 if bodiless else int(headers["content-length"])
        if len(found) < len(methods) and methods[len(found)] == "HEAD":
            size = 0
        if len(rest) < size:
            return found, data
        found.append(Answer(int(status[1]), headers, rest[:size]))
        data = rest[size:]


class Wire(asyncio.Transport):
    """A transport whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.aborted = self.shut = self.paused = False
        self.writes = 0
        self.pending = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        assert not self.shut, "a write after the last one"
        if not self.closed:
            self.writes += 1
            self.written += data

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.shut = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.pending

    @property
    def ended(self) -> bool:
        """Whether the server said its last word."""
        return self.closed or self.shut


def talk(connections: Connections, pieces: Sequence[bytes]) -> Wire:
    """What a connection does that gets these bytes, one after the other."""
    wire, protocol = Wire(), connections()
    protocol.connection_made(wire)
    for piece in pieces:
        if wire.closed:
            break
        protocol.data_received(piece)
    return wire


@contextmanager
def serving(
    service: Service, limits: Limits | None = None, *, front: str = "own",
    tls: Certificates | None = None, host: str = "127.0.0.1",
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """A server in a thread on a free port: the port and what speaks HTTP."""
    limits = limits or Limits()
    listener = bind(host, 0)
    port = listener.getsockname()[1]
    loop = uvloop.new_event_loop()
    made: list[Any] = []
    ready, over = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        if front == "own":
            made.append(Connections(service, limits))
        else:
            from treadle.operate.http.uvicorn_front import UvicornFront

            made.append(UvicornFront(service, limits))
        accepting = Listener(listener, made[0], count=made[0].count, limits=limits, tls=tls)
        accepting.open()
        ready.set()
        while not over.is_set():
            try:
                async with asyncio.timeout(0.1):
                    await over.wait()
            except TimeoutError:
                made[0].tick()
        accepting.close()
        made[0].abort()
        await asyncio.sleep(0.01)

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = Thread(target=work, daemon=True)
    thread.start()
    while not ready.is_set():
        thread.join(0.005)
        assert thread.is_alive()
    try:
        yield port, made[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        assert not thread.is_alive()
