"""What every place of images can do: a repository of a registry, a layout folder, their twin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal, Protocol, Self, cast

from treadle.base.errors import Refused, StateCorrupt, UsageError
from treadle.base.image import (
    DOCKER_INDEX,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    Descriptor,
    Platform,
)

Put = Literal["had", "mounted", "sent"]
_EMPTY = b"{}"


class Manifest:
    """A manifest's bytes as they are stored, and what they say."""

    def __init__(self, data: bytes, media_type: str, digest: str) -> None:
        self.data, self.media_type, self.digest = data, media_type, digest

    @property
    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return cast("dict[str, Any]", json.loads(self.data))

    @property
    def is_index(self) -> bool:
        """Whether it names a manifest for each platform."""
        return self.media_type in (OCI_INDEX, DOCKER_INDEX)


class Store(Protocol):
    """A place that has images: read by digest, checked; written blobs first."""

    def manifest(self, name: str) -> Manifest:
        """By tag or digest. UsageError if there is none."""

    def find(self, name: str) -> str | None:
        """The digest of a tag or digest, or None."""

    def open_blob(self, digest: str, size_bytes: int) -> BinaryIO:
        """A stream that raises StateCorrupt at its end if the bytes are not the digest's."""

    def has_blob(self, digest: str) -> bool:
        """Whether it is there."""

    def put_blob(self, blob: Blob) -> Put:
        """Have it there, sending as little as can be."""

    def put_manifest(self, data: bytes, media_type: str, tag: str | None) -> str:
        """Store a manifest whose blobs are there, under its digest and perhaps a tag."""

    def tags(self) -> list[str]:
        """All tags, sorted."""

    def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """What was attached to an image."""

    def attach(
        self, subject: Descriptor, artifact_type: str, blob: Blob, annotations: Mapping[str, str]
    ) -> str:
        """Attach an artifact to an image; its manifest's digest."""


class Checked:
    """A stream of known digest and size, held to both. Not seekable."""

    def __init__(self, source: Any, digest: str, size_bytes: int, close: Any = None) -> None:
        self._source, self._digest, self._size = source, digest, size_bytes
        self._hash, self._seen, self._close = hashlib.sha256(), 0, close
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Some bytes; the end is reached only if all were right."""
        data = cast("bytes", self._source.read(size if size is not None and size >= 0 else None))
        self._hash.update(data)
        self._seen += len(data)
        if self._seen > self._size or (not data and not self._ended) or size is None or size < 0:
            self._end()
        return data

    def readinto(self, buffer: Any) -> int:
        """As `read`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        """Yes."""
        return True

    def _end(self) -> None:
        self._ended = True
        if self._seen != self._size:
            raise StateCorrupt(
                f"{self._digest[:19]}… came with {self._seen} bytes instead of {self._size}",
                hint="try again; if it stays so, what is stored there is damaged",
            )
        seen = f"sha256:{self._hash.hexdigest()}"
        if seen != self._digest:
            raise StateCorrupt(
                f"what came for {self._digest[:19]}… has the digest {seen[:19]}…",
                hint="try again; if it stays so, what is stored there is damaged",
            )

    def close(self) -> None:
        """Close the source."""
        (self._close or self._source.close)()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def for_platform(store: Store, name: str, platform: Platform) -> Manifest:
    """The manifest of an image for one platform, through an index where there is one.

    Refused: the image is not made for it; the message names what there is.
    """
    found = store.manifest(name)
    if not found.is_index:
        return found
    there = []
    for entry in found.plain.get("manifests", []):
        told = entry.get("platform") or {}
        if told.get("os") == platform.os and told.get("architecture") == platform.architecture:
            return store.manifest(str(entry["digest"]))
        if told.get("architecture") not in (None, "unknown"):
            there.append(f"{told.get('os')}/{told['architecture']}")
    raise Refused(
        f"{name} is not made for {platform}: it has {', '.join(sorted(set(there))) or 'nothing'}",
        hint="choose another base, or another --platform",
    )


def artifact(
    subject: Descriptor, artifact_type: str, blob: Blob, annotations: Mapping[str, str]
) -> tuple[bytes, Blob]:
    """The manifest of an attached artifact, and the empty configuration it names."""
    empty = Blob.of_bytes(_EMPTY, OCI_EMPTY, title="empty configuration")
    told = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": {**empty.descriptor.plain(), "data": "e30="},
        "layers": [blob.descriptor.plain()],
        "subject": Descriptor(subject.media_type, subject.digest, subject.size_bytes).plain(),
    }
    if annotations:
        told["annotations"] = dict(annotations)
    return json.dumps(told, sort_keys=True, separators=(",", ":")).encode(), empty


def fallback_tag(digest: str) -> str:
    """The tag under which referrers stand where a registry does not keep them itself."""
    return digest.replace(":", "-", 1)


def described(entry: Mapping[str, Any]) -> Descriptor:
    """A descriptor of a manifest's or an index's plain values."""
    return Descriptor(
        entry["mediaType"], entry["digest"], entry["size"],
        annotations=tuple(sorted((entry.get("annotations") or {}).items())),
        artifact_type=entry.get("artifactType"),
    )  # fmt: skip


def unknown(place: str, name: str) -> UsageError:
    """There is no such image."""
    return UsageError(f"there is no image {name} in {place}", hint="is the name spelt right?")
