"""A release and its environment as Kubernetes objects: plain dicts, a pure function of its arguments.

The same arguments give the same bytes on any machine (`text`). Every object can be read and applied
by hand; there is no operator and no custom resource. Quantities are written as the API server writes
them, so that nobody is said to have changed them.

Source: the checklist of the field notes on Kubernetes (restricted pods, three probes, drain, digests,
labels, budgets, default-deny policies); Kubernetes 1.30 and later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle.base.digest import digest
from treadle.base.errors import UsageError

MANAGER = "treadle"
PORT = 8080
HOLD_S = 5
"""How long a pod goes on as before after it is told to end: until no proxy sends it anybody new."""
LINGER_S = 5
"""Then it says `Connection: close` for so long, until every client has gone elsewhere."""
REQUEST_S = 30
GRACE_S = HOLD_S + LINGER_S + REQUEST_S + 10
DEADLINE_S = 300
"""A roll-out that makes no progress for so long has failed."""
_USER = 65532
_TAKEN = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""What some reader of YAML takes for no text."""


@dataclass(frozen=True)
class Wanted:
    """What of an environment and a release becomes objects."""

    project: str
    environment: str
    namespace: str
    image: str
    """By digest."""
    image_digest: str
    release: int
    content: str
    """Digest of the model directory."""
    run: str = ""
    least: int = 2
    most: int | None = None
    """With a most, a HorizontalPodAutoscaler decides between; without, `least` is the number."""
    workers: int = 1
    cpu: str = "250m"
    memory: str = "512Mi"
    gpus: int = 0
    resources: dict[str, str] = field(default_factory=dict)
    """Extended resources: name → quantity."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, str], ...] = ()
    pull_secrets: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    token_secret: str | None = None
    """A Secret whose key `token` is the bearer token."""
    trust_pickle: bool = False

    @property
    def name(self) -> str:
        """Of every object: the project and the environment."""
        whole = f"{self.project}-{self.environment}".replace("_", "-").lower().strip("-")
        if len(whole) <= 50:
            return whole
        # Cut, two environments of a project with a long name would be one.
        return f"{whole[:41].strip('-')}-{digest(whole)[7:15]}"


def replicas(text: int | str) -> tuple[int, int | None]:
    """`2` is a number, `2..8` a range. UsageError for anything else."""
    if isinstance(text, int):
        least, most = text, None
    else:
        left, dots, right = text.partition("..")
        if not left.isdigit() or (dots and not right.isdigit()):
            raise UsageError(f"replicas are a number or a range such as 2..8, not {text!r}")
        least, most = int(left), int(right) if dots else None
    if least < 1 or (most is not None and most <= least):
        raise UsageError(f"replicas are from 1 on, and a range grows: {text}")
    return least, most


def render(wanted: Wanted, *, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The objects in the order in which they are applied.

    `kinds` are custom kinds that the cluster knows: a ServiceMonitor is made only where there is
    such a thing (`left_out` says so otherwise).
    """
    found = [
        _namespace(wanted),
        _account(wanted),
        _deny_all(wanted),
        _allow(wanted),
        _settings(wanted),
        _service(wanted),
        _deployment(wanted),
    ]
    if wanted.most is not None:
        found.append(_autoscaler(wanted))
        found.append(_budget(wanted))
    if "ServiceMonitor" in kinds:
        found.append(_monitor(wanted))
    return found


def left_out(kinds: Sequence[str]) -> list[str]:
    """What is not made, and why, in words."""
    if "ServiceMonitor" in kinds:
        return []
    return [
        "no ServiceMonitor: the cluster has no such kind (Prometheus Operator is not installed)"
    ]


def text(objects: Sequence[Mapping[str, Any]]) -> str:
    """The objects as YAML of which JSON is a part: a document each, keys sorted, the same anywhere."""
    return "".join("---\n" + _yaml(one) for one in objects)


def label_selector(wanted: Wanted) -> dict[str, str]:
    """What never changes for one environment: selectors cannot be changed later."""
    return {"app.kubernetes.io/name": wanted.project, "app.kubernetes.io/instance": wanted.name}


def labels(wanted: Wanted, component: str = "model") -> dict[str, str]:
    """On everything, so that everything can be found and pruned."""
    return {
        **wanted.labels,
        **label_selector(wanted),
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": wanted.project,
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/version": str(wanted.release),
    }


# ---- the objects ---------------------------------------------------------------------------------


def _meta(wanted: Wanted, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": name or wanted.name, "namespace": wanted.namespace, "labels": labels(wanted), **more,
    }  # fmt: skip


def _namespace(wanted: Wanted) -> dict[str, Any]:
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


def _account(wanted: Wanted) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _meta(wanted),
        "automountServiceAccountToken": False,
    }


def _deny_all(wanted: Wanted) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(wanted, f"{wanted.name}-deny"),
        "spec": {
            "podSelector": {"matchLabels": label_selector(wanted)},
            "policyTypes": ["Ingress", "Egress"],
        },
    }


def _allow(wanted: Wanted) -> dict[str, Any]:
    """Who may ask: pods that say so by a label, in any namespace. The model asks DNS alone."""
    caller = {"matchLabels": {f"{MANAGER}.dev/calls-{wanted.name}": "yes"}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(wanted, f"{wanted.name}-allow"),
        "spec": {
            "podSelector": {"matchLabels": label_selector(wanted)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [{"namespaceSelector": {}, "podSelector": caller}],
                    "ports": [{"port": PORT, "protocol": "TCP"}],
                }
            ],
            "egress": [
                {
                    "to": [
                        {
                            "namespaceSelector": {
                                "matchLabels": {"kubernetes.io/metadata.name": "kube-system"}
                            }
                        }
                    ],
                    "ports": [
                        {"port": 53, "protocol": "UDP"},
                        {"port": 53, "protocol": "TCP"},
                    ],
                }
            ],
        },
    }


def _settings(wanted: Wanted) -> dict[str, Any]:
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
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        # A name by content: a roll-back of the Deployment finds the settings it had.
        "metadata": _meta(wanted, f"{wanted.name}-{digest(told)[7:15]}"),
        "data": dict(sorted(told.items())),
        "immutable": True,
    }


def _service(wanted: Wanted) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(wanted),
        "spec": {
            "type": "ClusterIP",
            "selector": label_selector(wanted),
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def _deployment(wanted: Wanted) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": {"matchLabels": label_selector(wanted)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "progressDeadlineSeconds": DEADLINE_S,
        "revisionHistoryLimit": 3,
        "template": {"metadata": {"labels": labels(wanted)}, "spec": _pod(wanted)},
    }
    if wanted.most is None:
        spec["replicas"] = wanted.least
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _meta(wanted), "spec": spec}


def _pod(wanted: Wanted) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "serviceAccountName": wanted.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(wanted)],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}],
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


def _container(wanted: Wanted) -> dict[str, Any]:
    # The pod's name is the instance, and so a part of every prediction id.
    env: list[dict[str, Any]] = [
        {"name": "TREADLE_INSTANCE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
    if wanted.token_secret is not None:
        ref = {"secretKeyRef": {"name": wanted.token_secret, "key": "token"}}
        env.append({"name": "TREADLE_TOKEN", "valueFrom": ref})
    extended = dict(wanted.resources)
    if wanted.gpus:
        extended["nvidia.com/gpu"] = str(wanted.gpus)
    return {
        "name": "model",
        "image": wanted.image,
        "args": ["serve"],
        "env": env,
        "envFrom": [{"configMapRef": {"name": _settings(wanted)["metadata"]["name"]}}],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": wanted.cpu, "memory": wanted.memory, **extended},
            "limits": {"memory": wanted.memory, **extended},
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
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the container
    }


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures,
    }  # fmt: skip


def _autoscaler(wanted: Wanted) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _meta(wanted),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": wanted.name},
            "minReplicas": wanted.least,
            "maxReplicas": wanted.most,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 80},
                    },
                }
            ],
        },
    }


def _budget(wanted: Wanted) -> dict[str, Any]:
    """A node may be drained: one pod at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta(wanted),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": label_selector(wanted)}},
    }


def _monitor(wanted: Wanted) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": _meta(wanted),
        "spec": {
            "selector": {"matchLabels": label_selector(wanted)},
            "endpoints": [{"port": "http", "path": "/metrics"}],
        },
    }


# ---- YAML ----------------------------------------------------------------------------------------


def _yaml(value: Any, indent: int = 0) -> str:
    """Block style with every text quoted where it could be read as something else."""
    pad = "  " * indent
    lines = []
    for key in sorted(value):
        item = value[key]
        if isinstance(item, Mapping) and item:
            lines.append(f"{pad}{_word(key)}:\n{_yaml(item, indent + 1)}")
        elif isinstance(item, list | tuple) and item:
            lines.append(f"{pad}{_word(key)}:\n" + "".join(_item(one, indent) for one in item))
        else:
            lines.append(f"{pad}{_word(key)}: {_scalar(item)}\n")
    return "".join(lines)


def _item(value: Any, indent: int) -> str:
    pad = "  " * indent
    if isinstance(value, Mapping) and value:
        block = _yaml(value, indent + 1)
        return f"{pad}- {block[len(pad) + 2 :]}"
    if isinstance(value, list | tuple):
        return f"{pad}- {_quoted(value)}\n"
    return f"{pad}- {_scalar(value)}\n"


def _word(key: str) -> str:
    """A key as it is where nobody could read it as something else, as `no` or `1e3`."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z]*", key) and key.lower() not in _TAKEN
    return key if plain else _quoted(key)


def _scalar(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    # JSON's scalars are YAML's; a text in quotes is never taken for a number, a date or a boolean.
    return _quoted(value)


def _quoted(value: Any) -> str:
    """JSON, with the characters escaped that YAML would take for the end of a line."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda m: f"\\u{ord(m[0]):04x}", text)
