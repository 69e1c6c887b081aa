"""From a plan and its layers to an image: configuration, manifest and index, byte by byte.

Comes in: a base image (its configuration and layers), our layers in order, and what the process in
the image is to be. Goes out: a BuiltImage whose digest depends on these alone: no time, no machine,
no run. JSON is written once, sorted and compact; those bytes are the ones that are sent.

Source: OCI image specification 1.1 (config.md, manifest.md, image-index.md, annotations.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle.base.digest import digest as digest_of
from treadle.base.errors import Bug, Refused
from treadle.base.image import (
    DOCKER_LAYER_GZIP,
    LAYER_GZIP,
    LAYER_TAR,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    BuiltImage,
    Descriptor,
    Platform,
    Purpose,
)

FORMAT = 1
"""Raised when the same plan would be written with other bytes."""
MOST_LAYERS = 120
"""Docker and CRI-O fail above about 127 layers."""
ROOT = "/opt/treadle"
SITE_PACKAGES = f"{ROOT}/site-packages"
PROJECT = f"{ROOT}/project"
MODELS = "/models"
MODEL_FILES = f"{ROOT}/model.json"
"""{path: digest} of the model's files: the server verifies each before it loads anything."""
USER = "65532:65532"
"""nonroot, as distroless images number it."""
_LAYER_TYPES = {DOCKER_LAYER_GZIP: LAYER_GZIP, "application/vnd.docker.image.rootfs.diff.tar": LAYER_TAR}  # fmt: skip
_SECOND = 1_000_000_000
"""Docker counts nanoseconds."""
_EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class Part:
    """One layer of ours in a plan: what it is made of, by content."""

    kind: str
    """interpreter, wheels, runtime, code, model."""
    title: str
    content: dict[str, str]
    """What of it would show in a difference: wheel → version and sha256, file → digest."""

    @property
    def digest(self) -> str:
        """Equal digests, equal layers (under one compressor)."""
        return digest_of([self.kind, dict(sorted(self.content.items()))])


@dataclass(frozen=True)
class Process:
    """What runs in the image."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    user: str = USER
    working_folder: str = "/"
    stop_signal: str = "SIGTERM"
    ports: tuple[int, ...] = ()
    health: tuple[str, ...] = ()
    """A command that says by its exit code whether the process is well; for Docker."""


@dataclass(frozen=True)
class ImagePlan:
    """All that an image for one platform depends on. `plan → digest` is a function."""

    purpose: Purpose
    platform: str
    python: str
    """Minor version, `3.11`."""
    base: str
    """Digest of the base's manifest for this platform."""
    compressor: str
    parts: tuple[Part, ...]
    process: Process
    annotations: dict[str, str] = field(default_factory=dict)
    """Content digests only: model, data, code. A release promoted elsewhere keeps its image."""
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """Equal digests, equal images."""
        return digest_of(self)


@dataclass(frozen=True)
class Base:
    """An image that ours is laid on."""

    digest: str
    config: Mapping[str, Any]
    layers: tuple[Blob, ...]


def server(model_name: str, content: str, *, trust_pickle: bool) -> Process:
    """The process of a `serve` image: `serve` alone suffices, every option is a variable."""
    told = {
        "TREADLE_HOST": "0.0.0.0",
        "TREADLE_PORT": "8080",
        "TREADLE_MODEL": MODELS,
        "TREADLE_FILES": MODEL_FILES,
        "TREADLE_CONTENT": content,
        "TREADLE_NAME": model_name,
    }
    if trust_pickle:
        told["TREADLE_TRUST_PICKLE"] = "yes"
    return Process(
        entrypoint=("python", "-m", "treadle.operate"), command=("serve",),
        environment=told, ports=(8080,),
        health=("python", "-m", "treadle.operate", "health"),
    )  # fmt: skip


def scorer(content: str, *, trust_pickle: bool) -> Process:
    """The process of a `batch` image: `score` alone suffices, every option is a variable."""
    told = {"TREADLE_MODEL": MODELS, "TREADLE_FILES": MODEL_FILES, "TREADLE_CONTENT": content}
    if trust_pickle:
        told["TREADLE_TRUST_PICKLE"] = "yes"
    return Process(
        entrypoint=("python", "-m", "treadle.operate"), command=("score",), environment=told
    )


def toolbox() -> Process:
    """The process of a `train` or `hub` image: the `treadle` command in the project's folder."""
    return Process(
        entrypoint=("python", "-m", "treadle"), command=("--help",),
        environment={"HOME": "/tmp"}, working_folder=PROJECT,  # noqa: S108 - of the image
    )  # fmt: skip


def assemble(plan: ImagePlan, base: Base, layers: Sequence[Blob]) -> BuiltImage:
    """The image: the base's layers, then ours, in the plan's order.

    Refused: the base is for another platform, or there would be more layers than engines take.
    """
    platform = Platform.parse(plan.platform)
    _fits(base, platform)
    if len(base.layers) + len(layers) > MOST_LAYERS:
        raise Refused(
            f"the image would have {len(base.layers) + len(layers)} layers, and engines take "
            f"about {MOST_LAYERS}",
            hint=f"the base has {len(base.layers)}: choose one with fewer (build: {{base: …}})",
        )
    everything = [*map(_as_oci, base.layers), *layers]
    config = Blob.of_bytes(
        _json(_config(plan, base, everything, len(layers))), OCI_CONFIG, title="configuration"
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor.plain(),
        "layers": [layer.descriptor.plain() for layer in everything],
        "annotations": labels(plan),
    }
    return BuiltImage(
        Blob.of_bytes(_json(manifest), OCI_MANIFEST, title=f"manifest for {plan.platform}"),
        config, tuple(everything), platform,
    )  # fmt: skip


def index(images: Sequence[BuiltImage], plans: Sequence[ImagePlan]) -> Blob:
    """One reference for several platforms."""
    entries = [
        Descriptor(
            OCI_MANIFEST, image.manifest.digest, image.manifest.size_bytes, image.platform
        ).plain()
        for image in sorted(images, key=lambda image: str(image.platform))
    ]
    told = labels(plans[0])
    told.pop("org.opencontainers.image.base.digest", None)  # each platform has its own
    return Blob.of_bytes(
        _json({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "annotations": told,
        }),
        OCI_INDEX, title="index",
    )  # fmt: skip


def labels(plan: ImagePlan) -> dict[str, str]:
    """Of the manifest and, since `docker inspect` shows only those, the labels of the image."""
    return {
        "dev.treadle.purpose": plan.purpose,
        "org.opencontainers.image.base.digest": plan.base,
        **{f"dev.treadle.{name}": value for name, value in plan.annotations.items()},
    }


# ---- what changed --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerChange:
    """One layer beside the one of the image before."""

    layer: str
    action: str
    """keep, change, add, remove."""
    reason: str


def explain(before: ImagePlan | None, now: ImagePlan) -> list[LayerChange]:
    """Which layer changed since `before`, and why, in words."""
    found: list[LayerChange] = []
    if before is None:
        found.append(LayerChange("base", "add", "no image was built before"))
        return found + [LayerChange(part.title, "add", _made_of(part)) for part in now.parts]
    if before.base != now.base:
        words = f"{_short(before.base)} → {_short(now.base)}"
        found.append(LayerChange("base", "change", words))
    else:
        found.append(LayerChange("base", "keep", _short(now.base)))
    whole = ""
    if before.compressor != now.compressor:
        whole = f"compressor {before.compressor} → {now.compressor}"
    elif before.format != now.format:
        whole = "the way images are written changed"
    known = {part.digest for part in before.parts}
    older: dict[str, str] = {}
    for part in before.parts:
        older |= {f"{part.kind} {name}": value for name, value in part.content.items()}
    for part in now.parts:
        if part.digest in known:
            compressed = part.kind != "model"
            if whole and compressed:
                found.append(LayerChange(part.title, "change", whole))
            else:
                found.append(LayerChange(part.title, "keep", "nothing it depends on changed"))
            continue
        found.append(LayerChange(part.title, "change", _difference(part, older)))
    titles = {part.title for part in now.parts}
    gone = [part for part in before.parts if part.title not in titles]
    found += [LayerChange(part.title, "remove", "not part of it any more") for part in gone]
    if before.process != now.process or before.annotations != now.annotations:
        found.append(LayerChange("configuration", "change", _settings(before, now)))
    return found


def _made_of(part: Part) -> str:
    number = len(part.content)
    return f"{number} {'entry' if number == 1 else 'entries'}"


def _difference(part: Part, older: Mapping[str, str]) -> str:
    """What in a layer differs from the image before, at most a few names."""
    words = []
    for name, value in sorted(part.content.items()):
        before = older.get(f"{part.kind} {name}")
        if before is None:
            words.append(f"{name} is new")
        elif before != value:
            old, new = before.partition(" ")[0], value.partition(" ")[0]
            plain = old != new and not old.startswith("sha256:")
            words.append(f"{name} {old} → {new}" if plain else f"{name} changed")
    if not words:
        return "another grouping of the same content"
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _settings(before: ImagePlan, now: ImagePlan) -> str:
    old = {**before.process.environment, **before.annotations}
    new = {**now.process.environment, **now.annotations}
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(names) if names else "the process"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


# ---- how -----------------------------------------------------------------------------------------


def _fits(base: Base, platform: Platform) -> None:
    system, machine = base.config.get("os"), base.config.get("architecture")
    if (system, machine) != (platform.os, platform.architecture):
        raise Refused(
            f"the base is an image for {system}/{machine}, and {platform} is built",
            hint=f"name a base for {platform}, or build --platform {system}/{machine}",
        )


def _as_oci(layer: Blob) -> Blob:
    """A base's layer under OCI's name for the same bytes."""
    kind = _LAYER_TYPES.get(layer.descriptor.media_type, layer.descriptor.media_type)
    told = Descriptor(kind, layer.digest, layer.size_bytes)
    return Blob(told, layer.open, layer.diff_id, layer.title, layer.origin)


def _config(plan: ImagePlan, base: Base, layers: Sequence[Blob], ours: int) -> dict[str, Any]:
    diff_ids = [layer.diff_id for layer in layers]
    if None in diff_ids:
        raise Bug("a layer's diff_id is not known")
    before = dict(base.config.get("config") or {})
    environment = _environment(before.get("Env") or [], plan.process.environment)
    config: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "User": plan.process.user,
        "WorkingDir": plan.process.working_folder,
        "Labels": dict(sorted({**(before.get("Labels") or {}), **labels(plan)}.items())),
    }
    if plan.process.entrypoint:
        config["Entrypoint"] = list(plan.process.entrypoint)
    if plan.process.command:
        config["Cmd"] = list(plan.process.command)
    if plan.process.stop_signal:
        config["StopSignal"] = plan.process.stop_signal
    if plan.process.health:
        config["Healthcheck"] = {
            "Test": ["CMD", *plan.process.health], "Interval": 10 * _SECOND,
            "Timeout": 5 * _SECOND, "StartPeriod": 300 * _SECOND, "Retries": 3,
        }  # fmt: skip
    if plan.process.ports:
        config["ExposedPorts"] = {f"{port}/tcp": {} for port in plan.process.ports}
    history = [_history(entry) for entry in base.config.get("history") or []]
    told = sum(1 for entry in history if not entry.get("empty_layer"))
    if told != len(layers) - ours:  # a base whose history does not match its layers
        history = [{"created": _EPOCH, "comment": "base"} for _ in range(len(layers) - ours)]
    history += [
        {"created": _EPOCH, "created_by": "treadle build", "comment": part.title}
        for part in plan.parts
    ]
    found: dict[str, Any] = {
        "architecture": base.config["architecture"],
        "os": base.config["os"],
        "created": _EPOCH,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    }
    if base.config.get("variant"):
        found["variant"] = base.config["variant"]
    return found


def _history(entry: Mapping[str, Any]) -> dict[str, Any]:
    known = ("created", "created_by", "comment", "author", "empty_layer")
    return {name: entry[name] for name in known if name in entry}


def _environment(base: Sequence[str], ours: Mapping[str, str]) -> dict[str, str]:
    """The base's variables under ours; our Python and libraries are found first."""
    found: dict[str, str] = {}
    for assignment in base:
        name, _, value = assignment.partition("=")
        found[name] = value
    path = found.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    found["PATH"] = f"{ROOT}/bin:{path}"
    found["PYTHONPATH"] = SITE_PACKAGES
    # The file system is read-only, and the layers have their bytecode.
    found["PYTHONDONTWRITEBYTECODE"] = "1"
    found["PYTHONUNBUFFERED"] = "1"
    found.update(sorted(ours.items()))
    return found


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
