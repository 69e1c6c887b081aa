"""Where an image that others are laid on comes from, by its name: a registry, a folder, a file."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from treadle.base.digest import digest_file
from treadle.base.errors import StateError, UsageError
from treadle.base.image import Blob, Descriptor, Platform
from treadle.base.log import Report, silent
from treadle.clients.cache import Cache
from treadle.clients.files import disk_errors
from treadle.clients.oci import store as stores
from treadle.clients.oci.archive import unpack
from treadle.clients.oci.layout import Layout
from treadle.clients.oci.reference import Reference
from treadle.clients.oci.registry import Registry
from treadle.clients.oci.store import Store


@dataclass(frozen=True)
class Source:
    """An image for one platform, read lazily."""

    digest: str
    config: dict[str, Any]
    layers: tuple[Blob, ...]


def fetch(
    name: str, platform: Platform, pinned: str | None, *, cache: Cache, report: Report = silent
) -> Source:
    """The image `name` for a platform; `pinned` is the digest of its manifest, where it is known.

    A manifest that was read once is not asked for again. UsageError: no such image; Refused: not
    for this platform; Unreachable.
    """
    place, wanted, origin = _open(name, cache, report)
    known = cache.get("bases", pinned) if pinned is not None else None
    if known is None:
        try:
            manifest = stores.for_platform(place(), pinned or wanted, platform)
        except UsageError as error:
            if pinned is None:
                raise
            raise UsageError(
                f"{name} does not have {pinned[:19]}… any more, which treadle.lock names",
                hint="treadle build --update takes what is there now",
            ) from error
        told = manifest.plain
        with place().open_blob(told["config"]["digest"], told["config"]["size"]) as stream:
            import json

            config = json.loads(_whole(stream))
        known = {"digest": manifest.digest, "config": config, "layers": told["layers"]}
        cache.put("bases", manifest.digest, known)
    diff_ids = known["config"]["rootfs"]["diff_ids"]
    number = len(diff_ids)
    layers = tuple(
        Blob(
            Descriptor(entry["mediaType"], entry["digest"], entry["size"]),
            _opener(place, entry["digest"], entry["size"]), diff_id,
            f"base {position} of {number}", origin,
        )
        for position, (entry, diff_id) in enumerate(zip(known["layers"], diff_ids, strict=True), 1)
    )  # fmt: skip
    return Source(known["digest"], known["config"], layers)


def _open(
    name: str, cache: Cache, report: Report
) -> tuple[Callable[[], Store], str, tuple[str, str] | None]:
    """How to open the place, what to ask it for, and its (registry, repository)."""
    kind, colon, rest = name.partition(":")
    if colon and kind == "oci":
        folder, _, tag = rest.partition("@")[0].rpartition(":")
        if not folder or "/" in tag:
            folder, tag = rest, "latest"
        return _once(lambda: Layout(Path(folder))), tag, None
    if colon and kind in ("docker-archive", "oci-archive"):
        file = Path(rest)
        if not file.is_file():
            raise UsageError(f"there is no file {rest}", hint="docker save NAME -o FILE makes one")
        unpacked = cache.folder / "archives" / digest_file(file).removeprefix("sha256:")
        if not (unpacked / "index.json").is_file():
            report(f"reading {rest}")
            _unpacked(file, unpacked)
        return _once(lambda: Layout(unpacked)), "latest", None
    reference = Reference.parse(name)
    origin = (reference.registry, reference.repository)
    return (
        _once(lambda: Registry(reference, cache=cache, report=report)), reference.wanted, origin
    )  # fmt: skip


def _unpacked(file: Path, folder: Path) -> None:
    """Make `folder` of an archive, whole or not at all: its index may come before its blobs."""
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.building")
    try:
        with disk_errors(folder):
            unpack(file, building)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(building, folder)
    except (OSError, StateError):
        if not (folder / "index.json").is_file():  # not another process that made the same
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _once(make: Callable[[], Store]) -> Callable[[], Store]:
    made: list[Store] = []

    def opened() -> Store:
        if not made:
            made.append(make())
        return made[0]

    return opened


def _opener(place: Callable[[], Store], digest: str, size: int) -> Callable[[], BinaryIO]:
    return lambda: place().open_blob(digest, size)


def _whole(stream: BinaryIO) -> bytes:
    return b"".join(iter(lambda: stream.read(1 << 16), b""))
