"""Jobs of a batch environment: waited for until they end, and how they ended, by the pod's own word.

Source: Kubernetes documentation on Jobs (conditions, pod failure policy), container states.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from treadle.base import clock
from treadle.base.errors import DataRefused, Refused, TreadleError, Unreachable, UsageError
from treadle.base.log import Report, silent
from treadle.clients.kube import Cluster, Object
from treadle.deploy.kubernetes import scoring, wait

_LOOK_S = 0.5
_LOG_LINES = 8
_SLACK_S = 60.0
_DISRUPTED = "DisruptionTarget"


@dataclass(frozen=True)
class Ran:
    """One Job, and what came of it."""

    job: str
    status: Literal["running", "succeeded", "failed"]
    started: str = ""
    ended: str = ""
    pod: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    """What the scorer left: rows, output, first_id; or error, message, hint, code."""
    reason: str = ""
    """Of a failure, by the Job."""
    exit_code: int | None = None
    release: int = 0

    @property
    def words(self) -> str:
        """In a line."""
        if self.status == "running":
            return f"runs since {self.started[:16]}Z"
        if self.status == "succeeded":
            rows = self.told.get("rows")
            said = f": {rows:,} rows into {self.told.get('output')}" if rows is not None else ""
            return f"succeeded {self.ended[:16]}Z{said}"
        said = self.told.get("message") or self.reason or f"exit code {self.exit_code}"
        return f"failed {self.ended[:16]}Z: {said}"


def finished(
    cluster: Cluster,
    namespace: str,
    job: str,
    *,
    deadline_s: float,
    report: Report = silent,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Ran:
    """Wait for a Job's end. Refused says what will not mend itself (an image that cannot be pulled);
    a Job that failed is told as `raise_failed` does.
    """
    until = now() + deadline_s + _SLACK_S
    said = ""
    scheduled: set[str] = set()
    gone: set[str] = set()
    since: dict[str, float] = {}
    while True:
        words, ran = "", None
        try:
            live = cluster.get("batch/v1/Job", namespace, job)
            if live is None:
                raise Refused(f"Job {job} is gone from {namespace}", hint="treadle up again")
            pods = pods_of(cluster, namespace, job)
            ran = of(live, pods)
            if ran.status == "running":
                words = _progress(cluster, namespace, pods, scheduled, gone, report)
                for pod in pods:
                    for state in wait.container_states(pod):
                        wait.raise_broken(cluster, namespace, pod, state)
                wait.raise_stuck(pods, since, now())
        except Unreachable as error:  # an API server that restarts ends no scoring
            words = error.message
        if ran is not None and ran.status == "succeeded":
            return ran
        if ran is not None and ran.status == "failed":
            raise_failed(cluster, namespace, ran)
        if words and words != said:
            report(words)
            said = words
        if now() > until:
            left = "; ".join(sorted(scheduled))
            raise Refused(
                f"Job {job} has not ended after {deadline_s + _SLACK_S:g} s: {words}"
                + (f"; {left}" if left else ""),
                hint="kubectl describe pods",
            )
        sleep(_LOOK_S)


def raise_failed(cluster: Cluster, namespace: str, ran: Ran) -> None:
    """The error that the scorer in the pod had, with its own words; else the Job's with the log."""
    message, hint = ran.told.get("message"), ran.told.get("hint")
    kinds: dict[int | None, type[TreadleError]] = {2: UsageError, 3: DataRefused, 4: Unreachable}
    if message and ran.told.get("code") in kinds:
        raise kinds[ran.told["code"]](f"{message} (Job {ran.job})", hint=hint)
    lines = cluster.logs(namespace, ran.pod, _LOG_LINES) if ran.pod else []
    said = "".join(f"\n  {line}" for line in lines)
    code = f", exit code {ran.exit_code}" if ran.exit_code is not None else ""
    raise Refused(
        f"Job {ran.job} failed ({ran.reason}{code})"
        + (f": {message}" if message and not said else said),
        hint=hint or "what it said last stands above, and the rest in: treadle logs",
    )


def latest(cluster: Cluster, namespace: str, name: str) -> Ran | None:
    """The newest Job of an environment, whoever began it; None: there is none (any more)."""
    found = cluster.list("batch/v1/Job", namespace, {"app.kubernetes.io/instance": name})
    if not found:
        return None
    newest = max(found, key=lambda one: (_created(one), str(one["metadata"]["name"])))
    return of(newest, pods_of(cluster, namespace, str(newest["metadata"]["name"])))


def of(job: Object, pods: list[Object]) -> Ran:
    """How a Job stands, by its own conditions and its last pod's word."""
    status = job.get("status") or {}
    true = {
        one["type"]: one for one in status.get("conditions") or [] if one.get("status") == "True"
    }
    meta = job["metadata"]
    version = str((meta.get("labels") or {}).get("app.kubernetes.io/version") or "")
    last = max(pods, key=_created, default=None)
    ended, told = _left(last)
    facts: dict[str, Any] = {
        "started": status.get("startTime") or _created(job), "told": told,
        "pod": str(last["metadata"]["name"]) if last is not None else "",
        "exit_code": ended.get("exitCode"), "release": int(version) if version.isdigit() else 0,
    }  # fmt: skip
    name = str(meta["name"])
    if "Complete" in true:
        at = status.get("completionTime") or true["Complete"].get("lastTransitionTime", "")
        return Ran(name, "succeeded", ended=at, **facts)
    if "Failed" in true:
        one = true["Failed"]
        reason = f"{one.get('reason')}: {one.get('message')}".removesuffix(": None")
        return Ran(name, "failed", ended=one.get("lastTransitionTime", ""), reason=reason, **facts)
    return Ran(name, "running", **facts)


def pods_of(cluster: Cluster, namespace: str, job: str) -> list[Object]:
    """A Job's pods."""
    return cluster.list("v1/Pod", namespace, scoring.jobs_label(job))


def _left(pod: Object | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a pod's container ended, and what it left."""
    for state in (pod.get("status") or {}).get("containerStatuses") or [] if pod else []:
        ended = (state.get("state") or {}).get("terminated")
        if ended:
            try:
                told = json.loads(ended.get("message") or "{}")
            except ValueError:  # the last lines of a container that left nothing
                told = {}
            return dict(ended), told if isinstance(told, dict) else {}
    return {}, {}


def _progress(
    cluster: Cluster, namespace: str, pods: list[Object], scheduled: set[str], gone: set[str],
    report: Report,
) -> str:  # fmt: skip
    """What the newest pod does, in words; what is worth a line of its own is reported."""
    if not pods:
        return "no pod has begun yet"
    for pod in pods:
        name = str(pod["metadata"]["name"])
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition.get("reason") == "Unschedulable":
                words = f"no node takes {name}: {condition.get('message')}"
                if words not in scheduled:
                    scheduled.add(words)
                    report(words, warning=True)
        told = _lost(pod)
        if told and name not in gone:
            gone.add(name)
            report(f"{name} {told}", warning=True)
    newest = max(pods, key=_created)
    name, phase = str(newest["metadata"]["name"]), (newest.get("status") or {}).get("phase")
    if phase != "Running":
        return f"{name} is {str(phase or 'new').lower()}"
    lines = cluster.logs(namespace, name, 1)
    return f"{name}: {lines[-1]}" if lines else f"{name} runs"


def _lost(pod: Object) -> str:
    """What became of a pod that did not end well."""
    status = pod.get("status") or {}
    if any(one.get("type") == _DISRUPTED for one in status.get("conditions") or []):
        return "was taken from its node: another takes its place, and no try is lost"
    if status.get("phase") != "Failed":
        return ""
    ended, told = _left(pod)
    if ended.get("exitCode") == scoring.TOLD_TO_END:
        return "was told to end: another takes its place, and no try is lost"
    return (
        f"failed (exit code {ended.get('exitCode')}): {told.get('message') or ended.get('reason')}"
    )


def _created(one: Object) -> str:
    return str(one["metadata"].get("creationTimestamp") or "")


def moment(text: str | None) -> str:
    """A time of the cluster as ours; empty for none."""
    return clock.text(clock.parse(text)) if text else ""
