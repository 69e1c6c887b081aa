"""What passes between HTTP and the service: a head, a body, one reply. No socket is known here.

`http` (our own protocol) and `asgi` (under uvicorn) are two transports of the same `Service`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head, already held to the rules of HTTP."""

    method: str
    """As sent: `POST`."""
    path: str
    """Without the query, percent-decoded once."""
    query: str = ""
    """As sent, without the question mark."""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    """Names in lower case; the values of a repeated header joined by `, `."""


class Reply(NamedTuple):
    """An answer. The transport adds the status line, `content-length`, `connection` and `date`."""

    status: int
    body: bytes
    kind: bytes
    """The content type."""
    headers: bytes = b""
    """Further header lines, each ended by CRLF: `b"x-prediction-id: …\\r\\n"`."""
    close: bool = False
    """Close the connection after this answer."""


as_reply: Callable[[tuple[int, bytes, bytes, bytes, bool]], Reply] = partial(tuple.__new__, Reply)
"""A Reply of all its fields in their order: at a third of what its constructor costs."""


class Ticket(Protocol):
    """A request that is not answered yet."""

    def cancel(self) -> None:
        """The client left: drop it from the queue if it still waits. Its reply is not given."""


_TRACE = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent(headers: Mapping[bytes, bytes]) -> str:
    """The W3C `traceparent` of a request, if it has one and it is one; else empty."""
    trace = headers.get(b"traceparent")
    return "" if trace is None or not _TRACE.fullmatch(trace) else trace.decode()


Respond = Callable[[Reply], None]
Handler = Callable[[Head, bytes, Respond], Ticket | None]
"""Answers a request: see `Service.answer`."""


class Service(Protocol):
    """What a transport needs. Everything here is called on the event loop's thread."""

    draining: bool
    """Whether every answer says `Connection: close`; set by the drain, read by the transport."""

    def refusal(self, head: Head, length: int | None) -> Reply | None:
        """What is refused before the body is read (401, 404, 405, 413, 415); None: read it.

        `length` is the body's length where the head tells it, else None.
        """

    def answer(self, head: Head, body: bytes, respond: Respond) -> Ticket | None:
        """Answer one request: `respond` is called exactly once, at once or later.

        Returns a ticket where it was not called yet.
        """

    def handler(self, head: Head) -> Handler | None:
        """What may answer every request with this very head, instead of `refusal` and `answer`, of
        which the first refused none; None: ask them each time."""

    def error(self, status: int, message: str, head: Head | None = None) -> Reply:
        """An error in the words of the protocol that the path belongs to.

        The transport asks for it where HTTP itself was broken: 400, 408, 413, 431 …
        """
