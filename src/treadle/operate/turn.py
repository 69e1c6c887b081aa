"""Requests that came in one turn of the event loop, answered together: one call for all of them.

Under load dozens of sockets are ready at once. Their bodies are read by one decoder, their rows become
one input, and their answers go out in the same turn, so that what a request costs by itself is its
JSON and its head. Nothing waits for it: a turn is over when the sockets that are ready are read.

Everything unusual goes the ordinary way, each request by itself: a body of another form, a missing
value that would change the type of its neighbours' column, a model that is busy or slow, an error.
Answers are the same either way; only those of equal key share a call there as well (`batch`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Protocol

from treadle.operate.metrics import Metrics
from treadle.operate.plane import Plane
from treadle.operate.query import Outputs, Query, Together
from treadle.operate.request import Head, Reply, Respond, Ticket, as_reply

_log = logging.getLogger("treadle.server")


class Codec(Protocol):
    """A protocol's words for many requests."""

    def together(self, bodies: Sequence[bytes]) -> Together | None:
        """The rows of all bodies; None where one of them is not of the usual kind."""

    def encode_all(self, outputs: Outputs, counts: Sequence[int]) -> list[bytes]:
        """The bodies of the answers, of so many rows each."""


class Asked:
    """A request of this turn: its own ticket."""

    __slots__ = ("behind", "body", "gone", "head", "respond")

    def __init__(self, head: Head, body: bytes, respond: Respond) -> None:
        self.head, self.body, self.respond = head, body, respond
        self.gone = False
        self.behind: Ticket | None = None
        """Its ticket of the ordinary way, if it went there."""

    def cancel(self) -> None:
        """The client left."""
        self.gone = True
        if self.behind is not None:
            self.behind.cancel()


class Turn:
    """The requests to one path."""

    def __init__(
        self,
        plane: Plane,
        metrics: Metrics,
        codec: Codec,
        route: str,
        *,
        alone: Callable[[Head, bytes, Respond], Ticket | None],
        submit: Callable[[Head, Query, Respond], Ticket | None],
        headers: Callable[[Head, bytes], bytes],
        error: Callable[[int, str, Head], Reply],
        kind: bytes,
    ) -> None:
        """`alone` answers a request the ordinary way, `submit` one that is decoded already;
        `headers` are those of an answer with this prediction id, `kind` is its content type, `error`
        makes a reply that says what went wrong."""
        self._plane, self._metrics, self._codec, self._route = plane, metrics, codec, route
        self._alone, self._submit, self._headers, self._kind = alone, submit, headers, kind
        self._error = error
        self._asked: list[Asked] = []
        self._began = 0.0

    def add(self, head: Head, body: bytes, respond: Respond) -> Ticket:
        """One more request; it is answered when the sockets that are ready are read."""
        one = Asked(head, body, respond)
        asked = self._asked
        if not asked:
            self._began = perf_counter()
            asyncio.get_running_loop().call_soon(self._over)
        asked.append(one)
        return one

    def _over(self) -> None:
        asked, self._asked = self._asked, []
        if len(asked) == 1:  # what is good for many costs one a tenth more
            self._by_themselves(asked)
            self._plane.batcher.hurry()
            return
        asked = [one for one in asked if not one.gone]
        if asked and not self._answered(asked):
            self._by_themselves(asked)

    def _by_themselves(self, asked: list[Asked]) -> None:
        for one in asked:
            if not one.gone:
                try:
                    one.behind = self._alone(one.head, one.body, one.respond)
                except Exception:
                    _log.exception("a request could not be answered")
                    one.respond(self._error(500, "the server failed", one.head))

    def _answered(self, asked: list[Asked]) -> bool:
        """Answer them, or queue what was decoded; False where nothing was done."""
        plane = self._plane
        if not plane.quick(len(asked)):
            return False
        begun = perf_counter()
        try:
            together = self._codec.together([one.body for one in asked])
        except Exception:  # each by itself says what is wrong
            return False
        if together is None:
            return False
        decoded = perf_counter()
        try:
            outputs = plane.at_once(together, self._began)
        except Exception:  # some row is to blame; the ordinary way finds which
            outputs = None
        if outputs is None:
            for number, one in enumerate(asked):
                one.behind = self._submit(one.head, together.query(number), one.respond)
            return True
        called = perf_counter()
        try:
            bodies = self._codec.encode_all(outputs, together.counts)
        except Exception:
            return False
        encoded = perf_counter()
        metrics = self._metrics
        count = len(asked)
        heads = [one.head.headers for one in asked]
        identities = plane.identify(together, outputs, self._began, heads)
        metrics.parse(decoded - begun, count)
        metrics.encode(encoded - called, count)
        metrics.request(self._route, 200, count)
        headers, kind = self._headers, self._kind
        for one, body, identity in zip(asked, bodies, identities, strict=True):
            try:
                one.respond(as_reply((200, body, kind, headers(one.head, identity), False)))
            except Exception:  # what becomes of one answer is no concern of its neighbours
                _log.exception("an answer could not be taken")
        return True
