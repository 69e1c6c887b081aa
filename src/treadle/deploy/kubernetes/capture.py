"""What pods captured comes to the environment's folder: segment by segment, through the API server.

Each pod keeps its segments in a volume of its own, which goes when the pod goes. A command in the
container sends what is finished (`operate/handout`), we bring it to the disk, and only then another
removes exactly that: a collection that dies between is made good by the next, under the same names.
No port is opened for it, no second secret is needed, and no network policy lets anybody in: whoever
may `pods/exec` in the namespace may collect.

Pods that were told to end wait a little for their last segments to be taken. What a pod captured
that nobody asked before it went (a node that was lost, a scale-down between two collections) is lost;
where a pod is known to have captured something, that is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from treadle.base import clock, crash, segment_stream, supervision
from treadle.base.errors import StateCorrupt, TreadleError
from treadle.base.log import Report, silent
from treadle.base.segment_stream import End, Sent
from treadle.deploy.kubernetes import service
from treadle.deploy.kubernetes.model import CAPTURE_VOLUME, CONTAINER, LEAVING_S
from treadle.deploy.kubernetes.wanted import SERVES

if TYPE_CHECKING:
    from treadle.clients.kube import Cluster, Object

STATE = "kubernetes-capture.json"
_COMMAND = ("python", "-m", "treadle.operate", "capture")
_LOOK_S = 2.0
_PATIENCE_S = 8.0
"""A pod that does not answer for so long may be asked again before it goes (`model.COLLECT_S`)."""
_SIDE_BY_SIDE = 8
"""Pods that are asked at once: none waits until another one's patience has ended."""
_NAMES = 50
"""As many are removed by one command: a command is a part of an address."""
_WAIT_S = 120.0
"""Another collection may take so long."""


@dataclass(frozen=True)
class Pod:
    """A pod that was collected from."""

    at: str
    segments: int = 0
    """Taken from it until then."""
    unasked: bool = False
    """It was told to end and could not be asked when it was last looked at."""


@dataclass(frozen=True)
class Known:
    """Pods that may still have something, by name."""

    pods: dict[str, Pod] = field(default_factory=dict)


@dataclass(frozen=True)
class Collected:
    """What one collection brought."""

    pods: int = 0
    segments: int = 0
    bytes: int = 0


def collect(
    env_folder: Path,
    *,
    report: Report = silent,
    cluster: Cluster | None = None,
    leaving: bool = False,
) -> Collected:
    """Bring what every pod of the environment has captured into its folder.

    With `leaving` only of those that were told to end. A pod that cannot be asked is said, and the
    others are asked; if none can be, the error of the first is raised: Refused where we may not,
    Unreachable where the cluster does not answer.
    """
    from treadle.clients.files import disk_errors, flocked

    known = supervision.read(env_folder / service.STATE, service.Deployed)
    if known is None:
        return Collected()
    cluster = cluster or service.cluster_of(known.context)
    folder = env_folder / "capture"
    with disk_errors(folder), flocked(env_folder / "capture.lock", wait_s=_WAIT_S):
        folder.mkdir(parents=True, exist_ok=True)
        return _collect(cluster, known, env_folder, report, leaving=leaving)


def _collect(
    cluster: Cluster, known: service.Deployed, env_folder: Path, report: Report, *, leaving: bool
) -> Collected:
    before = supervision.read(env_folder / STATE, Known) or Known()
    pods = dict(before.pods)
    there = {str(one["metadata"]["name"]): one for one in _pods(cluster, known)}
    failed: list[TreadleError] = []
    done = Collected()
    asked = [
        name
        for name, pod in sorted(there.items())
        if _asks(pod) and (_leaving(pod, known) or not leaving)
    ]
    for name, found in _take_all(cluster, known.namespace, asked, env_folder):
        said = pods.get(name, Pod(""))
        if isinstance(found, StateCorrupt):
            raise found
        if isinstance(found, TreadleError):
            if _gone(cluster, known.namespace, name):
                there.pop(name)  # it ended while it was asked
            elif _leaving(there[name], known) and not said.unasked:
                # It ended, most likely, and the cluster knows a moment later: the next look tells.
                pods[name] = replace(said, unasked=True)
            else:
                failed.append(found)
                report(f"what {name} captured is not collected: {found.message}", warning=True)
            continue
        taken, size, end = found
        done = Collected(done.pods + 1, done.segments + len(taken), done.bytes + size)
        pods[name] = Pod(clock.text(clock.now()), said.segments + len(taken))
        if end.full:
            report(
                f"{name} did not keep {end.full} requests: its volume for captured requests was "
                "full; collect more often (treadle watch), or keep fewer (monitor: capture: rate)",
                warning=True,
            )  # fmt: skip
        if end.ended and not end.writing:
            del pods[name]  # all that it will ever have is here
    _say_gone(pods, there, report)
    supervision.write(env_folder / STATE, Known(pods))
    if failed and not done.pods:
        raise failed[0]
    if done.segments:
        report(
            f"collected {done.segments} segments of captured requests ({done.bytes:,} bytes) from "
            f"{done.pods} pods", segments=done.segments, bytes=done.bytes, pods=done.pods,
        )  # fmt: skip
    return done


def collect_leaving(
    env_folder: Path,
    *,
    report: Report = silent,
    cluster: Cluster | None = None,
    limit_s: float = LEAVING_S,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Collected:
    """Collect from the pods that were told to end, until those that captured anything have ended."""
    known = supervision.read(env_folder / service.STATE, service.Deployed)
    if known is None:
        return Collected()
    cluster = cluster or service.cluster_of(known.context)
    until = now() + limit_s
    total = Collected()
    said = False
    while leaving := [pod for pod in _pods(cluster, known) if _leaving(pod, known) and _asks(pod)]:
        busy = supervision.read(env_folder / STATE, Known) or Known()
        if said and not any(_may_have(busy, pod) for pod in leaving):
            break  # nobody asked them anything
        if now() > until:
            report("pods that were told to end still answer; the next collection asks them again")
            break
        if not said:
            if any(_may_have(busy, pod) for pod in leaving):
                report("waiting for what the leaving pods capture to their end")
            said = True
        try:
            done = collect(env_folder, cluster=cluster, leaving=True, report=report)
        except StateCorrupt:
            raise
        except TreadleError:
            if now() > until - _LOOK_S:
                raise
            sleep(_LOOK_S)  # they are there for some seconds more
            continue
        total = Collected(
            max(total.pods, done.pods), total.segments + done.segments, total.bytes + done.bytes
        )
        busy = supervision.read(env_folder / STATE, Known) or Known()
        if any(_may_have(busy, pod) for pod in leaving) or done.segments:
            sleep(_LOOK_S)
    return total


@contextlib.contextmanager
def beside(
    env_folder: Path, *, report: Report = silent, cluster: Cluster | None = None
) -> Iterator[None]:
    """Collect while pods are replaced, and keep nobody waiting: first what they all have, then what
    those that were told to end still capture. What goes wrong is said."""
    known = supervision.read(env_folder / service.STATE, service.Deployed)
    if known is None:
        yield
        return
    # Made here and not in the thread: two threads that import a library at once may see half of it.
    cluster = cluster or service.cluster_of(known.context)
    over = threading.Event()

    def run() -> None:
        first, said = True, set()
        while True:
            try:
                collect(env_folder, report=report, cluster=cluster, leaving=not first)
                first = False
            except TreadleError as error:  # one look that fails is no reason to stop looking
                words = f"what the pods captured is not collected: {error.message}"
                if words not in said:
                    report(words + (f" ({error.hint})" if error.hint else ""), warning=True)
                said.add(words)
            if over.wait(_LOOK_S):
                return

    thread = threading.Thread(target=run, name="collect", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def since_last_s(env_folder: Path) -> float:
    """Seconds since the last collection; of none, infinity."""
    try:
        return time.time() - (env_folder / STATE).stat().st_mtime
    except OSError:
        return math.inf


def _may_have(known: Known, pod: Object) -> bool:
    """Whether there may be more in a pod: it had something, or nobody knows."""
    found = known.pods.get(str(pod["metadata"]["name"]))
    return found is not None and bool(found.segments or found.unasked)


# ---- pods ----------------------------------------------------------------------------------------


def _pods(cluster: Cluster, known: service.Deployed) -> list[Object]:
    """Those that have a volume for captured requests, of whichever version."""
    return [
        pod
        for pod in cluster.list("v1/Pod", known.namespace, {SERVES: known.name})
        if any(
            one.get("name") == CAPTURE_VOLUME
            for one in (pod.get("spec") or {}).get("volumes") or []
        )
    ]


def _asks(pod: Object) -> bool:
    """Whether a command can be run in its container now."""
    states = (pod.get("status") or {}).get("containerStatuses") or []
    return any(one.get("name") == CONTAINER and "running" in (one.get("state") or {}) for one in states)  # fmt: skip


def _leaving(pod: Object, known: service.Deployed) -> bool:
    """Whether it was told to end, or will be: the cluster does so a moment after its Deployment was
    deleted."""
    meta = pod["metadata"]
    if meta.get("deletionTimestamp") or not (known.release or known.rolling):
        return True
    candidate = (meta.get("labels") or {}).get("app.kubernetes.io/instance") != known.name
    return candidate and known.split is None and not known.rolling


def _gone(cluster: Cluster, namespace: str, name: str) -> bool:
    try:
        live = cluster.get("v1/Pod", namespace, name)
    except TreadleError:
        return False
    return live is None or not _asks(live)


def _say_gone(pods: dict[str, Pod], there: dict[str, Object], report: Report) -> None:
    """Forget pods that are no more; say of which something may be lost."""
    lost = [name for name in pods if name not in there]
    said = {name: one for name in lost if (one := pods.pop(name)).segments}
    if said:
        since = min(one.at for one in said.values())
        report(
            f"{len(said)} pods have gone since they were last asked: what they captured after "
            f"{since[:19]}Z is lost ({', '.join(sorted(said))})",
            warning=True, pods=sorted(said),
        )  # fmt: skip


# ---- segments ------------------------------------------------------------------------------------

_Taken = tuple[list[str], int, End]
"""Of a pod: the segments' names, their bytes, what was said at the end."""


def _take_all(
    cluster: Cluster, namespace: str, pods: list[str], env_folder: Path
) -> Iterator[tuple[str, _Taken | TreadleError]]:
    """What each pod gave, or why it gave nothing."""
    arriving = env_folder / ".arriving"
    shutil.rmtree(arriving, ignore_errors=True)  # of a collection that was killed

    def take(pod: str) -> _Taken | TreadleError:
        try:
            return _take(cluster, namespace, pod, arriving / pod, env_folder / "capture")
        except TreadleError as error:
            return error

    try:
        with ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="collect") as threads:
            yield from zip(pods, threads.map(take, pods), strict=True)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _take(cluster: Cluster, namespace: str, pod: str, arriving: Path, folder: Path) -> _Taken:
    """Have a pod's segments here and not there any more."""
    from treadle.clients.files import fsync_folder

    def run(*words: str) -> Iterator[bytes]:
        command = (*_COMMAND, *words)
        return cluster.execute(namespace, pod, command, container=CONTAINER, patience_s=_PATIENCE_S)

    arriving.mkdir(parents=True)
    sent, end = _receive(segment_stream.read(run("send")), arriving, folder)
    if len(sent) != end.segments:
        raise StateCorrupt(f"{pod} sent {len(sent)} segments and speaks of {end.segments}")
    if sent:
        fsync_folder(folder)  # what is removed there must be here after a power cut
        crash.point("capture.stored")
    names = [one.name for one in sent]
    for at in range(0, max(len(names), 1 if end.full else 0), _NAMES):
        for _ in run("drop", *names[at : at + _NAMES]):
            pass
    return names, sum(one.size for one in sent), end


def _receive(
    events: Iterator[Sent | bytes | End], arriving: Path, folder: Path
) -> tuple[list[Sent], End]:
    """Bring a stream's segments to the disk, each under its name when it is whole and right."""
    sent: list[Sent] = []
    file: BinaryIO | None = None
    found: Any = None
    try:
        for one in events:
            if isinstance(one, bytes):
                assert file is not None
                file.write(one)
                found.update(one)
                continue
            if file is not None:
                _keep(file, sent[-1], f"sha256:{found.hexdigest()}", folder)
                file = None
            if isinstance(one, End):
                return sent, one
            sent.append(one)
            found = hashlib.sha256()
            file = (arriving / one.name).open("wb")
    finally:
        if file is not None:
            file.close()
    raise AssertionError("a stream has an end")


def _keep(file: BinaryIO, sent: Sent, digest: str, folder: Path) -> None:
    from treadle.base.digest import digest_file
    from treadle.clients.files import flush

    with file:
        if digest != sent.digest:
            raise StateCorrupt(
                f"captured requests: {sent.name} arrived as {digest} and was sent as {sent.digest}",
                hint="nothing was removed in the pod: try again",
            )
        file.flush()
        flush(file.fileno())
    target = folder / sent.name
    if not target.exists():
        os.rename(file.name, target)
    elif digest_file(target) != digest:
        raise StateCorrupt(
            f"captured requests: {target} is here already, and is another one",
            hint="move it away and try again; nothing was removed in the pod",
        )
