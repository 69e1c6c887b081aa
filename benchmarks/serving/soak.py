"""A client that paces requests, whatever the server does, and checks every answer.

Open loop: request i is to be sent i / rate seconds after the start. It takes a free connection, or
waits for one; its latency counts from when it was to be sent, so that a server which stalls cannot
hide the requests that it kept from being sent (coordinated omission). The loop's timer has a
resolution of a millisecond: requests of one millisecond leave together, and how late they left is
reported beside.

Checked of each answer: status, value (against the model called in a process of its own), and that
its prediction id was never given before.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import re
import resource
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .measure import tree

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_IDENTITY = re.compile(rb"\r\nx-prediction-id: *([^\r]+)", re.IGNORECASE)
LATE_S = 1.0
"""An answer after this is counted as late."""
GIVE_UP_S = 15.0
"""What is not answered so long after the last request was sent is lost."""
Question = tuple[bytes, list[list[float]]]
"""A whole request, head and body, and the right rows."""


def question(
    port: int, path: str, headers: Mapping[str, str], body: bytes, right: list[list[float]]
) -> Question:
    """A keep-alive POST, ready to be sent."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"{more}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body, right


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.asked: tuple[int, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Free at once."""
        self.transport = transport  # type: ignore[assignment]
        if self.client.closing:  # a replacement that came too late: nobody would close it
            transport.close()
            return
        self.client.open_connections.add(self)
        self.client.free(self)

    def send(self, number: int, intended: float) -> None:
        """Ask; the answer calls `answered`."""
        assert self.transport is not None
        self.asked = (number, intended)
        self.transport.write(self.client.questions[number][0])

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        buffer = self.buffer
        buffer += data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(buffer[: end + 2])
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        if len(buffer) < end + 4 + length:
            return
        body = bytes(buffer[end + 4 : end + 4 + length])
        del buffer[: end + 4 + length]
        asked, self.asked = self.asked, None
        if asked is None or buffer:
            self.client.wrong_because("bytes that nobody asked for")
            self.close()
            return
        self.client.answered(asked, head, body)
        if b"\r\nconnection: close" in head.lower():
            self.close()
        else:
            self.client.free(self)

    def close(self) -> None:
        """Close; `connection_lost` opens another."""
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """What was under way is lost."""
        del error
        self.client.gone(self)


class Client:
    """All connections, the schedule and the tallies."""

    def __init__(
        self, port: int, questions: Sequence[Question], *, tolerance: float, connections: int
    ) -> None:
        self.port, self.questions, self.tolerance = port, questions, tolerance
        self.connections = connections
        self.idle: list[Connection] = []
        self.open_connections: set[Connection] = set()
        self.waiting: collections.deque[tuple[int, float]] = collections.deque()
        self.latency, self.delay = array("d"), array("d")
        self.identities = array("q")
        self.sent = self.wrong = self.lost = self.refused = self.late = 0
        self.reasons: collections.Counter[str] = collections.Counter()
        self.closed_loop = self.ended = self.closing = False
        self.decode = msgspec.json.Decoder().decode
        self.finished, self.emptied = asyncio.Event(), asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.now = time.perf_counter

    async def open(self) -> None:
        """Connect all."""
        await asyncio.gather(*(self._connect() for _ in range(self.connections)))

    async def _connect(self) -> None:
        await self.loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)

    # ---- one request ----

    def due(self, number: int, intended: float) -> None:
        """Send a request now, or when a connection is free."""
        self.sent += 1
        if self.idle:
            self.delay.append(self.now() - intended)
            self.idle.pop().send(number, intended)
        else:
            self.waiting.append((number, intended))

    def free(self, connection: Connection) -> None:
        """A connection has nothing to do."""
        if self.waiting:
            number, intended = self.waiting.popleft()
            self.delay.append(self.now() - intended)
            connection.send(number, intended)
        elif self.closed_loop and not self.ended:
            self.sent += 1
            connection.send(self.sent % len(self.questions), self.now())
        else:
            self.idle.append(connection)

    def answered(self, asked: tuple[int, float], head: bytes, body: bytes) -> None:
        """Check one answer."""
        number, intended = asked
        took = self.now() - intended
        self.latency.append(took)
        self.late += took > LATE_S
        status = head[9:12]
        if status == b"503":
            self.refused += 1
        elif status != b"200":
            self.wrong_because(f"status {status.decode(errors='replace')}")
        else:
            identity = _IDENTITY.search(head)
            if identity is None:
                self.wrong_because("no prediction id")
            else:
                self.identities.append(hash(identity[1]))
            self._compare(self.questions[number][1], body)
        if self.ended and len(self.latency) + self.lost >= self.sent:
            self.finished.set()

    def _compare(self, right: list[list[float]], body: bytes) -> None:
        try:
            rows = self.decode(body)["predictions"]
            good = len(rows) == len(right)
            for found, expected in zip(rows, right, strict=False):
                values = found if isinstance(found, list) else [found]
                good = good and len(values) == len(expected)
                for a, b in zip(values, expected, strict=False):
                    good = good and abs(a - b) <= self.tolerance
        except (ValueError, TypeError, KeyError):
            self.wrong_because("an answer of another form")
        else:
            if not good:
                self.wrong_because("another value")

    def wrong_because(self, reason: str) -> None:
        """Count a wrong answer."""
        self.wrong += 1
        self.reasons[reason] += 1

    def gone(self, connection: Connection) -> None:
        """A connection was closed: replace it while the run lasts."""
        self.open_connections.discard(connection)
        if self.ended and not self.open_connections:
            self.emptied.set()
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.asked is not None:
            self.lost += 1
            self.reasons["connection closed before the answer"] += 1
        if not self.ended:
            self.loop.create_task(self._again())

    async def _again(self) -> None:
        for _ in range(50):
            with contextlib.suppress(OSError):
                await self._connect()
                return
            await asyncio.sleep(0.02)

    # ---- a run ----

    async def pace(self, rate: float, seconds: float) -> None:
        """Send at a rate, then wait for what is under way."""
        total, count, step = int(rate * seconds), len(self.questions), 1 / rate
        began = self.now()
        number = 0
        while number < total:
            now = self.now() - began
            while number < total and number * step <= now:
                self.due(number % count, began + number * step)
                number += 1
            await asyncio.sleep(max(0.0, number * step - (self.now() - began)))
        await self._end()

    async def flood(self, seconds: float) -> None:
        """As fast as the connections allow: what the server can do with this client."""
        self.closed_loop = True
        for connection in self.idle[:]:
            self.idle.remove(connection)
            self.free(connection)
        await asyncio.sleep(seconds)
        await self._end()

    async def close(self) -> None:
        """Close every connection."""
        self.ended = self.closing = True
        for connection in self.open_connections.copy():
            connection.close()
        if self.open_connections:
            await self.emptied.wait()

    async def _end(self) -> None:
        self.ended = True
        if len(self.latency) + self.lost < self.sent:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.finished.wait(), GIVE_UP_S)
        missing = self.sent - len(self.latency) - self.lost
        if missing > 0:
            self.lost += missing
            self.reasons["no answer"] += missing


class Memory:
    """The server's resident memory once a second, in MB."""

    def __init__(self, root: int) -> None:
        self.root, self.samples = root, array("d")
        self.files: list[Path] = []

    def look(self) -> None:
        """One sample: the sum over its processes."""
        pages = self._pages()
        if pages is None:  # the first time, or a process was replaced
            self.files = [Path(f"/proc/{pid}/statm") for pid in tree(self.root)]
            pages = self._pages() or 0
        self.samples.append(pages * resource.getpagesize() / 1e6)

    def _pages(self) -> int | None:
        try:
            return sum(int(f.read_text().split()[1]) for f in self.files) if self.files else None
        except OSError:
            return None

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(1)

    def settled(self) -> list[float]:
        """Without the warm-up: the first tenth, at least 5 s where there are more than 10."""
        skipped = max(len(self.samples) // 10, 5) if len(self.samples) > 10 else 0
        return list(self.samples[skipped:])


async def _soak(
    port: int, root: int, questions: Sequence[Question], tolerance: float, connections: int,
    rate: float, seconds: float, careful: bool,
) -> dict[str, Any]:  # fmt: skip
    capacity = None
    if careful:
        probe = Client(port, questions, tolerance=tolerance, connections=connections)
        await probe.open()
        await probe.flood(3)
        await probe.close()
        capacity = len(probe.latency) / 3
        rate = max(1.0, min(rate, capacity / 2))
    client = Client(port, questions, tolerance=tolerance, connections=connections)
    await client.open()
    memory = Memory(root)
    watch = asyncio.create_task(memory.watch())
    gc.collect()
    gc.freeze()
    began, cpu = time.perf_counter(), time.process_time()
    await client.pace(rate, seconds)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    watch.cancel()
    await client.close()
    return summary(client, memory, rate, seconds, wall, cpu) | {"capacity": capacity}


def summary(
    client: Client, memory: Memory, rate: float, seconds: float, wall: float, cpu: float
) -> dict[str, Any]:
    """What happened, as JSON's values. Latencies in ms, memory in MB."""
    twice = len(client.identities) - len(np.unique(np.array(client.identities)))
    if twice:
        client.wrong += twice
        client.reasons["a prediction id given twice"] += twice
    rss = memory.settled() or [0.0]
    swing = max(rss) / min(rss) - 1 if min(rss) else 0.0
    return {
        "rate": rate, "seconds": seconds, "achieved": len(client.latency) / wall,
        "sent": client.sent, "answers": len(client.latency), "wrong": client.wrong,
        "lost": client.lost, "refused": client.refused, "late": client.late,
        "reasons": dict(client.reasons), "latency_ms": percentiles(client.latency),
        "sent_late_ms": percentiles(client.delay), "client_cores": cpu / wall,
        "rss_first_mb": rss[0], "rss_last_mb": rss[-1], "rss_swing": swing, "flat": swing <= 0.05,
        "rss_mb": [round(value, 2) for value in memory.samples],
    }  # fmt: skip


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of times in seconds, in ms."""
    if not len(seconds):
        return dict.fromkeys(("p50", "p90", "p99", "p99.9", "max"), float("nan"))
    values = np.percentile(np.asarray(seconds), [50, 90, 99, 99.9, 100]) * 1e3
    return dict(zip(("p50", "p90", "p99", "p99.9", "max"), map(float, values), strict=True))


def soak(
    port: int, root: int, questions: Sequence[Question], *, tolerance: float, rate: float,
    seconds: float, connections: int = 64, careful: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run it. `root`: the server's first process. `careful`: at most half of what it can do."""
    arguments = (port, root, questions, tolerance, connections, rate, seconds, careful)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_soak(*arguments))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_soak(*arguments))
