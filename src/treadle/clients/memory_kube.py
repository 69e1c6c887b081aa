"""The twin of a cluster in memory: server-side apply with its owners of fields, and nothing runs.

What matters of the real one's semantics: fields are owned by who applied them; a field that is no
longer applied goes away; a foreign owner is a conflict; what changes nothing changes no version; a
dry run changes nothing.
"""

from __future__ import annotations

import builtins
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from treadle.base.errors import Refused, TreadleError
from treadle.clients.kube import MANAGER, PATIENCE_S, Access, Conflict, Object

Program = Callable[[Sequence[str]], tuple[int, bytes, bytes]]
"""A command → its exit code, standard output and standard error."""
_GLOBAL = frozenset({"v1/Namespace"})
_ATOMIC = frozenset({"data", "command", "args"})


class MemoryCluster:
    """Objects by kind, namespace and name."""

    def __init__(self, grow: Callable[[MemoryCluster, Object], None] | None = None) -> None:
        """`grow` is called with each object that was changed: a test's controller."""
        self.objects: dict[tuple[str, str | None, str], Object] = {}
        self.log: dict[str, builtins.list[str]] = {}
        self.forbidden: set[tuple[str, str]] = set()
        """(verb, kind) that we may not; of a part of a kind: `v1/Pod/log`."""
        self.custom: set[str] = set()
        """Kinds beside Kubernetes' own."""
        self.programs: dict[str, Program] = {}
        """What runs in a container of a pod, by the pod's name."""
        self._owners: dict[tuple[str, str | None, str], dict[str, set[str]]] = {}
        """Object → manager → paths of the fields that it applied."""
        self._versions = itertools.count(1)
        self._grow = grow

    # ---- objects ----

    def apply(
        self, wanted: Object, *, dry_run: bool = False, manager: str = MANAGER, force: bool = False
    ) -> Object:
        """See Cluster."""
        kind = f"{wanted['apiVersion']}/{wanted['kind']}"
        meta = wanted["metadata"]
        namespace = None if kind in _GLOBAL else meta.get("namespace")
        key = (kind, namespace, meta["name"])
        if ("patch", kind) in self.forbidden:
            raise Refused(f"not allowed: cannot patch {kind} in the namespace {namespace}")
        if namespace is not None and ("v1/Namespace", None, namespace) not in self.objects:
            raise Refused(f"the cluster does not take {meta['name']}: no namespace {namespace}")
        paths = set(_leaves(wanted))
        owners = self._owners.get(key, {})
        live = self.objects.get(key)
        clashes = [
            f"{path}: managed by {other}"
            for other, held in owners.items()
            if other != manager
            for path in sorted(paths & held)
            if _at(live, path) != _at(wanted, path)
        ]
        if clashes and not force:
            raise Conflict(
                f"{wanted['kind']} {meta['name']} has fields that somebody else manages:\n  "
                + "\n  ".join(clashes)
            )
        after = copy.deepcopy(live) if live is not None else {"metadata": {}}
        elsewhere = set().union(*(held for other, held in owners.items() if other != manager))
        for gone in owners.get(manager, set()) - paths - elsewhere:
            _drop(after, gone)
        for path in paths:
            _put(after, path, _at(wanted, path))
        changed = live is None or _bare(after) != _bare(live)
        if changed:
            after["metadata"]["resourceVersion"] = str(next(self._versions))
            if live is None or after.get("spec") != live.get("spec"):
                after["metadata"]["generation"] = after["metadata"].get("generation", 0) + 1
        if dry_run:
            return copy.deepcopy(after)
        self.objects[key] = after
        owners = self._owners.setdefault(key, {})
        for other, held in owners.items():
            if other != manager:
                held -= {path for path in paths & held if _at(live, path) != _at(wanted, path)}
        owners[manager] = paths
        after["metadata"]["managedFields"] = [
            {"manager": name, "operation": "Apply", "fieldsV1": _fields(held)}
            for name, held in sorted(owners.items())
        ]
        if changed and self._grow is not None:
            self._grow(self, after)
        return copy.deepcopy(after)

    def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """See Cluster."""
        found = self.objects.get((kind, None if kind in _GLOBAL else namespace, name))
        return copy.deepcopy(found)

    def list(
        self, kind: str, namespace: str | None, labels: Mapping[str, str]
    ) -> builtins.list[Object]:
        """See Cluster."""
        return [
            copy.deepcopy(one)
            for (own, place, _), one in sorted(self.objects.items(), key=lambda item: str(item[0]))
            if own == kind
            and namespace in (None, place)
            and labels.items() <= (one["metadata"].get("labels") or {}).items()
        ]

    def delete(self, kind: str, namespace: str | None, name: str) -> bool:
        """See Cluster."""
        key = (kind, None if kind in _GLOBAL else namespace, name)
        self._owners.pop(key, None)
        gone = self.objects.pop(key, None) is not None
        if gone and kind == "v1/Namespace":
            for other in [one for one in self.objects if one[1] == name]:
                del self.objects[other]
        return gone

    # ---- the cluster ----

    def kinds(self) -> set[str]:
        """See Cluster."""
        return {"Deployment", "Service", "ConfigMap", "Namespace"} | self.custom

    def version(self) -> tuple[int, int]:
        """See Cluster."""
        return 1, 34

    def build(self) -> str:
        """See Cluster."""
        return "v1.34.0"

    def logs(
        self, namespace: str, pod: str, lines: int, *, previous: bool = False, container: str = ""
    ) -> builtins.list[str]:
        """See Cluster."""
        del namespace, previous, container
        return self.log.get(pod, [])[-lines:]

    def execute(
        self,
        namespace: str,
        pod: str,
        command: Sequence[str],
        *,
        container: str,
        patience_s: float = PATIENCE_S,
    ) -> Iterator[bytes]:
        """See Cluster. The pod's program is asked what the command says."""
        del patience_s  # it begins at once
        if ("create", "v1/Pod/exec") in self.forbidden:
            raise Refused(f"not allowed: cannot create resource pods/exec in {namespace}")
        found = self.objects.get(("v1/Pod", namespace, pod))
        if found is None or pod not in self.programs:
            raise TreadleError(f'pods "{pod}" not found')
        names = [one.get("name") for one in (found.get("spec") or {}).get("containers", [])]
        if container not in names:
            raise Refused(f"container {container} is not valid for pod {pod}")
        code, output, errors = self.programs[pod](command)
        yield from (output[at : at + 4096] for at in range(0, len(output), 4096))
        if code:
            said = errors.decode("utf-8", "replace").strip()
            raise Refused(f"{' '.join(command[:5])} in {pod} ended with {code}: {said}")

    def follow(
        self, namespace: str, pod: str, lines: int, *, since: str = "", container: str = ""
    ) -> Iterator[tuple[str, str]]:
        """See Cluster. A line's moment is its number; the end is when the pod is gone or ended."""
        del container
        told = 0 if since else max(0, len(self.log.get(pod, [])) - lines)
        while True:
            # Looked at before the lines are: what an ending pod says last is not missed.
            live = self.objects.get(("v1/Pod", namespace, pod))
            phase = ((live or {}).get("status") or {}).get("phase")
            for number, line in enumerate(self.log.get(pod, [])[told:], told):
                if f"{number:09d}" >= since:
                    yield f"{number:09d}", line
                told = number + 1
            if live is None or phase in ("Succeeded", "Failed"):
                return
            time.sleep(0.02)

    def may(self, verb: str, kind: str, namespace: str | None) -> bool:
        """See Cluster."""
        del namespace
        return (verb, kind) not in self.forbidden

    def allowed(self, asked: Iterable[Access], namespace: str) -> set[Access]:
        """See Cluster."""
        del namespace
        return {
            one
            for one in asked
            if (one.verb, f"{one.kind}/{one.part}".rstrip("/")) not in self.forbidden
        }

    def who(self) -> str:
        """See Cluster."""
        return "twin"

    def ask(
        self, namespace: str, service: str, port: str, path: str, body: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        """See Cluster. Nothing runs here."""
        del namespace, port, path, body
        return 503, {}, json.dumps({"message": f"nothing runs behind {service}"}).encode()


def _leaves(value: Any, path: str = "") -> builtins.list[str]:
    """Paths of an object's fields; lists and maps of texts count as one."""
    if isinstance(value, Mapping) and value and path.rpartition("\0")[2] not in _ATOMIC:
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{path}\0{key}")]
    return [path]


def _fields(paths: set[str]) -> Object:
    """Paths as the server writes them: nested, each name with `f:` before it."""
    found: Object = {}
    for path in paths:
        below = found
        for step in path.split("\0")[1:]:
            below = below.setdefault(f"f:{step}", {})
    return found


def _at(value: Any, path: str) -> Any:
    for step in path.split("\0")[1:]:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _put(target: Object, path: str, value: Any) -> None:
    *steps, last = path.split("\0")[1:]
    for step in steps:
        target = target.setdefault(step, {})
    target[last] = copy.deepcopy(value)


def _drop(target: Object, path: str) -> None:
    *steps, last = path.split("\0")[1:]
    for step in steps:
        target = target.get(step) or {}
    target.pop(last, None)


def _bare(one: Object) -> Object:
    own = ("resourceVersion", "generation", "managedFields")
    meta = {n: v for n, v in one["metadata"].items() if n not in own}
    return {**{n: v for n, v in one.items() if n != "status"}, "metadata": meta}
