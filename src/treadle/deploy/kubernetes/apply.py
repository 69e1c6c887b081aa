"""Wanted objects → a cluster: what was created, configured, unchanged, pruned; and what would be.

An inventory of our own (a ConfigMap) names all that was applied, and is written before anything new
is: a command that is killed leaves nothing that the next one does not know. What is in the inventory,
carries our label and is not wanted any more is deleted; a namespace or a claim never, unless asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from treadle.base import crash
from treadle.base.errors import Refused
from treadle.base.log import Report, silent
from treadle.clients.kube import Cluster, Object
from treadle.deploy.kubernetes import scale

Action = Literal["created", "configured", "unchanged", "pruned", "kept"]
KEPT = frozenset({"v1/Namespace", "v1/PersistentVolumeClaim"})
"""Never deleted without being asked for: what is in them is somebody's."""
_LABEL = "app.kubernetes.io/managed-by"


@dataclass(frozen=True)
class Applied:
    """What became of one object."""

    object: str
    """`Deployment flights-production`"""
    action: Action
    fields: tuple[str, ...] = ()
    """What differs, of a difference."""


def apply(
    cluster: Cluster,
    objects: Sequence[Object],
    name: str,
    namespace: str,
    *,
    keep: bool = False,
    report: Report = silent,
) -> list[Applied]:
    """Have the objects, in their order, and nothing of before that is not among them; with `keep`,
    what is of before stays until `prune`: pods of before may still need it.

    `name` is the environment's, for its inventory. A Namespace that may not be touched is left as it
    is if it exists. Raises Conflict where somebody else manages a field: nothing is forced.
    """
    wanted = [identity(one) for one in objects]
    known = _inventory(cluster, name, namespace)
    adopted = _look_first(cluster, objects, known)
    ours = [key for key in wanted if key not in adopted]
    found: list[Applied] = []
    written = False
    for gone in _scalers_gone(known, wanted):
        # First: it and the number that is wanted now would undo each other.
        if _prune(cluster, gone):
            found.append(Applied(f"HorizontalPodAutoscaler {split(gone)[2]}", "pruned"))
            report(f"{found[-1].object} pruned")
    for one in objects:
        if one["kind"] != "Namespace" and not written:
            # Before anything new: a killed command leaves nothing unknown.
            _remember(cluster, name, namespace, sorted({*known, *ours}))
            written = True
        done = _one(cluster, one, objects, known)
        report(f"{done.object} {done.action}", detail=done.action == "unchanged")
        crash.point("kubernetes.applied")
        found.append(done)
    if not written:  # a namespace alone
        _remember(cluster, name, namespace, sorted({*known, *ours}))
    return found if keep else found + prune(cluster, objects, name, namespace, report=report)


def prune(
    cluster: Cluster,
    objects: Sequence[Object],
    name: str,
    namespace: str,
    *,
    report: Report = silent,
) -> list[Applied]:
    """Delete what the inventory has and is not among the objects."""
    wanted = [identity(one) for one in objects]
    known = _inventory(cluster, name, namespace)
    found, after = [], []
    for key in known:
        kind, _, own = split(key)
        if key in wanted or kind in KEPT:
            after.append(key)  # what is kept is remembered, so that it can go when everything goes
        elif _prune(cluster, key):
            found.append(Applied(f"{kind.rpartition('/')[2]} {own}", "pruned"))
            report(f"{found[-1].object} pruned")
    if known != after:
        _remember(cluster, name, namespace, after)
    return found


def _scalers_gone(known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    return [one for one in known if one not in wanted and split(one)[0] == scale.AUTOSCALER]


def _scaled(known: Sequence[str], one: Object) -> bool:
    """Whether an autoscaler of ours decided on a Deployment's number until now."""
    meta = one["metadata"]
    return f"{scale.AUTOSCALER} {meta.get('namespace') or ''}/{meta['name']}" in known


def _look_first(cluster: Cluster, objects: Sequence[Object], known: Sequence[str]) -> set[str]:
    """Raise what would stop an apply in its middle, before its beginning; gives what is there, is not
    ours, and stays so (a namespace).

    Refused: an object of this name is somebody else's. Conflict: so is one of its fields.
    """
    adopted = set()
    for one in objects:
        kind, namespace, name = split(identity(one))
        if one["kind"] == "Namespace":
            if identity(one) not in known and _seen(cluster, name):
                adopted.add(identity(one))
            continue
        if namespace is not None and not _seen(cluster, namespace):
            continue  # a new one: nothing is in it
        live = cluster.get(kind, namespace, name)
        if live is None:
            continue
        labels = live["metadata"].get("labels") or {}
        if identity(one) not in known and labels.get(_LABEL) != "treadle":
            raise Refused(
                f"{one['kind']} {name} is in {namespace} already, and is not Treadle's",
                hint="delete or rename it, or choose another namespace: in deploy:",
            )
        taken = scale.ours_to_take(one, live, scaled=_scaled(known, one))
        cluster.apply(scale.without(one) if taken else one, dry_run=True)
    return adopted


def _seen(cluster: Cluster, namespace: str) -> bool:
    """Whether a namespace is there; where we may not look, what is asked of it will tell."""
    try:
        return cluster.get("v1/Namespace", None, namespace) is not None
    except Refused:
        return True


def difference(
    cluster: Cluster, objects: Sequence[Object], name: str, namespace: str
) -> list[Applied]:
    """What `apply` would do, by a dry run of the server; nothing is written."""
    found = []
    fresh = not _seen(cluster, namespace)
    known = [] if fresh else _inventory(cluster, name, namespace)
    for one in objects:
        kind, place, own = split(identity(one))
        words = f"{one['kind']} {own}"
        if one["kind"] == "Namespace" and not fresh:
            found.append(Applied(words, "unchanged"))  # its labels may be others' to set
            continue
        live = None if fresh else cluster.get(kind, place, own)
        if live is None:
            found.append(Applied(words, "created"))
            continue
        taken = scale.ours_to_take(one, live, scaled=_scaled(known, one))
        after = cluster.apply(scale.without(one) if taken else one, dry_run=True)
        if taken or scale.autoscaled(one):  # given over from one to the other, see scale.py
            number = one["spec"].get("replicas", live["spec"].get("replicas", 1))
            after["spec"]["replicas"] = number
        fields = tuple(_differing(_bare(live), _bare(after)))
        found.append(Applied(words, "configured" if fields else "unchanged", fields))
    if not fresh:
        wanted = {identity(one) for one in objects}
        gone = [one for one in known if one not in wanted]
        found += [
            Applied(f"{split(one)[0].rpartition('/')[2]} {split(one)[2]}", "pruned")
            for one in gone
            if split(one)[0] not in KEPT
        ]
    return found


def remove(
    cluster: Cluster, name: str, namespace: str, *, everything: bool, report: Report = silent
) -> list[Applied]:
    """Delete all of an environment's objects; namespace and claims only with `everything`."""
    found = []
    known = _inventory(cluster, name, namespace)
    left = []
    # Namespaces last: with one goes all that is in it.
    for key in sorted(known, key=lambda one: split(one)[0] in KEPT):
        kind, _, own = split(key)
        words = f"{kind.rpartition('/')[2]} {own}"
        if kind in KEPT and not everything:
            found.append(Applied(words, "kept"))
            left.append(key)
            continue
        if _prune(cluster, key, everything=everything):
            found.append(Applied(words, "pruned"))
            report(f"{words} deleted")
    if left:
        _remember(cluster, name, namespace, left)  # for `--everything`, another day
    elif not any(key.startswith("v1/Namespace ") for key in known) or not everything:
        cluster.delete("v1/ConfigMap", namespace, f"{name}-inventory")
    return found


def identity(one: Mapping[str, Any]) -> str:
    """`apps/v1/Deployment NAMESPACE/NAME`; of a cluster's own object `v1/Namespace /NAME`."""
    meta = one["metadata"]
    return f"{one['apiVersion']}/{one['kind']} {meta.get('namespace') or ''}/{meta['name']}"


def split(key: str) -> tuple[str, str | None, str]:
    """Kind, namespace (None: of the cluster) and name of an identity."""
    kind, _, rest = key.partition(" ")
    namespace, _, name = rest.partition("/")
    return kind, namespace or None, name


# ---- how -----------------------------------------------------------------------------------------


def _one(
    cluster: Cluster, wanted: Object, objects: Sequence[Object], known: Sequence[str]
) -> Applied:
    kind, namespace, name = split(identity(wanted))
    words = f"{wanted['kind']} {name}"
    try:
        before = cluster.get(kind, namespace, name)
        if wanted["kind"] == "Deployment":
            after = scale.apply(
                cluster, wanted, before, least=scale.least_of(objects, name),
                scaled=_scaled(known, wanted),
            )  # fmt: skip
        else:
            after = cluster.apply(wanted)
    except Refused:
        if kind == "v1/Namespace" and _seen(cluster, name):
            return Applied(words, "kept")  # it is there, and somebody else's to look at or label
        raise
    if before is None:
        return Applied(words, "created")
    same = before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion")
    return Applied(words, "unchanged" if same else "configured")


def _prune(cluster: Cluster, key: str, *, everything: bool = False) -> bool:
    kind, namespace, name = split(key)
    if kind in KEPT and not everything:
        return False
    live = cluster.get(kind, namespace, name)
    if live is None or (live["metadata"].get("labels") or {}).get(_LABEL) != "treadle":
        return False  # not ours any more
    return cluster.delete(kind, namespace, name)


def _inventory(cluster: Cluster, name: str, namespace: str) -> list[str]:
    found = cluster.get("v1/ConfigMap", namespace, f"{name}-inventory")
    return [] if found is None else list(json.loads((found.get("data") or {}).get("objects", "[]")))


def _remember(cluster: Cluster, name: str, namespace: str, keys: Sequence[str]) -> None:
    cluster.apply({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{name}-inventory", "namespace": namespace,
            "labels": {_LABEL: "treadle", "app.kubernetes.io/instance": name},
        },
        "data": {"objects": json.dumps(list(keys), indent=1)},
    })  # fmt: skip


def _bare(one: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the server keeps for itself."""
    kept = {name: value for name, value in one.items() if name != "status"}
    own = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
    kept["metadata"] = {n: v for n, v in one["metadata"].items() if n not in own}
    return kept


def _differing(before: Any, after: Any, path: str = "") -> list[str]:
    """Fields whose values differ, with both, by their paths."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found = []
        for name in sorted(before.keys() | after.keys()):
            below = f"{path}.{name}".lstrip(".")
            found += _differing(before.get(name), after.get(name), below)
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        found = []
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            found += _differing(old, new, f"{path}[{number}]")
        return found
    return [] if before == after else [f"{path}: {_shown(before)} → {_shown(after)}"]


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"
