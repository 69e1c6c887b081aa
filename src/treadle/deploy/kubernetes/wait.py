"""Waiting for a roll-out: until every wanted pod is of the new kind and available, and no old one is
left; or until it is plain that this will not happen, with the pod's own last words.

Source: Kubernetes documentation, Deployment status; reasons of waiting containers (kubelet).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from treadle.base.errors import Refused, Unreachable
from treadle.base.log import Report, silent
from treadle.clients.kube import Cluster, Object

DEADLINE_S = 300.0
_LOOK_S = 0.4
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_BROKEN = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_LOG_LINES = 8
_PATIENCE_S = 8.0
_REVISION = "deployment.kubernetes.io/revision"
_HASH = "pod-template-hash"


def rolled_out(
    cluster: Cluster,
    namespace: str,
    name: str,
    *,
    deadline_s: float = DEADLINE_S,
    report: Report = silent,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when the Deployment is rolled out. Refused says why it will not be."""
    until = now() + deadline_s
    said = ""
    scheduled: set[str] = set()
    since: dict[str, float] = {}
    words = ""
    while True:
        try:
            live = cluster.get("apps/v1/Deployment", namespace, name)
            if live is None:
                raise Refused(
                    f"Deployment {name} is gone from {namespace}", hint="treadle up again"
                )
            words, done = progress(live)
            if done:
                return
            if words != said:
                report(words)
                said = words
            pods = _new_pods(cluster, live, namespace)
            _failed(cluster, live, namespace, pods, scheduled, report)
            raise_stuck(pods, since, now())
        except Unreachable as error:  # an API server that restarts ends no roll-out
            words = error.message
        if now() > until:
            left = "; ".join(sorted(scheduled))
            raise Refused(
                f"{name} is not rolled out after {deadline_s:g} s: {words}"
                + (f"; {left}" if left else ""),
                hint="treadle logs, and kubectl describe pods",
            )
        sleep(_LOOK_S)


def progress(live: Object) -> tuple[str, bool]:
    """How far a Deployment is, in words, and whether that is all the way."""
    spec, status = live.get("spec") or {}, live.get("status") or {}
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 1):
        return "the cluster has not seen the change yet", False
    wanted = spec.get("replicas", 1)
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    if updated < wanted:
        return f"{updated} of {wanted} new pods are started", False
    if total > updated:
        return f"{total - updated} old pods are leaving", False
    if available < updated:
        return f"{available} of {updated} new pods are ready", False
    return f"{available} pods are ready", True


def _new_pods(cluster: Cluster, live: Object, namespace: str) -> list[Object]:
    """The pods of the template as it is now: what an older one's do is no reason to stop.

    They belong to the ReplicaSet with the Deployment's own revision; none where there is none yet.
    """
    if (live.get("status") or {}).get("observedGeneration", 0) < live["metadata"].get(
        "generation", 1
    ):
        return []
    selector = live["spec"]["selector"]["matchLabels"]
    number = (live["metadata"].get("annotations") or {}).get(_REVISION)
    hashes = {
        (one["metadata"].get("labels") or {}).get(_HASH)
        for one in cluster.list("apps/v1/ReplicaSet", namespace, selector)
        if (one["metadata"].get("annotations") or {}).get(_REVISION) == number
    }
    return [
        pod
        for pod in cluster.list("v1/Pod", namespace, selector)
        if (pod["metadata"].get("labels") or {}).get(_HASH) in hashes
        and not pod["metadata"].get("deletionTimestamp")
    ]


def _failed(
    cluster: Cluster, live: Object, namespace: str, pods: list[Object], scheduled: set[str],
    report: Report,
) -> None:  # fmt: skip
    """Raise what will not mend itself; say what may."""
    for pod in pods:
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition.get("reason") == "Unschedulable":
                words = f"no node takes {pod['metadata']['name']}: {condition.get('message')}"
                if words not in scheduled:
                    scheduled.add(words)
                    report(words, warning=True)
        for state in container_states(pod):
            raise_broken(cluster, namespace, pod, state)
    for condition in (live.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Progressing" and condition.get("status") == "False":
            raise Refused(f"the roll-out makes no progress: {condition.get('message')}")
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            raise Refused(
                f"pods cannot be made: {condition.get('message')}",
                hint="is it a quota, or a policy of the namespace?",
            )


def container_states(pod: Object) -> list[dict[str, Any]]:
    """How each container of a pod is, by the kubelet; those that run before the others first."""
    status = pod.get("status") or {}
    return [
        *(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or []),
    ]  # fmt: skip


def raise_stuck(pods: list[Object], since: dict[str, float], now: float) -> None:
    """Raise what keeps a container from being made, once it has stayed so for a while: a node that
    has not seen a new ConfigMap yet says the same for a second.

    since: from when each container has been so, on the clock of `now` (seconds); kept between calls.
    """
    for pod in pods:
        for state in container_states(pod):
            waiting = (state.get("state") or {}).get("waiting") or {}
            key = f"{pod['metadata']['name']} ({state.get('name', 'container')})"
            if waiting.get("reason") not in _BROKEN:
                since.pop(key, None)
            elif now - since.setdefault(key, now) > _PATIENCE_S:
                words = waiting.get("message") or waiting["reason"]
                raise Refused(f"{key} cannot be started: {words}")


def raise_broken(cluster: Cluster, namespace: str, pod: Object, state: dict[str, Any]) -> None:
    """Raise what no waiting mends: an image that cannot be pulled, a container that ends again and
    again (with what it said last).

    state: one of `container_states(pod)`.
    """
    name = pod["metadata"]["name"]
    waiting = (state.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message") or ""
    if reason in _PULL:
        raise Refused(
            f"{name} cannot pull its image {state.get('image')}: {message or reason}",
            hint="can the cluster reach the registry, and may it (pull_secrets)?",
        )
    ended = (state.get("lastState") or {}).get("terminated") or (state.get("state") or {}).get(
        "terminated"
    )
    crashed = reason == "CrashLoopBackOff" or (state.get("restartCount", 0) >= 2 and not state.get("ready"))  # fmt: skip
    if crashed and ended:
        told_by = str(state.get("name") or "")
        lines = cluster.logs(
            namespace, name, _LOG_LINES, previous=True, container=told_by
        ) or cluster.logs(namespace, name, _LOG_LINES, container=told_by)
        told = "".join(f"\n  {line}" for line in lines[-_LOG_LINES:])
        raise Refused(
            f"{name} ends again and again (exit code {ended.get('exitCode')}, "
            f"{ended.get('reason')}){told}",
            hint="what it said last stands above",
        )
