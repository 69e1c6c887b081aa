"""HTTP in front of the plane: an ASGI application, run by uvicorn with httptools and uvloop.

Protocols on one port: MLflow scoring (`/invocations`, `/ping`, `/health`, `/version`), Open Inference
V2 REST for one model, Prometheus at `/metrics`. Every prediction carries `X-Prediction-Id`.

Drain: no new connection is accepted, every answer says `Connection: close`, and idle keep-alive
connections stay open for a while, so that a client's next request finds somebody; only then are they
closed. Nothing of the input, no path and no stack trace is ever in a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from treadle import __version__
from treadle.base import clock
from treadle.operate.codec import mlflow, v2
from treadle.operate.plane import ModelFailed, Plane
from treadle.operate.query import Answer, Query
from treadle.operate.signature import WrongInput

_log = logging.getLogger("treadle.server")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_JSON, _TEXT = b"application/json", b"text/plain; charset=utf-8"
_BUCKETS = (.0005, .001, .002, .003, .005, .01, .02, .03, .05, .1, .2, .3, .5, 1, 2, 5, 10, 30)  # fmt: skip

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Reply = tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]
"""Status, body, content type, further headers."""


class _TooLarge(Exception):
    """A body beyond the limit (413)."""


class _Gone(Exception):
    """The client left before its body was complete."""


class Metrics:
    """What Prometheus is told."""

    def __init__(self, plane: Plane) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.duration = Histogram(
            "treadle_prediction_duration_seconds", "From a decoded request to its predictions.",
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.predictions = Counter("treadle_predictions", "Predicted rows.", registry=self.registry)
        self.requests = Counter(
            "treadle_requests", "Answered requests.", ["path", "status"], registry=self.registry
        )
        info = Gauge(
            "treadle_model_info", "What is served.", list(plane.info()), registry=self.registry
        )
        info.labels(**plane.info()).set(1)
        self.queued = Gauge(
            "treadle_queued_requests", "Requests that wait or are predicted.",
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_CaptureCollector(plane))


class _CaptureCollector(Collector):
    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def collect(self) -> Iterable[Metric]:
        """Counters that the capture keeps itself."""
        capture = self._plane.capture
        if capture is None:
            return
        yield CounterMetricFamily(
            "treadle_captured_requests", "Requests kept for monitoring.", value=capture.captured
        )
        dropped = CounterMetricFamily(
            "treadle_capture_dropped_requests", "Sampled requests that were not kept.",
            labels=["reason"],
        )  # fmt: skip
        for reason, count in capture.dropped.items():
            dropped.add_metric([reason], count)
        yield dropped


class Application:
    """The ASGI application of one plane."""

    def __init__(
        self,
        plane: Plane,
        *,
        max_body_bytes: int = 64 << 20,
        max_rows: int = 1_000_000,
        max_queue: int = 512,
    ) -> None:
        self.plane = plane
        self.metrics = Metrics(plane)
        self.draining = False
        self._max_body_bytes, self._max_rows, self._max_queue = max_body_bytes, max_rows, max_queue
        self._queued = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        name = plane.identity.model
        model, release = f"/v2/models/{name}", f"/versions/{plane.identity.release}"
        self._infer = {f"{model}/infer", f"{model}{release}/infer"}
        self._metadata = {model, f"{model}{release}"}
        self._model_ready = {f"{model}/ready", f"{model}{release}/ready"}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        headers = {name: value for name, value in scope["headers"]}  # noqa: C416 - last one wins
        request_id = headers.get(b"x-request-id", b"")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = clock.ulid().encode()
        extra = [(b"x-request-id", request_id)]
        if path == "/invocations" or path in self._infer:
            allowed = "POST"
            if method == "POST":
                status, body, kind, more = await self._predict(path, headers, receive, request_id)
                extra += more
            else:
                status, body, kind = 405, v2.encode_error("use POST"), _JSON
        else:
            allowed = "GET, HEAD"
            if method in ("GET", "HEAD"):
                status, body, kind = self._get(path)
            else:
                known = self._get(path)[0] != 404
                status, kind = (405 if known else 404), _JSON
                body = v2.encode_error("use GET" if known else "there is nothing at this path")
        if status == 405:
            extra.append((b"allow", allowed.encode()))
        if status == 503:
            extra.append((b"retry-after", b"1"))
        if self.draining or status == 413:
            extra.append((b"connection", b"close"))
        label = path if status not in (404, 405) else "other"
        self.metrics.requests.labels(label, status).inc()
        await send({
            "type": "http.response.start", "status": status,
            "headers": [(b"content-type", kind), (b"content-length", str(len(body)).encode()),
                        (b"x-model-version", str(self.plane.identity.release).encode()), *extra],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    def _get(self, path: str) -> tuple[int, bytes, bytes]:
        ready = self.plane.ready
        if path in ("/ping", "/health"):
            return (200 if ready else 503), b"\n", _TEXT
        if path == "/version":
            told = {"treadle": __version__, **self.plane.info()}
            return 200, json.dumps(told).encode(), _JSON
        if path == "/metrics":
            return 200, generate_latest(self.metrics.registry), b"text/plain; version=0.0.4"
        if path == "/v2":
            server = {"name": "treadle", "version": __version__, "extensions": []}
            return 200, json.dumps(server).encode(), _JSON
        if path == "/v2/health/live":
            return 200, b'{"live":true}', _JSON
        if path == "/v2/health/ready":
            # The specification prints `live` here, KServe's client reads `ready`.
            return _ready(ready, {"live": True, "ready": ready})
        if path in self._model_ready:
            return _ready(ready, {"name": self.plane.identity.model, "ready": ready})
        if path in self._metadata:
            return 200, json.dumps(self.plane.metadata()).encode(), _JSON
        if path.startswith("/v2/models/"):
            return 404, v2.encode_error(
                f"the only model here is {self.plane.identity.model}, "
                f"version {self.plane.identity.release}"
            ), _JSON  # fmt: skip
        return 404, v2.encode_error("there is nothing at this path"), _JSON

    async def _predict(
        self, path: str, headers: dict[bytes, bytes], receive: Receive, request_id: bytes
    ) -> Reply:
        scoring = path == "/invocations"

        def error(status: int, code: str, message: str) -> Reply:
            body = mlflow.encode_error(code, message) if scoring else v2.encode_error(message)
            return status, body, _JSON, []

        if self._queued >= self._max_queue:
            return error(503, "RESOURCE_EXHAUSTED", "too many requests wait; try again")
        self._queued += 1
        self.metrics.queued.set(self._queued)
        try:
            body = await self._body(headers, receive)
            work = self._scoring if scoring else self._inference
            loop = asyncio.get_running_loop()
            answer, encoded = await loop.run_in_executor(self._thread, work, body, headers)
        except WrongInput as wrong:
            return error(400, "BAD_REQUEST", wrong.message)
        except mlflow.WrongType as wrong:
            missing = b"content-type" not in headers
            return error(400 if missing else 415, "BAD_REQUEST", str(wrong))
        except _TooLarge:
            return error(
                413, "BAD_REQUEST", f"the body is larger than {self._max_body_bytes} bytes"
            )
        except _Gone:
            return error(400, "BAD_REQUEST", "the body is not complete")
        except ModelFailed as failed:
            cause = failed.__cause__
            _log.error("request %s: %s", request_id.decode(), failed.message, exc_info=cause)
        except Exception:
            _log.exception("request %s", request_id.decode())
        else:
            self.metrics.duration.observe(answer.latency_s)
            self.metrics.predictions.inc(answer.rows)
            return 200, encoded, _JSON, [(b"x-prediction-id", answer.id.encode())]
        finally:
            self._queued -= 1
            self.metrics.queued.set(self._queued)
        return error(
            500, "INTERNAL_ERROR", f"the model failed; the log has request {request_id.decode()}"
        )

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise _TooLarge
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body_bytes:
                raise _TooLarge
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _scoring(self, body: bytes, headers: dict[bytes, bytes]) -> tuple[Answer, bytes]:
        kind = headers.get(b"content-type")
        query = mlflow.decode(body, kind.decode("latin-1") if kind else None,
                              self.plane.model.signature)  # fmt: skip
        answer = self._answer(query)
        return answer, mlflow.encode(answer.outputs.arrays)

    def _inference(self, body: bytes, headers: dict[bytes, bytes]) -> tuple[Answer, bytes]:
        if b"inference-header-content-length" in headers:
            raise WrongInput("body", "tensors as JSON data", "binary, which is not supported yet")
        query, identity, requested = v2.decode(body)
        if requested is not None and self.plane.examples:
            unknown = [name for name in requested if name not in self.plane.examples]
            if unknown:
                raise WrongInput(
                    "outputs", f"some of {', '.join(self.plane.examples)}", "another name"
                )
        answer = self._answer(query)
        who = self.plane.identity
        return answer, v2.encode(
            answer.outputs.arrays, model=who.model, version=str(who.release),
            identity=identity if identity is not None else answer.id, requested=requested,
        )  # fmt: skip

    def _answer(self, query: Query) -> Answer:
        if query.rows > self._max_rows:
            raise WrongInput("input", f"at most {self._max_rows} rows", f"{query.rows}")
        return self.plane.predict(query)

    def close(self) -> None:
        """End the predict thread and write what was captured."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self.plane.capture is not None:
            self.plane.capture.close()


def _ready(ready: bool, told: dict[str, Any]) -> tuple[int, bytes, bytes]:
    return (200 if ready else 503), json.dumps(told).encode(), _JSON


class Server(uvicorn.Server):
    """uvicorn with our signals and our drain.

    SIGTERM, SIGINT and the end of the lifeline (the supervisor died) stop the server, idle
    connections linger for `stop_linger_s`; SIGUSR2 drains it after a swap, for `swap_linger_s`;
    SIGUSR1 closes the capture segment.
    """

    def __init__(
        self,
        application: Application,
        *,
        swap_linger_s: float = 10.0,
        stop_linger_s: float = 1.0,
        grace_s: float = 30.0,
        lifeline: int | None = None,
        started: Callable[[], None] = lambda: None,
        drained: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(uvicorn.Config(
            application,
            http="httptools", loop="uvloop", ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False, proxy_headers=False,
            # Closing an idle connection races with its client's next request: rarely is better.
            timeout_keep_alive=120, timeout_graceful_shutdown=int(grace_s), backlog=1024,
        ))  # fmt: skip
        self._application = application
        self._linger_s, self._swap_linger_s = stop_linger_s, swap_linger_s
        self._lifeline = lifeline
        self._announce, self._announce_drain = started, drained

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, then tell the supervisor."""
        await super().startup(sockets)
        if self._lifeline is not None:
            asyncio.get_running_loop().add_reader(self._lifeline, self._on_lifeline, self._lifeline)
        self._announce()

    def _on_lifeline(self, descriptor: int) -> None:
        if os.read(descriptor, 64) == b"":
            asyncio.get_running_loop().remove_reader(descriptor)
            _log.warning("the supervisor is gone: draining")
            self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Our handlers while the server runs; a handled signal ends the process with 0."""

        def stop(_number: int, _frame: object) -> None:
            self.should_exit = True

        def drain(_number: int, _frame: object) -> None:
            self._linger_s, self.should_exit = self._swap_linger_s, True

        def flush(_number: int, _frame: object) -> None:
            capture = self._application.plane.capture
            if capture is not None:
                capture.flush(timeout_s=0)

        handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR2: drain,
                    signal.SIGUSR1: flush}  # fmt: skip
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, linger, then close what is idle and wait for what is in flight."""
        self._application.draining = True
        for server in self.servers:
            server.close()
        self._announce_drain()  # nobody new comes here from now on
        until = clock.elapsed() + self._linger_s
        # One round at least: a connection accepted a moment ago is not in the set yet.
        await asyncio.sleep(0.05)
        while self.server_state.connections and clock.elapsed() < until:  # noqa: ASYNC110 - a set, no event
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def run(server: Server, application: Application, listener: socket.socket) -> None:
    """Serve on a bound socket until a signal ends it; then write what was captured."""
    try:
        server.run(sockets=[listener])
    finally:
        application.close()
