"""A server with workers, as processes of their own, and clients that never retry."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

BODY = json.dumps({"dataframe_split": {"columns": ["x", "z"], "data": [[1.0, 2.0]]}})
JSON = {"Content-Type": "application/json"}


def wait_for(what: Callable[[], Any], seconds: float = 60, log: Any = ()) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen in time:\n" + "".join(log)
        time.sleep(0.05)
    return found


class Client:
    """One keep-alive connection. A lost answer is a failure; then it connects again."""

    def __init__(self, port: int) -> None:
        self.port, self.failures, self.answers = port, 0, []  # type: int, int, list[Any]
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, path: str = "/invocations", body: str | None = BODY) -> Any:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            self._connection.request("POST" if body else "GET", path, body, JSON)
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self.failures += 1
            self.close()
            return None
        if answer.headers["Connection"] == "close":
            self.close()
        return answer.status, data, answer.headers

    def once(self, path: str = "/invocations", body: str | None = BODY) -> Any:
        found = self.ask(path, body)
        self.close()
        assert found is not None
        return found

    def predict(self) -> None:
        found = self.ask()
        if found is not None:
            self.answers.append(
                (found[0], json.loads(found[1]), found[2]["X-Prediction-Id"].split(".")[2])
            )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Served:
    """`serve --workers N`, and what it logs."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "treadle.operate", "serve", *arguments, "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            for line in lines:
                self.lines.append(line)

    def logged(self, pattern: str) -> list[re.Match[str]]:
        return [found for line in list(self.lines) if (found := re.search(pattern, line))]

    @property
    def port(self) -> int:
        return int(wait_for(lambda: self.logged(r"began \(pid \d+\) on 127\.0\.0\.1:(\d+)"))[0][1])

    @property
    def pids(self) -> dict[str, int]:
        """Instance → pid of all workers that ever served, the oldest first."""
        started = {m[1]: int(m[2]) for m in self.logged(r"\(instance (\S+), pid (\d+)")}
        return {m[1]: started[m[1]] for m in self.logged(r"\(instance (\S+)\) serves$")}

    def until(self, workers: int) -> dict[str, int]:
        """Wait until as many have served in all."""
        return wait_for(
            lambda: (p := self.pids) and len(p) >= workers and p, seconds=90, log=self.lines
        )

    def metrics(self) -> dict[tuple[str, ...], float]:
        status, text, _ = Client(self.port).once("/metrics", None)
        assert status == 200
        return {
            (s.name, *s.labels.values()): s.value
            for family in text_string_to_metric_families(text.decode())
            for s in family.samples
        }

    def ready(self) -> int:
        return Client(self.port).once("/v2/health/ready", None)[0]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self._reader.join()


def load(port: int, clients: int, requests: int, during: Callable[[], None]) -> list[Client]:
    """Each client asks so many times, on a connection of its own, while something happens."""
    asking = [Client(port) for _ in range(clients)]
    half = threading.Barrier(clients + 1)

    def go(client: Client) -> None:
        for number in range(requests):
            if number == requests // 4:
                half.wait()
            client.predict()
        client.close()

    threads = [threading.Thread(target=go, args=(client,)) for client in asking]
    for thread in threads:
        thread.start()
    half.wait()
    during()
    for thread in threads:
        thread.join()
    return asking
