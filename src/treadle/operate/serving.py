"""One worker's model and server, put together from the options: verified, loaded, warmed, run.

Nothing here listens before `run`: the supervisor says when.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from treadle.base.errors import StateCorrupt
from treadle.operate import service, warmup
from treadle.operate.capture import Capture
from treadle.operate.codec import mlflow
from treadle.operate.http import server as runner
from treadle.operate.http.listener import Certificates
from treadle.operate.metrics import Metrics
from treadle.operate.model import loaded as model
from treadle.operate.options import Options
from treadle.operate.plane import Identity, Plane
from treadle.operate.query import Outputs

if TYPE_CHECKING:
    from treadle.operate import grpc

_log = logging.getLogger("treadle.server")
GRACE_S = 30.0
"""What is in flight when a worker drains gets so long; the supervisor waits a little longer."""


class Serving:
    """A model that is ready, and how it is served."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        """Verify, load and warm. Raises what is wrong with the options or with the model."""
        self._options, self._metrics = options, metrics
        self._tls = None
        if options.tls_certificate is not None:
            key = None if options.tls_key is None else str(options.tls_key)
            self._tls = Certificates(str(options.tls_certificate), key)
        files = None
        if options.files is not None:
            files = json.loads(options.files.read_text(encoding="utf-8"))
        loaded = model.load(
            options.model, files=files, trust_pickle=options.trust_pickle, compiled=True
        )
        if options.content and loaded.content and options.content != loaded.content:
            raise StateCorrupt(
                f"the model directory is not what was released: wanted {options.content}, "
                f"found {loaded.content}"
            )
        self.flavor = loaded.flavor
        self.identity = Identity(
            options.environment, options.release, options.instance or secrets.token_hex(4),
            options.name, options.content or loaded.content, options.run, options.image,
        )  # fmt: skip
        self._plane = Plane(loaded, self.identity, self._capture(), limits=options.limits,
                            watch=metrics)  # fmt: skip
        self._grpc = self._grpc_server()
        self.warmed = self._plane.warm()
        self._service = service.Predictor(self._plane, metrics, token=options.token)
        metrics.describe(self._plane.info())

    def _capture(self) -> Capture | None:
        options, who = self._options, self.identity
        if options.capture is None:
            return None
        return Capture(
            options.capture, environment=who.environment, release=who.release,
            instance=who.instance, model=who.content, rate=options.capture_rate,
            per_minute=math.ceil(options.capture_per_minute / options.workers),
            exclude=options.capture_exclude, hashed=options.capture_hash,
            most_bytes=options.capture_most,
        )  # fmt: skip

    def _grpc_server(self) -> grpc.Server | None:
        if self._options.grpc_port is None:
            return None
        from treadle.operate import grpc

        server = grpc.of(self._options, self._plane, self._metrics.request, self._metrics.ready)
        # Known now and not when the version before has gone: this port can be had.
        grpc.reserve(self._options.host, self._options.grpc_port).close()
        return server

    # ---- the version before ----

    def example(self) -> dict[str, Any] | None:
        """The input example and the answer to it, for the version after this one."""
        body = model.input_example(self._plane.model.folder)
        if body is None or self._options.given.fd is None:
            return None  # nothing to show, or nobody comes after it
        try:
            return warmup.pack(body, _listed(Outputs(self._plane.examples)))
        except Exception:  # values of a kind that JSON does not know
            _log.info("the answer to the input example is not kept", exc_info=True)
            return None

    def compared(self, descriptor: int | None) -> str | None:
        """How this version answers the example of the one before."""
        return None if descriptor is None else warmup.take_over(descriptor, self._answer)

    def _answer(self, body: bytes) -> Mapping[str, list[Any]]:
        """What the model answers to a body of MLflow's, apart from all counting and capture."""
        scoring = mlflow.Scoring(self._plane.model.signature, self._options.limits)
        loaded = self._plane.model
        outputs = Outputs(loaded.answer(loaded.prepare(scoring.decode(body, "application/json"))))
        return _listed(outputs)

    # ---- serving ----

    def run(
        self, listener: socket.socket, *, started: Callable[[], None], drained: Callable[[], None]
    ) -> None:
        """Accept, answer, and drain when a signal says so."""
        # The loop's thread shares the interpreter with those of capture and of long predictions:
        # a hand-over costs microseconds, the usual 5 ms would be the 99th percentile.
        sys.setswitchinterval(0.0002)
        try:
            runner.run(self._serve(listener, started, drained))
        finally:
            self._service.close()
            self._count_captured()

    async def _serve(
        self, listener: socket.socket, started: Callable[[], None], drained: Callable[[], None]
    ) -> None:
        options, beside = self._options, self._grpc
        draining: list[asyncio.Task[None]] = []

        def begin() -> None:
            self._metrics.accepting(True)
            started()

        def leave() -> None:
            self._metrics.accepting(False)
            drained()
            if beside is not None:
                ending = beside.drain(GRACE_S, others=server.swapped)
                draining.append(asyncio.get_running_loop().create_task(ending))

        if beside is not None:
            await beside.start()
        server = runner.Server(
            self._service, listener, http=cast("Literal['own', 'uvicorn']", options.http),
            limits=options.limits, tls=self._tls, swap_linger_s=options.linger_s,
            stop_linger_s=options.stop_linger_s, grace_s=GRACE_S,
            lifeline=options.given.lifeline_fd, probe=self._probe(), started=begin, drained=leave, flush=self._flush,
            heartbeat=self._beat,
            crowded=self._metrics.crowded if options.workers > 1 else None,
        )  # fmt: skip
        await server.serve()
        if draining:
            await asyncio.wait(draining)

    def _probe(self) -> socket.socket | None:
        """Where health checks ask; of several workers the first answers for all."""
        if self._options.probe is None or self._options.given.slot != 0:
            return None
        from treadle.operate.http.listener import bind_path

        return bind_path(self._options.probe)

    def _beat(self) -> None:
        self._metrics.beat()
        self._count_captured()

    def _count_captured(self) -> None:
        """Told without being asked: any worker answers `/metrics` for all of them."""
        capture = self._plane.capture
        if capture is not None:
            self._metrics.capture(capture.captured, capture.dropped)

    def _flush(self) -> None:
        if self._plane.capture is not None:
            self._plane.capture.flush(timeout_s=0)


def _listed(outputs: Outputs) -> dict[str, list[Any]]:
    return {name: outputs.values(name) for name in outputs.arrays}
