"""The service as an ASGI application: the same answers under uvicorn or any other server.

Bare ASGI, one request at a time as the server hands it over. What HTTP itself asks for (framing,
timeouts, `Expect`) is the server's business here; limits, gzip and the refusal before a body is
read are ours, as in `http`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from treadle.operate.http import inflate
from treadle.operate.limits import Limits
from treadle.operate.request import Head, Reply, Service

_log = logging.getLogger("treadle.http")

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Gone(Exception):
    """The client left."""


class Application:
    """The ASGI application of one service."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self._service, self._limits = service, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say that there is nothing but HTTP."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            with contextlib.suppress(_Gone):
                await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = _head(scope)
        reply = await self._reply(head, receive)
        headers = [(b"content-type", reply.kind)] if reply.status not in (204, 304) else []
        if reply.status not in (204, 304):
            headers.append((b"content-length", str(len(reply.body)).encode()))
        for line in reply.headers.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if colon:
                headers.append((name.strip().lower(), value.strip()))
        if reply.close or self._service.draining:
            headers.append((b"connection", b"close"))
        bodiless = head.method == "HEAD" or reply.status in (204, 304)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if bodiless else reply.body})

    async def _reply(self, head: Head, receive: Receive) -> Reply:
        service, most = self._service, self._limits.max_body_bytes
        told = head.headers.get(b"content-length")
        length = int(told) if told else None
        if length is None and b"transfer-encoding" not in head.headers:
            length = 0
        refusal = service.refusal(head, length)
        if refusal is not None:
            return refusal
        too_large = f"the body is larger than {most} bytes"
        if length is not None and length > most:
            return service.error(413, too_large, head)
        coding = head.headers.get(b"content-encoding", b"").lower()
        if length != 0 and coding not in (b"", b"identity", b"gzip", b"x-gzip"):
            reply = service.error(415, "a body may be compressed by gzip alone", head)
            return reply._replace(headers=reply.headers + b"accept-encoding: gzip\r\n")
        body = await _body(receive, most)
        if body is None:
            return service.error(413, too_large, head)._replace(close=True)
        if body and coding in (b"gzip", b"x-gzip"):
            try:
                body = await _gunzip(body, most)
            except inflate.TooLarge:
                return service.error(413, too_large, head)
            except inflate.NotGzip:
                return service.error(400, "the body is not gzip as its header says", head)
        return await self._ask(head, body, receive)

    async def _ask(self, head: Head, body: bytes, receive: Receive) -> Reply:
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def respond(reply: Reply) -> None:
            if answered.done():
                if not answered.cancelled():
                    _log.error("a request was answered twice; the second answer is dropped")
            else:
                answered.set_result(reply)

        try:
            ticket = self._service.answer(head, body, respond)
        except Exception:
            _log.exception("the service failed")
            return self._service.error(500, "the server failed", head)
        if ticket is None:
            return await answered
        leaves = asyncio.ensure_future(_leaves(receive))
        try:
            await asyncio.wait((answered, leaves), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise _Gone
            return answered.result()
        finally:
            leaves.cancel()
            if not answered.done():
                answered.cancel()
                ticket.cancel()


def _head(scope: Scope) -> Head:
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers[name] = headers[name] + b", " + value if name in headers else value
    query: bytes = scope.get("query_string", b"")
    return Head(scope["method"], scope["path"], query.decode("latin-1"), headers)


async def _body(receive: Receive, most: int) -> bytes | None:
    """The whole body; None if it is longer than allowed."""
    whole = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        part: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        if len(whole) + len(part) > most:
            return None
        if not more and not whole:
            return part
        whole += part
        if not more:
            return bytes(whole)


async def _gunzip(body: bytes, most: int) -> bytes:
    """Decompressed, by a thread if it is large."""
    try:
        return inflate.gunzip(body, min(most, inflate.QUICK_BYTES))
    except inflate.TooLarge:
        if most <= inflate.QUICK_BYTES:
            raise
    return await asyncio.get_running_loop().run_in_executor(None, inflate.gunzip, body, most)


async def _leaves(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
