"""What stands between clients of gRPC and gRPC's own server, so that it can be left without a loss.

gRPC tells a client to go elsewhere (HTTP/2's GOAWAY) when its whole server is shut down, and then it
cancels the calls that are on their way; or when a connection has reached its age. Nothing tells it to
say so to all clients now and to go on answering. So connections are accepted here, and their bytes
passed on unchanged to a Unix socket that gRPC listens on; at a drain a GOAWAY is put between two of
its frames. A client finishes its calls, closes the connection and opens another one elsewhere. Who
finds that socket on the same machine is asked for the token all the same.

Frames are RFC 9113's: nine bytes of head (length, type, flags, stream), then the payload. A header
block of several frames has nothing between them.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

_HEAD: Final = 9
_HEADERS, _PUSH_PROMISE, _CONTINUATION = 1, 5, 9
_END_HEADERS: Final = 4
GOAWAY: Final = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0"
"""No error, and no stream is refused: a call that is on its way is answered (RFC 9113, 6.8)."""


class Frames:
    """Where one frame of a stream of bytes ends and another may be put in."""

    __slots__ = ("_block", "_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left: int | None = None
        """Bytes of the payload that are still to come; None: a head comes. Before the first: none."""
        self._block = True
        """Whether nothing may be put in: a header block is open, or not even SETTINGS were said."""

    @property
    def between(self) -> bool:
        """Whether another frame may be put here."""
        return self._left is None and not self._head and not self._block

    def pass_on(self, data: bytes) -> int | None:
        """Read on; the last place in `data` where a frame may be put in, behind a whole one."""
        at, end, last = 0, len(data), None
        while at < end:
            if self._left is None:
                taken = data[at : at + _HEAD - len(self._head)]
                head = self._head + taken
                at += len(taken)
                if len(head) < _HEAD:
                    self._head = head
                    break
                self._head = b""
                self._left = int.from_bytes(head[:3], "big")
                kind = head[3]
                self._block = (
                    kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION) and not head[4] & _END_HEADERS
                )
            step = min(self._left, end - at)
            at += step
            self._left -= step
            if not self._left:
                self._left = None
                if not self._block:
                    last = at
        return last


class Front:
    """All connections of one gRPC server. A listener calls it for one more."""

    def __init__(self) -> None:
        self._all: set[_Client] = set()
        self._leaving = False
        self._folder: str | None = None
        if sys.platform == "linux":  # nothing to be cleared away when the process is killed
            name = f"treadle-grpc-{secrets.token_hex(16)}"
            self.address, self._path = f"unix-abstract:{name}", f"\0{name}"
        else:
            self._folder = tempfile.mkdtemp(prefix="treadle-grpc-")
            self._path = str(Path(self._folder) / "grpc")
            self.address = f"unix:{self._path}"

    def __call__(self) -> asyncio.Protocol:
        """A protocol for one more connection."""
        return _Client(self)

    def count(self) -> int:
        """How many connections are open."""
        return len(self._all)

    def leave(self) -> None:
        """Tell every client, those that come yet too, that it should go elsewhere."""
        self._leaving = True
        for client in tuple(self._all):
            client.leave()

    def close(self) -> None:
        """Cut what is left, and clear away."""
        for client in tuple(self._all):
            client.abort()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Client(asyncio.Protocol):
    """A client's side of a connection."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport | None = None
        self._server: _Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self._early = b""
        """What came before there was anybody to hand it to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._front._all.add(self)
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        assert self._transport is not None
        loop, transport = asyncio.get_running_loop(), self._transport
        beyond = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        beyond.setblocking(False)
        try:
            await loop.sock_connect(beyond, self._front._path)
            _, server = await loop.create_connection(lambda: _Server(transport), sock=beyond)
        except OSError:  # gRPC's server has ended
            beyond.close()
            transport.abort()
            return
        if transport.is_closing():
            server.close()
            return
        server.write(self._early)
        self._server, self._early = server, b""
        if self._front._leaving:
            server.leave()
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._server is not None:
            self._server.write(data)
        else:
            self._early += data
            assert self._transport is not None
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        if self._server is not None:
            self._server.read(False)

    def resume_writing(self) -> None:
        if self._server is not None:
            self._server.read(True)

    def leave(self) -> None:
        if self._server is not None:
            self._server.leave()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self._front._all.discard(self)
        if self._server is not None:
            self._server.close()


class _Server(asyncio.Protocol):
    """gRPC's side of a connection: what it says goes to the client."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._frames = Frames()
        self._leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        place = self._frames.pass_on(data)
        if self._leaving and place is not None:
            self._leaving = False
            data = data[:place] + GOAWAY + data[place:]
        self._say(data)

    def leave(self) -> None:
        """Put the word in, now or behind the frame that is being said."""
        if self._frames.between:
            self._say(GOAWAY)
        else:
            self._leaving = True

    def _say(self, data: bytes) -> None:
        if not self._client.is_closing():
            self._client.write(data)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def read(self, go_on: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            step: Callable[[], None] = (
                self._transport.resume_reading if go_on else self._transport.pause_reading
            )
            step()

    def pause_writing(self) -> None:
        if not self._client.is_closing():
            self._client.pause_reading()

    def resume_writing(self) -> None:
        if not self._client.is_closing():
            self._client.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._client.close()
