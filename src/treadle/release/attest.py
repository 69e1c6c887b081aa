"""What is said about an image beside it: what is in it, where it came from, which release it is.

Three documents, attached to the image by digest: a CycloneDX bill of materials with the model as a
machine-learning component, provenance in the shape of SLSA, and which release and run it was first
built for. The first two depend on content alone, so they are equal wherever they are made; the third
is what may differ from turn to turn, which is why it is not in the image.

CycloneDX is written by hand: a dictionary of sixty lines, while importing its library would take a
third of the time that a whole push may take. A test validates it with that library.

Source: CycloneDX 1.6; in-toto statement v1; SLSA provenance v1.
"""

from __future__ import annotations

import json
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle import __version__
from treadle.base.digest import digest
from treadle.base.image import Wheel

SBOM = "application/vnd.cyclonedx+json"
PROVENANCE = "application/vnd.in-toto+json"
RELEASE = "application/vnd.treadle.release.v1+json"
BUILD_TYPE = "urn:treadle:image:1"


@dataclass(frozen=True)
class Facts:
    """What the documents are made of."""

    image: str
    """Digest of the image's manifest."""
    purpose: str
    platform: str
    plan: dict[str, Any]
    """The image plan as plain values."""
    wheels: tuple[Wheel, ...]
    base_name: str
    name: str
    """Of the project or the model directory."""
    content: str = ""
    """Digest of the model directory's content; empty without a model."""
    files: dict[str, str] = field(default_factory=dict)
    """Of the model: relative path → digest."""
    release: int | None = None
    run: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    """Of the model: `steps` (name → {key, depends}), `snapshots`, `parameters`, `commit`."""


def documents(facts: Facts) -> list[tuple[str, bytes, dict[str, str]]]:
    """(media type, bytes, annotations) of each document."""
    found = [
        (SBOM, _json(sbom(facts)), {"dev.treadle.document": "sbom"}),
        (PROVENANCE, _json(provenance(facts)), {"dev.treadle.document": "provenance"}),
    ]
    if facts.release is not None:
        told = {"release": facts.release, "run": facts.run, "model": facts.content}
        found.append((RELEASE, _json(told), {"dev.treadle.document": "release"}))
    return found


def sbom(facts: Facts) -> dict[str, Any]:
    """The bill of materials: base, wheels, Treadle and the model, each with its hash."""
    components: list[dict[str, Any]] = [
        {
            "type": "container",
            "bom-ref": "base",
            "name": _named(facts.base_name),
            "version": facts.plan["base"],
            "hashes": [_hash(facts.plan["base"])],
        },
        {
            "type": "application",
            "bom-ref": "treadle",
            "name": "treadle",
            "version": __version__,
            "purl": f"pkg:pypi/treadle@{__version__}",
            "licenses": [{"license": {"id": "Apache-2.0"}}],
        },
    ]
    components += [
        {
            "type": "library",
            "bom-ref": f"wheel:{wheel.name}",
            "name": wheel.name,
            "version": wheel.version,
            "purl": _purl(wheel),
            "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        }
        for wheel in sorted(facts.wheels, key=lambda one: one.name)
    ]
    if facts.content:
        components.append({
            "type": "machine-learning-model",
            "bom-ref": "model",
            "name": facts.name,
            "version": facts.content.removeprefix("sha256:")[:12],
            "hashes": [_hash(facts.content)],
            "components": [
                {
                    "type": "file",
                    "bom-ref": f"model:{path}",
                    "name": path,
                    "hashes": [_hash(found)],
                }
                for path, found in sorted(facts.files.items())
            ],
        })  # fmt: skip
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # Of the content, not by chance: the same image has the same document.
        "serialNumber": uuid.UUID(facts.image.removeprefix("sha256:")[:32]).urn,
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": f"{facts.name}-{facts.purpose}",
                "version": facts.image,
                "hashes": [_hash(facts.image)],
                "properties": [{"name": "platform", "value": facts.platform}],
            },
            "tools": {
                "components": [{"type": "application", "name": "treadle", "version": __version__}]
            },
        },
        "components": components,
        "dependencies": [
            {"ref": "image", "dependsOn": [one["bom-ref"] for one in components]},
        ],
    }


def provenance(facts: Facts) -> dict[str, Any]:
    """An in-toto statement: how the image came to be, down to the keys of the steps."""
    dependencies: list[dict[str, Any]] = [
        {"name": _named(facts.base_name), "digest": _sha256(facts.plan["base"])},
        *(
            {"uri": _purl(wheel), "digest": {"sha256": wheel.sha256}}
            for wheel in sorted(facts.wheels, key=lambda one: one.name)
        ),
        *(
            {"name": f"data {name}", "digest": _sha256(found)}
            for name, found in sorted((facts.origin.get("snapshots") or {}).items())
        ),
    ]
    code = facts.plan["annotations"].get("code")
    if code:
        dependencies.append({"name": "code", "digest": _sha256(code)})
    if facts.content:
        dependencies.append({"name": "model", "digest": _sha256(facts.content)})
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": f"{facts.name}-{facts.purpose}", "digest": _sha256(facts.image)}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "purpose": facts.purpose, "platform": facts.platform,
                    "plan": digest(facts.plan), "compressor": facts.plan["compressor"],
                    "python": facts.plan["python"],
                },
                "internalParameters": {
                    "steps": facts.origin.get("steps") or {},
                    "parameters": facts.origin.get("parameters") or {},
                    "commit": facts.origin.get("commit"),
                    "files": dict(sorted(facts.files.items())),
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {"builder": {"id": f"urn:treadle:{__version__}"}},
        },
    }  # fmt: skip


def steps_of(statement: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The steps that a statement names: name → {key, depends}. What a key is made of is in it, so
    that anybody can make it again (`code.cache.step_key`)."""
    definition = statement["predicate"]["buildDefinition"]
    return dict(definition["internalParameters"]["steps"])


def _named(base: str) -> str:
    """A base without the folder in which this machine has it: that would be said to everybody."""
    kind, colon, path = base.partition(":")
    if colon and kind in ("oci", "oci-archive", "docker-archive"):
        return path.rstrip("/").rpartition("/")[2]
    return base


def _purl(wheel: Wheel) -> str:
    version = urllib.parse.quote(wheel.version, safe=".")
    return f"pkg:pypi/{wheel.name}@{version}?file_name={urllib.parse.quote(wheel.filename)}"


def _hash(found: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": found.removeprefix("sha256:")}


def _sha256(found: str) -> dict[str, str]:
    return {"sha256": found.removeprefix("sha256:")}


def _json(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
