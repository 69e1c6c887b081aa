"""The model server: account, settings, Deployment, and what scales and protects it."""

from __future__ import annotations

import math
from typing import Any

from treadle.base.digest import digest
from treadle.base.quantity import canonical
from treadle.deploy.kubernetes.wanted import (
    MANAGER,
    PORT,
    SERVES,
    Wanted,
    label_selector,
    labels,
    meta,
)

HOLD_S = 5
"""How long a pod goes on as before after it is told to end: until no proxy sends it anybody new."""
LINGER_S = 5
"""Then it says `Connection: close` for so long, until every client has gone elsewhere."""
REQUEST_S = 30
GRACE_S = HOLD_S + LINGER_S + REQUEST_S + 10
COLLECT_S = 20
"""Then, if it has captured anything, it waits so long for that to be collected."""
LEAVING_S = GRACE_S + COLLECT_S
"""A pod that captures is gone so long after it was told to end."""
DEADLINE_S = 300
"""A roll-out that makes no progress for so long has failed."""
CONTAINER, CAPTURE_VOLUME = "model", "capture"
_USER = 65532
_CAPTURE = "/var/lib/treadle/capture"
_CAPTURE_SIZE = "1Gi"
_CAPTURE_MOST = "896Mi"
"""Less than the volume's size: a pod that writes more than that is put out by its node."""


def namespace(wanted: Wanted) -> dict[str, Any]:
    """Its pods are held to the restricted standard of pod security."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": wanted.namespace,
            "labels": {
                "app.kubernetes.io/managed-by": MANAGER,
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    }


def account(wanted: Wanted) -> dict[str, Any]:
    """Nothing in the pod talks to the API server: no token."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta(wanted),
        "automountServiceAccountToken": False,
    }


def settings(wanted: Wanted) -> dict[str, Any]:
    """What the server is told by its environment."""
    told = {
        "TREADLE_ENVIRONMENT": wanted.environment,
        "TREADLE_RELEASE": str(wanted.release),
        "TREADLE_NAME": wanted.project,
        "TREADLE_CONTENT": wanted.content,
        "TREADLE_IMAGE": wanted.image_digest,
        "TREADLE_WORKERS": str(wanted.workers),
        "TREADLE_STOP_LINGER": str(LINGER_S),
    }
    if wanted.run:
        told["TREADLE_RUN"] = wanted.run
    if wanted.trust_pickle:
        told["TREADLE_TRUST_PICKLE"] = "yes"
    told |= _capture(wanted)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        # A name by content: a roll-back of the Deployment finds the settings it had.
        "metadata": meta(wanted, f"{wanted.name}-{digest(told)[7:15]}"),
        "data": dict(sorted(told.items())),
        "immutable": True,
    }


def _capture(wanted: Wanted) -> dict[str, str]:
    """What a pod keeps of its traffic. `per_minute` is of all pods together, however many there are."""
    capture = wanted.capture
    if capture is None or not wanted.captures:
        return {}
    told = {
        "TREADLE_CAPTURE": _CAPTURE,
        "TREADLE_CAPTURE_RATE": str(capture.rate),
        "TREADLE_CAPTURE_PER_MINUTE": str(
            math.ceil(capture.per_minute / (wanted.most or wanted.least))
        ),
        "TREADLE_CAPTURE_EXCLUDE": ",".join(capture.exclude),
        "TREADLE_CAPTURE_HASH": ",".join(capture.hash),
        "TREADLE_CAPTURE_MOST": _CAPTURE_MOST,
        "TREADLE_CAPTURE_WAIT": str(COLLECT_S),
    }
    return {name: value for name, value in told.items() if value}


def deployment(wanted: Wanted) -> dict[str, Any]:
    """Replaced pod by pod, never with fewer than before."""
    spec: dict[str, Any] = {
        "selector": {"matchLabels": label_selector(wanted)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "progressDeadlineSeconds": DEADLINE_S,
        "revisionHistoryLimit": 3,
        "template": {
            "metadata": {"labels": {**labels(wanted), SERVES: wanted.serves}},
            "spec": _pod(wanted),
        },
    }
    if wanted.most is None or wanted.track:
        spec["replicas"] = wanted.least if wanted.pods is None else wanted.pods
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(wanted), "spec": spec}


def _pod(wanted: Wanted) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "serviceAccountName": wanted.serves,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": LEAVING_S if wanted.captures else GRACE_S,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(wanted)],
        "volumes": _volumes(wanted),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": label_selector(wanted)},
            }
        ],
    }  # fmt: skip
    if wanted.node_selector:
        spec["nodeSelector"] = dict(wanted.node_selector)
    if wanted.tolerations:
        spec["tolerations"] = [dict(one) for one in wanted.tolerations]
    if wanted.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in wanted.pull_secrets]
    return spec


def _volumes(wanted: Wanted) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]
    if wanted.captures:
        found.append({"name": CAPTURE_VOLUME, "emptyDir": {"sizeLimit": _CAPTURE_SIZE}})
    return found


def _container(wanted: Wanted) -> dict[str, Any]:
    # The pod's name is the instance, and so a part of every prediction id.
    env: list[dict[str, Any]] = [
        {"name": "TREADLE_INSTANCE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
    if wanted.token_secret is not None:
        ref = {"secretKeyRef": {"name": wanted.token_secret, "key": "token"}}
        env.append({"name": "TREADLE_TOKEN", "valueFrom": ref})
    extended = {name: canonical(text) for name, text in wanted.resources.items()}
    cpu, memory = canonical(wanted.cpu), canonical(wanted.memory)
    if wanted.gpus:
        extended["nvidia.com/gpu"] = str(wanted.gpus)
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the container
    if wanted.captures:
        mounts.append({"name": CAPTURE_VOLUME, "mountPath": _CAPTURE})
    return {
        "name": CONTAINER,
        "image": wanted.image,
        "args": ["serve"],
        "env": env,
        "envFrom": [{"configMapRef": {"name": settings(wanted)["metadata"]["name"]}}],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": cpu, "memory": memory, **extended},
            "limits": {"memory": memory, **extended},
        },
        # Three questions: has it begun, may it be asked, does it live. None asks another service.
        "startupProbe": _probe(f"/v2/models/{wanted.project}/ready", period=1, failures=DEADLINE_S),
        "readinessProbe": _probe("/v2/health/ready", period=2, failures=2),
        "livenessProbe": _probe("/v2/health/live", period=10, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": HOLD_S}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures,
    }  # fmt: skip


def autoscaler(wanted: Wanted) -> dict[str, Any]:
    """Between least and most replicas, by CPU; held to a number while the number is a share."""
    behavior: dict[str, Any] = {}
    if wanted.scale_down_after_s is not None:
        window = {"stabilizationWindowSeconds": wanted.scale_down_after_s}
        behavior = {"behavior": {"scaleDown": window}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": meta(wanted),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": wanted.name},
            "minReplicas": wanted.pods or wanted.least,
            "maxReplicas": wanted.pods or wanted.most,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 80},
                    },
                }
            ],
            **behavior,
        },
    }


def budget(wanted: Wanted) -> dict[str, Any]:
    """A node may be drained: one pod at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta(wanted),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": label_selector(wanted)}},
    }
