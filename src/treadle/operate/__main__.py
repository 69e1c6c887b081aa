"""`python -m treadle.operate serve MODEL_DIR`, `… score`, and (for the process target) `… supervise`.

Every option of `serve` and `score` also comes from the environment: `TREADLE_` and its name in capitals
(`TREADLE_MODEL`, `TREADLE_HOST`, `TREADLE_PORT`, …), so that `serve` alone suffices in a container.
One worker is this process itself; several are processes of their own under a supervisor.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from treadle.base import garbage
from treadle.base.errors import TreadleError
from treadle.operate import options as settings
from treadle.operate import threads
from treadle.operate.options import Options

_log = logging.getLogger("treadle.server")


def main(arguments: list[str] | None = None) -> int:
    """The process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = _parser().parse_args(arguments)
    if parsed.command == "health":
        from treadle.operate import health

        return health.check(os.environ, wait_s=parsed.wait)
    if parsed.command == "score":
        from treadle.operate.scoring import command

        return command.run(parsed, os.environ)
    if parsed.command == "supervise":
        from treadle.operate import supervisor

        return supervisor.run(Path(parsed.folder), parsed.fd, parsed.lock_fd)
    if parsed.command == "capture":
        from treadle.operate import handout

        return handout.main(parsed, os.environ)
    told = _Status(getattr(parsed, "status_fd", None))
    try:
        if parsed.command == "hold":
            from treadle.operate import handover

            handover.hold(parsed.host, parsed.port, Path(parsed.socket))
            return 0
        options = settings.read(parsed, os.environ)
        if options.given.fd is not None:
            return _serve(options, told)
        return _alone(options, arguments, told)
    except TreadleError as error:
        told.send(error=error.message, hint=error.hint, code=error.exit_code)
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  fix: {error.hint}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        # The message of a foreign library may hold paths: it belongs to the log, not to a reply.
        _log.exception("the server could not start")
        told.send(error=f"{type(error).__name__}: {error}", hint=None, code=1)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m treadle.operate", description=__doc__, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve", help="serve one model directory", allow_abbrev=False,
        epilog="Each option is also a variable: --max-body is TREADLE_MAX_BODY; a token comes from "
        "TREADLE_TOKEN or a file, never from an argument.",
    )  # fmt: skip
    settings.add_arguments(serve)
    from treadle.operate.scoring import command

    command.add_arguments(commands)
    health = commands.add_parser(
        "health", help="ask the server beside this process whether it is ready", allow_abbrev=False
    )
    health.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="until it is")
    hold = commands.add_parser(
        "hold", help="hold a listening socket for servers that come and go", allow_abbrev=False
    )
    hold.add_argument("socket", help="Unix socket where servers ask for it")
    hold.add_argument("--host", default="0.0.0.0")
    hold.add_argument("--port", type=int, default=8080)
    capture = commands.add_parser(
        "capture", help="hand captured requests to who collects them", allow_abbrev=False
    )
    capture.add_argument("action", choices=("send", "drop"))
    capture.add_argument(
        "names", nargs="*", help="of drop: the segments that are kept elsewhere now"
    )
    capture.add_argument("--folder", help="by default TREADLE_CAPTURE")
    capture.add_argument("--server", type=int, default=1, metavar="PID", help="of the server (1)")
    supervise = commands.add_parser("supervise", help=argparse.SUPPRESS)
    supervise.add_argument("folder")
    supervise.add_argument("--fd", type=int, required=True)
    supervise.add_argument("--lock-fd", type=int)
    return parser


class _Status:
    """JSON lines to the supervisor: ready, or why not; serving; draining."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def send(self, **facts: Any) -> None:
        if self._descriptor is None:
            return
        rest = memoryview(json.dumps(facts).encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._descriptor = None  # the supervisor is gone: the lifeline tells the server


def _alone(options: Options, arguments: list[str], told: _Status) -> int:
    """Serve without the process target's supervisor, as a container's first process does."""
    from treadle.operate import handout

    if options.capture is not None:
        handout.begin(options.capture)
    if options.workers > 1:
        code = _supervise(options, arguments[arguments.index("serve") + 1 :])
    else:
        code = _serve(options, told)
    if code == 0 and options.capture is not None and options.capture_wait_s:
        handout.wait(options.capture, options.capture_wait_s)
    return code


# ---- several workers -----------------------------------------------------------------------------


def _supervise(options: Options, arguments: list[str]) -> int:
    """N workers on one socket; this process starts, watches and replaces them."""
    from treadle.base.supervision import Wanted
    from treadle.operate.supervisor import Supervisor
    from treadle.operate.wanted import CommandLine

    wanted = Wanted(
        id=secrets.token_hex(8), model_folder=str(options.model), release=options.release,
        content=options.content, arguments=(), start_timeout_s=options.start_timeout_s,
        linger_s=options.linger_s, workers=options.workers,
    )  # fmt: skip
    with _bind(options) as listener:
        source = CommandLine(wanted, arguments, options.instance)
        return Supervisor(source, listener).run()


# ---- one worker ----------------------------------------------------------------------------------


def _serve(options: Options, told: _Status) -> int:
    """Load, verify, warm; then, when told so, accept; until a signal ends it."""
    given = options.given
    number = threads.settle(options.workers, options.threads, os.environ)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )  # fmt: skip
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _signals_until_serving()
    listener = _bind(options) if given.fd is None else socket.socket(fileno=given.fd)
    host, port = listener.getsockname()[:2]
    if given.slot == 0 and options.open_at(host):
        _log.warning(
            "everybody who reaches %s:%d may ask: there is neither a token (--token-file) nor TLS "
            "(--tls-certificate)", host, port,
        )  # fmt: skip
    garbage.look_seldom()
    from treadle.operate import counters
    from treadle.operate.counters import Shared
    from treadle.operate.metrics import Metrics
    from treadle.operate.serving import Serving

    shared = None if given.counters_fd is None else Shared.attach(given.counters_fd)
    metrics = Metrics(shared, given.slot)
    serving = Serving(options, metrics)
    who = serving.identity
    told.send(
        ready=True, pid=os.getpid(), instance=who.instance, warmed=serving.warmed,
        silence_s=options.stuck_after_s,
        call_s=options.limits.deadline_s + options.stuck_after_s,
        example=serving.example(), compared=serving.compared(given.compare_fd),
    )  # fmt: skip
    if given.lifeline_fd is not None and os.read(given.lifeline_fd, 1) == b"":
        return 0  # the supervisor is gone, and nobody has come here yet

    def started() -> None:
        metrics.beat()
        if shared is None:
            metrics.shared.header[counters.READY] = 1
        _log.info(
            "release %d (%s, instance %s) serves on http%s://%s:%d, %s, %d thread%s", who.release,
            serving.flavor, who.instance, "s" if options.tls_certificate else "", host, port,
            serving.warmed, number, "" if number == 1 else "s",
        )  # fmt: skip
        garbage.serve()
        told.send(serving=True)

    serving.run(listener, started=started, drained=lambda: told.send(draining=True))
    _log.info("release %d (instance %s) has ended", who.release, who.instance)
    return 0


def _signals_until_serving() -> None:
    """What a signal does before the server has handlers of its own."""
    # The supervisor sends these to whoever serves; they must not end one that is about to.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if os.getpid() == 1:  # the kernel gives a container's first process no default handlers
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))


def _bind(options: Options) -> socket.socket:
    """The port, bound and not yet listened to: a port in use is known before a model is loaded."""
    if options.listener is not None:
        from treadle.operate.handover import take

        return take(options.listener)
    from treadle.operate.http.listener import bind

    return bind(options.host, options.port)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    # Everything is written; taking the libraries down in order would only cost a second or two.
    os._exit(code)
