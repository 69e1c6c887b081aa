"""A service that answers with what it was asked: for tests and measurements of the transports.

The path says how: `/late` a moment later, `/slow` in a quarter of a second, `/never` not at all,
`/refused` before the body, `/raise` by failing, `/close` ends the connection, `/empty` without a
body, `/big?N` with N bytes. All else is answered at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

from treadle.operate.request import Handler, Head, Reply, Respond, Ticket


def echo(method: str, path: str, query: str = "", body: bytes = b"") -> bytes:
    """What an answer says."""
    digest = hashlib.sha256(body).hexdigest()[:16]
    return f"{method} {path}?{query} {len(body)} {digest}\n".encode()


@dataclass
class Waiting:
    """A request that is not answered yet."""

    service: Echo
    head: Head
    timer: asyncio.TimerHandle | asyncio.Handle | None = None

    def cancel(self) -> None:
        self.service.cancelled.append(self.head.path)
        if self.timer is not None:
            self.timer.cancel()


@dataclass
class Echo:
    """Answers with what it was asked."""

    draining: bool = False
    answered: list[tuple[Head, bytes]] = field(default_factory=list)
    """Every request that came as far as the service."""
    cancelled: list[str] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    refusals: list[tuple[str, int | None]] = field(default_factory=list)
    requests: list[list[Head | bytes | None]] = field(default_factory=list)
    """Head and body (None: did not come so far) of everything that is owed an answer, in order, as
    long as there is one connection; a request that HTTP itself refused may have no head."""
    slow_s: float = 0.25
    """How late `/slow` is answered."""
    remembered: bool = True
    """Whether a head that was not refused once is not asked about again."""
    keep: bool = True
    """Whether these lists are filled."""

    def refusal(self, head: Head, length: int | None) -> Reply | None:
        if self.keep:
            self.refusals.append((head.path, length))
            self.requests.append([head, None])
        if head.path == "/refused":
            return Reply(401, b"who are you\n", b"text/plain", b"www-authenticate: Bearer\r\n")
        return None

    def answer(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        if self.keep:
            self.answered.append((head, body))
            if (
                not self.requests
                or self.requests[-1][0] is not head
                or self.requests[-1][1] is not None
            ):
                self.requests.append([head, None])  # of a known head no refusal was asked for
            self.requests[-1][1] = body
        path = head.path
        reply = Reply(200, echo(head.method, path, head.query, body), b"text/plain")
        if path in ("/late", "/slow", "/never"):
            waiting = Waiting(self, head)
            loop = asyncio.get_running_loop()
            if path == "/late":
                waiting.timer = loop.call_soon(respond, reply)
            elif path == "/slow":
                waiting.timer = loop.call_later(self.slow_s, respond, reply)
            return waiting
        if path == "/raise":
            raise RuntimeError("a secret")
        if path == "/close":
            reply = reply._replace(close=True)
        elif path == "/empty":
            reply = Reply(204, b"", b"text/plain")
        elif path == "/big":
            reply = reply._replace(body=b"b" * int(head.query))
        respond(reply)
        return None

    def handler(self, head: Head) -> Handler | None:  # noqa: ARG002 - the service's signature
        return self.answer if self.remembered else None

    def error(self, status: int, message: str, head: Head | None = None) -> Reply:
        self.errors.append((status, message))
        if head is None or not self.requests or self.requests[-1][0] is not head:
            self.requests.append([head, None])
        return Reply(status, message.encode() + b"\n", b"text/plain")
