"""The target `kubernetes`: rendered objects applied to a cluster, waited for, and taken back if they
do not work.

What was last good is kept whole in the environment's folder: that, and not what anybody remembers,
is what a failed roll-out goes back to, and what the live objects are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.base import crash, supervision
from treadle.base.errors import Refused, TreadleError, UsageError
from treadle.base.log import Report, silent
from treadle.deploy.kubernetes import apply, logs, manifest, wait, weights
from treadle.deploy.kubernetes.wanted import SERVES
from treadle.deploy.target import Observed, Split, Status

if TYPE_CHECKING:
    from treadle.base.records import Rollout
    from treadle.clients.kube import Cluster
    from treadle.deploy.kubernetes.wanted import Wanted

STATE, GOOD = "kubernetes.json", "kubernetes-good.json"
MOST_FIELDS = 5
_BACK_S = 60.0


@dataclass(frozen=True)
class Deployed:
    """What was last rolled out, in the environment's folder."""

    context: str
    namespace: str
    name: str
    release: int = 0
    content: str = ""
    image: str = ""
    since: str = ""
    rolling: int = 0
    """The release that is being rolled out; 0 when that came to an end, good or bad."""
    split: Split | None = None
    """Where another release gets a share of the requests."""


def cluster_of(context: str) -> Cluster:
    """The cluster of a context."""
    from treadle.clients.kube import ApiCluster

    return ApiCluster(context)


def reach(context: str, environment: str) -> Cluster:
    """The cluster of a context that is about to be written to. UsageError where a person looks at
    another one."""
    _confirm(context, environment)
    return cluster_of(context)


# ---- looking -------------------------------------------------------------------------------------


def observe(env_folder: Path, *, cluster: Cluster | None = None, compare: bool = True) -> Observed:
    """What runs now, by the cluster's word; with `compare` also whether the live objects are those
    that were applied."""
    known = supervision.read(env_folder / STATE, Deployed)
    if known is None or not (known.release or known.rolling):
        return Observed("absent")
    facts: dict[str, Any] = {
        "release": known.release, "model": known.content, "instance": known.name,
        "since": known.since, "address": address(known),
    }  # fmt: skip
    try:
        cluster = cluster or cluster_of(known.context)
        live = cluster.get("apps/v1/Deployment", known.namespace, known.name)
        beside = _beside(cluster, known)
    except TreadleError as error:
        return Observed("down", error=error.message, **facts)
    if live is None:
        return Observed("down", error="its Deployment is gone", **facts)
    labels = live["spec"]["template"]["metadata"].get("labels") or {}
    version = labels.get("app.kubernetes.io/version")
    if version is not None and version.isdigit():
        facts["release"] = int(version)
    words, done = wait.progress(live)
    available = (live.get("status") or {}).get("availableReplicas", 0)
    status: Status = "serving" if done or available else "starting"
    differs: tuple[str, ...] = ()
    if compare and not known.rolling:
        differs = tuple(_differing(cluster, env_folder, known))
    return Observed(
        status, error=beside if done else words, differs=differs, unfinished=bool(known.rolling),
        split=known.split, **facts,
    )  # fmt: skip


def _beside(cluster: Cluster, known: Deployed) -> str | None:
    """What is amiss with the release that has a share; None: nothing, or there is none."""
    if known.split is None:
        return None
    live = cluster.get("apps/v1/Deployment", known.namespace, f"{known.name}-candidate")
    words, done = ("its Deployment is gone", False) if live is None else wait.progress(live)
    return None if done else f"release {known.split.release}: {words}"


def _differing(cluster: Cluster, env_folder: Path, known: Deployed) -> list[str]:
    """Fields in which the live objects are not what was applied."""
    objects = last_good(env_folder)
    if not objects:
        return []
    try:
        found = apply.difference(cluster, objects, known.name, known.namespace)
    except TreadleError as error:
        return [error.message]
    return [
        f"{one.object}: {', '.join(one.fields[:MOST_FIELDS]) or one.action}"
        for one in found
        if one.action != "unchanged"
    ]


def address(known: Deployed) -> str:
    """Within the cluster."""
    return f"http://{known.name}.{known.namespace}.svc"


def ask(env_folder: Path, path: str, body: bytes) -> tuple[int, bytes, dict[str, str], str]:
    """A question through the API server's service proxy: status, body, headers, address."""
    known = _known(env_folder)
    cluster = cluster_of(known.context)
    status, headers, data = cluster.ask(known.namespace, known.name, "http", path, body)
    return status, data, {name.title(): value for name, value in headers.items()}, address(known)


def log_lines(env_folder: Path, lines: int) -> Iterator[str]:
    """The last lines of every pod, the pod's name before them."""
    known = _known(env_folder)
    cluster = cluster_of(known.context)
    labels = {SERVES: known.name}
    yield from logs.last(cluster, known.namespace, labels, lines)


def follow(env_folder: Path, lines: int) -> Iterator[str]:
    """The last lines of every pod and those to come, of pods to come too, until it is closed."""
    known = _known(env_folder)
    cluster = cluster_of(known.context)
    labels = {SERVES: known.name}
    yield from logs.follow(cluster, known.namespace, labels, lines)


def _known(env_folder: Path) -> Deployed:
    known = supervision.read(env_folder / STATE, Deployed)
    if known is None or not known.release:
        raise UsageError("nothing of this environment was rolled out", hint="treadle up")
    return known


# ---- serving -------------------------------------------------------------------------------------


def roll_out(
    env_folder: Path,
    context: str,
    wanted: Wanted,
    *,
    report: Report = silent,
    cluster: Cluster | None = None,
    deadline_s: float = wait.DEADLINE_S,
) -> Rollout:
    """Apply, wait, and record; a release that does not come up is taken back.

    Raises Refused with the pod's own words, after the last good manifest is live again (or, where
    there is none, after what was applied is gone); Conflict before anything of the release is
    applied where somebody else manages a field of its objects.
    """
    from treadle.base import clock
    from treadle.base.records import Rollout

    env_folder.mkdir(parents=True, exist_ok=True)
    started = clock.text(clock.now())
    if cluster is None:
        cluster = reach(context, wanted.environment)
    kinds = cluster.kinds() & manifest.CUSTOM.keys()
    objects = manifest.render(wanted, kinds=kinds)
    before = last_good(env_folder)
    known = Deployed(context, wanted.namespace, wanted.name)
    present = supervision.read(env_folder / STATE, Deployed)
    refuse_moved(env_folder, context, wanted.namespace)
    # Before anything is applied: a command that is killed leaves word that it had begun.
    begun = present if present is not None and present.release else known
    supervision.write(env_folder / STATE, replace(begun, rolling=wanted.release))
    report(f"applying release {wanted.release} to {wanted.namespace}", release=wanted.release)
    crash.point("deploy.wanted")
    # A split ends with any roll-out; its pods go when the new ones answer.
    split = begun.split
    kept = [] if split is None else weights.of_candidate(before, wanted)
    first = objects
    if split is not None and kept:
        won = split.how == "replicas" and split.release == wanted.release
        first = weights.meanwhile(objects, kept, both=won, name=wanted.name)
    try:
        done = apply.apply(cluster, first, wanted.name, wanted.namespace, keep=True, report=report)
        counts = ", ".join(
            f"{sum(one.action == action for one in done)} {action}"
            for action in ("created", "configured", "unchanged", "pruned")
            if any(one.action == action for one in done)
        )
        report(counts)
        crash.point("deploy.spawned")
        wait.rolled_out(
            cluster, wanted.namespace, wanted.name, deadline_s=deadline_s, report=report
        )
        # Not before: an old pod that ends meanwhile is made anew, with the settings of before.
        if kept:
            apply.apply(cluster, objects, wanted.name, wanted.namespace, report=report)
        else:
            apply.prune(cluster, objects, wanted.name, wanted.namespace, report=report)
    except Refused as error:
        report(error.message, warning=True)  # at once: going back takes a while
        words = take_back(cluster, wanted, before, report)
        supervision.write(env_folder / STATE, replace(begun, rolling=0))
        raise Refused(
            f"release {wanted.release} did not get ready: {error.message}; {words}",
            hint=error.hint,
        ) from error
    crash.point("deploy.swapped")
    keep_good(env_folder, objects)
    served = replace(
        known, release=wanted.release, content=wanted.content, image=wanted.image, since=started
    )
    supervision.write(env_folder / STATE, served)
    return Rollout(
        id=clock.ulid(), environment=wanted.environment, release=wanted.release, started=started,
        status="done", ended=clock.text(clock.now()), instance=wanted.name,
        address=address(served), image=wanted.image_digest,
    )  # fmt: skip


def refuse_moved(env_folder: Path, context: str, namespace: str) -> None:
    """Refused where the environment was rolled out to another cluster or namespace before."""
    present = supervision.read(env_folder / STATE, Deployed)
    if present is not None and (present.context, present.namespace) != (context, namespace):
        raise Refused(
            f"this environment runs in {present.context}, namespace {present.namespace}, and is now "
            f"wanted in {context}, namespace {namespace}",
            hint="treadle down --env NAME there first (with the old words in treadle.yaml)",
        )


def _confirm(context: str, environment: str) -> None:
    """UsageError where a person looks at another cluster than the one that would be written to."""
    from treadle.clients.kube import current_context

    current = current_context()
    if current not in (None, context):
        raise UsageError(
            f"{environment} is for the cluster of {context}, and the current context is {current}",
            hint=f"kubectl config use-context {context}, if that is what you mean",
        )


def take_back(
    cluster: Cluster, wanted: Wanted, before: Sequence[dict[str, Any]], report: Report
) -> str:
    """Have the last good objects live again; in words, how that went."""
    if not before:
        report("taking back what was applied")
        apply.remove(cluster, wanted.name, wanted.namespace, everything=False, report=report)
        return "nothing was served before, and what was applied is gone"
    report("going back to the last good manifest")
    try:
        apply.apply(cluster, before, wanted.name, wanted.namespace, keep=True, report=report)
        wait.rolled_out(cluster, wanted.namespace, wanted.name, deadline_s=_BACK_S, report=report)
        apply.prune(cluster, before, wanted.name, wanted.namespace, report=report)
    except TreadleError as error:
        return f"and going back failed too: {error.message}"
    return "the release before serves again"


def stop(
    env_folder: Path, *, everything: bool = False, cluster: Cluster | None = None,
    report: Report = silent,
) -> bool:  # fmt: skip
    """Delete the environment's objects; namespace and claims only with `everything`. False if there
    was nothing."""
    known = supervision.read(env_folder / STATE, Deployed)
    if known is None:
        return False
    if cluster is None:
        cluster = reach(known.context, "this environment")
    found = apply.remove(cluster, known.name, known.namespace, everything=everything, report=report)
    supervision.write(env_folder / STATE, replace(known, release=0, rolling=0, split=None))
    return any(one.action == "pruned" for one in found)


def last_good(env_folder: Path) -> list[dict[str, Any]]:
    """The objects that were last found to work; none where nothing was."""
    try:
        return list(json.loads((env_folder / GOOD).read_bytes()))
    except (FileNotFoundError, ValueError):
        return []


def keep_good(env_folder: Path, objects: Sequence[dict[str, Any]]) -> None:
    """Remember objects that were found to work."""
    from treadle.clients.files import write_file

    write_file(env_folder / GOOD, json.dumps(list(objects), indent=1).encode())
