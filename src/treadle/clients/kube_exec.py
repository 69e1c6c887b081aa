"""A command in a container, through the API server: `pods/exec` over WebSocket.

The same login, TLS and proxy as for every other request. A frame's first
byte is its channel: 1 is standard output, 2 standard error, 3 the status at the end, as JSON. Without
a status nobody knows how the command ended: then the connection was cut off.

One thread reads and writes a connection: OpenSSL's are not made for two, and the library's own client
with threads lost connections to that, and whole processes. So an event loop runs, here, while a frame
is waited for, and between two frames nothing does: what comes meanwhile waits with the kernel.

Source: Kubernetes KEP-4006, subprotocols v4.channel.k8s.io and v5.channel.k8s.io.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from treadle.base.errors import MissingExtra, Refused, Unreachable

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_OUT, _ERROR, _STATUS = 1, 2, 3
_SAID = 2000


class NotUpgraded(Exception):
    """The API server answered with a status of HTTP instead."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status, self.body = status, body


@dataclass(frozen=True)
class Way:
    """How the API server is reached."""

    server: str
    tls: ssl.SSLContext
    """What is trusted, and the certificate that is shown."""
    login: Any = field(default=None, repr=False)
    """The client's: a flow of requests (httpx2.Auth)."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """With a login's token, where that is known."""
    name: str | None = None
    """The server's, for TLS; by default that of its address."""
    proxy: str | None = None
    """By default that of the environment's variables."""


def run(
    way: Way, path: str, command: Sequence[str], *, container: str, what: str,
    patience_s: float,
) -> Iterator[bytes]:  # fmt: skip
    """What the command writes to standard output, as it comes.

    Refused: it failed; with what it wrote to standard error. Unreachable: the connection was cut
    off, or nothing came for `patience_s` seconds. NotUpgraded: the server answered otherwise.
    """
    try:
        from websockets.exceptions import WebSocketException
    except ImportError:
        raise MissingExtra(
            "websockets", "kubernetes", "collecting from a Kubernetes environment"
        ) from None
    said = b""
    try:
        with asyncio.Runner() as runner:
            connection = runner.run(_connected(way, path, command, container, patience_s))
            try:
                while True:
                    frame = runner.run(_next(connection, patience_s))
                    channel, data = frame[:1], bytes(frame[1:])
                    if channel == bytes([_OUT]) and data:
                        yield data
                    elif channel == bytes([_ERROR]):
                        said = (said + data)[-_SAID:]
                    elif channel == bytes([_STATUS]):
                        _ended(data, said, what)
                        return
            finally:
                runner.run(connection.close())
    # TimeoutError is an OSError; an ImportError is a kind of proxy that needs another library.
    except (WebSocketException, OSError, EOFError, ImportError) as error:
        raise Unreachable(
            f"{what}: the connection was cut off ({str(error) or type(error).__name__})",
            hint="try again; a pod that has just ended is one reason",
        ) from None


async def _next(connection: ClientConnection, patience_s: float) -> bytes:
    try:
        frame = await asyncio.wait_for(connection.recv(), patience_s)
    except TimeoutError:
        raise TimeoutError(f"nothing came for {patience_s:g} s") from None
    return frame.encode() if isinstance(frame, str) else frame


def _ended(data: bytes, said: bytes, what: str) -> None:
    """Refused unless the status says that the command succeeded."""
    try:
        status = json.loads(data)
    except ValueError:
        status = {}
    if status.get("status") == "Success":
        return
    causes = (status.get("details") or {}).get("causes") or []
    code = next((one.get("message") for one in causes if one.get("reason") == "ExitCode"), None)
    words = said.decode("utf-8", "replace").strip() or str(status.get("message", ""))
    raise Refused(f"{what} " + (f"ended with {code}: {words}" if code else f"failed: {words}"))


async def _connected(
    way: Way, path: str, command: Sequence[str], container: str, patience_s: float
) -> ClientConnection:
    """The open connection. NotUpgraded: the server answered otherwise, a second login too."""
    import httpx2
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus
    from websockets.typing import Subprotocol

    query = [("command", word) for word in command]
    query += [("container", container), ("stdout", "true"), ("stderr", "true")]
    url = f"{way.server.rstrip('/')}{path}?{urlencode(query)}"
    encrypted: dict[str, Any] = {"ssl": way.tls} if url.startswith("https:") else {}
    if encrypted and way.name:
        encrypted["server_hostname"] = way.name
    # A login can be a flow of requests (a token's file that is read anew): here it is walked by hand,
    # because the connection that it is for is no request of that client.
    request = httpx2.Request("GET", url, headers=dict(way.headers))
    flow = way.login.sync_auth_flow(request) if way.login is not None else iter([request])
    request = next(flow)
    while True:
        headers = {n: v for n, v in request.headers.items() if n.lower() == "authorization"}
        try:
            return await connect(
                f"ws{url.removeprefix('http')}", proxy=way.proxy or True,
                additional_headers=headers, compression=None,
                subprotocols=[Subprotocol(name) for name in _PROTOCOLS],
                open_timeout=patience_s, close_timeout=2, ping_interval=None, max_size=None,
                **encrypted,
            )  # fmt: skip
        except InvalidStatus as error:
            answer = error.response
            if way.login is None:
                raise NotUpgraded(answer.status_code, bytes(answer.body or b"")) from None
            try:
                request = flow.send(httpx2.Response(answer.status_code, request=request))  # type: ignore[union-attr]
            except StopIteration:
                raise NotUpgraded(answer.status_code, bytes(answer.body or b"")) from None
