"""One file with an image in it: what `docker load`, `podman load` and OCI readers all take.

An OCI layout in a tar, with Docker's `manifest.json` beside it that points into `blobs/sha256`:
engines of today and of 2022 read the one or the other. The tar is written as a stream. For an engine
that has the lower layers already they can be left out: it looks a layer up by its chain of diff_ids
before it opens the file.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from treadle.base.errors import UsageError
from treadle.base.image import OCI_INDEX, OCI_MANIFEST, Blob, BuiltImage, Descriptor
from treadle.clients.cache import arriving
from treadle.clients.oci.layout import NAME
from treadle.clients.oci.reference import Reference

_MARK = b'{"imageLayoutVersion":"1.0.0"}'


def pieces(
    image: BuiltImage, names: Iterable[str] = (), *, without: Container[str] = ()
) -> Iterator[bytes]:
    """The archive, piece by piece; `without`: digests of layers that are left out."""
    yield from _tar(_members(image, list(names), without))


def write(image: BuiltImage, path: Path, names: Iterable[str] = ()) -> int:
    """Write the archive to a file, whole or not at all; its size in bytes."""
    size = 0
    with arriving(path) as file:
        for piece in pieces(image, names):
            file.write(piece)
            size += len(piece)
    return size


def _members(
    image: BuiltImage, names: list[str], without: Container[str]
) -> Iterator[tuple[str, Blob]]:
    entry = Descriptor(
        OCI_MANIFEST, image.manifest.digest, image.manifest.size_bytes, image.platform
    ).plain()
    if names:
        # containerd takes the name as it is, and a kubelet asks for it in full.
        full = str(Reference.parse(names[0]))
        entry["annotations"] = {
            "io.containerd.image.name": full, NAME: names[0].rpartition(":")[2],
        }  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    docker = [
        {
            "Config": _place(image.config),
            "RepoTags": names,
            "Layers": [_place(layer) for layer in image.layers],
        }
    ]
    blobs = {blob.digest: blob for blob in (image.config, image.manifest, *image.layers)}
    for digest in sorted(blobs):
        if digest not in without:
            yield _place(blobs[digest]), blobs[digest]
    yield "index.json", _document(index)
    yield "manifest.json", _document(docker)
    yield "oci-layout", Blob.of_bytes(_MARK, "application/json")


def _place(blob: Blob) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"


def _document(value: Any) -> Blob:
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return Blob.of_bytes(data, "application/json")


def _tar(members: Iterable[tuple[str, Blob]]) -> Iterator[bytes]:
    for folder in ("blobs/", "blobs/sha256/"):
        info = tarfile.TarInfo(folder)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        yield info.tobuf(tarfile.USTAR_FORMAT)
    for name, blob in members:
        info = tarfile.TarInfo(name)
        info.size = blob.size_bytes
        # Ustar holds 8 GiB; a larger layer needs a pax header.
        yield info.tobuf(tarfile.USTAR_FORMAT if info.size < 8 << 30 else tarfile.PAX_FORMAT)
        with blob.open() as source:
            while piece := source.read(1 << 20):
                yield piece
        if blob.size_bytes % 512:
            yield bytes(512 - blob.size_bytes % 512)
    yield bytes(1024)


def unpack(path: Path, folder: Path) -> None:
    """An archive (`docker save`, `skopeo copy … oci-archive:`) as a layout folder, to be a base.

    UsageError if it is neither.
    """
    from treadle.clients.oci.docker_archive import to_layout

    try:
        archive = tarfile.open(path)  # noqa: SIM115 - closed below
    except (tarfile.TarError, OSError) as error:
        raise UsageError(f"{path} is no archive of an image: {error}") from None
    with archive:
        names = set(archive.getnames())
        if "oci-layout" in names and "index.json" in names:
            folder.mkdir(parents=True, exist_ok=True)
            archive.extractall(folder, filter="data")
        elif "manifest.json" in names:
            to_layout(archive, folder)
        else:
            raise UsageError(
                f"{path} holds no image: neither index.json nor manifest.json is in it",
                hint="docker save NAME -o FILE makes one",
            )
