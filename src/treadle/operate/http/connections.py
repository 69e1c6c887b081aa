"""HTTP/1.1 in front of a service: our own protocol on uvloop, made for small requests on kept connections.

What becomes of the bytes of one connection is in `connection`; here is what all share. One timer
looks at all of them twice a second: a timeout is late by that much, and costs a request nothing.
"""

from __future__ import annotations

import time
from typing import Final

from treadle.operate.http.answers import Answers
from treadle.operate.http.connection import Connection
from treadle.operate.http.head import HEADS, Heads, Parsed
from treadle.operate.limits import Limits
from treadle.operate.request import Handler, Service

TICK_S: Final = 0.5
"""How often the timeouts of all connections are looked at."""


class Connections:
    """All connections of one service: what they share, and their timeouts."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self.service, self.limits = service, limits
        self.heads, self.answers = Heads(limits), Answers()
        self.usual: dict[bytes, tuple[Parsed, Handler]] = {}
        """Heads that the service does not refuse, and what answers them; whoever is in a hurry looks
        here first."""
        self.all: set[Connection] = set()
        self.now = time.monotonic()
        """Monotonic seconds as of the last tick."""

    def __call__(self) -> Connection:
        """A protocol for one more connection."""
        return Connection(self)

    def learn(self, block: bytes, parsed: Parsed) -> None:
        """A head was not refused, and its body simply follows it: remember what answers it."""
        if block in self.heads.known:
            handler = self.service.handler(parsed.head)
            if handler is not None:
                if len(self.usual) >= HEADS:
                    self.usual.clear()
                self.usual[block] = parsed, handler

    def tick(self) -> None:
        """Look at the clock and the timeouts; to be called every TICK_S."""
        self.now = time.monotonic()
        self.answers.tick()
        for connection in tuple(self.all):
            connection.check()

    def count(self) -> int:
        """How many connections are open."""
        return len(self.all)

    def close_idle(self) -> None:
        """Close each connection on which nothing is going on."""
        for connection in tuple(self.all):
            if connection.idle:
                connection.close()

    def abort(self) -> None:
        """Close all at once."""
        for connection in tuple(self.all):
            connection.abort()
