"""The twin of a registry's repository in memory: same contract, nothing leaves the process."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import BinaryIO, cast

from treadle.base.digest import digest_bytes
from treadle.base.errors import StateCorrupt
from treadle.base.image import OCI_MANIFEST, Blob, Descriptor
from treadle.clients.oci import store
from treadle.clients.oci.store import Checked, Manifest, Put


class MemoryStore:
    """Blobs, manifests and tags in dicts."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self._manifests: dict[str, tuple[bytes, str]] = {}
        self._tags: dict[str, str] = {}

    def manifest(self, name: str) -> Manifest:
        """See Store."""
        digest = self.find(name)
        if digest is None:
            raise store.unknown("memory", name)
        data, kind = self._manifests[digest]
        return Manifest(data, kind, digest)

    def find(self, name: str) -> str | None:
        """See Store."""
        digest = self._tags.get(name, name)
        return digest if digest in self._manifests else None

    def has_blob(self, digest: str) -> bool:
        """See Store."""
        return digest in self.blobs

    def open_blob(self, digest: str, size_bytes: int) -> BinaryIO:
        """See Store."""
        if digest not in self.blobs:
            raise store.unknown("memory", digest)
        return cast("BinaryIO", Checked(io.BytesIO(self.blobs[digest]), digest, size_bytes))

    def put_blob(self, blob: Blob) -> Put:
        """See Store."""
        if blob.digest in self.blobs:
            return "had"
        with blob.open() as source:
            data = source.read()
        if digest_bytes(data) != blob.digest:
            raise StateCorrupt(f"{blob.title or 'a blob'} is not what was described")
        self.blobs[blob.digest] = data
        return "sent"

    def put_manifest(self, data: bytes, media_type: str, tag: str | None) -> str:
        """See Store."""
        digest = digest_bytes(data)
        self._manifests[digest] = (data, media_type)
        if tag is not None:
            self._tags[tag] = digest
        return digest

    def tags(self) -> list[str]:
        """See Store."""
        return sorted(self._tags)

    def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """See Store."""
        found = []
        for own, (data, kind) in self._manifests.items():
            told = json.loads(data)
            if (told.get("subject") or {}).get("digest") == digest:
                found.append(
                    Descriptor(
                        kind,
                        own,
                        len(data),
                        annotations=tuple(sorted((told.get("annotations") or {}).items())),
                        artifact_type=told.get("artifactType"),
                    )
                )
        return [one for one in found if artifact_type in (None, one.artifact_type)]

    def attach(
        self, subject: Descriptor, artifact_type: str, blob: Blob, annotations: Mapping[str, str]
    ) -> str:
        """See Store."""
        data, empty = store.artifact(subject, artifact_type, blob, annotations)
        for one in (empty, blob):
            self.put_blob(one)
        return self.put_manifest(data, OCI_MANIFEST, None)
