"""What can be made again, kept beside all projects of a user: wheels, layers, what bases hold.

`$TREADLE_CACHE`, else `$XDG_CACHE_HOME/treadle`, else `~/.cache/treadle`. Nothing here is state: any
of it may be deleted at any time, and what is damaged is made again. Several processes may write at
once: a file gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from treadle.base.digest import digest_file
from treadle.base.image import Blob, Descriptor, Verified
from treadle.clients.files import disk_errors


def cache_folder() -> Path:
    """Where caches are on this machine."""
    told = os.environ.get("TREADLE_CACHE")
    if told:
        return Path(told).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "treadle"


@contextlib.contextmanager
def arriving(place: Path) -> Iterator[BinaryIO]:
    """A file that becomes `place` when the block ends well, and nothing otherwise."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
            os.replace(temporary, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


class Cache:
    """Small records by key, and layers by what they are made of."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()

    def get(self, kind: str, key: str) -> Any | None:
        """A plain value, or None if there is none or it is no JSON."""
        try:
            return json.loads(self._record(kind, key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a plain value."""
        with arriving(self._record(kind, key)) as file:
            file.write(json.dumps(value, sort_keys=True).encode())

    def layer(self, key: str, title: str) -> Blob | None:
        """The layer made for `key`, if it is here in its full size; nothing of it is read.

        Who reads it and finds other bytes than its digest's has a StateCorrupt, and the layer is
        forgotten, so that the next build makes it anew.
        """
        told: Any = self.get("layers", key)
        try:
            found = Descriptor(told["media_type"], told["digest"], told["size"])
            diff_id = str(told["diff_id"])
            place = self._blob(found.digest)
            if place.stat().st_size != found.size_bytes:
                return None
        except (OSError, TypeError, KeyError, AttributeError):
            return None

        def opened() -> BinaryIO:
            file = open(place, "rb")  # noqa: SIM115 - closed by the reader
            return cast("BinaryIO", Verified(file, found, title, _forget(place)))

        return Blob(found, opened, diff_id, title)

    def keep_layer(
        self,
        key: str,
        title: str,
        media_type: str,
        write: Callable[[BinaryIO], tuple[str, str, int]],
    ) -> Blob:
        """Have a layer written (it gives digest, diff_id and bytes) and keep it under `key`."""
        waiting = self.folder / "layers" / "blobs" / f"incoming-{secrets.token_hex(8)}"
        with arriving(waiting) as file:
            _sweep(waiting.parent, os.fstat(file.fileno()).st_mtime)
            digest, diff_id, size = write(file)
        os.replace(waiting, self._blob(digest))
        self.put(
            "layers", key,
            {"digest": digest, "diff_id": diff_id, "size": size, "media_type": media_type},
        )  # fmt: skip
        blob = self.layer(key, title)
        assert blob is not None
        return blob

    def damaged(self) -> list[str]:
        """Digests of layers whose bytes are not what they should be; they are removed."""
        found = []
        blobs = self.folder / "layers" / "blobs"
        for place in sorted(blobs.iterdir()) if blobs.is_dir() else ():
            digest = f"sha256:{place.name}"
            if len(place.name) == 64 and digest_file(place) != digest:
                place.unlink()
                found.append(digest)
        return found

    def _record(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key.removeprefix('sha256:')}.json"

    def _blob(self, digest: str) -> Path:
        return self.folder / "layers" / "blobs" / digest.removeprefix("sha256:")


def _forget(place: Path) -> Callable[[], None]:
    return lambda: place.unlink(missing_ok=True)


def _sweep(folder: Path, now: float) -> None:
    """Delete what writers that were killed left behind; nobody writes one layer for a day."""
    for name in os.listdir(folder):
        if name.startswith((".", "incoming-")):
            with contextlib.suppress(OSError):
                if os.stat(folder / name).st_mtime < now - 86400:
                    os.unlink(folder / name)
