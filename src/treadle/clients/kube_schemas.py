"""Kubernetes' published OpenAPI schemas, offline, from the package kubernetes-validate."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.base.errors import MissingExtra

VERSION = "1.34"
"""Judged by this Kubernetes where nothing else is said."""


@dataclass(frozen=True)
class Problem:
    """One place where an object is not what its schema says."""

    path: tuple[str | int, ...]
    kind: str
    """unknown, type, required, enum, other."""
    names: tuple[str, ...]
    """unknown: the fields that there are not; required: those that lack; type: the types wanted."""
    known: tuple[str, ...]
    """unknown: the fields that there are."""
    words: str


def versions() -> list[str]:
    """Versions of Kubernetes that there are schemas of."""
    found = {path.name[1:].partition(".0-")[0] for path in _root().glob("v*-local-strict")}
    return sorted(found, key=lambda one: [int(part) for part in one.split(".")])


def available(version: str) -> bool:
    """Whether there are schemas of that version."""
    return version in versions()


@functools.cache
def _root() -> Path:
    try:
        import kubernetes_validate
    except ImportError:
        raise MissingExtra(
            "kubernetes-validate", "kubernetes", "checking Kubernetes objects"
        ) from None
    return Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


def _folder(version: str) -> Path:
    return _root() / f"v{version}.0-local-strict"


@functools.cache
def _definitions(version: str) -> Any:
    return json.loads((_folder(version) / "_definitions.json").read_text(encoding="utf-8"))


def api_versions(kind: str, version: str = VERSION) -> list[str]:
    """The apiVersions under which there is such a kind, the stable ones first; none if it is not
    Kubernetes' own."""
    found = []
    for path in _folder(version).glob(f"{kind.lower()}-*.json"):
        schema = json.loads(path.read_text(encoding="utf-8"))
        for told in schema.get("x-kubernetes-group-version-kind") or []:
            if told["kind"] == kind:
                group = f"{told['group']}/" if told.get("group") else ""
                found.append(f"{group}{told['version']}")
    return sorted(set(found), key=lambda one: ("alpha" in one or "beta" in one, one))


@functools.cache
def kinds(version: str = VERSION) -> frozenset[str]:
    """Every kind by its file's name, in lower case."""
    return frozenset(path.name.partition("-")[0] for path in _folder(version).glob("*-*.json"))


def problems(document: dict[str, Any], version: str = VERSION) -> Iterator[Problem] | None:
    """What the schema of the document's kind finds wrong; None if there is no such schema."""
    short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", str(document.get("apiVersion")))
    path = _folder(version) / f"{str(document.get('kind')).lower()}-{short}.json"
    if not path.is_file():
        return None
    import jsonschema
    from referencing import Registry, Resource

    schema = json.loads(path.read_text(encoding="utf-8"))
    registry: Any = Registry()
    for one in (schema, _definitions(version)):
        registry = Resource.from_contents(one) @ registry
    validator = jsonschema.Draft202012Validator(schema, registry=registry)
    return (_problem(error) for error in validator.iter_errors(document))


def _problem(error: Any) -> Problem:
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = tuple(sorted(error.schema.get("properties") or {}))
        names = tuple(name for name in error.instance if name not in known)
        return Problem(path, "unknown", names, known, error.message)
    if error.validator == "required":
        names = tuple(name for name in error.validator_value if name not in error.instance)
        return Problem(path, "required", names, (), error.message)
    if error.validator == "type":
        wanted = error.validator_value
        names = tuple([wanted] if isinstance(wanted, str) else wanted)
        return Problem(path, "type", tuple(n for n in names if n != "null"), (), error.message)
    if error.validator == "enum":
        return Problem(path, "enum", tuple(map(str, error.validator_value)), (), error.message)
    return Problem(path, "other", (), (), str(error.message)[:200])
