"""Images in a folder: the OCI image layout, for builds without a registry and for handing over.

A blob gets its name when it is whole; `index.json`, which makes an image known, is written last.

Source: OCI image specification 1.1, image-layout.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from treadle.base.digest import digest_bytes
from treadle.base.errors import StateCorrupt, UsageError
from treadle.base.image import OCI_INDEX, OCI_MANIFEST, Blob, Descriptor
from treadle.clients.cache import arriving
from treadle.clients.files import write_file
from treadle.clients.oci import store
from treadle.clients.oci.store import Checked, Manifest, Put

NAME = "org.opencontainers.image.ref.name"
_MARK = b'{"imageLayoutVersion":"1.0.0"}'


class Layout:
    """An image layout folder, as a Store."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        if not (folder / "oci-layout").is_file():
            if not create:
                raise UsageError(
                    f"{folder} is no OCI image layout: it has no oci-layout file",
                    hint="skopeo copy docker://NAME oci:DIR makes one",
                )
            if folder.is_dir() and any(folder.iterdir()):
                raise UsageError(
                    f"{folder} holds other files and is no OCI image layout",
                    hint="name a new folder, or an existing layout",
                )
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / "oci-layout", _MARK)

    # ---- reading ----

    def manifest(self, name: str) -> Manifest:
        """See Store."""
        found = self._entry(name)
        if found is None:
            raise store.unknown(str(self.folder), name)
        digest, kind = found
        data = self._path(digest).read_bytes()
        if digest_bytes(data) != digest:
            raise StateCorrupt(f"the manifest {digest[:19]}… in {self.folder} is damaged")
        return Manifest(data, kind or str(json.loads(data).get("mediaType", OCI_MANIFEST)), digest)

    def find(self, name: str) -> str | None:
        """See Store."""
        found = self._entry(name)
        return None if found is None else found[0]

    def _entry(self, name: str) -> tuple[str, str] | None:
        if name.startswith("sha256:"):
            return (name, "") if self._path(name).is_file() else None
        entries = self._index()
        for entry in entries:
            if (entry.get("annotations") or {}).get(NAME) == name:
                return str(entry["digest"]), str(entry["mediaType"])
        # A layout of one image needs no name for it.
        unnamed = [one for one in entries if NAME not in (one.get("annotations") or {})]
        if name == "latest" and len(entries) == 1 and len(unnamed) in (0, 1):
            return str(entries[0]["digest"]), str(entries[0]["mediaType"])
        return None

    def _index(self) -> list[dict[str, Any]]:
        try:
            told = json.loads((self.folder / "index.json").read_bytes())
        except FileNotFoundError:
            return []
        except ValueError:
            raise StateCorrupt(f"{self.folder / 'index.json'} is no JSON") from None
        return list(told.get("manifests") or [])

    def has_blob(self, digest: str) -> bool:
        """See Store."""
        return self._path(digest).is_file()

    def open_blob(self, digest: str, size_bytes: int) -> BinaryIO:
        """See Store."""
        try:
            file = open(self._path(digest), "rb")  # noqa: SIM115 - closed by the reader
        except FileNotFoundError:
            raise store.unknown(str(self.folder), digest) from None
        return cast("BinaryIO", Checked(file, digest, size_bytes))

    def tags(self) -> list[str]:
        """See Store."""
        names = ((entry.get("annotations") or {}).get(NAME) for entry in self._index())
        return sorted(str(name) for name in names if name is not None)

    # ---- writing ----

    def put_blob(self, blob: Blob) -> Put:
        """See Store."""
        place = self._path(blob.digest)
        if place.is_file() and place.stat().st_size == blob.size_bytes:
            return "had"
        hashed, size = hashlib.sha256(), 0
        with arriving(place) as file, blob.open() as source:
            while piece := source.read(1 << 20):
                hashed.update(piece)
                size += len(piece)
                file.write(piece)
            if f"sha256:{hashed.hexdigest()}" != blob.digest:
                raise StateCorrupt(
                    f"{blob.title or 'a blob'} is not what was described: {size} bytes, digest "
                    f"sha256:{hashed.hexdigest()[:12]}…"
                )
        return "sent"

    def put_manifest(self, data: bytes, media_type: str, tag: str | None) -> str:
        """See Store."""
        digest = digest_bytes(data)
        self.put_blob(Blob.of_bytes(data, media_type, title="manifest"))
        if tag is not None:
            self._name(Descriptor(media_type, digest, len(data), annotations=((NAME, tag),)))
        return digest

    def _name(self, entry: Descriptor) -> None:
        name = dict(entry.annotations)[NAME]
        others = [one for one in self._index() if (one.get("annotations") or {}).get(NAME) != name]
        told = {
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*others, entry.plain()],
        }  # fmt: skip
        data = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
        write_file(self.folder / "index.json", data)

    # ---- attached ----

    def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """See Store: by the fallback tag."""
        tag = store.fallback_tag(digest)
        if self.find(tag) is None:
            return []
        entries = self.manifest(tag).plain.get("manifests") or []
        found = [store.described(one) for one in entries]
        return [one for one in found if artifact_type in (None, one.artifact_type)]

    def attach(
        self, subject: Descriptor, artifact_type: str, blob: Blob, annotations: Mapping[str, str]
    ) -> str:
        """See Store."""
        data, empty = store.artifact(subject, artifact_type, blob, annotations)
        for one in (empty, blob):
            self.put_blob(one)
        digest = self.put_manifest(data, OCI_MANIFEST, None)
        tag = store.fallback_tag(subject.digest)
        entries = self.manifest(tag).plain.get("manifests") or [] if self.find(tag) else []
        if not any(one["digest"] == digest for one in entries):
            entry = Descriptor(
                OCI_MANIFEST, digest, len(data), annotations=tuple(sorted(annotations.items())),
                artifact_type=artifact_type,
            )  # fmt: skip
            index = {
                "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, entry.plain()],
            }  # fmt: skip
            whole = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
            self.put_manifest(whole, OCI_INDEX, tag)
        return digest

    def _path(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")
