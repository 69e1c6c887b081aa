"""Keep-alive clients without retries: every lost answer is a failure, and each is remembered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

HEADERS = {"Content-Type": "application/json"}


@dataclass
class Failure:
    """What a client did not get, and when (time.monotonic)."""

    what: str
    at: float
    local_port: int
    """Of the connection that it happened on; 0: it was not open yet."""


@dataclass
class KeepAlive:
    """One client on one connection at a time; it opens another when it was told to, or failed."""

    where: Callable[[], int]
    """The port for the next connection."""
    number: int
    pause_s: float = 0.0
    answered: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    local_port: int = 0
    connections: int = 0
    _connection: http.client.HTTPConnection | None = None

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.once()
            if self.pause_s:
                time.sleep(self.pause_s)
        self.close()

    def once(self) -> None:
        """One request with values of its own, whose answer is checked."""
        a, b = float(self.answered % 1000), float(self.number)
        body = json.dumps({"inputs": [[a, b, 1.0]]})
        try:
            connection = self._connection or self._connect()
            connection.request("POST", "/invocations", body, HEADERS)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}: {told}")
            double = told["predictions"][0]["double"]
            if double != [2 * a, 2 * b, 2.0]:
                raise RuntimeError(f"{double} is not the double of {[a, b, 1.0]}")
            self.answered += 1
            self.versions[answer.headers["X-Model-Version"]] += 1
            if answer.headers.get("Connection", "").lower() == "close":
                self.close()
        except Exception as error:
            self.failures.append(Failure(repr(error), time.monotonic(), self.local_port))
            self.close()

    def _connect(self) -> http.client.HTTPConnection:
        self.local_port = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", self.where(), timeout=60)
        self._connection.connect()
        self.connections += 1
        self.local_port = self._connection.sock.getsockname()[1]
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Crowd:
    """Several of them, each in a thread: from back to back to nearly idle."""

    def __init__(self, where: Callable[[], int], clients: int = 8, pause_s: float = 0.002) -> None:
        self.clients = [KeepAlive(where, n, pause_s * n) for n in range(clients)]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=client.run, args=(self._stop,)) for client in self.clients
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        return sum(client.answered for client in self.clients)

    @property
    def failures(self) -> list[Failure]:
        return [failure for client in self.clients for failure in client.failures]

    def until(self, answered: int, seconds: float = 180) -> None:
        """Wait for as many answers in all."""
        wait_for(lambda: self.answered >= answered or len(self.failures) > 100, seconds)


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """What it gives, as soon as it is true."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def owners(port: int, pids: list[int]) -> dict[int, int]:
    """Client's port → the process that holds the other end of its connection to `port`."""
    inodes: dict[str, int] = {}
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                link = str(descriptor.readlink())
            except OSError:
                continue
            if link.startswith("socket:["):
                inodes[link[8:-1]] = pid
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, _, _, _, _, inode, *_ = line.split()
        if int(local.split(":")[1], 16) == port and inode in inodes:
            found[int(remote.split(":")[1], 16)] = inodes[inode]
    return found


def resident_bytes(pid: int) -> int:
    """Memory of a process and of those that it started."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 + sum(resident_bytes(child) for child in children(pid))
