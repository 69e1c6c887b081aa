"""`python -m treadle.operate serve MODEL_DIR` and (for the process target) `… supervise FOLDER`.

Every option of `serve` also comes from the environment: `TREADLE_` and its name in capitals
(`TREADLE_MODEL`, `TREADLE_HOST`, `TREADLE_PORT`, …).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from treadle.base import garbage
from treadle.base.errors import StateCorrupt, TreadleError, UsageError

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")


def main(arguments: list[str] | None = None) -> int:
    """The process's exit code."""
    try:
        options = _parser().parse_args(arguments)
    except UsageError as error:  # a variable of the environment that cannot be
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    if options.command == "supervise":
        from treadle.operate import supervisor

        return supervisor.run(Path(options.folder), options.fd, options.lock_fd)
    told = _Status(options.status_fd)
    try:
        return _serve(options, told)
    except TreadleError as error:
        told.send(error=error.message, hint=error.hint, kind=type(error).__name__)
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  fix: {error.hint}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        # The message of a foreign library may hold paths: it belongs to the log, not to the reply.
        logging.getLogger("treadle.server").exception("the server could not start")
        told.send(error=f"{type(error).__name__}: {error}", hint=None, kind="TreadleError")
        return 1


class _Status:
    """JSON lines to the supervisor: ready, or why not; draining."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def send(self, **facts: Any) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(facts).encode() + b"\n")
        except OSError:
            self._descriptor = None  # the supervisor is gone: the lifeline tells the server


def _environment(name: str, fallback: Any, kind: Callable[[str], Any] = str) -> Any:
    text = os.environ.get("TREADLE_" + name)
    if text is None:
        return fallback
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"TREADLE_{name}: {text!r} is not what it should be") from None


def _yes(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes", "on")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m treadle.operate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve one model directory")
    add = serve.add_argument
    add("model", nargs="?", default=_environment("MODEL", None), help="MLflow model directory")
    add("--host", default=_environment("HOST", "127.0.0.1"))
    add("--port", type=int, default=_environment("PORT", 8080, int), help="0: any free port")
    add("--environment", default=_environment("ENVIRONMENT", "local"))
    add("--release", type=int, default=_environment("RELEASE", 0, int))
    add("--instance", default=_environment("INSTANCE", None), help="part of every prediction id")
    add("--name", default=_environment("NAME", "model"), help="the model's name in V2")
    add("--run", default=_environment("RUN", ""), help="the run that made it, for /version")
    add("--content", default=_environment("CONTENT", ""), help="digest of the model directory")
    add("--files", default=_environment("FILES", None), metavar="JSON",
        help="a file {path: digest}: every file of the model is compared")  # fmt: skip
    add("--capture", default=_environment("CAPTURE", None), metavar="DIR")
    add("--capture-rate", type=float, default=_environment("CAPTURE_RATE", 1.0, float))
    add("--capture-per-minute", type=int, default=_environment("CAPTURE_PER_MINUTE", 6000, int))
    add("--trust-pickle", action="store_true", default=_environment("TRUST_PICKLE", False, _yes))
    add("--threads", type=int, default=_environment("THREADS", 1, int),
        help="threads of a prediction (OpenMP, BLAS); small requests are fastest with 1")  # fmt: skip
    add("--max-body", type=int, default=_environment("MAX_BODY", 64 << 20, int), metavar="BYTES")
    add("--linger", type=float, default=_environment("LINGER", 10.0, float), metavar="S",
        help="how long idle connections stay open after a swap")  # fmt: skip
    for hidden in ("--fd", "--status-fd", "--lifeline-fd"):
        add(hidden, type=int, default=None, help=argparse.SUPPRESS)
    supervise = commands.add_parser("supervise", help=argparse.SUPPRESS)
    supervise.add_argument("folder")
    supervise.add_argument("--fd", type=int, required=True)
    supervise.add_argument("--lock-fd", type=int)
    return parser


def _serve(options: argparse.Namespace, told: _Status) -> int:
    if options.model is None:
        raise UsageError("which model?", hint="name the model directory, or set TREADLE_MODEL")
    for name in _THREADS[:3]:
        os.environ.setdefault(name, str(options.threads))  # before any library reads them
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )  # fmt: skip
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    listener = _listener(options)
    garbage.look_seldom()
    from treadle.operate import model, plane, server
    from treadle.operate.capture import Capture

    files = None
    if options.files:
        files = json.loads(Path(options.files).read_text(encoding="utf-8"))
    loaded = model.load(Path(options.model), files=files, trust_pickle=options.trust_pickle)
    if options.content and loaded.content and options.content != loaded.content:
        raise StateCorrupt(
            f"the model directory is not what was released: wanted {options.content}, "
            f"found {loaded.content}"
        )
    identity = plane.Identity(
        options.environment, options.release, options.instance or secrets.token_hex(4),
        options.name, options.content or loaded.content, options.run,
    )  # fmt: skip
    capture = None
    if options.capture:
        capture = Capture(
            Path(options.capture), environment=identity.environment, release=identity.release,
            instance=identity.instance, model=identity.content, rate=options.capture_rate,
            per_minute=options.capture_per_minute,
        )  # fmt: skip
    data = plane.Plane(loaded, identity, capture)
    warmed = data.warm()
    application = server.Application(data, max_body_bytes=options.max_body)
    host, port = listener.getsockname()[:2]
    log = logging.getLogger("treadle.server")

    def started() -> None:
        log.info("release %d (%s, instance %s) serves on http://%s:%d, %s", identity.release,
                 loaded.flavor, identity.instance, host, port, warmed)  # fmt: skip
        garbage.look_as_usual()
        told.send(ready=True, pid=os.getpid(), instance=identity.instance, warmed=warmed)

    server.run(
        server.Server(application, swap_linger_s=options.linger, lifeline=options.lifeline_fd,
                      started=started, drained=lambda: told.send(draining=True)),
        application, listener,
    )  # fmt: skip
    log.info("release %d (instance %s) has ended", identity.release, identity.instance)
    return 0


def _listener(options: argparse.Namespace) -> socket.socket:
    if options.fd is not None:
        return socket.socket(fileno=options.fd)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror}",
            hint="choose another --port (0 takes any free one)",
        ) from None
    return listener


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    # Everything is written; taking the libraries down in order would only cost a second or two.
    os._exit(code)
