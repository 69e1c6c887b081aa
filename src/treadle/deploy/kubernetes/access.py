"""What of a cluster must be allowed for an environment, and the Role that allows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from treadle.clients.kube import Access
from treadle.deploy.kubernetes import text
from treadle.deploy.kubernetes.model import CAPTURE_VOLUME

_APPLIED = ("get", "patch", "create", "delete")
"""Of every kind that is rendered; a server-side apply of what is new is both patch and create."""
_BESIDE = (
    # The look at an image before its roll-out, waiting for pods, and their last words.
    *(Access("v1/Pod", verb) for verb in ("get", "list", "patch", "create", "delete")),
    Access("v1/Pod", "get", "log"),
    Access("apps/v1/ReplicaSet", "list"),
    Access("networking.k8s.io/v1/NetworkPolicy", "list"),  # what a killed probe left
    # `treadle predict` asks through the API server.
    *(Access("v1/Service", verb, "proxy") for verb in ("get", "create")),
)
COLLECTS = frozenset(Access("v1/Pod", verb, "exec") for verb in ("get", "create"))
"""What pods captured is collected by commands in them: until Kubernetes 1.34 the API server asks for
`get` of a WebSocket, and from 1.35 on for `create` too."""


def needed(objects: Sequence[Mapping[str, Any]]) -> list[Access]:
    """All that applying, watching, asking and monitoring an environment takes, within its
    namespace."""
    kinds = {f"{one['apiVersion']}/{one['kind']}" for one in objects if one["kind"] != "Namespace"}
    applied = {Access(kind, verb) for kind in kinds for verb in _APPLIED}
    if any(kind.startswith("batch/") for kind in kinds):
        applied |= {Access("batch/v1/Job", verb) for verb in (*_APPLIED, "list")}
    if any(_captures(one) for one in objects):
        applied |= COLLECTS
    return sorted(applied.union(_BESIDE))


def _captures(one: Mapping[str, Any]) -> bool:
    """Whether pods of it have a volume for captured requests."""
    pod = ((one.get("spec") or {}).get("template") or {}).get("spec") or {}
    return any(volume.get("name") == CAPTURE_VOLUME for volume in pod.get("volumes") or [])


def words(missing: Iterable[Access]) -> str:
    """`ConfigMap, Deployment: create, patch; Pod/log: get`."""
    verbs: dict[str, list[str]] = {}
    for one in sorted(missing):
        name = one.kind.rpartition("/")[2] + (f"/{one.part}" if one.part else "")
        verbs.setdefault(name, []).append(one.verb)
    together: dict[str, list[str]] = {}
    for name, given in verbs.items():
        together.setdefault(", ".join(given), []).append(name)
    return "; ".join(f"{', '.join(names)}: {given}" for given, names in together.items())


def role(namespace: str, environment: str, allowed: Sequence[Access], who: str) -> str:
    """The Role that gives all of this, as YAML, bound to `who` where that is known.

    All, and not what is missing alone: whoever applies it twice takes nothing back.
    """
    name = f"treadle-{environment}".replace("_", "-").lower()
    verbs: dict[tuple[str, str], list[str]] = {}
    for one in allowed:
        version, _, kind = one.kind.rpartition("/")
        group = version.partition("/")[0] if "/" in version else ""
        resource = _plural(kind) + (f"/{one.part}" if one.part else "")
        verbs.setdefault((group, resource), []).append(one.verb)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), given in verbs.items():
        together.setdefault((group, tuple(sorted(given))), []).append(resource)
    rules = [
        {"apiGroups": [group], "resources": sorted(resources), "verbs": list(given)}
        for (group, given), resources in sorted(together.items())
    ]
    group = "rbac.authorization.k8s.io"
    meta = {"name": name, "namespace": namespace}
    objects = [{"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules}]
    if who:
        objects.append({
            "apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [_subject(who)],
        })  # fmt: skip
    return text.text(objects)


def _subject(who: str) -> dict[str, str]:
    if who.startswith("system:serviceaccount:") and who.count(":") == 3:
        _, _, namespace, name = who.split(":")
        return {"kind": "ServiceAccount", "namespace": namespace, "name": name}
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": who}


def _plural(kind: str) -> str:
    """As the kinds that are rendered are called in paths."""
    name = kind.lower()
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
