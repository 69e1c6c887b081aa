"""One server process at work: its event loop, its signals, its end.

SIGTERM, SIGINT and the end of the lifeline (the supervisor died) stop it; SIGUSR2 drains it after a
swap; SIGUSR1 closes the capture segment. In each case it ends by itself, with nothing lost:

1. it stops accepting, and every answer says `Connection: close`;
2. idle connections linger, so that a client's next request still finds somebody: closing them at
   once would race with requests that are on their way;
3. then idle ones are closed, and what is being read or answered gets `grace_s` to finish.

Another stop while it drains shortens the lingering. HTTP is `own` (`http`) or uvicorn's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

import uvloop

from treadle.operate.http.connections import TICK_S, Connections
from treadle.operate.http.listener import Certificates, Listener
from treadle.operate.limits import Limits
from treadle.operate.request import Service

_log = logging.getLogger("treadle.server")
_LOOK_S = 0.02
"""How often a drain looks whether it is done."""


class Front(Protocol):
    """What speaks HTTP."""

    def __call__(self) -> asyncio.BaseProtocol:
        """A protocol for one more connection."""

    def count(self) -> int:
        """How many connections are open."""

    def tick(self) -> None:
        """Called every TICK_S."""

    def close_idle(self) -> None:
        """Close each connection on which nothing is going on."""

    def abort(self) -> None:
        """Close all at once."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a server (`Server(…).serve()`, perhaps with others beside it) until a signal ends it.

    To be called in the main thread.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
    # The loop's handlers are gone; a late signal must not turn this good end into a bad one.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


class Server:
    """A service behind a socket, on the running loop."""

    def __init__(
        self,
        service: Service,
        listener: socket.socket,
        *,
        http: Literal["own", "uvicorn"] = "own",
        limits: Limits,
        tls: Certificates | None = None,
        swap_linger_s: float = 10.0,
        stop_linger_s: float = 1.0,
        grace_s: float = 30.0,
        lifeline: int | None = None,
        probe: socket.socket | None = None,
        started: Callable[[], None] = lambda: None,
        drained: Callable[[], None] = lambda: None,
        flush: Callable[[], None] = lambda: None,
        heartbeat: Callable[[], None] | None = None,
        crowded: Callable[[int], bool] | None = None,
    ) -> None:
        """Serves on a bound socket.

        `started` is called when connections are accepted, `drained` when no more are; `flush` at
        SIGUSR1; `probe` is a second socket, for health checks from within the container;
        `heartbeat` every second, as long as the loop turns. `lifeline` is a descriptor that
        gives end of file when the parent is gone. `crowded` is told how many connections there are
        and says whether another worker has fewer.
        """
        self._service, self._socket, self._limits, self._tls = service, listener, limits, tls
        self._http = http
        self._swap_linger_s, self._stop_linger_s = swap_linger_s, stop_linger_s
        self._grace_s, self._lifeline, self._probe = grace_s, lifeline, probe
        self._started, self._drained, self._flush = started, drained, flush
        self._heartbeat, self._crowded = heartbeat, crowded
        self._until: float | None = None
        """When the lingering ends (monotonic); None: nobody has asked for an end."""
        self.swapped = False
        """Whether it was asked to leave because others take over."""

    async def serve(self) -> None:
        """Serve until asked to end."""
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        front = self._front()
        listener = Listener(
            self._socket, front, count=front.count, limits=self._limits, tls=self._tls,
            crowded=self._crowded,
        )  # fmt: skip
        beside = None
        if self._probe is not None:
            beside = Listener(self._probe, front, count=front.count, limits=self._limits)
        self._listen_to_signals(loop)
        ticking = loop.create_task(self._tick(front))
        try:
            listener.open()
            if beside is not None:
                beside.open()
            self._started()
            await self._asked.wait()
            if beside is not None:
                beside.close()
            await self._drain(front, listener)
        finally:
            ticking.cancel()
            listener.close()
            if beside is not None:
                beside.close()

    def stop(self) -> None:
        """End soon."""
        self._end_in(self._stop_linger_s)

    def leave(self) -> None:
        """End after a swap: clients have time to notice."""
        self.swapped = True
        self._end_in(self._swap_linger_s)

    def _end_in(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._until = until if self._until is None else min(self._until, until)
        self._asked.set()

    def _front(self) -> Front:
        if self._http == "own":
            return Connections(self._service, self._limits)
        from treadle.operate.http.uvicorn_front import UvicornFront

        return UvicornFront(self._service, self._limits)

    def _listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number, handler in (
            (signal.SIGTERM, self.stop), (signal.SIGINT, self.stop),
            (signal.SIGUSR2, self.leave), (signal.SIGUSR1, self._flush),
        ):  # fmt: skip
            loop.add_signal_handler(number, handler)
        if self._lifeline is not None:
            loop.add_reader(self._lifeline, self._on_lifeline, self._lifeline)

    def _on_lifeline(self, descriptor: int) -> None:
        if os.read(descriptor, 64) == b"":
            asyncio.get_running_loop().remove_reader(descriptor)
            _log.warning("the supervisor is gone: draining")
            self.stop()

    async def _tick(self, front: Front) -> None:
        """Timeouts, and a sign of life every second."""
        turn = 0
        while True:
            try:
                front.tick()
                if turn % round(1 / TICK_S) == 0 and self._heartbeat is not None:
                    self._heartbeat()
            except Exception:
                _log.exception("the server's clock failed")
            turn += 1
            await asyncio.sleep(TICK_S)

    async def _drain(self, front: Front, listener: Listener) -> None:
        self._service.draining = True
        listener.close()
        self._drained()  # nobody new comes here from now on

        def open_ones() -> int:
            return front.count() + listener.greeting

        while open_ones() and self._until is not None and time.monotonic() < self._until:  # noqa: ASYNC110 - many conditions, no event
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(0)  # requests that are here already are read before
        await asyncio.sleep(0)
        front.close_idle()
        until = time.monotonic() + self._grace_s
        while open_ones() and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
            front.close_idle()
        if open_ones():
            _log.warning("%d connections are cut off after %g s", open_ones(), self._grace_s)
            front.abort()
            await asyncio.sleep(_LOOK_S)
