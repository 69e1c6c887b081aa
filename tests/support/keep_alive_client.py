"""Clients that keep their connections and never ask again: run in a pod, told by arguments, prints JSON.

    python keep_alive_client.py HOST PORT CONNECTIONS RATE SECONDS [STOP]

RATE requests a second are shared evenly by CONNECTIONS connections, each sent when it is due, and one
that is late is not left out. A connection is opened anew only after an answer that said
`Connection: close`, or after a failure, which is counted by its kind. It ends after SECONDS, or
earlier when the file STOP is there. Only the standard library: it runs in any image with a Python.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time

BODY = os.environ.get("BODY", '{"dataframe_records": [{"area": 100.0, "rooms": 3}]}')
PATH = os.environ.get("ASKED", "/invocations")
TIMEOUT_S = 30.0


class Clients:
    """Connections side by side, and what became of their requests."""

    def __init__(self, host: str, port: int, connections: int, rate: float) -> None:
        self.host, self.port, self.connections = host, port, connections
        self.period = connections / rate
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.answered = self.closed = 0
        self.slowest = 0.0
        self.kinds: dict[str, int] = {}
        self.failures: list[str] = []
        self.versions: dict[str, int] = {}

    def run(self, seconds: float, stop: str) -> dict[str, object]:
        """Ask until the time is over or the file is there."""
        began, until = time.time(), time.monotonic() + seconds
        threads = [threading.Thread(target=self.keep_asking, args=(n,)) for n in range(self.connections)]  # fmt: skip
        for one in threads:
            one.start()
        while time.monotonic() < until and not (stop and os.path.exists(stop)):
            time.sleep(0.1)
        self.ended.set()
        for one in threads:
            one.join()
        return {
            "seconds": time.time() - began, "answered": self.answered, "failed": self.kinds,
            "failures": self.failures[:50], "versions": self.versions, "told_to_close": self.closed,
            "slowest_s": self.slowest,
        }  # fmt: skip

    def keep_asking(self, number: int) -> None:
        """One connection's requests, each at its time."""
        connection: http.client.HTTPConnection | None = None
        due = time.monotonic() + self.period * number / self.connections
        while not self.ended.wait(max(0.0, due - time.monotonic())):
            sent = time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
                connection.request("POST", PATH, BODY, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                said = answer.read()
                if answer.status != 200:
                    raise Refusal(f"answer {answer.status}", said[:200])
                close = (answer.headers.get("Connection") or "").lower() == "close"
                self.count(
                    answer.headers.get("X-Model-Version") or "", close, time.monotonic() - sent
                )
            except Exception as error:
                close = True
                self.fail(error)
            if close and connection is not None:
                connection.close()
                connection = None
            due += self.period
        if connection is not None:
            connection.close()

    def count(self, version: str, close: bool, took: float) -> None:
        with self.lock:
            self.answered += 1
            self.closed += close
            self.slowest = max(self.slowest, took)
            self.versions[version] = self.versions.get(version, 0) + 1

    def fail(self, error: Exception) -> None:
        kind = error.kind if isinstance(error, Refusal) else kind_of(error)
        with self.lock:
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            self.failures.append(f"{time.time():.2f} {kind}: {error!r}")


class Refusal(Exception):
    """An answer that is none."""

    def __init__(self, kind: str, said: bytes) -> None:
        super().__init__(said)
        self.kind = kind


def kind_of(error: Exception) -> str:
    """The words of a table: refused, reset, timeout, or the error's own name."""
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError | http.client.IncompleteRead | http.client.BadStatusLine):
        return "reset"
    return "timeout" if isinstance(error, TimeoutError) else type(error).__name__


if __name__ == "__main__":
    host, port, connections, rate, seconds, *rest = sys.argv[1:]
    clients = Clients(host, int(port), int(connections), float(rate))
    print(json.dumps(clients.run(float(seconds), rest[0] if rest else "")))
