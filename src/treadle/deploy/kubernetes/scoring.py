"""A batch environment as Kubernetes objects: a CronJob, or a Job for one scoring, and what it needs.

Pure, as `manifest`. A scoring is one pod that ends. What is its own fault ends the Job at once (bad
input, by the exit code); what is not costs no try (a node that is drained, a pod that is told to end);
the rest is tried again, twice. Its labels are those of no model server: no Service sends it requests.

Source: the field notes' checklist, 14 to 16; Kubernetes documentation on Jobs (pod failure policy)
and CronJobs; 1.30 and later.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Any

from treadle.base.digest import digest
from treadle.base.quantity import canonical
from treadle.base.spec import REMOTE
from treadle.deploy.kubernetes import model, network
from treadle.deploy.kubernetes.wanted import Wanted, label_selector, labels, meta

TRIES = 2
"""So often a scoring that failed for no known reason is tried again."""
KEPT_S = 7 * 86400
"""A Job that has ended, and its log, can be looked at for so long."""
LATE_S = 600
"""A scoring that could not begin on time (a cluster that was away) begins up to so much later."""
BAD_INPUT = (2, 3)
"""Exit codes of the scorer that no second try would change."""
TOLD_TO_END = 143
CLAIMS = "/claims"
RESULT = "/dev/termination-log"
"""What a container leaves there, the pod's status tells."""
COMPONENT = "batch"
_GRACE_S = 30
_LEFT = "batch.kubernetes.io/job-name"


@dataclass(frozen=True)
class Scoring:
    """What of a batch environment and a release becomes objects."""

    wanted: Wanted
    """Names, image, release, what the pod is given."""
    place: str
    """The environment whose champion scores: the first part of every prediction id."""
    input: str
    output: str
    cron: str = ""
    """Five fields; empty: one Job."""
    zone: str = "UTC"
    job: str = ""
    """Name of the one Job."""
    record: str = ""
    """Digest of the model's record: the lineage column."""
    features: tuple[str, ...] = ()
    deadline_s: int = 3600
    size: str | None = None
    """Claims that are to be made are this large."""
    endpoint: str | None = None
    region: str | None = None
    secret: str | None = None
    """With the object store's keys."""

    @property
    def name(self) -> str:
        """Of the CronJob or the Job."""
        return self.wanted.name if self.cron else self.job

    @property
    def kind(self) -> str:
        """`CronJob` or `Job`."""
        return "CronJob" if self.cron else "Job"


def claims(scoring: Scoring) -> dict[str, bool]:
    """The claims that input and output are on: name → whether it is written to."""
    found: dict[str, bool] = {}
    for text, written in ((scoring.input, False), (scoring.output, True)):
        match = REMOTE.fullmatch(text)
        if match is not None and match["kind"] == "claim":
            found[match["name"]] = found.get(match["name"], False) or written
    return found


def render(scoring: Scoring, *, made: bool = True) -> list[dict[str, Any]]:
    """The objects in the order in which they are applied; `made`: with the claims, where `size:`
    is given."""
    wanted = scoring.wanted
    found = [model.namespace(wanted), model.account(wanted), network.deny_all(wanted)]
    if scoring.secret is not None:
        found.append(_reach_store(scoring))
    if made and scoring.size is not None:
        found += [claim(scoring, name) for name in sorted(claims(scoring))]
    found.append(_settings(scoring))
    found.append(_cron_job(scoring) if scoring.cron else _job(scoring))
    # `component` tells a scoring from a server, on everything.
    return [_as_batch(one) for one in found]


def claim(scoring: Scoring, name: str) -> dict[str, Any]:
    """A claim of the size that was asked for, on the cluster's default storage."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta(scoring.wanted, name),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": canonical(scoring.size or "1Gi")}},
        },
    }


def _as_batch(one: dict[str, Any]) -> dict[str, Any]:
    if one["kind"] == "Namespace":
        return one
    told = {**one["metadata"]["labels"], "app.kubernetes.io/component": COMPONENT}
    if one["kind"] == "PersistentVolumeClaim":
        told.pop("app.kubernetes.io/version")  # it outlives every release
    return {**one, "metadata": {**one["metadata"], "labels": told}}


def _reach_store(scoring: Scoring) -> dict[str, Any]:
    """Out to DNS and the object store alone.

    A store within the cluster is its namespace; one with an address is that address; for one with a
    name, which no policy can say, it is its port everywhere but on the node's own network.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(scoring.wanted, f"{scoring.wanted.name}-allow"),
        "spec": {
            "podSelector": {"matchLabels": label_selector(scoring.wanted)},
            "policyTypes": ["Egress"],
            "egress": [
                network.allow(scoring.wanted)["spec"]["egress"][0],
                _store(scoring.endpoint or "https://s3.amazonaws.com"),
            ],
        },
    }


def _store(endpoint: str) -> dict[str, Any]:
    scheme, _, rest = endpoint.rstrip("/").partition("://")
    host, _, port = rest.partition(":")
    number = int(port) if port else {"http": 80}.get(scheme, 443)
    parts = host.split(".")
    if len(parts) >= 3 and parts[2] == "svc":
        # The port is the pod's, which a Service may have translated.
        label = {"kubernetes.io/metadata.name": parts[1]}
        return {"to": [{"namespaceSelector": {"matchLabels": label}}]}
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        to = [
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
            {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}},
        ]
    else:
        to = [{"ipBlock": {"cidr": f"{found}/{found.max_prefixlen}"}}]
    return {"to": to, "ports": [{"port": number, "protocol": "TCP"}]}


def _settings(scoring: Scoring) -> dict[str, Any]:
    """What the scorer is told by its environment; named by content, as the server's."""
    wanted = scoring.wanted
    told = {
        "TREADLE_ENVIRONMENT": scoring.place,
        "TREADLE_RELEASE": str(wanted.release),
        "TREADLE_CONTENT": wanted.content,
        "TREADLE_RECORD": scoring.record,
        "TREADLE_INPUT": scoring.input,
        "TREADLE_OUTPUT": scoring.output,
        "TREADLE_PREFIX": wanted.environment,
        "TREADLE_FEATURES": json.dumps(list(scoring.features)),
        "TREADLE_CLAIMS": CLAIMS,
        "TREADLE_RESULT": RESULT,
        "TREADLE_FORCE": "yes",
    }
    if wanted.run:
        told["TREADLE_RUN"] = wanted.run
    if wanted.trust_pickle:
        told["TREADLE_TRUST_PICKLE"] = "yes"
    if scoring.endpoint:
        told["TREADLE_S3_ENDPOINT"] = scoring.endpoint
    if scoring.region:
        told["TREADLE_S3_REGION"] = scoring.region
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta(wanted, f"{wanted.name}-{digest(told)[7:15]}"),
        "data": dict(sorted(told.items())),
        "immutable": True,
    }


def _job(scoring: Scoring) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta(scoring.wanted, scoring.job),
        "spec": _job_spec(scoring),
    }


def _cron_job(scoring: Scoring) -> dict[str, Any]:
    """Never two scorings at a time: one that takes too long makes the next wait or be left out."""
    told = {**labels(scoring.wanted), "app.kubernetes.io/component": COMPONENT}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": meta(scoring.wanted),
        "spec": {
            "schedule": scoring.cron,
            "timeZone": scoring.zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": LATE_S,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"metadata": {"labels": told}, "spec": _job_spec(scoring)},
        },
    }


def _job_spec(scoring: Scoring) -> dict[str, Any]:
    told = {**labels(scoring.wanted), "app.kubernetes.io/component": COMPONENT}
    return {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": TRIES,
        "activeDeadlineSeconds": scoring.deadline_s,
        "ttlSecondsAfterFinished": KEPT_S,
        # The next pod begins when the one before has ended, not when it is told to: one writes.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": COMPONENT, "operator": "In", "values": list(BAD_INPUT),
                    },
                },
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": "Ignore",
                    "onExitCodes": {
                        "containerName": COMPONENT, "operator": "In", "values": [TOLD_TO_END],
                    },
                },
            ]
        },
        "template": {"metadata": {"labels": told}, "spec": _pod(scoring)},
    }  # fmt: skip


def _pod(scoring: Scoring) -> dict[str, Any]:
    """The model server's pod, hardened as it is, with another process and its claims."""
    wanted = scoring.wanted
    served = model.deployment(wanted)["spec"]["template"]["spec"]
    kept = ("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "nodeSelector",
            "tolerations", "imagePullSecrets", "securityContext")  # fmt: skip
    spec: dict[str, Any] = {name: served[name] for name in kept if name in served}
    # A claim with many files is not gone through again for each scoring.
    spec["securityContext"] = {**spec["securityContext"], "fsGroupChangePolicy": "OnRootMismatch"}
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]
    volumes += [
        {"name": _volume(number), "persistentVolumeClaim": {"claimName": name}}
        for number, name in enumerate(sorted(claims(scoring)))
    ]
    return {
        **spec,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        "containers": [_container(scoring, served["containers"][0])],
        "volumes": volumes,
    }


def _container(scoring: Scoring, served: dict[str, Any]) -> dict[str, Any]:
    # The pod's name is the instance, and so a part of every prediction id.
    env: list[dict[str, Any]] = [
        {"name": "TREADLE_INSTANCE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        # Keys come from the Secret alone: nobody is asked for others.
        {"name": "AWS_EC2_METADATA_DISABLED", "value": "true"},
    ]
    if scoring.secret is not None:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            ref: dict[str, Any] = {"name": scoring.secret, "key": key}
            if key == "AWS_SESSION_TOKEN":
                ref["optional"] = True
            env.append({"name": key, "valueFrom": {"secretKeyRef": ref}})
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the container
    for number, (name, written) in enumerate(sorted(claims(scoring).items())):
        mount: dict[str, Any] = {"name": _volume(number), "mountPath": f"{CLAIMS}/{name}"}
        mounts.append(mount if written else {**mount, "readOnly": True})
    return {
        "name": COMPONENT,
        "image": scoring.wanted.image,
        "args": ["score"],
        "env": env,
        "envFrom": [{"configMapRef": {"name": _settings(scoring)["metadata"]["name"]}}],
        "resources": served["resources"],
        "securityContext": served["securityContext"],
        "terminationMessagePath": RESULT,
        "volumeMounts": mounts,
    }


def _volume(number: int) -> str:
    """A claim's name may be longer than a volume's."""
    return f"claim-{number}"


def jobs_label(job: str) -> dict[str, str]:
    """What a Job's pods bear."""
    return {_LEFT: job}
