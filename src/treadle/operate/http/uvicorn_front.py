"""uvicorn's HTTP protocol (httptools) in the place of ours: `--http uvicorn`.

Only its protocol class is taken: accepting, TLS, signals and the drain are the server's own either
way. Slow heads and bodies have no timeout here, uvicorn knows none.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from treadle.operate.http.answers import date
from treadle.operate.http.asgi import Application
from treadle.operate.limits import Limits
from treadle.operate.request import Service


class UvicornFront:
    """All connections of one service, spoken to by uvicorn."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self._config = uvicorn.Config(
            Application(service, limits),
            http="httptools", loop="none", ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False, proxy_headers=False,
            # Closing an idle connection races with its client's next request: rarely is better.
            timeout_keep_alive=round(limits.keep_alive_s),
        )  # fmt: skip
        self._config.load()
        self._state = ServerState()
        self.tick()

    def __call__(self) -> asyncio.BaseProtocol:
        """A protocol for one more connection."""
        protocol: Any = self._config.http_protocol_class
        made: asyncio.BaseProtocol = protocol(
            config=self._config, server_state=self._state, app_state={}
        )
        return made

    def count(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def tick(self) -> None:
        """The date of the answers."""
        self._state.default_headers = [(b"date", date())]

    def close_idle(self) -> None:
        """Close each connection on which nothing is going on; the others after their answer."""
        for connection in tuple(self._state.connections):
            connection.shutdown()

    def abort(self) -> None:
        """Close all at once."""
        for connection in tuple(self._state.connections):
            connection.transport.abort()
