"""One worker process as its supervisor sees it: how it is started, its pipes, its phase.

Three pipes: what it prints, what it tells (JSON lines: ready, serving, draining, or why not), and the
lifeline. The worker holds the reading end of that one: a byte in it means "begin to accept", its end
means that the supervisor is gone, even by SIGKILL; then the worker drains and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Phase = Literal["loading", "ready", "serving", "draining"]


@dataclass
class Told:
    """What a worker said of itself when it was ready."""

    silence_s: float = 30.0
    """It is stuck when its loop is silent for longer and no call of the model runs."""
    call_s: float = 90.0
    """It is stuck when a call of the model takes longer: nobody waits for that answer any more."""
    example: dict[str, Any] | None = None
    compared: str | None = None


@dataclass
class Worker:
    """A process. Whoever calls `start` owns it and closes it."""

    process: subprocess.Popen[bytes]
    command: list[str]
    instance: str
    slot: int
    status: int
    lifeline: int
    output: int | None
    deadline: float
    """When it is too late for the next phase (monotonic)."""
    phase: Phase = "loading"
    began: float = field(default_factory=time.monotonic)
    """The phase."""
    told: Told = field(default_factory=Told)
    accepting: bool = False
    """Whether it was told to; it says `serving` when it does."""
    why: str = ""
    """Why it was killed, if it was."""
    _rest: bytes = b""

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def enter(self, phase: Phase, *, within_s: float) -> None:
        """A phase begins; the next must begin in time."""
        self.phase, self.began = phase, time.monotonic()
        self.deadline = self.began + within_s

    def begin_to_accept(self) -> None:
        """Until now it holds the port without accepting."""
        self.accepting = True
        with contextlib.suppress(OSError):  # it died: the supervisor sees that soon
            os.write(self.lifeline, b"g")

    def heard(self) -> list[dict[str, Any]] | None:
        """The lines that it has told since last time; None when it will tell no more."""
        try:
            data = os.read(self.status, 1 << 20)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close our ends of its pipes."""
        for end in (self.status, self.lifeline, self.output):
            if end is not None:
                os.close(end)


def start(
    arguments: Sequence[str],
    *,
    instance: str,
    slot: int,
    listener: int,
    counters: int,
    compare: int | None,
    within_s: float,
    cwd: Path | None,
    environ: Mapping[str, str],
    captured: bool,
) -> Worker:
    """Start a worker. OSError if there is no process to be had.

    `listener`, `counters` and `compare` are descriptors; `captured`: what it prints comes through a
    pipe, else it goes where ours goes.
    """
    status, status_end = os.pipe()
    lifeline_end, lifeline = os.pipe()
    output, output_end = os.pipe() if captured else (None, None)
    given = [listener, status_end, lifeline_end, counters]
    # -P: the folder that a server happens to start in must not shadow what it imports.
    command = [
        sys.executable, "-P", "-m", "treadle.operate", "serve", *arguments, "--instance", instance,
        "--fd", str(listener), "--status-fd", str(status_end), "--lifeline-fd", str(lifeline_end),
        "--counters-fd", str(counters), "--slot", str(slot),
    ]  # fmt: skip
    if compare is not None:
        given.append(compare)
        command += ["--compare-fd", str(compare)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output_end, stderr=output_end,
            pass_fds=given, cwd=cwd, env={**os.environ, **environ},
            # A Ctrl-C at a terminal is not for the workers.
            process_group=0,
        )  # fmt: skip
    except BaseException:
        for end in (status, lifeline, output):
            if end is not None:
                os.close(end)
        raise
    finally:
        for end in (status_end, lifeline_end, output_end):
            if end is not None:
                os.close(end)
    for end in (status, output):
        if end is not None:
            os.set_blocking(end, False)
    return Worker(process, command, instance, slot, status, lifeline, output,
                  time.monotonic() + within_s)  # fmt: skip
