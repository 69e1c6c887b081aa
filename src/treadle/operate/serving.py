"""One worker's model and server, put together from the options: verified, loaded, warmed, run.

Nothing here listens before `run`: the supervisor says when.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any

from treadle.base.errors import StateCorrupt
from treadle.operate import model, plane, server, warmup
from treadle.operate.capture import Capture
from treadle.operate.codec import json as json_values
from treadle.operate.codec import mlflow
from treadle.operate.metrics import Metrics
from treadle.operate.options import Options

_log = logging.getLogger("treadle.server")


class Serving:
    """A model that is ready, and how it is served."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        """Verify, load and warm. Raises what is wrong with the model."""
        self._options, self._metrics = options, metrics
        files = None
        if options.files is not None:
            files = json.loads(options.files.read_text(encoding="utf-8"))
        loaded = model.load(options.model, files=files, trust_pickle=options.trust_pickle)
        if options.content and loaded.content and options.content != loaded.content:
            raise StateCorrupt(
                f"the model directory is not what was released: wanted {options.content}, "
                f"found {loaded.content}"
            )
        self.flavor = loaded.flavor
        self.identity = plane.Identity(
            options.environment, options.release, options.instance or secrets.token_hex(4),
            options.name, options.content or loaded.content, options.run,
        )  # fmt: skip
        self._plane = plane.Plane(loaded, self.identity, self._capture())
        self.warmed = self._plane.warm()
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
        )  # fmt: skip

    def example(self) -> dict[str, Any] | None:
        """The input example and the answer to it, for the version after this one."""
        body = model.input_example(self._plane.model.folder)
        return None if body is None else warmup.pack(body, self._predict(body))

    def compared(self, descriptor: int | None) -> str | None:
        """How this version answers the example of the one before."""
        return None if descriptor is None else warmup.take_over(descriptor, self._predict)

    def _predict(self, body: bytes) -> Mapping[str, list[Any]]:
        loaded = self._plane.model
        query = mlflow.decode(body, "application/json", loaded.signature)
        outputs = loaded.answer(loaded.prepare(query))
        return {name: json_values.values(array) for name, array in outputs.items()}

    def run(
        self, listener: socket.socket, *, started: Callable[[], None], drained: Callable[[], None]
    ) -> None:
        """Accept, answer, and drain when a signal says so."""
        import asyncio

        options = self._options
        application = server.Application(
            self._plane, max_body_bytes=options.limits.max_body_bytes,
            max_rows=options.limits.max_rows, max_queue=options.limits.max_queue_requests,
        )  # fmt: skip

        def beat() -> None:
            self._metrics.beat()
            asyncio.get_running_loop().call_later(1.0, beat)

        def begun() -> None:
            beat()
            started()

        server.run(
            server.Server(
                application, swap_linger_s=options.linger_s, lifeline=options.given.lifeline_fd,
                started=begun, drained=drained,
            ),
            application, listener,
        )  # fmt: skip
