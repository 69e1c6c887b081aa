"""A batch environment on a cluster: a CronJob kept as it should be, or a Job run to its end.

What applies it is what applies a model server: under one manager, with an inventory, a kept last good
manifest, and a state file that is written before anything is applied, so that a command that is
killed is taken up by the next one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from treadle.base import clock, crash, supervision
from treadle.base.errors import Refused, TreadleError, UsageError
from treadle.base.log import Report, silent
from treadle.clients.kube import Cluster
from treadle.deploy.kubernetes import apply, jobs, scoring, service, text
from treadle.deploy.kubernetes.apply import Applied
from treadle.deploy.kubernetes.jobs import Ran
from treadle.deploy.kubernetes.preflight import Finding
from treadle.deploy.kubernetes.scoring import Scoring

STATE = "kubernetes-batch.json"
_INSTANCE = "app.kubernetes.io/instance"


@dataclass(frozen=True)
class Applying:
    """What was last applied, in the environment's folder."""

    context: str
    namespace: str
    name: str
    release: int = 0
    image: str = ""
    cron: str = ""
    job: str = ""
    """The Job that was begun last."""
    since: str = ""
    deadline_s: int = 0


@dataclass(frozen=True)
class Seen:
    """What there is now, by the cluster's word."""

    status: Literal["absent", "scheduled", "suspended", "job", "gone", "unknown"]
    release: int = 0
    cron: str = ""
    zone: str = ""
    running: int = 0
    scheduled: str = ""
    """When the CronJob last began one."""
    last: Ran | None = None
    error: str = ""

    @property
    def words(self) -> str:
        """In a line."""
        ran = f"; last {self.last.words}" if self.last else "; never ran"
        if self.status == "scheduled":
            return f"CronJob of release {self.release} at {self.cron} {self.zone}{ran}"
        if self.status == "suspended":
            return f"CronJob of release {self.release} is suspended{ran}"
        if self.status == "job":
            return f"a Job of release {self.release}{ran}"
        return {"absent": "nothing was applied", "gone": "its CronJob is gone"}.get(
            self.status, self.error
        )


# ---- looking -------------------------------------------------------------------------------------


def observe(env_folder: Path, *, cluster: Cluster | None = None) -> Seen:
    """What there is of a batch environment now."""
    known = supervision.read(env_folder / STATE, Applying)
    if known is None or not known.release:
        return Seen("absent")
    try:
        cluster = cluster or service.cluster_of(known.context)
        last = jobs.latest(cluster, known.namespace, known.name)
        if not known.cron:
            return Seen("job", known.release, last=last)
        live = cluster.get("batch/v1/CronJob", known.namespace, known.name)
    except TreadleError as error:
        return Seen("unknown", known.release, error=error.message)
    if live is None:
        return Seen("gone", known.release, last=last)
    version = str((live["metadata"].get("labels") or {}).get("app.kubernetes.io/version") or "")
    status, spec = live.get("status") or {}, live["spec"]
    return Seen(
        "suspended" if spec.get("suspend") else "scheduled",
        int(version) if version.isdigit() else known.release, str(spec["schedule"]),
        str(spec.get("timeZone") or ""), len(status.get("active") or []),
        jobs.moment(status.get("lastScheduleTime")), last,
    )  # fmt: skip


def unfinished(env_folder: Path, release: int) -> str:
    """The Job of this release that was begun last, whose end nobody may have written down."""
    known = supervision.read(env_folder / STATE, Applying)
    return known.job if known is not None and known.release == release else ""


def difference(context: str, wanted: Scoring, *, cluster: Cluster | None = None) -> list[Applied]:
    """What applying would do to the live objects; nothing is written."""
    cluster = cluster or service.cluster_of(context)
    objects = _objects(cluster, wanted)
    found = apply.difference(cluster, objects, wanted.wanted.name, wanted.wanted.namespace)
    return [one for one in found if one.action != "unchanged"]


def log_lines(env_folder: Path, lines: int, *, cluster: Cluster | None = None) -> Iterator[str]:
    """The last lines of the last pod, its name before them."""
    known = _known(env_folder)
    cluster = cluster or service.cluster_of(known.context)
    last = jobs.latest(cluster, known.namespace, known.name)
    if last is None or not last.pod:
        raise UsageError(f"no scoring of {known.name} has begun yet", hint="treadle status")
    for line in cluster.logs(known.namespace, last.pod, lines):
        yield f"{last.pod} {line}"


def _known(env_folder: Path) -> Applying:
    known = supervision.read(env_folder / STATE, Applying)
    if known is None or not known.release:
        raise UsageError("nothing of this environment was applied", hint="treadle up")
    return known


def look(cluster: Cluster, wanted: Scoring) -> list[Finding]:
    """Whether the claims and the Secret that its pods need are there; nothing is written."""
    missing = missing_claims(cluster, wanted)
    found = []
    if missing and wanted.size is None:
        words = f"there is no claim {' and '.join(missing)}"
        found.append(Finding("claims", "missing", words, _claims_hint(wanted, missing)))
    elif missing:
        words = f"{' and '.join(missing)} will be made, {wanted.size} large"
        found.append(Finding("claims", "ok", words))
    elif named := scoring.claims(wanted):
        found.append(Finding("claims", "ok", f"{' and '.join(sorted(named))} is there"))
    if wanted.secret is not None:
        there = has_secret(cluster, wanted)
        words = f"{wanted.secret} is there" if there else f"there is no Secret {wanted.secret}"
        hint = None if there else _secret_hint(wanted)
        found.append(Finding("secret", "ok" if there else "missing", words, hint))
    return found


# ---- applying ------------------------------------------------------------------------------------


def schedule(
    env_folder: Path, context: str, wanted: Scoring, *, report: Report = silent,
    cluster: Cluster | None = None,
) -> list[Applied]:  # fmt: skip
    """Have the CronJob as it should be. Raises Refused or Conflict; then what was before is live."""
    cluster = _begin(env_folder, context, wanted, cluster)
    objects = _objects(cluster, wanted, report)
    before = service.last_good(env_folder)
    own = wanted.wanted
    report(f"applying release {own.release} to {own.namespace}", release=own.release)
    try:
        found = apply.apply(cluster, objects, own.name, own.namespace, report=report)
    except Refused:
        if before:
            with contextlib.suppress(TreadleError):
                apply.apply(cluster, before, own.name, own.namespace, report=report)
        raise
    crash.point("batch.applied")
    service.keep_good(env_folder, objects)
    return found


def run(
    env_folder: Path, context: str, wanted: Scoring, *, report: Report = silent,
    cluster: Cluster | None = None,
) -> Ran:  # fmt: skip
    """Run the Job to its end. One of its name that was begun before, by a command that was killed, is
    taken up; an older one of the environment is deleted first."""
    cluster = _begin(env_folder, context, wanted, cluster)
    own = wanted.wanted
    crash.point("batch.wanted")
    if cluster.get("batch/v1/Job", own.namespace, wanted.job) is not None:
        report(f"Job {wanted.job} was begun before: it is taken up")
    else:
        objects = _objects(cluster, wanted, report)
        apply.apply(cluster, objects, own.name, own.namespace, report=report)
    crash.point("batch.applied")
    try:
        return jobs.finished(
            cluster, own.namespace, wanted.job, deadline_s=wanted.deadline_s, report=report
        )
    except Refused:
        live = cluster.get("batch/v1/Job", own.namespace, wanted.job)
        if live is not None and jobs.of(live, []).status == "running":
            # It would go on trying what cannot be.
            cluster.delete("batch/v1/Job", own.namespace, wanted.job)
        raise


def stop(
    env_folder: Path, *, everything: bool = False, cluster: Cluster | None = None,
    report: Report = silent,
) -> bool:  # fmt: skip
    """Delete the environment's objects; claims and a namespace only with `everything`."""
    known = supervision.read(env_folder / STATE, Applying)
    if known is None:
        return False
    if cluster is None:
        cluster = service.reach(known.context, "this environment")
    found = apply.remove(cluster, known.name, known.namespace, everything=everything, report=report)
    supervision.write(env_folder / STATE, replace(known, release=0, job=""))
    (env_folder / service.GOOD).unlink(missing_ok=True)
    return any(one.action == "pruned" for one in found)


def job_name(name: str) -> str:
    """A name for one more Job."""
    return f"{name}-{secrets.token_hex(4)}"


def _begin(env_folder: Path, context: str, wanted: Scoring, cluster: Cluster | None) -> Cluster:
    """The cluster, after it is known that this is where it should be; the state says what begins."""
    own = wanted.wanted
    if cluster is None:
        cluster = service.reach(context, own.environment)
    present = supervision.read(env_folder / STATE, Applying)
    if present is not None and present.release and (present.context, present.namespace) != (context, own.namespace):  # fmt: skip
        raise Refused(
            f"this environment is in {present.context}, namespace {present.namespace}, and is now "
            f"wanted in {context}, namespace {own.namespace}",
            hint=f"treadle down --env {own.environment} there first (with the old words in "
            "treadle.yaml)",
        )
    check(cluster, wanted)
    env_folder.mkdir(parents=True, exist_ok=True)
    supervision.write(env_folder / STATE, Applying(
        context, own.namespace, own.name, own.release, own.image, wanted.cron, wanted.job,
        clock.text(clock.now()), wanted.deadline_s,
    ))  # fmt: skip
    return cluster


# ---- claims and keys -----------------------------------------------------------------------------


def check(cluster: Cluster, wanted: Scoring) -> None:
    """Refused: a claim or the Secret that the pods need is not there (before anything is applied)."""
    missing = missing_claims(cluster, wanted)
    if missing and wanted.size is None:
        raise Refused(
            f"there is no claim {' and '.join(missing)} in the namespace {wanted.wanted.namespace}",
            hint=_claims_hint(wanted, missing),
        )
    if wanted.secret is not None and not has_secret(cluster, wanted):
        raise Refused(
            f"there is no Secret {wanted.secret} in the namespace {wanted.wanted.namespace}",
            hint=_secret_hint(wanted),
        )


def _claims_hint(wanted: Scoring, missing: list[str]) -> str:
    """How a claim comes about, with a manifest that is ready."""
    made = replace(wanted, size="1Gi")
    shown = text.text([_plain(scoring.claim(made, name)) for name in missing])
    return "write size: 1Gi, and it is made; or make it (kubectl apply -f FILE):\n" + shown


def _secret_hint(wanted: Scoring) -> str:
    return (
        f"kubectl create secret generic {wanted.secret} --namespace {wanted.wanted.namespace} "
        "--from-literal AWS_ACCESS_KEY_ID=… --from-literal AWS_SECRET_ACCESS_KEY=…"
    )


def missing_claims(cluster: Cluster, wanted: Scoring) -> list[str]:
    """The claims of input and output that are not there."""
    namespace = wanted.wanted.namespace
    return [
        name
        for name in sorted(scoring.claims(wanted))
        if cluster.get("v1/PersistentVolumeClaim", namespace, name) is None
    ]


def has_secret(cluster: Cluster, wanted: Scoring) -> bool:
    """Whether the Secret is there; where Secrets may not be looked at, the pods will tell."""
    try:
        found = cluster.get("v1/Secret", wanted.wanted.namespace, wanted.secret or "")
    except Refused:
        return True
    return found is not None


def _objects(cluster: Cluster, wanted: Scoring, report: Report = silent) -> list[dict[str, Any]]:
    """The objects, but for claims that are there and somebody else's: those are used as they are."""
    found = []
    for one in scoring.render(wanted):
        if one["kind"] == "PersistentVolumeClaim":
            meta = one["metadata"]
            live = cluster.get("v1/PersistentVolumeClaim", meta["namespace"], meta["name"])
            labels = {} if live is None else live["metadata"].get("labels") or {}
            if live is not None and labels.get(_INSTANCE) != wanted.wanted.name:
                report(f"the claim {meta['name']} is somebody else's, and is used as it is")
                continue
        found.append(one)
    return found


def _plain(one: dict[str, Any]) -> dict[str, Any]:
    """A claim as a person would write it: not one of ours."""
    meta = {name: one["metadata"][name] for name in ("name", "namespace")}
    return {**one, "metadata": meta}
