"""The supervisor of a model server on this machine: starts, swaps, watches and replaces workers.

It has the listening socket and gives it to every worker. A version is a generation of N workers that
share nothing but that socket and some counters. They are loaded one after another (the peak of memory
is that of one), and none accepts before all of them are loaded, verified, warmed and have answered
the input example twice alike. Then the old generation stops accepting, the new one begins, and
connections that come in between wait in the kernel's queue: no two versions ever answer at a time. If
a new generation does not get that far, the old one goes on as if nothing had been asked.

A worker that dies is replaced, with exponential back-off; so is one that is stuck: no sign of its
loop for `--stuck-after` seconds while it is not calling the model, or a call that takes that long
beyond the requests' deadline. Until then a long prediction may keep a loop from telling that it
lives: native code holds the interpreter's lock. While a worker is missing, all of them say that they
are not ready. Workers hold the reading end of a pipe, the lifeline: when the supervisor dies, even by
SIGKILL, they drain and end.

Signals: SIGHUP asks the source what is wanted, SIGTERM stops everything, SIGUSR2 does so as after a
swap (others go on with the socket, clients have time to notice), SIGUSR1 closes capture segments. Only the standard library is imported: the supervisor stays small.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from treadle.base import supervision
from treadle.base.supervision import Supervised, Wanted
from treadle.operate import counters, warmup, worker
from treadle.operate.counters import Shared
from treadle.operate.wanted import Folder, Source
from treadle.operate.worker import Told, Worker

BACKOFF_S, BACKOFF_MOST_S, HEALTHY_S = 0.2, 30.0, 60.0
STOP_GRACE_S = 15.0
DRAIN_GRACE_S = 45.0
"""Beyond the linger, for what was in flight."""
HANDOVER_S = 2.0
"""How long new workers wait for the old ones to stop accepting; they may be busy with a prediction."""
ACCEPT_S = 30.0
SLOTS = 256
"""Processes that live at a time, those that drain included; an unused one costs nothing."""
LOOK_S = 1.0
"""How often workers are looked at; they tell once a second that they live."""
_SIGNALS = (
    signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD,
)  # fmt: skip
Status = Literal["starting", "serving", "restarting", "failed", "stopped"]


@dataclass
class Seat:
    """One of a generation's N places, and who has it."""

    worker: Worker | None = None
    failures: int = 0
    restart_at: float = 0.0


@dataclass
class Generation:
    """The workers of one version."""

    wanted: Wanted
    seats: list[Seat] = field(default_factory=list)
    compared: str | None = None
    begun: bool = False
    """Whether all of its workers have served: what was asked for is done."""

    def __post_init__(self) -> None:
        self.seats = [Seat() for _ in range(self.wanted.workers)]

    @property
    def workers(self) -> list[Worker]:
        """Those that live, in the order of their seats."""
        return [seat.worker for seat in self.seats if seat.worker is not None]

    @property
    def loading(self) -> bool:
        """Whether one of them is on its way; the next begins after it."""
        return any(one.phase == "loading" for one in self.workers)

    def seat_of(self, one: Worker) -> Seat | None:
        """Where it sits."""
        return next((seat for seat in self.seats if seat.worker is one), None)

    @property
    def example(self) -> dict[str, Any] | None:
        """What one of its workers answered to the input example."""
        return next((one.told.example for one in self.workers if one.told.example), None)


class Supervisor:
    """The loop: signals, pipes and timers, one thread."""

    def __init__(self, source: Source, listener: socket.socket) -> None:
        self._source, self._listener = source, listener
        self._host, self._port = listener.getsockname()[:2]
        self._selector = selectors.DefaultSelector()
        # Old generations drain while new ones count: each process has a row of its own.
        self._shared = Shared.create(SLOTS)
        self._free = list(range(self._shared.slots))
        self._all: list[Worker] = []
        self._current: Generation | None = None
        self._next: Generation | None = None
        self._leaving: list[Worker] = []
        """Old workers that have not yet said that they accept no more."""
        self._handover_at: float | None = None
        self._answered, self._error, self._hint = "", None, None  # type: str, str | None, str | None
        self._failed_code = 1
        self._status: Status = "starting"
        self._served, self._untold = False, False
        self._since = _real_now()
        self._restarts = 0
        self._looked = self._awake = time.monotonic()
        self._stop_at: float | None = None

    # ---- what it says ----

    def _publish(self, status: Status | None = None) -> None:
        current = self._current
        serving = [one for one in current.workers if one.phase == "serving"] if current else []
        # Where a crash left nobody it is `restarting`, even while another version is being loaded.
        if status is None:
            if serving or not self._served:
                status = "serving" if serving else "starting"
            else:
                status = "restarting"
        if status != self._status:
            self._status, self._since = status, _real_now()
        wanted = current.wanted if current else None
        first = serving[0] if serving else None
        state = Supervised(
            pid=os.getpid(), start=supervision.start_of(os.getpid()), host=self._host,
            port=self._port, status=self._status, since=self._since, answered=self._answered,
            release=wanted.release if wanted else 0, content=wanted.content if wanted else "",
            model_folder=wanted.model_folder if wanted else "",
            instance=first.instance if first else "", restarts=self._restarts,
            server_pid=first.process.pid if first else 0, error=self._error, hint=self._hint,
            command=tuple(first.command) if first else (),
            workers=wanted.workers if wanted else 0, ready=len(serving),
            server_pids=tuple(one.process.pid for one in serving),
            instances=tuple(one.instance for one in serving),
            compared=current.compared if current else None,
        )  # fmt: skip
        try:
            self._source.tell(state)
            self._untold = False
        except OSError as error:  # a full disk: the service goes on, the file follows
            if not self._untold:
                self._source.say(f"cannot tell what is served: {error.strerror}")
            self._untold = True

    def _count(self) -> None:
        """How many should be ready and are, for every worker's own answer to probes."""
        generation = self._current or self._next
        workers = self._current.workers if self._current else []
        header = self._shared.header
        header[counters.WANTED] = generation.wanted.workers if generation else 1
        # One that is loaded and warmed and about to accept counts: a swap is never "not ready".
        header[counters.READY] = sum(one.phase in ("ready", "serving") for one in workers)
        header[counters.RESTARTS] = self._restarts

    # ---- the loop ----

    def run(self) -> int:
        """Supervise until SIGTERM; not 0 if the first generation never got ready."""
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, self._on_signals)
        self._publish("starting")
        self._source.say(f"began (pid {os.getpid()}) on {self._host}:{self._port}")
        self._read_wanted()
        while True:
            for key, _ in self._selector.select(self._wait_s()):
                key.data(key.fd)
            self._reap()
            if os.getpid() == 1:
                self._bury_orphans()
            self._timers()
            self._load()
            self._count()
            if self._stop_at is not None and not self._all:
                failed = self._status == "failed"
                self._publish("failed" if failed else "stopped")
                self._source.say("ended")
                return self._failed_code if failed else 0

    def _wait_s(self) -> float | None:
        moments = [one.deadline for one in self._all if one.phase != "serving"]
        moments += [at for at in (self._handover_at, self._stop_at) if at is not None]
        for generation in (self._current, self._next):
            if generation is not None:
                moments.append(self._looked + LOOK_S)
                if not generation.loading:
                    moments += [s.restart_at for s in generation.seats if s.worker is None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _on_signals(self, reader: int) -> None:
        numbers = set(os.read(reader, 4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            if self._stop_at is not None and signal.SIGINT in numbers:
                self._stop_at = time.monotonic()  # a person who does not want to wait
            self._source.say("asked to end")
            self._stop()
        elif signal.SIGUSR2 in numbers:
            self._source.say("asked to leave after a swap")
            self._leave()
        elif signal.SIGHUP in numbers:
            self._read_wanted()
        if signal.SIGUSR1 in numbers:
            for one in self._all:
                if one.phase in ("serving", "draining"):
                    one.signal(signal.SIGUSR1)

    def _read_wanted(self) -> None:
        wanted = self._source.wanted()
        if wanted is None or wanted.id == self._answered or self._stop_at is not None:
            return
        if self._current is not None and wanted.id == self._current.wanted.id:
            return
        if self._next is not None:
            if self._next.wanted.id == wanted.id:
                return
            self._drop(self._next)  # nobody waits for it any more
        self._next = Generation(wanted)
        self._load()

    # ---- starting ----

    def _load(self) -> None:
        """Start what is missing, one worker of a generation at a time."""
        if self._stop_at is not None:
            return
        now = time.monotonic()
        for generation in (self._current, self._next):
            if generation is None or generation.loading:
                continue
            for seat in generation.seats:
                if seat.worker is None and now >= seat.restart_at:
                    self._start(generation, seat)
                    break

    def _start(self, generation: Generation, seat: Seat) -> None:
        wanted = generation.wanted
        if not self._free:
            seat.restart_at = time.monotonic() + LOOK_S  # hundreds of servers drain: one will end
            return
        slot = min(self._free)
        header = self._shared.header
        header[counters.USED] = max(header[counters.USED], slot + 1)
        # The first of a new version answers what the version before answered to its example.
        example = None
        if generation is self._next and self._current is not None and not generation.workers:
            example = self._current.example
        compare = None
        try:
            assert self._shared.descriptor is not None
            compare = warmup.hand_over(example) if example else None
            one = worker.start(
                self._source.arguments(wanted), instance=self._source.instance(wanted), slot=slot,
                listener=self._listener.fileno(), counters=self._shared.descriptor,
                compare=compare, within_s=wanted.start_timeout_s, cwd=self._source.folder,
                environ=wanted.environ, captured=self._source.captured,
            )  # fmt: skip
        except OSError as error:
            self._not_ready(generation, seat, f"cannot start a process: {error.strerror}", None)
            return
        finally:
            if compare is not None:
                os.close(compare)
        self._free.remove(slot)
        self._all.append(one)
        seat.worker = one
        self._selector.register(one.status, selectors.EVENT_READ, lambda _: self._on_status(one))
        if one.output is not None:
            self._selector.register(
                one.output, selectors.EVENT_READ, lambda _: self._on_output(one)
            )
        which = f", worker {generation.seats.index(seat) + 1} of {wanted.workers}"
        self._source.say(
            f"starting release {wanted.release} (instance {one.instance}, pid {one.process.pid}"
            f"{which if wanted.workers > 1 else ''})"
        )

    # ---- hearing ----

    def _on_output(self, one: Worker) -> None:
        assert one.output is not None
        try:
            data = os.read(one.output, 65536)
        except BlockingIOError:
            return
        if data:
            self._source.write(data)
        else:
            self._selector.unregister(one.output)

    def _on_status(self, one: Worker) -> None:
        lines = one.heard()
        if lines is None:
            self._selector.unregister(one.status)
            return  # if it died without a word, _reap says so
        for line in lines:
            self._hear(one, line)

    def _hear(self, one: Worker, told: dict[str, Any]) -> None:
        """`ready`, `serving`, `draining`, or `error` before any of them."""
        generation = self._generation(one)
        if told.get("draining"):
            self._left(one)
        elif generation is None:
            if told.get("serving") and self._stop_at is None:
                one.signal(signal.SIGUSR2)  # asked to leave before it could hear that
        elif told.get("ready") and one.phase == "loading":
            one.told = Told(float(told.get("silence_s", Told.silence_s)),
                            float(told.get("call_s", Told.call_s)),
                            None if generation.example else told.get("example"),
                            told.get("compared"))  # fmt: skip
            one.enter("ready", within_s=ACCEPT_S)
            if generation is self._next:
                self._advance(generation)
            elif self._handover_at is None:
                one.begin_to_accept()  # it takes the place of one that died
        elif told.get("serving") and one.phase == "ready":
            one.enter("serving", within_s=0)
            release = generation.wanted.release
            self._source.say(f"release {release} (instance {one.instance}) serves")
            if not generation.begun and all(w.phase == "serving" for w in generation.workers):
                self._served = generation.begun = True
                self._answered, self._error, self._hint = generation.wanted.id, None, None
            if generation.begun:
                self._publish()
        elif told.get("error") and one.phase == "loading":
            seat = generation.seat_of(one)
            assert seat is not None
            self._failed_code = int(told.get("code", 1))
            one.enter("draining", within_s=STOP_GRACE_S)
            seat.worker = None
            self._not_ready(generation, seat, told["error"], told.get("hint"))

    def _generation(self, one: Worker) -> Generation | None:
        for generation in (self._current, self._next):
            if generation is not None and generation.seat_of(one) is not None:
                return generation
        return None

    # ---- swapping ----

    def _advance(self, generation: Generation) -> None:
        """A worker of the next generation is ready; when all are, it takes over."""
        compared = [one.told.compared for one in generation.workers if one.told.compared]
        if compared and generation.compared is None:
            generation.compared = compared[0]
            self._source.say(
                f"release {generation.wanted.release} on the input example: {compared[0]}"
            )
        if sum(one.phase == "ready" for one in generation.workers) < generation.wanted.workers:
            return
        old, self._current, self._next = self._current, generation, None
        if old is not None:
            for one in old.workers:
                if one.accepting:
                    one.enter("draining", within_s=old.wanted.linger_s + DRAIN_GRACE_S)
                    one.signal(signal.SIGUSR2)
                    self._leaving.append(one)
                else:
                    one.enter("draining", within_s=0)  # it never accepted
        self._handover_at = time.monotonic() + HANDOVER_S
        for one in generation.workers:
            one.deadline = self._handover_at + ACCEPT_S
        self._count()
        self._hand_over()

    def _left(self, one: Worker) -> None:
        if one in self._leaving:
            self._leaving.remove(one)
            self._hand_over()

    def _hand_over(self) -> None:
        """The new workers accept when all old ones have stopped, or are too busy to say so."""
        if self._handover_at is None or self._current is None:
            return
        if self._leaving and time.monotonic() < self._handover_at:
            return
        self._handover_at = None
        self._leaving.clear()
        for one in self._current.workers:
            if one.phase == "ready":
                one.begin_to_accept()

    def _drop(self, generation: Generation) -> None:
        """Kill the workers of a generation that does not get its turn."""
        for seat in generation.seats:
            if seat.worker is not None:
                seat.worker.enter("draining", within_s=0)
                seat.worker.signal(signal.SIGKILL)
                seat.worker = None
        if self._next is generation:
            self._next = None

    # ---- failing ----

    def _not_ready(self, generation: Generation, seat: Seat, error: str, hint: str | None) -> None:
        """A worker did not get ready: its generation is refused, or tried again after a crash."""
        wanted = generation.wanted
        self._source.say(f"release {wanted.release} did not get ready: {error}")
        if generation is self._current:
            self._back_off(seat)
            self._publish()
            return
        self._drop(generation)
        self._answered, self._error, self._hint = wanted.id, error, hint
        if self._current is None:
            self._publish("failed")
            self._stop()
        else:
            self._publish()

    def _back_off(self, seat: Seat) -> None:
        delay = min(BACKOFF_MOST_S, BACKOFF_S * 2**seat.failures)
        seat.failures += 1
        seat.restart_at = time.monotonic() + delay
        self._source.say(f"trying again in {delay:g} s")

    def _reap(self) -> None:
        for one in list(self._all):
            code = one.process.poll()
            if code is None:
                continue
            self._last_words(one)
            self._all.remove(one)
            one.close()
            self._shared.clear(one.slot)
            self._free.append(one.slot)
            self._left(one)
            generation = self._generation(one)
            if generation is None or self._stop_at is not None:
                continue
            seat = generation.seat_of(one)
            assert seat is not None
            seat.worker = None
            how = one.why or (f"by signal {-code}" if code < 0 else f"with exit code {code}")
            if one.phase == "loading" or generation is self._next:
                self._not_ready(generation, seat, f"the server died {how} before it was ready",
                                "read the server's log: treadle logs")  # fmt: skip
                continue
            release = generation.wanted.release
            self._source.say(f"release {release} (pid {one.process.pid}) died {how}")
            self._restarts += 1
            if one.phase == "serving" and time.monotonic() - one.began >= HEALTHY_S:
                seat.failures = 0
            self._back_off(seat)
            self._publish()

    def _bury_orphans(self) -> None:
        """A container's first process inherits what workers leave behind; nobody else waits for it."""
        mine = {one.process.pid for one in self._all}
        with contextlib.suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid in mine:
                    return
                os.waitpid(ended.si_pid, 0)

    def _last_words(self, one: Worker) -> None:
        """What is still in the pipes of a worker that ended, and out of the selector with them."""
        while one.status in self._selector.get_map():
            lines = one.heard()
            if not lines:
                self._selector.unregister(one.status)
            else:
                for line in lines:
                    self._hear(one, line)
        while one.output is not None and one.output in self._selector.get_map():
            try:
                data = os.read(one.output, 65536)
            except BlockingIOError:
                data = b""  # a child of its own holds the pipe
            if data:
                self._source.write(data)
            else:
                self._selector.unregister(one.output)

    # ---- time ----

    def _timers(self) -> None:
        now = time.monotonic()
        for one in list(self._all):
            if one.phase != "serving" and now >= one.deadline:
                self._too_late(one)
        if self._handover_at is not None and now >= self._handover_at:
            self._hand_over()
        if now - self._looked >= LOOK_S:
            self._look(now)
        if self._stop_at is not None and now >= self._stop_at:
            self._stop_at = now + 1
            for one in self._all:
                one.signal(signal.SIGKILL)

    def _too_late(self, one: Worker) -> None:
        one.deadline = time.monotonic() + 1
        generation, phase = self._generation(one), one.phase
        if generation is not None and phase == "loading":
            seat = generation.seat_of(one)
            assert seat is not None
            seat.worker = None
            one.enter("draining", within_s=1)
            one.signal(signal.SIGKILL)
            waited = generation.wanted.start_timeout_s
            self._not_ready(generation, seat, f"the server was not ready after {waited:g} s",
                            "read the server's log: treadle logs")  # fmt: skip
            return
        if generation is self._next and phase == "ready":
            one.deadline = time.monotonic() + ACCEPT_S  # it waits for the others, who are loading
            return
        if phase == "ready":
            one.why = "because it did not begin to accept"
        one.signal(signal.SIGKILL)

    def _look(self, now: float) -> None:
        """Find workers that are stuck; say again what could not be said."""
        if now - self._looked > 5 * LOOK_S:
            self._awake = now  # we were stopped ourselves, and probably they with us
        self._looked = now
        if self._untold:
            self._publish(self._status)
        for one in self._current.workers if self._current else []:
            if one.phase != "serving" or one.why:
                continue
            row = self._shared.row(one.slot)
            calling = row[counters.CALLING]
            if calling:
                took = now - max(calling, self._awake)
                if took > one.told.call_s:
                    one.why = f"stuck: a call of the model has run for {took:.0f} s"
            else:
                silent = now - max(row[counters.BEAT], one.began, self._awake)
                if silent > one.told.silence_s:
                    one.why = f"stuck: no sign of life for {silent:.0f} s"
            if one.why:
                self._source.say(f"killing pid {one.process.pid}, {one.why}")
                one.signal(signal.SIGKILL)

    def _stop(self) -> None:
        self._end(STOP_GRACE_S, signal.SIGTERM)

    def _leave(self) -> None:
        """Another server has taken the socket over: ours linger, as an old generation does."""
        wanted = self._current.wanted if self._current is not None else None
        linger_s = wanted.linger_s if wanted is not None else 0.0
        self._end(linger_s + DRAIN_GRACE_S, signal.SIGUSR2)

    def _end(self, within_s: float, number: signal.Signals) -> None:
        until = time.monotonic() + within_s
        if self._stop_at is not None and self._stop_at <= until:
            return
        # Closed here and in the workers: from now on a connection is refused, not left waiting
        # (unless others have the socket too).
        self._listener.close()
        self._stop_at = until
        for one in self._all:
            # Only one that serves has a handler: the others are not needed any more.
            one.signal(number if one.phase in ("serving", "draining") else signal.SIGTERM)
            one.phase, one.deadline = "draining", until


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
        return Supervisor(Folder(folder), socket.socket(fileno=descriptor)).run()
