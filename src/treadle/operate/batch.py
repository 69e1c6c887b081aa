"""Batching without waiting: one call of the model answers all that came during the call before.

An idle model is called at once. While it works, queries queue; when it is done, those of equal key
(names, types, params) go into one call, in the order in which they came. Nothing ever waits for
company. A call that fails is halved until the query that spoils it is alone, so it fails alone.

A call that is expected to be short runs on the event loop's own thread, since a hop to another
thread would cost more than the call; every other one runs on the model's thread, so that the loop
can read, answer and say that it lives. What is expected is measured as calls are made.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

from treadle.base.errors import TreadleError
from treadle.operate.limits import Limits

_log = logging.getLogger("treadle.batch")
INLINE_S = 0.002
"""A call expected to be shorter runs on the loop's thread."""
TICK_S = 0.1
"""How often deadlines are looked at."""


class Overloaded(TreadleError):
    """The queue is full (503)."""


class TooLate(TreadleError):
    """The deadline passed before the answer (504)."""


class Work(Protocol):
    """What the batcher must know of a query."""

    @property
    def key(self) -> Any:
        """Queries of equal key may share a call."""

    @property
    def rows(self) -> int:
        """How long it is."""


W = TypeVar("W", bound=Work)
R = TypeVar("R")


class Job(Generic[W, R]):
    """A query that waits or runs (its ticket), then the rows `start` to `stop` of a call's value."""

    __slots__ = (
        "arrived", "context", "deadline", "done", "error", "gone", "start", "stop", "value", "work",
    )  # fmt: skip

    value: R | None
    """What the call gave, or None: then `error` says why."""
    error: Exception | None
    start: int
    stop: int

    def __init__(
        self, work: W, done: Callable[[Job[W, R]], None], limit_s: float, context: Any = None
    ) -> None:
        self.work, self.done, self.context = work, done, context
        self.arrived = arrived = perf_counter()
        self.deadline = arrived + limit_s
        self.gone = False
        """Answered, or its client left: whatever comes of it is dropped."""
        self.value = self.error = None

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.gone = True


class Watch(Protocol):
    """Who is told of what the batcher does; `metrics.Metrics` is one."""

    def batch(self, requests: int, rows: int, predict_s: float, seconds: Sequence[float]) -> None:
        """One call of the model; `seconds` of each request since it came."""

    def together(self, requests: int, rows: int, predict_s: float, each_s: float) -> None:
        """One call for requests that all took `each_s` since they came."""

    def calling(self, since: float) -> None:
        """A call began at `since` (monotonic seconds), or ended (0)."""

    def queue(self, requests: int, rows: int) -> None:
        """What waits or runs now."""

    def shed(self, reason: str) -> None:
        """A request was not predicted."""


class Nobody:
    """A watch that does not look."""

    def batch(self, requests: int, rows: int, predict_s: float, seconds: Sequence[float]) -> None:
        """Not looked at."""

    def together(self, requests: int, rows: int, predict_s: float, each_s: float) -> None:
        """Not looked at."""

    def calling(self, since: float) -> None:
        """Not looked at."""

    def queue(self, requests: int, rows: int) -> None:
        """Not looked at."""

    def shed(self, reason: str) -> None:
        """Not looked at."""


class Batcher(Generic[W, R]):
    """The queue in front of one model. Everything but the call belongs to the loop's thread.

    `call` takes works of one key and gives one value for all their rows, in order.
    """

    def __init__(
        self, call: Callable[[list[W]], R], limits: Limits, watch: Watch | None = None
    ) -> None:
        self._call, self._limits, self._watch = call, limits, watch or Nobody()
        self._waiting: deque[Job[W, R]] = deque()
        self.waiting_rows = 0
        self._running: list[Job[W, R]] = []
        self._scheduled = False
        self._ticking = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cost_s: list[float | None] = [None] * 48
        """What a call took lately, by the number of bits of its number of rows."""
        self._calls: queue.SimpleQueue[list[Job[W, R]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._running)

    def submit(
        self,
        work: W,
        done: Callable[[Job[W, R]], None],
        limit_s: float | None = None,
        context: Any = None,
    ) -> Job[W, R]:
        """Queue a query; `done` is called once, later, with the job, unless it is cancelled.

        `context` is whatever `done` needs beside. Raises Overloaded where the queue is full by requests or by rows.
        """
        limits = self._limits
        rows = self.waiting_rows + work.rows
        if len(self._waiting) >= limits.max_queue_requests or (
            rows > limits.max_queue_rows and self._waiting
        ):
            full = len(self._waiting) >= limits.max_queue_requests
            self._watch.shed("queue_requests" if full else "queue_rows")
            raise Overloaded("too many requests wait; try again")
        job: Job[W, R] = Job(work, done, limits.deadline_s if limit_s is None else limit_s, context)
        self._waiting.append(job)
        self.waiting_rows = rows
        if not self._scheduled and not self._running:
            # Not at once: the sockets that are ready in the same turn of the loop come along.
            self._scheduled = True
            loop = self._loop
            if loop is None:
                loop = self._loop = asyncio.get_running_loop()
            loop.call_soon(self._dispatch)
        if not self._ticking:
            self._tick()
        return job

    def hurry(self) -> None:
        """Call the model now for what waits, if it is idle: nobody else comes in this turn."""
        if self._waiting and not self._running:
            self._dispatch()

    def quick(self, rows: int) -> bool:
        """Whether a call for so many rows may be made on this thread now."""
        if self._running or self._waiting or rows > self._limits.max_batch_rows:
            return False
        expected = self._cost_s[rows.bit_length()]
        return expected is not None and expected < INLINE_S

    def at_once(self, work: W, requests: int, began: float) -> R | None:
        """The value for a work that stands for so many requests, the first of which came at `began`
        (perf_counter); None where it is not `quick`. Raises what the call raises."""
        rows = work.rows
        if not self.quick(rows):
            return None
        watch = self._watch
        watch.calling(time.monotonic())
        begun = perf_counter()
        try:
            value = self._call([work])
        finally:
            watch.calling(0.0)
        now = perf_counter()
        self._remember(rows, now - begun)
        watch.together(requests, rows, now - begun, now - began)
        return value

    def close(self) -> None:
        """End the model's thread, after the call that runs."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(timeout=10)
            self._thread = None

    # ---- the loop's thread ----

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._running:
            return
        jobs, rows = self._next()
        if not jobs:
            return
        self._running = jobs
        watch = self._watch
        watch.calling(time.monotonic())
        watch.queue(len(self._waiting) + len(jobs), self.waiting_rows + rows)
        expected = self._cost_s[rows.bit_length()]
        if expected is not None and expected < INLINE_S:
            self._inline(jobs)
        else:
            self._send(jobs)

    def _next(self) -> tuple[list[Job[W, R]], int]:
        """The oldest job and those of its key that fit beside it; the others keep their order."""
        waiting = self._waiting
        jobs: list[Job[W, R]] = []
        others: list[Job[W, R]] = []
        rows, most, key = 0, self._limits.max_batch_rows, None
        while waiting:
            job = waiting.popleft()
            work = job.work
            if job.gone:  # its client left, or it was too late
                self.waiting_rows -= work.rows
            elif not jobs:
                jobs.append(job)
                rows, key = work.rows, work.key
            elif work.key != key:
                others.append(job)
            elif rows + work.rows > most:
                others.append(job)
                break  # no younger one of this key may overtake it
            else:
                jobs.append(job)
                rows += work.rows
        if others:
            waiting.extendleft(reversed(others))
        self.waiting_rows -= rows
        return jobs, rows

    def _inline(self, jobs: list[Job[W, R]]) -> None:
        begun = perf_counter()
        try:
            value = self._call([job.work for job in jobs])
        except Exception as error:
            if len(jobs) > 1:
                self._send(jobs)  # halving may take many calls: not on this thread
                return
            jobs[0].error = error
            self._finish(jobs, None)
            return
        _share(jobs, value)
        self._finish(jobs, perf_counter() - begun)

    def _send(self, jobs: list[Job[W, R]]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="predict", daemon=True)
            self._thread.start()
        self._calls.put(jobs)

    def _finish(self, jobs: list[Job[W, R]], took_s: float | None) -> None:
        self._running = []
        self._watch.calling(0.0)
        if took_s is not None:
            self._learn(jobs, took_s)
        if self._waiting and not self._scheduled:
            self._scheduled = True
            loop = self._loop
            assert loop is not None
            loop.call_soon(self._dispatch)
        for job in jobs:
            if not job.gone:
                _tell(job)

    def _learn(self, jobs: list[Job[W, R]], took_s: float) -> None:
        rows = sum(job.work.rows for job in jobs)
        self._remember(rows, took_s)
        now = perf_counter()
        self._watch.batch(len(jobs), rows, took_s, [now - job.arrived for job in jobs])

    def _remember(self, rows: int, took_s: float) -> None:
        bits = rows.bit_length()
        known = self._cost_s[bits]
        # Down at once, up slowly: on the model's thread a short call looks long whenever the loop
        # holds the interpreter, and one long call in many is no reason to hop threads for all.
        longer = known is not None and took_s > known
        self._cost_s[bits] = known * 0.8 + took_s * 0.2 if longer and known else took_s

    def _tick(self) -> None:
        """Answer what is too late, as long as anything waits or runs."""
        loop = self._loop
        assert loop is not None
        self._ticking = bool(self._waiting or self._running)
        if not self._ticking:
            self._watch.queue(0, 0)
            return
        now = perf_counter()
        for job in (*self._waiting, *self._running):
            if not job.gone and now > job.deadline:
                self._watch.shed("deadline")
                job.value, job.error = None, TooLate("the answer was not there in time")
                _tell(job)
        loop.call_later(TICK_S, self._tick)

    # ---- the model's thread ----

    def _work(self) -> None:
        while (jobs := self._calls.get()) is not None:
            begun = perf_counter()
            found = self._together(jobs)
            took_s = perf_counter() - begun
            loop = self._loop
            assert loop is not None
            try:
                loop.call_soon_threadsafe(self._worked, found, took_s)
            except RuntimeError:
                return  # the loop was closed while the model worked

    def _together(self, jobs: list[Job[W, R]]) -> list[tuple[list[Job[W, R]], R | Exception]]:
        """The calls that answered these jobs: one, or after a failure as many as it takes."""
        try:
            return [(jobs, self._call([job.work for job in jobs]))]
        except Exception as error:
            if len(jobs) == 1:
                return [(jobs, error)]
        half = len(jobs) // 2
        return self._together(jobs[:half]) + self._together(jobs[half:])

    # ---- the loop's thread again ----

    def _worked(self, found: list[tuple[list[Job[W, R]], R | Exception]], took_s: float) -> None:
        # Given to the jobs here: a job that was too late meanwhile is not written to by two threads.
        for jobs, value in found:
            if isinstance(value, Exception):
                jobs[0].error = value
            else:
                _share(jobs, value)
        self._finish(
            [job for jobs, _ in found for job in jobs], took_s if len(found) == 1 else None
        )


def _tell(job: Job[W, R]) -> None:
    """Give a job its answer, once; what its taker makes of it is no concern of its neighbours."""
    job.gone = True
    try:
        job.done(job)
    except Exception:
        _log.exception("an answer could not be taken")


def _share(jobs: list[Job[W, R]], value: R) -> None:
    start = 0
    for job in jobs:
        job.value, job.start = value, start
        job.stop = start = start + job.work.rows
