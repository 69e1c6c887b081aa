"""Processes on their core: start, freeze, CPU and memory of a tree; wrk; questions with known answers.

Linux only: everything is read from /proc. CPU is user and system time of all processes of a server,
memory the sum over them (RSS counts shared pages in each, PSS divides them).
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
SETTLE_S = 15.0
"""The same after it was stopped and let run again."""
START_S = 60.0
"""A server that does not answer rightly by then is left out."""


class Failed(Exception):
    """A server did not start, broke, or answered wrongly: the reason in words."""


class Refused(Failed):
    """It answered with another status than 200."""


def cores() -> tuple[int, int]:
    """The server's core and the client's."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Failed("two cores are needed: one for the server, one for the client")
    return allowed[0], allowed[-1]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- processes -----------------------------------------------------------------------------------


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Each process: its number and what /proc/PID/stat says from the state on."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                text = Path("/proc", entry, "stat").read_text()
                yield int(entry), text.rpartition(")")[2].split()


def tree(root: int) -> dict[int, list[str]]:
    """The processes of a server: its session and all descendants of its first process."""
    every = dict(_stats())
    found = {pid for pid, stat in every.items() if pid == root or int(stat[3]) == root}
    while True:
        more = {pid for pid, stat in every.items() if int(stat[1]) in found} - found
        if not more:
            return {pid: every[pid] for pid in found if every[pid][0] != "Z"}
        found |= more


def cpu_s(root: int) -> float:
    """User and system seconds of a server so far, waited-for children included."""
    return sum(sum(map(int, stat[11:15])) for stat in tree(root).values()) / TICK


def memory_mb(root: int) -> tuple[float, float]:
    """RSS and PSS of a server, summed over its processes, in MB (10^6 bytes)."""
    rss = pss = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "Rss":
                    rss += int(value.split()[0])
                elif name == "Pss":
                    pss += int(value.split()[0])
    return rss * 1.024e-3, pss * 1.024e-3


class Server:
    """One started server, pinned to a core with all that it starts."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, core: int, environment: Mapping[str, str]
    ) -> None:
        self.log, self.frozen = log, False
        self.began = time.perf_counter()
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                [os.fspath(part) for part in command], cwd=log.parent, env=dict(environment),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - one thread
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the first process."""
        return self.process.pid

    def said(self) -> str:
        """The last words of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-3:])[-300:]

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        for pid in tree(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def freeze(self) -> None:
        """Stop it, so that it does not disturb while another is measured."""
        self.signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it run again."""
        self.signal(signal.SIGCONT)
        self.frozen = False

    def end(self) -> None:
        """End it and all that it started."""
        self.thaw()
        pids = tree(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        left = pids | tree(self.pid)
        for _ in range(500):
            now = dict(_stats())
            # The same process still: its start time. A zombie has ended.
            left = {
                pid: stat
                for pid, stat in left.items()
                if pid in now and now[pid][19] == stat[19] and now[pid][0] not in "ZX"
            }
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.01)
        self.process.wait()


# ---- asking --------------------------------------------------------------------------------------


def ask(
    port: int, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float = 30
) -> tuple[int, Mapping[str, str], bytes]:
    """One question over a connection of its own; a body makes it a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        kind = {"Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body, {**kind, **headers})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def numbers(value: Any) -> Iterator[float]:
    """The numbers of a document in order; of an object's values in the order of its keys."""
    if isinstance(value, dict):
        for part in value.values():
            yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def difference(found: Any, expected: Sequence[Sequence[float]]) -> float:
    """The largest difference between two sets of numbers; infinite where their counts differ."""
    ours, right = list(numbers(found)), list(itertools.chain.from_iterable(expected))
    if len(ours) != len(right) or not right:
        return float("inf")
    worst = max(abs(a - b) for a, b in zip(ours, right, strict=True))
    return worst if worst == worst else float("inf")  # noqa: PLR0124 - NaN


class Check:
    """Questions with known answers for one server: bodies, and what must come back."""

    def __init__(
        self,
        path: str,
        headers: Mapping[str, str],
        questions: Sequence[tuple[bytes, Sequence[Sequence[float]]]],
        tolerance: float,
        *,
        answer_key: str | None,
        identified: bool,
    ) -> None:
        self.path, self.headers, self.questions = path, headers, questions
        self.tolerance, self.answer_key, self.identified = tolerance, answer_key, identified
        self.seen: set[str] = set()
        self.lock = threading.Lock()

    def one(self, port: int, number: int = 0) -> float:
        """Ask question `number`; the difference. Failed for any other answer than the right one."""
        body, expected = self.questions[number]
        status, headers, answer = ask(port, self.path, body, self.headers)
        if status != 200:
            raise Refused(f"answered {status}: {answer[:200].decode(errors='replace')}")
        document = json.loads(answer)
        if self.answer_key is not None:
            if self.answer_key not in document:
                raise Failed(f"an answer without {self.answer_key}")
            document = document[self.answer_key]
            if self.answer_key == "outputs":
                document = document[0]["data"]
        worst = difference(document, expected)
        if not worst <= self.tolerance:
            raise Failed(f"a wrong answer: {worst:.3g} beside the model called in the process")
        if self.identified:
            identity = headers.get("x-prediction-id")
            with self.lock:
                if identity is None:
                    raise Failed("an answer without a prediction id")
                if identity in self.seen:
                    raise Failed(f"the prediction id {identity} was given twice")
                self.seen.add(identity)
        return worst

    def all(self, port: int) -> float:
        """All questions from 16 threads at once; the worst difference."""
        with ThreadPoolExecutor(16) as pool:
            return max(pool.map(lambda number: self.one(port, number), range(len(self.questions))))

    def settle(self, port: int) -> None:
        """Right answers, ten in a row, from a server that was just let run again.

        One that measures its own latency (BentoML) refuses at first, having slept so long.
        """
        until, row, last = time.perf_counter() + SETTLE_S, 0, ""
        while row < 10:
            if time.perf_counter() > until:
                raise Failed(f"let run again it did not answer rightly: {last}")
            try:
                self.one(port)
                row += 1
            except (OSError, http.client.HTTPException, Refused) as error:
                row, last = 0, str(error)

    def first(self, server: Server, port: int) -> float:
        """Seconds from the start of the process to its first right answer."""
        last: Exception | None = None
        while time.perf_counter() - server.began < START_S:
            if server.process.poll() is not None:
                raise Failed(f"ended with {server.process.returncode}: {server.said()}")
            try:
                self.one(port)
            except (OSError, http.client.HTTPException) as error:
                last = error
            except Refused as error:
                last = error  # 404 or 503 of a server that has no model yet
            else:
                return time.perf_counter() - server.began
            time.sleep(0.01)
        raise Failed(f"no right answer within {START_S:.0f} s: {last}; {server.said()}")


# ---- load ----------------------------------------------------------------------------------------


def load(
    tool: Sequence[str], environment: Mapping[str, str], port: int, path: str,
    headers: Mapping[str, str], bodies: Path, connections: int, seconds: int,
) -> dict[str, float]:  # fmt: skip
    """wrk for some seconds: its counts and percentiles (see load.lua)."""
    command = [
        *tool, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
        "-s", str(HERE / "load.lua"), f"http://127.0.0.1:{port}", "--", str(bodies), path,
        *(f"{name}: {value}" for name, value in headers.items()),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=dict(environment), check=False,
        timeout=seconds + 60,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith("figures "):
            return dict(json.loads(line.removeprefix("figures ")))
    raise Failed(f"wrk: {(done.stderr or done.stdout).strip()[-300:]}")
