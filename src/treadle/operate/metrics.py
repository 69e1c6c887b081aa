"""What Prometheus is told at `/metrics`, for all workers of the server together.

Counting is a few additions into this worker's row of shared memory (counters.py), fit for the hot
path; the text is made when somebody asks. It is written here and not by prometheus-client: importing
that takes 55 ms and 5 MB, in every worker and on the loop's thread, for a format of three kinds of
lines (https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4). Tests read it
with prometheus-client's parser.

Everything here is called on the loop's thread, but for `calling` and `capture`, each of which may
have another thread of its own: a cell must never have two writers.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from treadle import __version__
from treadle.operate import counters
from treadle.operate.counters import Shared

KIND = b"text/plain; version=0.0.4; charset=utf-8"
"""The content type of `render`."""
ROUTES = (
    "/", "/invocations", "/ping", "/health", "/version", "/metrics", "/openapi.json",
    "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/{model}",
    "/v2/models/{model}/ready", "/v2/models/{model}/infer", "/v2/repository/index",
    "/v1/models", "/v1/models/{model}", "/v1/models/{model}:predict", "grpc",
    "other",
)  # fmt: skip
"""Values of the label `path`; whatever is none of them counts as `other`."""
STATUSES = (
    200, 204, 304, 400, 401, 403, 404, 405, 406, 408, 411, 413, 414, 415, 417, 422, 429, 431, 499,
    500, 501, 503, 504, 505, 0,
)  # fmt: skip
"""Values of the label `status`; 0 stands for every other one. 499: the client left."""
SHED = ("queue_requests", "queue_rows", "deadline", "gone", "draining", "connections", "other")
"""Why a request was answered without a prediction, or not at all: `gone`, its client left."""
DROPPED = ("per_minute", "queue", "disk", "error", "other")
STAGES = ("parse", "predict", "encode")
SECONDS = (.0005, .001, .002, .003, .005, .01, .02, .03, .05, .1, .2, .3, .5, 1, 2, 5, 10, 30, 60)  # fmt: skip
REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
ROWS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)

# Where in a row each family begins. A histogram is its buckets, the one without a bound, and its sum.
_REQUEST = counters.LAYOUT + 1
_DURATION = _REQUEST + len(ROUTES) * len(STATUSES)
_BATCH_REQUESTS = _DURATION + len(SECONDS) + 2
_BATCH_ROWS = _BATCH_REQUESTS + len(REQUESTS) + 2
_STAGE = _BATCH_ROWS + len(ROWS) + 2
_SHED = _STAGE + 2 * len(STAGES)
_DROPPED = _SHED + len(SHED)
_CAPTURED = _DROPPED + len(DROPPED)
_PREDICTIONS = _CAPTURED + 1
_CPU = _PREDICTIONS + 1
_END = _CPU + 1
assert _END <= counters.WIDTH
_LAYOUT = float(zlib.crc32(repr(
    (ROUTES, STATUSES, SHED, DROPPED, STAGES, SECONDS, REQUESTS, ROWS, _END)
).encode()))  # fmt: skip
_DURATION_SUM = _BATCH_REQUESTS - 1
_PARSE, _PREDICT, _ENCODE = range(_STAGE, _SHED, 2)


ALIVE_S = 3.0
"""A worker that has not told for longer that it lives is left no connections."""


class Metrics:
    """The counters of one worker, and the answer for all of them."""

    def __init__(self, shared: Shared | None = None, slot: int = 0) -> None:
        self.shared = shared or Shared.alone()
        self._row = self.shared.claim(slot, _LAYOUT)
        self._info: dict[str, str] = {}
        self._cell = {
            route: {
                status: _REQUEST + at * len(STATUSES) + number
                for number, status in enumerate(STATUSES)
            }
            for at, route in enumerate(ROUTES)
        }
        self._shed = {reason: _SHED + at for at, reason in enumerate(SHED)}
        # Totals of this process are added to those of the workers that had its row before.
        self._cpu_before = self._row[_CPU]
        self._captured_before = [self._row[cell] for cell in range(_DROPPED, _CAPTURED + 1)]

    # ---- counting: the hot path ----

    def request(self, route: str, status: int, count: int = 1) -> None:
        """A request was answered, or so many."""
        cells = self._cell.get(route) or self._cell["other"]
        self._row[cells.get(status) or cells[0]] += count

    def batch(self, requests: int, rows: int, predict_s: float, seconds: Sequence[float]) -> None:
        """One call of the model.

        `predict_s` is the call alone; `seconds` are from each request's arrival to its predictions.
        """
        row = self._row
        self.call(requests, rows, predict_s)
        for one in seconds:
            row[_DURATION + bisect_left(SECONDS, one)] += 1.0
            row[_DURATION_SUM] += one

    def together(self, requests: int, rows: int, predict_s: float, each_s: float) -> None:
        """One call of the model for requests that came and were answered in one turn of the loop."""
        row = self._row
        self.call(requests, rows, predict_s)
        row[_DURATION + bisect_left(SECONDS, each_s)] += requests
        row[_DURATION_SUM] += each_s * requests

    def call(self, requests: int, rows: int, predict_s: float) -> None:
        """One call of the model, without the time of each request."""
        row = self._row
        row[_BATCH_REQUESTS + bisect_left(REQUESTS, requests)] += 1.0
        row[_BATCH_ROWS - 1] += requests
        row[_BATCH_ROWS + bisect_left(ROWS, rows)] += 1.0
        row[_STAGE - 1] += rows
        row[_PREDICTIONS] += rows
        row[_PREDICT] += predict_s
        row[_PREDICT + 1] += 1.0

    def parse(self, seconds: float, count: int = 1) -> None:
        """So many bodies were decoded, in so many seconds together."""
        self._row[_PARSE] += seconds
        self._row[_PARSE + 1] += count

    def encode(self, seconds: float, count: int = 1) -> None:
        """So many answers were encoded."""
        self._row[_ENCODE] += seconds
        self._row[_ENCODE + 1] += count

    def shed(self, reason: str) -> None:
        """A request was not predicted, for one of the reasons `SHED`."""
        self._row[self._shed.get(reason) or self._shed["other"]] += 1.0

    def queue(self, requests: int, rows: int) -> None:
        """What waits for the model now, or is being predicted."""
        self._row[counters.QUEUED_REQUESTS] = requests
        self._row[counters.QUEUED_ROWS] = rows

    def calling(self, since: float) -> None:
        """A call of the model began (`time.monotonic()`), or has ended (0).

        The supervisor leaves a worker alone that is silent for the sake of a long prediction.
        """
        self._row[counters.CALLING] = since

    def capture(self, captured: int, dropped: Mapping[str, int]) -> None:
        """What the capture of this process has counted since it began: totals, not additions."""
        totals = [0.0] * len(DROPPED)
        for reason, count in dropped.items():
            totals[DROPPED.index(reason) if reason in DROPPED else -1] += count
        for at, total in enumerate((*totals, captured)):
            self._row[_DROPPED + at] = self._captured_before[at] + total

    # ---- among workers ----

    def accepting(self, whether: bool) -> None:
        """This worker begins or stops to accept connections."""
        self._row[counters.ACCEPTING] = whether

    def crowded(self, connections: int) -> bool:
        """Whether another worker has fewer connections than this one, which has so many now."""
        self._row[counters.CONNECTIONS] = connections
        alive = time.monotonic() - ALIVE_S
        for slot in range(int(self.shared.header[counters.USED])):
            row = self.shared.row(slot)
            if (
                row[counters.ACCEPTING]
                and row[counters.CONNECTIONS] < connections
                and row[counters.BEAT] > alive
            ):
                return True
        return False

    # ---- once a second ----

    def beat(self) -> None:
        """This worker's loop goes round; once a second, with what the process has used so far."""
        self._row[counters.BEAT] = time.monotonic()
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._row[_CPU] = self._cpu_before + used.ru_utime + used.ru_stime
        self._row[counters.RESIDENT] = _resident(used)

    def describe(self, info: Mapping[str, str]) -> None:
        """What is served: the labels of `treadle_model_info`."""
        self._info = dict(info)

    def ready(self) -> bool:
        """Whether as many workers serve as are wanted: a dead or stuck one makes all not ready."""
        return self.shared.ready

    # ---- telling ----

    def render(self) -> bytes:
        """The text for Prometheus, all workers added up."""
        self.beat()
        return "\n".join([*self._lines(), ""]).encode()

    def _lines(self) -> Iterator[str]:
        rows = self.shared.rows(_LAYOUT)
        total = [
            sum(cells)
            for cells in zip(*(row[:_END].tolist() for row in rows.values()), strict=True)
        ]
        header = self.shared.header

        yield from _family("treadle_requests_total", "counter", "Answered requests.")
        for route, cells in self._cell.items():
            for status, cell in cells.items():
                if total[cell]:
                    labels = _labels(path=route, status=str(status) if status else "other")
                    yield f"treadle_requests_total{labels} {_number(total[cell])}"
        yield from _histogram(
            "treadle_prediction_duration_seconds", "From a request's arrival to its predictions.",
            SECONDS, total[_DURATION:_BATCH_REQUESTS],
        )  # fmt: skip
        yield from _one("treadle_predictions_total", "counter", "Predicted rows.",
                        total[_PREDICTIONS])  # fmt: skip
        yield from _histogram("treadle_batch_requests", "Requests that one call of the model answered.",
                              REQUESTS, total[_BATCH_REQUESTS:_BATCH_ROWS])  # fmt: skip
        yield from _histogram("treadle_batch_rows", "Rows that one call of the model got.",
                              ROWS, total[_BATCH_ROWS:_STAGE])  # fmt: skip
        yield from _family("treadle_stage_seconds", "summary",
                           "Time in decoding bodies, in calls of the model, in encoding answers.")  # fmt: skip
        for at, stage in enumerate(STAGES):
            labels, cell = _labels(stage=stage), _STAGE + 2 * at
            yield f"treadle_stage_seconds_sum{labels} {_number(total[cell])}"
            yield f"treadle_stage_seconds_count{labels} {_number(total[cell + 1])}"
        yield from _each("treadle_shed_requests_total", "counter",
                         "Requests that were not predicted.", "reason", SHED, total[_SHED:])  # fmt: skip
        yield from _one("treadle_queued_requests", "gauge", "Requests that wait or are predicted.",
                        total[counters.QUEUED_REQUESTS])  # fmt: skip
        yield from _one("treadle_queued_rows", "gauge", "Rows that wait or are predicted.",
                        total[counters.QUEUED_ROWS])  # fmt: skip
        yield from _one("treadle_captured_requests_total", "counter",
                        "Requests kept for monitoring.", total[_CAPTURED])  # fmt: skip
        yield from _each("treadle_capture_dropped_requests_total", "counter",
                         "Sampled requests that were not kept.", "reason", DROPPED,
                         total[_DROPPED:])  # fmt: skip
        yield from _one("treadle_workers_wanted", "gauge", "Workers that should serve.",
                        header[counters.WANTED])  # fmt: skip
        yield from _one("treadle_workers_ready", "gauge", "Workers that serve.",
                        header[counters.READY])  # fmt: skip
        yield from _one("treadle_worker_restarts_total", "counter",
                        "Workers that died or hung and were replaced.",
                        header[counters.RESTARTS])  # fmt: skip
        # The names that every client library uses; a row is named by its slot.
        alive = [(str(slot), row) for slot, row in rows.items() if row[counters.PID]]
        yield from _one("process_cpu_seconds_total", "counter",
                        "CPU time of all workers, those that ended too.", total[_CPU])  # fmt: skip
        yield from _one("process_resident_memory_bytes", "gauge",
                        "Resident memory of all workers; what they share counts for each.",
                        total[counters.RESIDENT])  # fmt: skip
        yield from _each("treadle_worker_cpu_seconds_total", "counter",
                         "CPU time of the processes that were this worker.", "worker",
                         [name for name, _ in alive], [row[_CPU] for _, row in alive])  # fmt: skip
        yield from _each("treadle_worker_resident_memory_bytes", "gauge", "Its resident memory.",
                         "worker", [name for name, _ in alive],
                         [row[counters.RESIDENT] for _, row in alive])  # fmt: skip
        if self._info:
            yield from _family("treadle_model_info", "gauge", "What is served.")
            yield f"treadle_model_info{_labels(**self._info)} 1.0"
        yield from _family("treadle_build_info", "gauge", "What serves.")
        python = ".".join(map(str, sys.version_info[:3]))
        yield f"treadle_build_info{_labels(version=__version__, python=python)} 1.0"


def _family(name: str, kind: str, words: str) -> tuple[str, str]:
    return f"# HELP {name} {words}", f"# TYPE {name} {kind}"


def _one(name: str, kind: str, words: str, value: float) -> Iterator[str]:
    yield from _family(name, kind, words)
    yield f"{name} {_number(value)}"


def _each(
    name: str, kind: str, words: str, label: str, names: Sequence[str], values: Sequence[float]
) -> Iterator[str]:
    """One sample for each of `names`; further values are of somebody else."""
    yield from _family(name, kind, words)
    for one, value in zip(names, values, strict=False):
        yield f"{name}{_labels(**{label: one})} {_number(value)}"


def _histogram(
    name: str, words: str, bounds: Sequence[float], cells: Sequence[float]
) -> Iterator[str]:
    yield from _family(name, "histogram", words)
    below = 0.0
    for bound, count in zip((*bounds, None), cells, strict=False):
        below += count
        yield f'{name}_bucket{{le="{"+Inf" if bound is None else float(bound)}"}} {_number(below)}'
    yield f"{name}_sum {_number(cells[-1])}"
    yield f"{name}_count {_number(below)}"


def _labels(**labels: str) -> str:
    escaped = (
        (name, text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, text in labels.items()
    )
    return "{" + ",".join(f'{name}="{text}"' for name, text in escaped) + "}"


def _number(value: float) -> str:
    return repr(float(value))  # `7.0`, as the client library writes it


def _resident(used: resource.struct_rusage) -> float:
    """Resident memory in bytes: now on Linux, the most so far elsewhere."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return float(used.ru_maxrss)  # bytes on macOS
