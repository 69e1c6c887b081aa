"""What objects of Kubernetes say of each other: selectors, claims, targets, backends.

Files are often a part of what a cluster has. So something is only missed where others of its kind are
among the files: a Service alone may have its pods anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from treadle.plan.lint_objects import (
    Document,
    Pods,
    Said,
    containers,
    items,
    mapping,
    pods,
    selects,
    shown,
)
from treadle.plan.lint_objects import Path as Place
from treadle.plan.mistakes import did_you_mean, listed

Found = Iterator[tuple[Document, Said]]


def look(documents: Sequence[Document]) -> Found:
    """What refers to nothing, and what nothing refers to."""
    made = [(one, found) for one in documents if (found := pods(one)) is not None and found.spec]
    yield from _claims(documents, made)
    for document in documents:
        if not isinstance(document.plain, dict):
            continue
        if document.kind == "Service":
            yield from _service(document, made)
        elif document.kind == "PodDisruptionBudget":
            yield from _selected(document, ("spec", "selector"), made)
        elif document.kind == "NetworkPolicy":
            yield from _selected(document, ("spec", "podSelector"), made)
        elif document.kind == "HorizontalPodAutoscaler":
            yield from _target(document, documents)
        elif document.kind == "Ingress":
            yield from _backends(document, documents)


def _claims(documents: Sequence[Document], made: Sequence[tuple[Document, Pods]]) -> Found:
    claims = {(d.space, d.name): d for d in documents if d.kind == "PersistentVolumeClaim"}
    used = set()
    for document, found in made:
        for path, name in _claim_uses(found):
            used.add((document.space, name))
            if claims and (document.space, name) not in claims:
                there = listed([str(one) for _, one in claims], "and")
                words = f"there is no claim `{name}` in these files"
                yield document, Said(path, words, f"there is {there}")
    for key, document in claims.items():
        if made and key not in used:
            hint = f"volumes: [{{name: data, persistentVolumeClaim: {{claimName: {key[1]}}}}}]"
            words = f"no pod uses the claim `{key[1]}`"
            yield document, Said(("metadata", "name"), words, hint)


def _claim_uses(found: Pods) -> Iterator[tuple[Place, str]]:
    for path, volume in items((*found.path, "volumes"), found.spec.get("volumes")):
        name = mapping(volume.get("persistentVolumeClaim")).get("claimName")
        if isinstance(name, str):
            yield (*path, "persistentVolumeClaim", "claimName"), name


def _service(document: Document, made: Sequence[tuple[Document, Pods]]) -> Found:
    selector = mapping(document.spec.get("selector"))
    if not selector or not made:
        return
    near = [found for one, found in made if one.space == document.space]
    chosen = [found for found in near if selector.items() <= found.labels.items()]
    if not chosen:
        words = "the selector matches no pod of these files"
        yield document, Said(("spec", "selector"), words, _there(near), key=True)
        return
    names = [
        str(port["name"])
        for found in chosen
        for _, container in containers(found)
        for _, port in items((), container.get("ports"))
        if isinstance(port.get("name"), str)
    ]
    for path, port in items(("spec", "ports"), document.spec.get("ports")):
        target = port.get("targetPort")
        if isinstance(target, str) and not target.isdigit() and target not in names:
            hint = did_you_mean(target, names) or (
                f"there is {listed(dict.fromkeys(names), 'and')}" if names
                else "name the container's port, or write its number here"
            )  # fmt: skip
            words = f"no port of the selected pods is named `{target}`"
            yield document, Said((*path, "targetPort"), words, hint)


def _selected(document: Document, path: Place, made: Sequence[tuple[Document, Pods]]) -> Found:
    """A selector that takes no pod, though its namespace has pods among the files."""
    selector = mapping(document.spec.get(path[-1]))
    near = [found for one, found in made if one.space == document.space]
    if not near or not (selector.get("matchLabels") or selector.get("matchExpressions")):
        return  # an empty one takes all
    if not any(selects(selector, found.labels) for found in near):
        words = "the selector matches no pod of these files"
        yield document, Said(path, words, _there(near), key=True)


def _there(near: Sequence[Pods]) -> str:
    return f"their labels are {'; '.join(shown(found.labels) for found in near) or 'none'}"


def _target(document: Document, documents: Sequence[Document]) -> Found:
    target = mapping(document.spec.get("scaleTargetRef"))
    kind, name = target.get("kind"), target.get("name")
    if not isinstance(kind, str) or not isinstance(name, str):
        return
    there = [one for one in documents if one.kind == kind]
    if not there or any((one.space, one.name) == (document.space, name) for one in there):
        return
    yield document, Said(
        ("spec", "scaleTargetRef", "name"), f"there is no {kind} `{name}` in these files",
        _named(name, document, there),
    )  # fmt: skip


def _backends(document: Document, documents: Sequence[Document]) -> Found:
    services = [one for one in documents if one.kind == "Service"]
    for path, backend in _backend_places(document):
        service = mapping(backend.get("service"))
        name = service.get("name")
        if not isinstance(name, str) or not services:
            continue
        found = [one for one in services if (one.space, one.name) == (document.space, name)]
        if not found:
            words = f"there is no Service `{name}` in these files"
            hint = _named(name, document, services)
            yield document, Said((*path, "service", "name"), words, hint)
            continue
        port = mapping(service.get("port"))
        ports = [one for _, one in items((), found[0].spec.get("ports"))]
        for word, own in (("number", "port"), ("name", "name")):
            wanted: Any = port.get(word)
            if wanted is None or any(one.get(own) == wanted for one in ports):
                continue
            there = listed([str(one.get(own)) for one in ports], "and")
            words = f"the Service `{name}` has no port {wanted}"
            yield document, Said((*path, "service", "port", word), words, f"there is {there}")


def _backend_places(document: Document) -> Iterator[tuple[Place, dict[Any, Any]]]:
    default = mapping(document.spec.get("defaultBackend"))
    yield ("spec", "defaultBackend"), default
    for path, rule in items(("spec", "rules"), document.spec.get("rules")):
        for place, one in items((*path, "http", "paths"), mapping(rule.get("http")).get("paths")):
            yield (*place, "backend"), mapping(one.get("backend"))


def _named(name: str, document: Document, there: Sequence[Document]) -> str:
    near = [one.name for one in there if one.space == document.space]
    if not near:
        places = listed(sorted({one.space for one in there}), "and")
        return f"those that there are are in the namespace {places}"
    return did_you_mean(name, near) or f"there is {listed(near, 'and')}"
