"""Keep a sample of requests and predictions for monitoring: never on the request's path.

A thread of its own turns what was taken into records and appends them to segments
(base/segments). The queue is bounded by requests and by rows; what does not fit, what exceeds the
cap per minute and what the disk refuses, or the bytes that may wait there (`most_bytes`), is dropped
and counted.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from treadle.base import clock, segments
from treadle.operate import handout
from treadle.operate.model.loaded import Prepared

_log = logging.getLogger("treadle.capture")
LATEST_S = 0.2
"""A record is with the operating system at most this long after its answer."""
_PIECE = 1 << 18
"""Bytes that are handed to the operating system at a time."""
_MANY_ROWS = 1000
"""So many are written at once: as they wait they take several times the memory."""
RESERVE = 100
"""So many requests of the minute's share may come at once; of a large share, a twentieth."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One answered request, not yet turned into a record."""

    id: str
    at: dt.datetime
    latency_ms: float
    rows: int
    prepare: Callable[[], Prepared]
    """What the model saw and what came along, made on the capture's thread."""
    outputs: Mapping[str, np.ndarray[Any, Any]]
    trace: str = ""
    """The request's `traceparent`, where it had one."""


class Capture:
    """The bounded queue and its thread."""

    def __init__(
        self,
        folder: Path,
        *,
        environment: str,
        release: int,
        instance: str,
        model: str = "",
        rate: float = 1.0,
        per_minute: int = 6000,
        queue_requests: int = 2000,
        queue_rows: int = 10_000,
        max_bytes: int = 16 << 20,
        max_age_s: float = 300.0,
        exclude: Collection[str] = (),
        hashed: Collection[str] = (),
        most_bytes: int | None = None,
    ) -> None:
        self._writer = segments.SegmentWriter(
            folder, instance, max_bytes=max_bytes, max_age_s=max_age_s
        )
        self._folder, self._most_bytes = folder, most_bytes
        self._who = (environment, release, instance, model)
        self._rate = rate
        # Together never more than `per_minute` in any minute.
        self._reserve = float(max(min(per_minute, RESERVE), per_minute // 20))
        self._per_second = (per_minute - self._reserve) / 60
        self._left, self._filled = self._reserve, perf_counter()
        self._queue_requests, self._queue_rows = queue_requests, queue_rows
        self._exclude, self._hashed = frozenset(exclude), frozenset(hashed)
        self._queue: deque[Taken] = deque()
        self._rows = 0
        self._lock = threading.Lock()
        self._wake, self._flushed = threading.Event(), threading.Condition()
        self._asked = self._done = 0
        self._stop = False
        self.captured = self._full = 0
        self.dropped = {"per_minute": 0, "queue": 0, "disk": 0, "error": 0}
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def wants(self) -> bool:
        """Whether the next request belongs to the sample; counts it in if so. Never waits.

        The minute's share is given out evenly, but for a reserve: a busy second must neither use it
        up, nor make the server busy with its own records.
        """
        if self._rate < 1 and random.random() >= self._rate:  # noqa: S311 - a sample, no secret
            return False
        now = perf_counter()
        left = self._left + (now - self._filled) * self._per_second
        self._filled = now
        if left < 1.0:
            self._left = left
            self.dropped["per_minute"] += 1
            return False
        self._left = min(self._reserve, left) - 1.0
        return True

    def sample(self, count: int) -> Sequence[int]:
        """Which of the next so many requests belong to the sample, as `wants` says of each."""
        if self._rate < 1:
            return [number for number in range(count) if self.wants()]
        now = perf_counter()
        left = min(self._left + (now - self._filled) * self._per_second, self._reserve + 1.0)
        self._filled = now
        wanted = max(0, min(count, int(left)))
        self._left = left - wanted
        self.dropped["per_minute"] += count - wanted
        return range(wanted)

    def take(self, item: Taken) -> None:
        """Queue a request that was wanted; costs microseconds and never waits for the disk."""
        with self._lock:
            if len(self._queue) >= self._queue_requests or (
                self._queue and self._rows + item.rows > self._queue_rows
            ):
                self.dropped["queue"] += 1
                return
            self._queue.append(item)
            self._rows += item.rows
            many = self._rows >= _MANY_ROWS
        if many:
            self._wake.set()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Have everything offered until now written and the segment closed; False if too slow."""
        with self._flushed:
            self._asked += 1
            ticket = self._asked
            self._wake.set()
            return self._flushed.wait_for(lambda: self._done >= ticket, timeout_s)

    def close(self) -> None:
        """Write what is queued, close the segment, end the thread."""
        self._stop = True
        self._wake.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            # Not woken for each record: one write for all that came within the interval.
            self._wake.wait(LATEST_S)
            self._wake.clear()
            stop, asked = self._stop, self._asked
            with self._lock:
                batch, self._queue = self._queue, deque()
                self._rows = 0
            try:
                self._write(batch)
                self._writer.tick()
                if stop or asked > self._done:
                    self._writer.close()
            except OSError as error:
                _log.error("capture: a segment cannot be finished: %s", error.strerror)
            with self._flushed:
                self._done = max(self._done, asked)
                self._flushed.notify_all()
            if stop:
                return

    def _write(self, batch: deque[Taken]) -> None:
        framed: list[bytes] = []
        size = 0
        while batch:
            item = batch.popleft()  # and let go: its rows are several times what is written of them
            try:
                one = segments.encode(self._record(item))
            except Exception:
                self.dropped["error"] += 1
                _log.exception("capture: a record of %d rows could not be made", item.rows)
                continue
            framed.append(one)
            size += len(one)
            if size >= _PIECE:
                self._append(framed, size)
                framed, size = [], 0
        self._append(framed, size)

    def _append(self, framed: list[bytes], size: int) -> None:
        if framed and not self._room(size):
            self.dropped["disk"] += len(framed)
            self._full += len(framed)
            handout.say_full(self._folder, self._who[2], self._full)
            return
        try:
            self._writer.append(framed)
            self.captured += len(framed)
        except OSError as error:
            self.dropped["disk"] += len(framed)
            _log.error("capture: cannot write: %s", error.strerror)

    def _room(self, size: int) -> bool:
        """Whether so much more may wait in the folder: beyond the size of its volume a pod is put
        out by its node."""
        return self._most_bytes is None or handout.waiting(self._folder) + size <= self._most_bytes

    def _record(self, item: Taken) -> segments.Record:
        environment, release, instance, model = self._who
        prepared = item.prepare()
        inputs = {name: _plain(values) for name, values in prepared.columns.items()}
        extra = {name: _plain(values) for name, values in prepared.extra.items()}
        return segments.Record(
            id=item.id, time=clock.text(item.at), environment=environment, release=release,
            instance=instance, model=model, latency_ms=item.latency_ms, rows=item.rows,
            inputs=self._shown(inputs), extra=self._shown(extra),
            outputs=output_columns(item.outputs), trace=item.trace,
        )  # fmt: skip

    def _shown(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Columns without the excluded ones; of the hashed ones the digests."""
        if not self._exclude and not self._hashed:
            return columns
        return {
            name: [segments.hash_value(value) for value in values]
            if name in self._hashed
            else values
            for name, values in columns.items()
            if name not in self._exclude
        }


def output_columns(outputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
    """Outputs as columns: `prediction`; `prediction_0` … for several values a row.

    A model with several outputs has `NAME` or `NAME_0` … for each, beside the first, which is the
    prediction.
    """
    columns: dict[str, list[Any]] = {}
    for position, (name, array) in enumerate(outputs.items()):
        word = "prediction" if position == 0 else name
        if array.ndim <= 1:
            columns[word] = _plain(array)
        else:
            flat = array.reshape(len(array), -1)
            for number in range(flat.shape[1]):
                columns[f"{word}_{number}"] = _plain(flat[:, number])
    return columns


def _plain(values: Any) -> list[Any]:
    """Values that msgpack knows: times as ISO 8601 texts, missing texts as None."""
    if isinstance(values, list):
        listed = values
    elif isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return list(values.tolist())
    elif getattr(values, "dtype", None) is not None and values.dtype.kind == "M":
        texts = np.datetime_as_string(np.asarray(values, dtype="datetime64[us]"))
        return [None if text == "NaT" else text for text in texts.tolist()]
    elif getattr(getattr(values, "dtype", None), "kind", "O") in "biuf":
        return list(values.tolist())
    else:
        listed = [None if _is_nan(value) else value for value in values]
    if set(map(type, listed)) <= {str, int, float, bool, type(None)}:
        return listed
    return [_value(value) for value in listed]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value  # noqa: PLR0124 - NaN differs from itself


def _value(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
