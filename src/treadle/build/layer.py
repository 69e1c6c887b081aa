"""Layers: files in, a deterministic tar out; compressed once, cached by what it is made of.

A tar is a stream with a known size: headers are made ahead, file contents are read while somebody
reads. So a model of any size is hashed and sent without a copy in memory or on the disk, and the
same entries give the same bytes on any machine: names sorted by their bytes, every parent listed,
owner 0, no names of users, modes 0644 and 0755, one time for all.

Source: OCI image specification 1.1, layer.md; POSIX.1-2001 pax headers for what ustar cannot hold.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from treadle.base.digest import CHUNK_BYTES
from treadle.base.errors import Refused, StateCorrupt, UsageError
from treadle.base.image import LAYER_GZIP, LAYER_TAR, Blob, Descriptor, Verified

Source = Path | bytes | Callable[[], BinaryIO]
BLOCK = 512
_END = bytes(2 * BLOCK)


@dataclass(frozen=True)
class Entry:
    """One file or symbolic link of a layer; folders come by themselves."""

    path: str
    """Relative to the image's root, POSIX, without `.` and `..`."""
    source: Source = b""
    executable: bool = False
    link: str | None = None
    """Where a symbolic link points; then `source` is not read."""
    size: int | None = None
    """Bytes, where `source` is a function that opens a stream."""

    def size_bytes(self) -> int:
        """Of its content now."""
        if self.link is not None:
            return 0
        if isinstance(self.source, bytes):
            return len(self.source)
        if isinstance(self.source, Path):
            return self.source.stat().st_size
        assert self.size is not None
        return self.size

    def open(self) -> BinaryIO:
        """A new stream of its content."""
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        return open(self.source, "rb") if isinstance(self.source, Path) else self.source()


def folder_entries(folder: Path, names: Iterable[str], under: str) -> list[Entry]:
    """The named files of a folder as entries below `under`; a link out of the folder is refused."""
    root = folder.resolve()
    found = []
    for name in names:
        path = folder / name
        if not path.resolve().is_relative_to(root):
            raise Refused(f"{name} leads out of {folder}", hint="copy the file it points to")
        runs = bool(path.stat().st_mode & 0o100)
        found.append(Entry(f"{under.strip('/')}/{name}", path, executable=runs))
    return found


# ---- tar -----------------------------------------------------------------------------------------


class TarStream(io.RawIOBase):
    """The tar of some entries, made while it is read. Raises StateCorrupt if a file changes size."""

    def __init__(self, entries: Iterable[Entry], *, epoch: int = 0) -> None:
        self._parts = _parts(arranged(entries), epoch)
        self.size_bytes = sum(size for size, _, _ in self._parts)
        self._next = 0
        self._current: BinaryIO | None = None
        self._left = 0
        self._name = ""

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end."""
        while self._left == 0:
            if self._current is not None:
                self._check_end(self._current)
                self._current.close()
                self._current = None
            if self._next == len(self._parts):
                return 0
            self._left, source, self._name = self._parts[self._next]
            self._next += 1
            if self._left:
                self._current = io.BytesIO(source) if isinstance(source, bytes) else source.open()
        assert self._current is not None
        view = memoryview(buffer)[: self._left]
        got = self._current.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise _changed(self._name)
        self._left -= got
        return cast("int", got)

    def _check_end(self, current: BinaryIO) -> None:
        if not isinstance(current, io.BytesIO) and current.read(1):
            raise _changed(self._name)

    def close(self) -> None:
        """Close the file that is being read."""
        if self._current is not None:
            self._current.close()
            self._current = None
        super().close()


def _changed(name: str) -> StateCorrupt:
    return StateCorrupt(
        f"{name} changed while it was packed", hint="wait until it is written, then build again"
    )


def arranged(entries: Iterable[Entry]) -> list[Entry]:
    """Entries sorted by their names' bytes. Refused: a name twice, or one that escapes."""
    found: dict[str, Entry] = {}
    for entry in entries:
        _check_name(entry.path)
        if entry.path in found:
            raise Refused(f"{entry.path} would be in the layer twice")
        if entry.link is not None:
            _check_link(entry.path, entry.link)
        found[entry.path] = entry
    for path in found:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in found:
                raise Refused(f"{parent} is a file, and {path} lies below it")
            parent = parent.rpartition("/")[0]
    return sorted(found.values(), key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))


def _check_name(path: str) -> None:
    steps = path.split("/")
    bad = not path or path.startswith("/") or any(step in ("", ".", "..") for step in steps)
    if bad or "\0" in path or steps[-1].startswith(".wh."):
        raise Refused(f"{path!r} is no path within a layer", hint="names without .., / or .wh.")


def _check_link(path: str, link: str) -> None:
    if link.startswith("/"):
        return  # the image's own root, as every link in a distribution
    depth = path.count("/")
    for step in link.split("/"):
        depth += -1 if step == ".." else 1
        if depth < 0:
            raise Refused(f"{path} links to {link}, which lies outside the image")


def _parts(entries: Sequence[Entry], epoch: int) -> list[tuple[int, bytes | Entry, str]]:
    """(bytes, content, name) in order: headers, contents, padding, the end."""
    found: list[tuple[int, bytes | Entry, str]] = []
    folders: set[str] = set()
    for entry in entries:
        steps = entry.path.split("/")[:-1]
        for depth in range(1, len(steps) + 1):
            parent = "/".join(steps[:depth])
            if parent not in folders:
                folders.add(parent)
                head = _header(parent + "/", tarfile.DIRTYPE, 0, 0o755, epoch)
                found.append((len(head), head, parent))
        if entry.link is not None:
            head = _header(entry.path, tarfile.SYMTYPE, 0, 0o777, epoch, entry.link)
            found.append((len(head), head, entry.path))
            continue
        size = entry.size_bytes()
        mode = 0o755 if entry.executable else 0o644
        head = _header(entry.path, tarfile.REGTYPE, size, mode, epoch)
        found += [(len(head), head, entry.path), (size, entry, entry.path)]
        if size % BLOCK:
            rest = bytes(BLOCK - size % BLOCK)
            found.append((len(rest), rest, entry.path))
    found.append((len(_END), _END, "the end"))
    return found


def _header(name: str, kind: bytes, size: int, mode: int, epoch: int, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.mtime, info.linkname = kind, size, mode, epoch, link
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


# ---- compression ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compressor:
    """A way to compress whose bytes are known: they depend on library, version and level."""

    name: str
    """`none` or `gzip` (zlib)."""
    level: int = 0
    version: str = ""

    def __str__(self) -> str:
        return self.name if self.name == "none" else f"{self.name}-{self.level}/{self.version}"

    @property
    def media_type(self) -> str:
        """Of a layer compressed so."""
        return LAYER_TAR if self.name == "none" else LAYER_GZIP

    def start(self) -> Any:
        """A compressor object with `compress` and `flush`; its header has no time and no name."""
        if self.name == "gzip":
            return zlib.compressobj(self.level, zlib.DEFLATED, 31)
        return _Plain()


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


NONE = Compressor("none")


def best_compressor() -> Compressor:
    """zlib, level 6. ISA-L is four times as fast and an eighth larger: a layer of wheels is made once
    on a machine, and pulled by every node."""
    return Compressor("gzip", 6, f"zlib-{zlib.ZLIB_RUNTIME_VERSION}")


def compressor_of(text: str) -> Compressor:
    """The inverse of `str(compressor)`; UsageError if this machine cannot make the same bytes."""
    if text == "none":
        return NONE
    here = best_compressor()
    if text == str(here):
        return here
    raise UsageError(
        f"the layers are pinned to the compressor {text}, and this machine has {here}: the digests "
        "would differ",
        hint="build where that one is, or `treadle build --update` takes this one",
    )


# ---- blobs ---------------------------------------------------------------------------------------


def streamed(entries: Sequence[Entry], title: str, *, epoch: int = 0) -> Blob:
    """An uncompressed layer that stays where its files are: read once to be hashed, once more to
    be sent."""
    entries = tuple(entries)
    stream = TarStream(entries, epoch=epoch)
    with stream:
        digest = "sha256:" + hashlib.file_digest(cast("Any", stream), "sha256").hexdigest()
    return described(entries, digest, stream.size_bytes, title, epoch=epoch)


def described(
    entries: Sequence[Entry], digest: str, size_bytes: int, title: str, *, epoch: int = 0
) -> Blob:
    """The streamed layer of some entries whose digest is known already.

    Its files may change until they are sent: a stream of other bytes raises StateCorrupt.
    """
    entries = tuple(entries)
    found = Descriptor(LAYER_TAR, digest, size_bytes)

    def opened() -> BinaryIO:
        tar = cast("BinaryIO", TarStream(entries, epoch=epoch))
        return cast("BinaryIO", Verified(tar, found, title, lambda: None))

    return Blob(found, opened, digest, title)


@dataclass(frozen=True)
class Written:
    """What a compressed layer came to."""

    digest: str
    diff_id: str
    size_bytes: int


def write(
    entries: Iterable[Entry], compressor: Compressor, out: BinaryIO, *, epoch: int = 0
) -> Written:
    """Compress the tar of `entries` into `out`, hashing both sides on the way."""
    plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0
    press = compressor.start()

    def put(data: bytes) -> None:
        nonlocal size
        if data:
            packed.update(data)
            size += len(data)
            out.write(data)

    with TarStream(entries, epoch=epoch) as stream:
        reader = io.BufferedReader(stream, CHUNK_BYTES)
        while data := reader.read(CHUNK_BYTES):
            plain.update(data)
            put(press.compress(data))
    put(press.flush())
    return Written(f"sha256:{packed.hexdigest()}", f"sha256:{plain.hexdigest()}", size)


def together(work: Sequence[Callable[[], Blob]], *, processors: int | None = None) -> list[Blob]:
    """Make several layers at once: compressing and hashing leave the interpreter to others."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    number = processors or here or 1
    with ThreadPoolExecutor(max(1, min(number, len(work) or 1))) as pool:
        return [future.result() for future in [pool.submit(one) for one in work]]
