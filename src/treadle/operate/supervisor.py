"""The supervisor of a model server on this machine: owns the port, starts, swaps and restarts.

It binds nothing itself: it is given the listening socket, and gives it to every server it starts, so
a new version is ready on the same port before the old one stops accepting. The new server accepts
only when it is loaded, verified, warmed and has answered its input example twice alike; if it does
not get there, the old one goes on as if nothing had been asked. After a crash the server is started
again, with exponential backoff. Servers hold the reading end of a pipe, the lifeline: when the
supervisor dies, even by SIGKILL, they drain and end.

Signals: SIGHUP reads `wanted.json`, SIGTERM stops everything, SIGUSR1 closes capture segments.
Only the standard library is imported: the supervisor stays small.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from treadle.base import supervision
from treadle.base.supervision import Supervised, Wanted

LOG_BYTES = 10 << 20
BACKOFF_S, BACKOFF_MOST_S, HEALTHY_S = 0.2, 30.0, 60.0
STOP_GRACE_S = 15.0
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)
Status = Literal["starting", "serving", "restarting", "failed", "stopped"]


class _Log:
    """server.log, rotated by size; every server writes into it through a pipe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        try:
            if self._file.tell() + len(data) > LOG_BYTES:
                self._rotate()
            self._file.write(data)
        except OSError:
            pass  # a full disk must not stop the service

    def say(self, text: str) -> None:
        moment = dt.datetime.now().strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ005 - as the server's lines
        self.write(f"{moment} INFO supervisor: {text}\n".encode())

    def _rotate(self) -> None:
        for number in range(supervision.ROTATED - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                os.replace(older, self._path.with_name(f"{self._path.name}.{number + 1}"))
        os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
        self._file.close()
        self._file = self._path.open("ab", buffering=0)


class _Child:
    """One server process."""

    def __init__(self, wanted: Wanted, folder: Path, listener: socket.socket) -> None:
        self.wanted, self.instance = wanted, secrets.token_hex(4)
        self.phase: Literal["starting", "serving", "draining"] = "starting"
        self.deadline = time.monotonic() + wanted.start_timeout_s
        self.began = time.monotonic()
        self.told = b""
        self.status, status_end = os.pipe()
        lifeline_end, self.lifeline = os.pipe()
        self.output, output_end = os.pipe()
        os.set_blocking(self.output, False)
        os.set_blocking(self.status, False)
        given = (listener.fileno(), status_end, lifeline_end)
        # -P: the folder that a server happens to start in must not shadow what it imports.
        self.command = [
            sys.executable, "-P", "-m", "treadle.operate", "serve", wanted.model_folder,
            "--release", str(wanted.release), "--content", wanted.content,
            "--instance", self.instance, "--linger", str(wanted.linger_s), *wanted.arguments,
            "--fd", str(given[0]), "--status-fd", str(status_end),
            "--lifeline-fd", str(lifeline_end),
        ]  # fmt: skip
        try:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output_end, stderr=output_end,
                pass_fds=given, cwd=folder, env={**os.environ, **wanted.environ},
                # A Ctrl-C at a terminal is not for the server.
                process_group=0,
            )  # fmt: skip
        finally:
            for end in (status_end, lifeline_end, output_end):
                os.close(end)

    def signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        for end in (self.status, self.lifeline, self.output):
            os.close(end)


class Supervisor:
    """The loop: signals, pipes and timers, one thread."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self._folder, self._listener = folder, listener
        self._host, self._port = listener.getsockname()[:2]
        self._log = _Log(folder / supervision.LOG)
        self._selector = selectors.DefaultSelector()
        self._children: list[_Child] = []
        self._active: _Child | None = None
        self._served: Wanted | None = None
        """The last one that was served: what a crash restarts."""
        self._answered, self._error, self._hint = "", None, None  # type: str, str | None, str | None
        self._status: Status = "starting"
        self._since = _real_now()
        self._restarts, self._failures = 0, 0
        self._leaving: _Child | None = None
        self._restart_at: float | None = None
        self._stop_at: float | None = None

    # ---- what it says ----

    def _publish(self, status: Status) -> None:
        if status != self._status:
            self._status, self._since = status, _real_now()
        child = self._active
        wanted = child.wanted if child else self._served
        supervision.write(self._folder / supervision.STATE, Supervised(
            pid=os.getpid(), start=supervision.start_of(os.getpid()), host=self._host,
            port=self._port, status=status, since=self._since, answered=self._answered,
            release=wanted.release if wanted else 0, content=wanted.content if wanted else "",
            model_folder=wanted.model_folder if wanted else "",
            instance=child.instance if child else "", restarts=self._restarts,
            server_pid=child.process.pid if child else 0, error=self._error, hint=self._hint,
            command=tuple(child.command) if child else (),
        ))  # fmt: skip

    # ---- the loop ----

    def run(self) -> int:
        """Supervise until SIGTERM; 1 if the first server never got ready."""
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, self._on_signals)
        self._publish("starting")
        self._log.say(f"began (pid {os.getpid()}) on {self._host}:{self._port}")
        self._read_wanted()
        while True:
            for key, _ in self._selector.select(self._wait_s()):
                key.data(key.fd)
            self._reap()
            self._timers()
            if self._stop_at is not None and not self._children:
                self._publish("stopped" if self._status != "failed" else "failed")
                self._log.say("ended")
                return 0 if self._status == "stopped" else 1

    def _wait_s(self) -> float | None:
        moments = [child.deadline for child in self._children if child.phase != "serving"]
        moments += [at for at in (self._restart_at, self._stop_at) if at is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _on_signals(self, reader: int) -> None:
        numbers = set(os.read(reader, 4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._stop()
        elif signal.SIGHUP in numbers:
            self._read_wanted()
        if signal.SIGUSR1 in numbers:
            for child in self._children:
                child.signal(signal.SIGUSR1)

    def _read_wanted(self) -> None:
        wanted = supervision.read(self._folder / supervision.WANTED, Wanted)
        if wanted is None or wanted.id == self._answered or self._stop_at is not None:
            return
        for child in self._children:
            if child.phase == "starting":
                if child.wanted.id == wanted.id:
                    return
                child.signal(signal.SIGKILL)  # nobody waits for it any more
        self._restart_at = None
        self._start(wanted)

    def _start(self, wanted: Wanted) -> None:
        try:
            child = _Child(wanted, self._folder, self._listener)
        except OSError as error:
            self._refuse(wanted, f"cannot start a process: {error.strerror}", None)
            return
        self._children.append(child)
        self._selector.register(
            child.status, selectors.EVENT_READ, lambda _fd: self._on_status(child)
        )
        self._selector.register(
            child.output, selectors.EVENT_READ, lambda _fd: self._on_output(child)
        )
        self._log.say(
            f"starting release {wanted.release} (instance {child.instance}, pid {child.process.pid})"
        )

    def _on_output(self, child: _Child) -> None:
        try:
            data = os.read(child.output, 65536)
        except BlockingIOError:
            return
        if data:
            self._log.write(data)
        else:
            self._selector.unregister(child.output)

    def _on_status(self, child: _Child) -> None:
        try:
            data = os.read(child.status, 65536)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(child.status)
            return  # if it died without a word, _reap says so
        child.told += data
        *lines, child.told = child.told.split(b"\n")
        for line in lines:
            self._hear(child, json.loads(line))

    def _hear(self, child: _Child, told: dict[str, Any]) -> None:
        """`ready`, `error` … once, and `draining` when a server has stopped accepting."""
        if told.get("draining"):
            if child is self._leaving:
                self._leaving = None
                self._publish("serving")
        elif told.get("ready") and child.phase == "starting":
            self._promote(child)
        elif child.phase == "starting":
            self._refuse(child.wanted, told.get("error", "no reason given"), told.get("hint"))
            child.phase, child.deadline = "draining", time.monotonic() + STOP_GRACE_S

    def _promote(self, child: _Child) -> None:
        old, self._active = self._active, child
        child.phase, child.began = "serving", time.monotonic()
        self._served = child.wanted
        self._answered, self._error, self._hint = child.wanted.id, None, None
        self._log.say(f"release {child.wanted.release} (instance {child.instance}) serves")
        if old is None:
            self._publish("serving")
        else:
            # Said only when the old one has stopped accepting: who asks after `up` gets the new.
            self._leaving = old
            old.phase = "draining"
            old.deadline = time.monotonic() + old.wanted.linger_s + STOP_GRACE_S + 30
            old.signal(signal.SIGUSR2)

    def _refuse(self, wanted: Wanted, error: str, hint: str | None) -> None:
        """A server that did not get ready: say so, keep what serves, or try again after a crash."""
        self._log.say(f"release {wanted.release} did not get ready: {error}")
        if self._served is not None and wanted.id == self._served.id:
            self._back_off()
            return
        self._answered, self._error, self._hint = wanted.id, error, hint
        if self._active is not None:
            self._publish("serving")
        elif self._served is not None:  # it crashed while the other was starting
            self._back_off()
        else:
            self._publish("failed")
            self._stop()

    def _back_off(self) -> None:
        delay = min(BACKOFF_MOST_S, BACKOFF_S * 2**self._failures)
        self._failures += 1
        self._restart_at = time.monotonic() + delay
        self._publish("restarting")
        self._log.say(f"trying again in {delay:g} s")

    def _reap(self) -> None:
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            self._children.remove(child)
            self._drain_pipes(child)
            child.close()
            if child is self._leaving:
                self._leaving = None
                self._publish("serving")
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            if child is self._active:
                self._active = None
                if self._stop_at is None:
                    self._log.say(
                        f"release {child.wanted.release} (pid {child.process.pid}) died {how}"
                    )
                    self._crashed(child)
            elif child.phase == "starting" and self._stop_at is None:
                waited = supervision.read(self._folder / supervision.WANTED, Wanted)
                if waited is not None and waited.id != child.wanted.id and self._served is None:
                    continue  # killed above, for a newer one
                self._refuse(child.wanted, f"the server died {how} before it was ready",
                             "read the server's log: treadle logs")  # fmt: skip

    def _crashed(self, child: _Child) -> None:
        self._restarts += 1
        if time.monotonic() - child.began >= HEALTHY_S:
            self._failures = 0
        if any(other.phase == "starting" for other in self._children):
            self._publish("restarting")  # the one that starts takes its place
        else:
            self._back_off()

    def _drain_pipes(self, child: _Child) -> None:
        """Last words in the pipes of a server that ended, and out of the selector with them."""
        registered = self._selector.get_map()
        if child.status in registered:
            self._on_status(child)
        while child.output in registered:
            try:
                data = os.read(child.output, 65536)
            except BlockingIOError:
                break
            if not data:
                break
            self._log.write(data)
        for end in (child.status, child.output):
            if end in self._selector.get_map():
                self._selector.unregister(end)

    def _timers(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.phase != "serving" and now >= child.deadline:
                if child.phase == "starting":
                    child.phase = "draining"
                    self._refuse(
                        child.wanted,
                        f"the server was not ready after {child.wanted.start_timeout_s:g} s",
                        "read the server's log: treadle logs",
                    )
                child.deadline = now + 1
                child.signal(signal.SIGKILL)
        if self._restart_at is not None and now >= self._restart_at and self._served is not None:
            self._restart_at = None
            self._start(self._served)
        if self._stop_at is not None and now >= self._stop_at:
            self._stop_at = now + 1
            for child in self._children:
                child.signal(signal.SIGKILL)

    def _stop(self) -> None:
        if self._stop_at is not None:
            return
        self._restart_at = None
        self._stop_at = time.monotonic() + STOP_GRACE_S
        # Closed here and in the servers: from now on a connection is refused, not left waiting.
        self._listener.close()
        for child in self._children:
            child.phase, child.deadline = "draining", self._stop_at
            child.signal(signal.SIGTERM)


def _real_now() -> str:
    """The machine's own time: since when something runs is no matter of the replayed clock."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def run(folder: Path, descriptor: int, lock_descriptor: int | None = None) -> int:
    """Supervise the servers of one environment's folder on a given listening socket.

    `lock_descriptor` is the folder's lock, held already by who started this process and held on by
    this descriptor; without it the lock is taken here.
    """
    lock_file: Path | int = lock_descriptor or folder / supervision.LOCK
    with open(lock_file, "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no wait: the given one is ours
        except BlockingIOError:
            print("another supervisor works in this folder", file=sys.stderr)
            return 1
        return Supervisor(folder, socket.socket(fileno=descriptor)).run()
