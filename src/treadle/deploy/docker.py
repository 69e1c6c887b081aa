"""The target `docker`: the released image on a Docker engine, on this machine or another.

Two kinds of containers. One holds the listening socket, publishes the port and lives as long as the
environment; the other is the model server, one a release, which takes the socket from it
(operate/handover). So a swap loses no connection, and the server needs no network of its own: by
default it has none. Both run the released image, read-only, as nobody, without capabilities.

What is captured lies in a named volume and is copied from there: nothing depends on a path of the
engine's machine, so a remote engine is no other case.

This module is on the path of `status`: standard library only, until something is to be started.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.base import crash, supervision
from treadle.base.errors import Refused, TreadleError, Unreachable, UsageError
from treadle.base.log import Report, silent
from treadle.deploy.target import Observed

if TYPE_CHECKING:
    from treadle.base.records import Rollout
    from treadle.base.spec import Capture, DockerTarget
    from treadle.clients.docker import Container, Engine

STATE = "docker.json"
LABEL = "dev.treadle"
_SHARED = "/var/lib/treadle"
_SOCKET = f"{_SHARED}/listener.sock"
_CAPTURE = f"{_SHARED}/capture"
_PORT = 8080
_READY_S = 300.0
_LINGER_S = 10.0
_END_S = 45.0
"""A server that was told to leave ends within its lingering and what is in flight."""
_HARDENED = (
    "--read-only", "--tmpfs", "/tmp:rw,nosuid,nodev,noexec,size=256m",  # noqa: S108 - its own
    "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges", "--pids-limit", "512",
)  # fmt: skip


@dataclass(frozen=True)
class Deployed:
    """What was last asked of the engine, in the environment's folder."""

    id: str
    """Of this environment on its engine: in every name and label."""
    context: str | None = None
    engine: str = ""
    """DOCKER_HOST as it was: another shell's status, logs and down ask the same engine."""
    host: str = "127.0.0.1"
    port: int = 0
    """As wanted; 0: any."""
    server: str = ""
    """Name of the server's container; empty when it was stopped on purpose."""
    release: int = 0
    content: str = ""
    instance: str = ""
    image: str = ""
    since: str = ""
    error: str | None = None
    settled: bool = True
    """False from the moment the new server answers until all before it were told to leave: a turn
    that is killed between leaves servers of two releases, and the next turn must know."""


def engine_of(known: Deployed) -> Engine:
    """The engine that an environment was deployed to, by the docker command."""
    from treadle.clients.docker import DockerCommand

    return DockerCommand(known.context, known.engine)


def _named(target: DockerTarget) -> str:
    """The engine's address that this shell names; a context of the target comes first."""
    return "" if target.context else os.environ.get("DOCKER_HOST", "")


# ---- looking -------------------------------------------------------------------------------------


def observe(env_folder: Path, *, timeout_s: float = 1.0, engine: Engine | None = None) -> Observed:
    """What runs now, by the engine's word."""
    del timeout_s  # the engine's client has its own
    known = supervision.read(env_folder / STATE, Deployed)
    if known is None or not known.server:
        return Observed("absent")
    engine = engine or engine_of(known)
    facts = {
        "release": known.release, "model": known.content, "instance": known.instance,
        "since": known.since,
    }  # fmt: skip
    try:
        server = engine.container(known.server)
        holder = engine.container(_holder(known))
    except TreadleError as error:
        return Observed("down", error=error.message, **facts)  # type: ignore[arg-type]
    if server is None or holder is None or holder.status != "running":
        gone = "the container is gone" if server is None else "the container of the port is gone"
        return Observed("down", error=known.error or gone, **facts)  # type: ignore[arg-type]
    facts["address"] = _address(known, holder)
    facts["restarts"] = server.restarts
    if server.status == "restarting":
        return Observed("restarting", error="the container ended and is started again", **facts)  # type: ignore[arg-type]
    if server.status != "running":
        said = f"the container is {server.status} (exit code {server.exit_code})"
        return Observed("down", error=said, **facts)  # type: ignore[arg-type]
    if server.health == "unhealthy":
        return Observed("unhealthy", error="its health check fails: treadle logs", **facts)  # type: ignore[arg-type]
    if server.health != "healthy" and not _says_ready(engine, known.server):
        # The engine has not asked yet, after a start or a restart: so this does.
        return Observed("starting", **facts)  # type: ignore[arg-type]
    return Observed("serving", error=known.error, unfinished=not known.settled, **facts)  # type: ignore[arg-type]


def _says_ready(engine: Engine, server: str) -> bool:
    try:
        engine.execute(server, ["python", "-m", "treadle.operate", "health"])
    except TreadleError:
        return False
    return True


def log_lines(env_folder: Path, lines: int, *, engine: Engine | None = None) -> list[str]:
    """The last lines of the server's log. UsageError if nothing was deployed."""
    known = _known(env_folder)
    return (engine or engine_of(known)).logs(known.server, lines)


def follow(env_folder: Path, lines: int, *, engine: Engine | None = None) -> Iterator[str]:
    """The last lines, and those to come."""
    known = _known(env_folder)
    return (engine or engine_of(known)).follow(known.server, lines)


def _known(env_folder: Path) -> Deployed:
    known = supervision.read(env_folder / STATE, Deployed)
    if known is None or not known.server:
        raise UsageError("there is no container of this environment", hint="treadle up")
    return known


# ---- serving -------------------------------------------------------------------------------------


def roll_out(
    env_folder: Path,
    target: DockerTarget,
    release: int,
    image: str,
    *,
    environment: str,
    content: str,
    project: str = "model",
    run: str = "",
    image_digest: str = "",
    capture: Capture | None = None,
    report: Report = silent,
    engine: Engine | None = None,
    ready_s: float = _READY_S,
) -> Rollout:
    """Serve a release from its image, and return when it answers and the one before has stopped
    accepting.

    A container that does not get ready is removed and changes nothing: Refused says why with the
    last lines of its log, the old one goes on. A turn that was killed on the way leaves containers
    with our labels; the next one removes what is not served.

    Args:
        env_folder: `.treadle/environments/NAME`.
        target: the environment's entry of `deploy:`.
        release: the number, part of every prediction id.
        image: what the engine knows the image by: its id, or a reference by digest.
        environment: the first part of every prediction id.
        content: digest of the model directory.
        project: the project's name, for names and labels.
        run: id of the run that made the model.
        image_digest: digest of the image, told by every answer.
        capture: how much of the traffic is kept.
        report: progress.
        engine: by default the target's.
        ready_s: how long the server may take.
    """
    from treadle.base import clock
    from treadle.base.records import Rollout
    from treadle.base.spec import Capture

    env_folder.mkdir(parents=True, exist_ok=True)
    started = clock.text(clock.now())
    named = _named(target)
    engine = engine or engine_of(Deployed("", target.context, named))
    before = supervision.read(env_folder / STATE, Deployed)
    if (
        before is not None
        and before.server
        and (before.context, before.engine) != (target.context, named)
    ):
        report("moving to another engine: the old one is stopped first")
        stop(env_folder)
        before = None
    known = before or Deployed(secrets.token_hex(4), target.context)
    known = replace(known, context=target.context, engine=named)
    supervision.write(env_folder / STATE, known)  # the id is known before anything carries it
    labels = {
        f"{LABEL}.project": project, f"{LABEL}.environment": environment, f"{LABEL}.id": known.id,
    }  # fmt: skip
    volume = f"treadle-{known.id}"
    _volume(engine, volume, image, labels)
    known, holder, moved = _hold(engine, known, target, volume, image, labels, report)
    instance = secrets.token_hex(4)
    name = f"treadle-{project}-{environment}-{known.id}-r{release}-{instance}"
    report(f"starting release {release}", release=release)
    crash.point("deploy.wanted")
    engine.run([
        "--name", name, *_labels({**labels, f"{LABEL}.role": "server",
                                  f"{LABEL}.release": str(release), f"{LABEL}.content": content}),
        "--network", target.network, "--restart", "unless-stopped", *_HARDENED,
        "--volume", f"{volume}:{_SHARED}", "--stop-timeout", str(round(_END_S)),
        *_limits(target),
        *_variables(target, release, environment, instance, content, project, run, image_digest,
                    capture or Capture()),
        image,
    ])  # fmt: skip
    crash.point("deploy.spawned")
    try:
        _await(engine, name, release, ready_s)
    except BaseException as error:
        with contextlib.suppress(TreadleError):
            engine.remove(name)
        if before is not None and before.server and isinstance(error, Refused) and not moved:
            raise Refused(
                f"{error.message}; the release before goes on", hint=error.hint
            ) from error
        raise
    served = replace(
        known, server=name, release=release, content=content, instance=instance, image=image,
        since=started, error=None, settled=False,
    )  # fmt: skip
    supervision.write(env_folder / STATE, served)
    crash.point("deploy.swapped")
    _leave(engine, served, report)
    supervision.write(env_folder / STATE, replace(served, settled=True))
    return Rollout(
        id=clock.ulid(), environment=environment, release=release, started=started, status="done",
        ended=clock.text(clock.now()), instance=instance, address=_address(served, holder),
        image=image_digest,
    )  # fmt: skip


def stop(env_folder: Path, *, timeout_s: float = _END_S, engine: Engine | None = None) -> bool:
    """Stop serving; what is in flight is finished, what was captured is copied out first and last.

    False if nothing ran.
    """
    known = supervision.read(env_folder / STATE, Deployed)
    if known is None:
        return False
    engine = engine or engine_of(known)
    ours = engine.containers({f"{LABEL}.id": known.id})
    servers = [one for one in ours if one.labels.get(f"{LABEL}.role") == "server"]
    others = [one for one in ours if one not in servers]
    for one in servers:
        engine.stop(one.name, timeout_s)
    if servers:
        collect(env_folder, engine=engine)
    for one in (*servers, *others):
        if one not in servers:
            engine.stop(one.name, 5)
        engine.remove(one.name)
    supervision.write(env_folder / STATE, replace(known, server=""))
    return bool(servers)


def collect(env_folder: Path, *, engine: Engine | None = None) -> int:
    """Copy captured requests into the environment's folder; how many segments are there now.

    Segments only grow, so a later copy holds the earlier one. What is finished and copied is removed
    from the volume: if this dies before, it is copied again under the same name.
    """
    known = supervision.read(env_folder / STATE, Deployed)
    if known is None or not known.server:
        return 0
    engine = engine or engine_of(known)
    server = engine.container(known.server)
    if server is None:
        return 0
    here = env_folder / "capture"
    here.mkdir(parents=True, exist_ok=True)
    finished = []
    with tempfile.TemporaryDirectory(prefix=".arriving-", dir=env_folder) as folder:
        try:
            engine.copy_out(known.server, _CAPTURE, Path(folder))
        except TreadleError as error:
            if "could not find" in error.message.lower() or "no such" in error.message.lower():
                return 0  # nothing was captured yet
            raise
        for path in sorted(Path(folder).iterdir()):
            if not path.name.endswith((".msgpack", ".msgpack.open")):
                continue
            _keep(path, here / path.name)
            if path.name.endswith(".msgpack"):
                (here / f"{path.name}.open").unlink(missing_ok=True)
                finished.append(path.name)
    if finished:
        _sync(here)  # what is removed there must be here after a power cut
    if finished and server.status == "running":
        program = "import os,sys\nfor n in sys.argv[2:]: os.unlink(os.path.join(sys.argv[1],n))"
        engine.execute(known.server, ["python", "-c", program, _CAPTURE, *finished])
    return len(list(here.iterdir()))


def flush(env_folder: Path, *, wait_s: float = 0.3, engine: Engine | None = None) -> None:
    """Have what was captured until now written out."""
    known = supervision.read(env_folder / STATE, Deployed)
    if known is None or not known.server:
        return
    with contextlib.suppress(TreadleError):
        (engine or engine_of(known)).signal(known.server, "USR1")
        time.sleep(wait_s)


def _keep(source: Path, target: Path) -> None:
    """Copy a segment under its name, whole and on disk."""
    arriving = target.with_name(f".{target.name}.arriving")  # no reader takes it for a segment
    with source.open("rb") as read, arriving.open("wb") as written:
        shutil.copyfileobj(read, written)
        written.flush()
        os.fsync(written.fileno())
    os.replace(arriving, target)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- how -----------------------------------------------------------------------------------------


def _holder(known: Deployed) -> str:
    return f"treadle-{known.id}-port"


def _volume(engine: Engine, volume: str, image: str, labels: Mapping[str, str]) -> None:
    """The folder that holder and servers share, owned by the user that the image runs as."""
    engine.volume(volume, labels)
    program = (
        "import os\n"
        f"os.makedirs({_CAPTURE!r}, exist_ok=True)\n"
        f"for p in ({_SHARED!r}, {_CAPTURE!r}): os.chown(p, 65532, 65532); os.chmod(p, 0o700)"
    )
    name = f"{volume}-prepare"
    engine.remove(name)
    engine.run([
        "--name", name, *_labels(labels), "--network", "none", "--user", "0:0", "--read-only",
        "--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "FOWNER", "--cap-add",
        "DAC_OVERRIDE", "--volume", f"{volume}:{_SHARED}", "--entrypoint", "python",
        image, "-c", program,
    ])  # fmt: skip
    until = time.monotonic() + 60
    while time.monotonic() < until:
        done = engine.container(name)
        if done is None or done.status in ("exited", "dead"):
            break
        time.sleep(0.05)
    if done is not None and done.exit_code != 0:
        said = " ".join(engine.logs(name, 5))
        engine.remove(name)
        raise TreadleError(f"the shared volume {volume} cannot be prepared: {said[-300:]}")
    engine.remove(name)


def _hold(
    engine: Engine,
    known: Deployed,
    target: DockerTarget,
    volume: str,
    image: str,
    labels: Mapping[str, str],
    report: Report,
) -> tuple[Deployed, Container, bool]:
    """The container that holds the port, running with the wanted address; whether it was moved."""
    name = _holder(known)
    found = engine.container(name)
    wanted = (target.host, target.port)
    moved = False
    if found is not None and found.status == "running" and wanted == (known.host, known.port):
        return known, found, moved
    port = target.port
    if found is not None:
        bound = found.ports.get(f"{_PORT}/tcp")
        if target.port == 0 and bound is not None:
            port = bound[1]
        if known.server and wanted != (known.host, known.port):
            _can_be_had(engine, target, known, image, labels)
            report("moving to another address: the old server is stopped first")
            moved = True
        engine.remove(name)
    published = f"{target.host}:{port or ''}:{_PORT}"
    try:
        engine.run([
            "--name", name, *_labels({**labels, f"{LABEL}.role": "port"}), "--restart",
            "unless-stopped", *_HARDENED, "--publish", published, "--volume",
            f"{volume}:{_SHARED}", "--memory", "128m", "--no-healthcheck", image, "hold", _SOCKET,
            "--host", "0.0.0.0", "--port", str(_PORT),
        ])  # fmt: skip
    except TreadleError:
        engine.remove(name)  # one that could not bind is left as created
        raise
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = engine.container(name)
        if found is not None and found.status == "running" and found.ports.get(f"{_PORT}/tcp"):
            return replace(known, host=target.host, port=target.port), found, moved
        time.sleep(0.05)
    said = " ".join(engine.logs(name, 5))
    raise Unreachable(f"the container of the port did not start: {said[-300:]}")


def _can_be_had(
    engine: Engine, target: DockerTarget, known: Deployed, image: str, labels: Mapping[str, str]
) -> None:
    """Raise what is wrong with the wanted address while the old one is still served."""
    if target.port in (0, known.port):
        return  # the old holder itself may have it
    name = f"{_holder(known)}-try"
    engine.remove(name)
    try:
        engine.run([
            "--name", name, *_labels(labels), *_HARDENED, "--publish",
            f"{target.host}:{target.port}:{_PORT}", "--no-healthcheck", image, "hold",
            "/tmp/try.sock",  # noqa: S108 - in the container
        ])  # fmt: skip
    finally:
        engine.remove(name)


def _labels(labels: Mapping[str, str]) -> list[str]:
    return [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]


def _limits(target: DockerTarget) -> list[str]:
    found = []
    if target.memory is not None:
        found += ["--memory", target.memory, "--memory-swap", target.memory]
    if target.cpus is not None:
        found += ["--cpus", f"{target.cpus:g}"]
    if target.gpus is not None:
        found += ["--gpus", str(target.gpus)]
    return found


def _variables(
    target: DockerTarget, release: int, environment: str, instance: str, content: str,
    project: str, run: str, image_digest: str, capture: Capture,
) -> list[str]:  # fmt: skip
    """What differs from turn to turn, in the environment of the process and not in the image."""
    told = {
        "TREADLE_LISTENER": _SOCKET,
        "TREADLE_PROBE": "/tmp/treadle.sock",  # noqa: S108 - in the container
        "TREADLE_ENVIRONMENT": environment,
        "TREADLE_RELEASE": str(release),
        "TREADLE_INSTANCE": instance,
        "TREADLE_CONTENT": content,
        "TREADLE_NAME": project,
        "TREADLE_RUN": run,
        "TREADLE_IMAGE": image_digest,
        "TREADLE_WORKERS": str(target.workers),
        "TREADLE_LINGER": f"{_LINGER_S:g}",
        "TREADLE_CAPTURE": _CAPTURE,
        "TREADLE_CAPTURE_RATE": str(capture.rate),
        "TREADLE_CAPTURE_PER_MINUTE": str(capture.per_minute),
        "TREADLE_CAPTURE_EXCLUDE": ",".join(capture.exclude),
        "TREADLE_CAPTURE_HASH": ",".join(capture.hash),
    }
    return [part for name, value in told.items() if value for part in ("--env", f"{name}={value}")]


def _await(engine: Engine, name: str, release: int, ready_s: float) -> None:
    """Return when the server says that it is ready; Refused if it ends or does not get there."""
    until = time.monotonic() + ready_s
    while True:
        found = engine.container(name)
        ended = found is None or found.status in ("exited", "dead") or found.restarts > 0
        if ended or (found is not None and found.status == "restarting"):
            raise _refused(engine, name, release, "it ended while it was starting")
        with contextlib.suppress(TreadleError):
            engine.execute(name, ["python", "-m", "treadle.operate", "health", "--wait", "5"])
            return
        if time.monotonic() > until:
            raise _refused(engine, name, release, f"it was not ready within {ready_s:g} s")
        time.sleep(0.1)


def _refused(engine: Engine, name: str, release: int, why: str) -> Refused:
    lines: list[str] = []
    with contextlib.suppress(TreadleError):
        lines = [line for line in engine.logs(name, 12) if line.strip()]
    said = "\n  ".join(lines[-6:])
    return Refused(
        f"release {release} did not get ready: {why}" + (f"\n  {said}" if said else ""),
        hint="what it said last stands above; `docker run` the image to look closer",
    )


def _leave(engine: Engine, served: Deployed, report: Report) -> None:
    """Have every other server of this environment drain and end, and remove those that have."""
    others = [
        one
        for one in engine.containers({f"{LABEL}.id": served.id, f"{LABEL}.role": "server"})
        if one.name != served.server
    ]
    for one in others:
        if one.status == "running":
            with contextlib.suppress(TreadleError):  # it may just have ended
                # First this: a container that ends by itself would be started again.
                engine.update_restart(one.name)
                engine.signal(one.name, "USR2")
    until = time.monotonic() + _LINGER_S + 5
    while others and time.monotonic() < until:
        for one in list(others):
            now = engine.container(one.name)
            if now is None or now.status != "running":
                engine.remove(one.name)
                others.remove(one)
        if others:
            time.sleep(0.2)
    for one in others:
        report(f"{one.name} is still answering; the next turn removes it")


def _address(known: Deployed, holder: Container) -> str:
    host, port = holder.ports.get(f"{_PORT}/tcp", (known.host, known.port))
    if host in ("0.0.0.0", "::"):
        host = _engine_host(known) or "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _engine_host(known: Deployed) -> str | None:
    """The machine of a remote engine, by DOCKER_HOST or the context's address."""
    from urllib.parse import urlsplit

    address = known.engine
    if known.context is not None:
        from treadle.clients.docker import context_address

        address = context_address(known.context)
    return urlsplit(address).hostname if address else None
