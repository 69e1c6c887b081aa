"""The older form of `docker save`: layers as tars in folders, one manifest.json."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import cast

from treadle.base.errors import UsageError
from treadle.base.image import LAYER_TAR, OCI_CONFIG, OCI_MANIFEST, Blob, Descriptor
from treadle.clients.oci.layout import Layout


def to_layout(archive: tarfile.TarFile, folder: Path) -> None:
    """Its first image as a layout with the tag `latest`; layers keep their bytes."""
    told = json.loads(_member(archive, "manifest.json").read())
    if len(told) != 1:
        names = ", ".join(tag for one in told for tag in one.get("RepoTags") or ["?"])
        raise UsageError(f"the archive holds {len(told)} images ({names})", hint="save one alone")
    layout = Layout(folder, create=True)
    config = _member(archive, told[0]["Config"]).read()
    layers = []
    for name in told[0]["Layers"]:
        blob = _layer(archive, name)
        layout.put_blob(blob)
        layers.append(blob.descriptor.plain())
    configuration = Blob.of_bytes(config, OCI_CONFIG)
    layout.put_blob(configuration)
    manifest = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": configuration.descriptor.plain(), "layers": layers,
    }  # fmt: skip
    data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    layout.put_manifest(data, OCI_MANIFEST, "latest")


def _member(archive: tarfile.TarFile, name: str) -> tarfile.ExFileObject:
    found = archive.extractfile(os.path.normpath(name))
    if found is None:
        raise UsageError(f"the archive lacks {name}")
    return cast("tarfile.ExFileObject", found)


def _layer(archive: tarfile.TarFile, name: str) -> Blob:
    member = archive.getmember(name)
    if member.issym():  # an equal layer of another image
        name = os.path.normpath(f"{os.path.dirname(name)}/{member.linkname}")
    with _member(archive, name) as source:
        digest = "sha256:" + hashlib.file_digest(source, "sha256").hexdigest()
        size = source.tell()
    return Blob(Descriptor(LAYER_TAR, digest, size), lambda: _member(archive, name), digest, name)
