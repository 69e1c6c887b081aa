"""A protocol of its own on uvloop with httptools, answering the same bytes: bare.py FILE PORT.

The ceiling for everything that is Python and speaks HTTP/1.1: nothing is decoded, nothing is kept.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httptools
import uvloop

body = Path(sys.argv[1]).read_bytes()
answer = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
) + body


class Constant(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self.transport.write(answer)  # type: ignore[attr-defined]


async def serve() -> None:
    """Until it is ended."""
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", int(sys.argv[2]))
    await server.serve_forever()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(serve())
