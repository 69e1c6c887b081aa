"""One object of Kubernetes as it stands in a file, and where its parts are: pods, containers, labels.

Nothing here judges. What is not of the shape that it should be is passed over: the schema says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from treadle.plan.tree import Node

WORKLOADS = frozenset(
    {
        "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job",
        "CronJob",
    }
)  # fmt: skip
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """One object of a file."""

    file: str
    text: str
    """Of the whole file."""
    root: Node
    plain: Any

    @property
    def kind(self) -> str:
        """`Deployment`; empty if it says none."""
        found = self.plain.get("kind") if isinstance(self.plain, dict) else None
        return found if isinstance(found, str) else ""

    @property
    def name(self) -> str:
        """`None` where it has none."""
        return str(mapping(mapping(self.plain).get("metadata")).get("name"))

    @property
    def space(self) -> str:
        """Its namespace; `default` where it names none."""
        return str(mapping(mapping(self.plain).get("metadata")).get("namespace") or "default")

    @property
    def spec(self) -> dict[Any, Any]:
        """`spec`, or an empty one."""
        return mapping(mapping(self.plain).get("spec"))

    def node(self, path: Path) -> Node:
        """The node at a path, or the nearest above that there is."""
        found = self.root
        for step in path:
            below = found.get(step)
            if below is None:
                return found
            found = below
        return found


@dataclass(frozen=True)
class Said:
    """What a rule finds in a document."""

    path: Path
    words: str
    hint: str = ""
    key: bool = False
    """Whether the key is shown and not the value."""
    warning: bool = False
    """Whether it may well be meant."""


@dataclass(frozen=True)
class Pods:
    """The pods that a document makes."""

    path: Path
    """Of their spec."""
    spec: dict[Any, Any]
    labels: dict[Any, Any]
    claims: tuple[Any, ...] = ()
    """Names of a StatefulSet's claims: they are volumes too."""


def mapping(value: Any) -> dict[Any, Any]:
    """The value, or an empty mapping where it is none."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """The value, or an empty list where it is none."""
    return value if isinstance(value, list) else []


def items(path: Path, value: Any) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """Each mapping of a list, with its path."""
    for number, one in enumerate(sequence(value)):
        if isinstance(one, dict):
            yield (*path, number), one


def template_path(kind: str) -> Path:
    """Where a kind has the template of its pods: of a Pod, itself."""
    if kind == "CronJob":
        return ("spec", "jobTemplate", "spec", "template")
    return () if kind == "Pod" else ("spec", "template")


def pods(document: Document) -> Pods | None:
    """The pods that the document makes, if it makes any."""
    if document.kind != "Pod" and document.kind not in WORKLOADS:
        return None
    path = template_path(document.kind)
    found: Any = document.plain
    for step in path:
        found = mapping(found).get(step)
    if not isinstance(found, dict):
        return None
    claims = tuple(
        mapping(one.get("metadata")).get("name")
        for _, one in items((), document.spec.get("volumeClaimTemplates"))
    )
    labels = mapping(mapping(found.get("metadata")).get("labels"))
    return Pods((*path, "spec"), mapping(found.get("spec")), labels, claims)


def containers(found: Pods) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """Every container with its path."""
    for word in ("containers", "initContainers"):
        yield from items((*found.path, word), found.spec.get(word))


def selects(selector: Any, labels: Mapping[Any, Any]) -> bool:
    """Whether a label selector (`matchLabels` and `matchExpressions`) takes these labels."""
    selector = mapping(selector)
    if any(labels.get(n) != v for n, v in mapping(selector.get("matchLabels")).items()):
        return False
    return all(holds(one, labels) for _, one in items((), selector.get("matchExpressions")))


def holds(expression: Mapping[Any, Any], labels: Mapping[Any, Any]) -> bool:
    """Whether one expression takes these labels; one that is not understood does."""
    key, operator = expression.get("key"), expression.get("operator")
    if not isinstance(key, str):
        return True
    values = sequence(expression.get("values"))
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return labels.get(key) not in values
    if operator == "Exists":
        return key in labels
    return not (operator == "DoesNotExist" and key in labels)


def shown(labels: Mapping[Any, Any]) -> str:
    """`app: web, tier: front`, or `none`."""
    return ", ".join(f"{name}: {value}" for name, value in labels.items()) or "none"
