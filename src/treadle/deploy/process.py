"""The target `process`: a supervised model server on this machine.

The server and its supervisor are started from here and outlive the command line; what they are asked
and what they do is in two files of the environment's folder (base/supervision). This module is on
the fast path of `status` and `plan`: standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.base import crash, supervision
from treadle.base.errors import Refused, TreadleError, Unreachable, UsageError
from treadle.base.log import Report, silent
from treadle.base.supervision import Supervised, Wanted
from treadle.deploy.target import Observed

if TYPE_CHECKING:
    import subprocess

    from treadle.base.records import Rollout
    from treadle.base.spec import Capture, ProcessTarget

_PASSED = ("TREADLE_CLOCK",)
"""Variables that a running supervisor's servers take from the latest roll-out."""


def observe(env_folder: Path, *, timeout_s: float = 1.0) -> Observed:
    """What runs now: the supervisor's word, that it lives, and the server's own answer."""
    state = supervision.read(env_folder / supervision.STATE, Supervised)
    if state is None or state.status == "stopped":
        return Observed("absent")
    facts = {
        "address": state.address, "release": state.release, "model": state.content,
        "instance": state.instance, "restarts": state.restarts, "since": state.since,
    }  # fmt: skip
    if state.status == "failed":
        return Observed("failed", error=state.error, **facts)  # type: ignore[arg-type]
    if not supervision.alive(state):
        return Observed("down", error="the supervisor is gone", **facts)  # type: ignore[arg-type]
    known = Observed(
        state.status,
        state.pid,
        state.server_pid or None,
        error=state.error,
        **facts,  # type: ignore[arg-type]
    )
    if state.status != "serving":
        return known
    answer = _status_code(state.host, state.port, "/v2/health/ready", timeout_s)
    if answer == 200:
        return known
    said = f"it answers {answer}" if answer else f"it does not answer within {timeout_s:g} s"
    return Observed("unhealthy", state.pid, state.server_pid or None, error=said, **facts)  # type: ignore[arg-type]


def roll_out(
    env_folder: Path,
    target: ProcessTarget,
    release: int,
    model_folder: Path,
    *,
    environment: str,
    content: str,
    files: Mapping[str, str] | None = None,
    name: str = "model",
    run: str = "",
    capture: Capture | None = None,
    trust_pickle: bool = False,
    start_timeout_s: float = 60.0,
    linger_s: float = 10.0,
    report: Report = silent,
) -> Rollout:
    """Serve a release, and return when it answers and the one before has stopped accepting.

    The first time a supervisor is started; later the running one swaps without dropping a request.
    A server that does not get ready changes nothing: Refused says why, the old one goes on. A port
    that is in use by somebody else: UsageError naming the process where it can be found. With port 0
    any free port is taken and kept from then on.

    Args:
        env_folder: `.treadle/environments/NAME`, made if it does not exist.
        target: host, port and number of workers.
        release: the number, part of every prediction id and the model's version.
        model_folder: the model directory, which must stay where it is while it is served.
        environment: the environment's name, the first part of every prediction id.
        content: digest of the model directory, told by the server and by `observe`.
        files: relative path → digest; the server verifies each before it loads anything.
        name: the model's name in the Open Inference protocol.
        run: id of the run that made the model.
        capture: how much of the traffic is kept (default: all, capped).
        trust_pickle: whether formats that can run code may be loaded.
        start_timeout_s: how long each worker may take to get ready.
        linger_s: how long the old server keeps idle connections open.
        report: progress.
    """
    # Not at the top: asking what runs must cost nothing that only starting something needs.
    from treadle.base import clock
    from treadle.base.records import Rollout
    from treadle.base.spec import Capture

    env_folder.mkdir(parents=True, exist_ok=True)
    started = clock.text(clock.now())
    capture = capture or Capture()
    arguments = [
        "--environment", environment, "--name", name, "--run", run,
        "--capture", str(env_folder.resolve() / "capture"),
        "--capture-rate", str(capture.rate), "--capture-per-minute", str(capture.per_minute),
    ]  # fmt: skip
    for option, names in (("exclude", capture.exclude), ("hash", capture.hash)):
        if names:
            arguments += [f"--capture-{option}", ",".join(names)]
    if files is not None:
        listed = env_folder.resolve() / f"files-{release:06d}.json"
        listed.write_text(json.dumps(dict(files)), encoding="utf-8")
        arguments += ["--files", str(listed)]
    if trust_pickle:
        arguments.append("--trust-pickle")
    wanted = Wanted(
        clock.ulid(), str(model_folder.resolve()), release, content, tuple(arguments),
        {key: os.path.abspath(os.environ[key]) for key in _PASSED if key in os.environ},
        start_timeout_s, linger_s, target.workers,
    )  # fmt: skip
    state, running, lock = _claim(env_folder)
    same = (
        running is not None
        and running.host == _numeric(target.host)
        and (target.port in (0, running.port))
    )
    supervision.write(env_folder / supervision.WANTED, wanted)
    crash.point("deploy.wanted")
    process: subprocess.Popen[bytes] | None = None
    if lock is None and same and running is not None:
        report(f"swapping to release {release} on {running.address}", release=release)
        os.kill(running.pid, signal.SIGHUP)
        crash.point("deploy.swapped")
    else:
        kept = state.port if state is not None and target.port == 0 else target.port
        try:
            listener = _listen(target.host, kept, wanted_port=target.port, retry=state is not None)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        if running is not None:
            report(f"moving from {running.address}: the old server is stopped first")
            stop(env_folder)
            lock = _claim(env_folder)[2]
        report(f"starting release {release}", release=release)
        with listener:
            process = _spawn(env_folder, listener, lock)
            crash.point("deploy.spawned")
    done = _await(env_folder, wanted, process, start_timeout_s * target.workers + 30)
    if done.error is not None:
        raise Refused(
            f"release {release} did not get ready: {done.error}"
            + ("; the release before goes on" if done.status == "serving" else ""),
            hint=done.hint or f"read {env_folder / supervision.LOG}",
        )
    _forget_lists(env_folder, release)
    if done.compared:
        report(done.compared, detail=True)
    return Rollout(
        id=wanted.id, environment=environment, release=release, started=started, status="done",
        ended=clock.text(clock.now()), instance=done.instance, address=done.address,
    )  # fmt: skip


def stop(env_folder: Path, *, timeout_s: float = 30.0) -> bool:
    """Stop the supervisor and its servers; requests in flight are finished. False if none ran."""
    state = supervision.read(env_folder / supervision.STATE, Supervised)
    if state is None or not supervision.alive(state):
        return False
    os.kill(state.pid, signal.SIGTERM)
    until = time.monotonic() + timeout_s
    while supervision.alive(state):
        if time.monotonic() > until:
            raise TreadleError(
                f"the supervisor (pid {state.pid}) does not end", hint=f"kill -9 {state.pid}"
            )
        time.sleep(0.02)
    return True


def flush(env_folder: Path, *, wait_s: float = 0.3) -> None:
    """Have capture segments closed, so that what was asked until now is in finished files."""
    state = supervision.read(env_folder / supervision.STATE, Supervised)
    if state is not None and supervision.alive(state):
        os.kill(state.pid, signal.SIGUSR1)
        time.sleep(wait_s)


def log_files(env_folder: Path) -> list[Path]:
    """Logs of supervisor and servers, oldest first."""
    log = env_folder / supervision.LOG
    older = [log.with_name(f"{log.name}.{n}") for n in range(supervision.ROTATED, 0, -1)]
    return [path for path in [*older, log] if path.exists()]


def capture_folder(env_folder: Path) -> Path:
    """Where the servers append what they were asked."""
    return env_folder / "capture"


# ---- how -----------------------------------------------------------------------------------------


_started: list[subprocess.Popen[bytes]] = []
"""Supervisors that this process started: kept, so that one that ends is waited for (no zombie)."""


def _claim(env_folder: Path) -> tuple[Supervised | None, Supervised | None, int | None]:
    """The last word of a supervisor; the one that runs; or else the folder's lock, now ours.

    The lock is held from before a supervisor is started until it ends: a command that was killed
    while it started one leaves nothing that a later command could miss.
    """
    import fcntl

    descriptor = os.open(
        env_folder / supervision.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    until = time.monotonic() + 15
    while True:
        state = supervision.read(env_folder / supervision.STATE, Supervised)
        if state is not None and supervision.alive(state):
            os.close(descriptor)
            return state, state, None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return state, None, descriptor
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(descriptor)
                raise Unreachable(
                    f"another process holds {env_folder / supervision.LOCK} and serves nothing",
                    hint="is another treadle starting the service? try again",
                ) from None
            time.sleep(0.02)


def _spawn(env_folder: Path, listener: socket.socket, lock: int | None) -> subprocess.Popen[bytes]:
    """The supervisor, in a session of its own: the terminal's end is not its end."""
    import subprocess

    _started[:] = [process for process in _started if process.poll() is None]
    given = [listener.fileno()] if lock is None else [listener.fileno(), lock]
    held = [] if lock is None else ["--lock-fd", str(lock)]
    with (env_folder / supervision.LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "treadle.operate", "supervise",
             str(env_folder.resolve()), "--fd", str(listener.fileno()), *held],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=env_folder,
            pass_fds=given, start_new_session=True,
        )  # fmt: skip
    if lock is not None:
        os.close(lock)  # the supervisor's copy holds it
    _started.append(process)
    return process


def _await(
    env_folder: Path, wanted: Wanted, process: subprocess.Popen[bytes] | None, timeout_s: float
) -> Supervised:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        state = supervision.read(env_folder / supervision.STATE, Supervised)
        if state is not None and state.answered == wanted.id and state.status != "starting":
            if process is not None and state.status == "failed":
                process.wait(timeout=30)
            return state
        if process is not None and process.poll() is not None:
            break
        if process is None and state is not None and not supervision.alive(state):
            break
        time.sleep(0.02)
    else:
        raise Unreachable(
            f"the supervisor has not answered after {timeout_s:g} s",
            hint=f"read {env_folder / supervision.LOG}",
        )
    raise Unreachable(
        "the supervisor ended while the release was starting",
        hint=f"read {env_folder / supervision.LOG}",
    )


def _numeric(host: str) -> str:
    """The address that a host name is bound to, as the supervisor reports it."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except socket.gaierror:
        raise UsageError(f"host {host!r} is no address of this machine") from None


def _listen(host: str, port: int, *, wanted_port: int, retry: bool) -> socket.socket:
    """A listening socket. A port kept from before that is taken now gives way to a free one."""
    until = time.monotonic() + (3.0 if retry else 0.0)  # servers of a killed supervisor drain
    while True:
        address = _numeric(host)
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(1024)
            return listener
        except OSError as error:
            listener.close()
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
            if wanted_port == 0 and port != 0:
                port = 0
                continue
            who = _owner(port)
            raise UsageError(
                f"cannot listen on {host}:{port}: {error.strerror}" + (f" by {who}" if who else ""),
                hint="stop it, or give another `port:` in treadle.yaml (0 takes any free one)",
            ) from None


def _owner(port: int) -> str | None:
    """`name (pid N)` of the process that listens on a port, where this user may see it."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return _owner_by_lsof(port)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in inodes:
                    name = (process / "comm").read_text(encoding="utf-8").strip()
                    return f"{name} (pid {process.name})"
        except OSError:
            continue  # another user's, or it ended
    return None


def _owner_by_lsof(port: int) -> str | None:
    import subprocess

    try:
        found = subprocess.run(
            ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"],
            capture_output=True, text=True, check=False, timeout=5,
        ).stdout.split()  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    pid = next((line[1:] for line in found if line.startswith("p")), None)
    name = next((line[1:] for line in found if line.startswith("c")), "a process")
    return f"{name} (pid {pid})" if pid else None


def _status_code(host: str, port: int, path: str, timeout_s: float) -> int | None:
    """The status of a GET, by a bare socket: http.client costs more to import than to use."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with socket.create_connection((target, port), timeout=timeout_s) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            head = connection.recv(64).split(b" ", 2)
    except OSError:
        return None
    return int(head[1]) if len(head) > 1 and head[1].isdigit() else None


def _forget_lists(env_folder: Path, release: int) -> None:
    """Lists of files of releases that are served no more."""
    for path in env_folder.glob("files-*.json"):
        if path.name != f"files-{release:06d}.json":
            path.unlink(missing_ok=True)
