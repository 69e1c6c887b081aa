"""What an image is made of: platforms, descriptors, blobs and wheels. Bytes move lazily: a blob says
its digest and size and how to read it, so that pushing a large model needs no copy of it in memory
or on the disk.

Source: OCI image specification 1.1 (descriptor.md, manifest.md, config.md, layer.md).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from treadle.base.digest import digest as digest_of
from treadle.base.digest import digest_bytes
from treadle.base.errors import StateCorrupt, UsageError

Purpose = Literal["serve", "batch", "train", "hub"]

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "amd64": "amd64", "arm64": "arm64"}


@dataclass(frozen=True)
class Platform:
    """What an image runs on: `linux/amd64`, `linux/arm64`."""

    architecture: str
    os: str = "linux"

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`linux/amd64`, or the architecture alone. UsageError for what is not built for."""
        system, _, machine = text.rpartition("/")
        architecture = _ARCHITECTURES.get(machine.lower())
        if architecture is None or system not in ("", "linux"):
            raise UsageError(
                f"there are no images for the platform {text!r}",
                hint="linux/amd64 or linux/arm64",
            )
        return cls(architecture)

    @classmethod
    def here(cls) -> Platform:
        """Of this machine's processor; the system is Linux, since that is what runs in images."""
        import platform

        return cls.parse(platform.machine())

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


@dataclass(frozen=True)
class Descriptor:
    """A reference to content in an image: OCI's descriptor."""

    media_type: str
    digest: str
    size_bytes: int
    platform: Platform | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    artifact_type: str | None = None

    def plain(self) -> dict[str, Any]:
        """As it stands in a manifest or index."""
        found: dict[str, Any] = {
            "mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes,
        }  # fmt: skip
        if self.platform is not None:
            found["platform"] = {"architecture": self.platform.architecture, "os": self.platform.os}
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        if self.artifact_type is not None:
            found["artifactType"] = self.artifact_type
        return found


@dataclass(frozen=True)
class Blob:
    """Content with a name by digest and a way to read it, as often as it is needed."""

    descriptor: Descriptor
    open: Callable[[], BinaryIO]
    """A new stream of exactly the described bytes, to be closed by the reader."""
    diff_id: str | None = None
    """Of a layer: the digest of its tar before compression."""
    title: str = ""
    """What it is, for people: `wheel numpy 2.4.6`, `model`, `base 1 of 5`."""
    origin: tuple[str, str] | None = None
    """(registry, repository) where a registry has it already: mounted from there where it can be."""

    @property
    def digest(self) -> str:
        """`sha256:…` of the bytes as they are sent."""
        return self.descriptor.digest

    @property
    def size_bytes(self) -> int:
        """Bytes as they are sent."""
        return self.descriptor.size_bytes

    @classmethod
    def of_bytes(cls, data: bytes, media_type: str, *, title: str = "") -> Blob:
        """Small content: a configuration, a document."""
        found = Descriptor(media_type, digest_bytes(data), len(data))
        return cls(found, lambda: io.BytesIO(data), title=title)

    @classmethod
    def of_file(
        cls, path: Path, descriptor: Descriptor, *, diff_id: str | None = None, title: str = ""
    ) -> Blob:
        """A file that has been hashed."""
        return cls(descriptor, lambda: open(path, "rb"), diff_id, title)


class Verified(io.RawIOBase):
    """A stream held to what was described, as long as it is read from its beginning on: its last
    bytes are given only if all were right. StateCorrupt otherwise; `damaged` is called before."""

    def __init__(
        self, source: BinaryIO, described: Descriptor, title: str, damaged: Callable[[], None]
    ) -> None:
        self._source, self._described, self._title = source, described, title
        self._damaged = damaged
        self._hash, self._seen, self._whole = hashlib.sha256(), 0, True

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end."""
        got = cast("int", self._source.readinto(buffer))  # type: ignore[attr-defined]
        if not self._whole:
            return got
        self._hash.update(memoryview(buffer)[:got])
        self._seen += got
        size = self._described.size_bytes
        if self._seen >= size or (not got and len(buffer)):
            digest = f"sha256:{self._hash.hexdigest()}"
            if self._seen != size or digest != self._described.digest:
                self._damaged()
                raise StateCorrupt(
                    f"{self._title} is not what was described: {self._seen} of {size} bytes, "
                    f"digest {digest[:19]}… instead of {self._described.digest[:19]}…",
                    hint="run the command again: it is made anew",
                )
        return got

    def seek(self, offset: int, whence: int = 0) -> int:
        """As the source can; who begins in the middle must check the whole."""
        place = self._source.seek(offset, whence)
        self._whole = False
        return place

    def close(self) -> None:
        """Close the source."""
        self._source.close()
        super().close()


@dataclass(frozen=True)
class Wheel:
    """One resolved wheel, by content: where it came from does not belong to what it is."""

    name: str
    """Normalized (PEP 503)."""
    version: str
    filename: str
    sha256: str
    """64 hex digits."""
    size_bytes: int

    @property
    def digest(self) -> str:
        """The digest of its record (the name counts: its tags say where it may be installed)."""
        return digest_of(self)


@dataclass(frozen=True)
class BuiltImage:
    """A whole image for one platform, ready to be sent: the manifest goes last."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    """From the base's first to the model; every blob's `diff_id` is known."""
    platform: Platform

    @property
    def digest(self) -> str:
        """The digest by which it is pulled."""
        return self.manifest.digest
