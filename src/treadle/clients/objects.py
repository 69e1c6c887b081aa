"""The object store: blobs under the digest of their content, trees as manifests of blobs.

A blob is written under another name in the same file system, flushed to the disk, renamed and the
folder flushed: it is there whole or not at all, and two writers of the same blob write the same.
Blobs are read-only files, so that nobody edits one by way of a path handed out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from treadle.base import crash
from treadle.base.digest import CHUNK_BYTES, canonical, digest_bytes, digest_file, digest_tree
from treadle.base.errors import StateCorrupt, StateError
from treadle.clients.files import disk_errors, flush, fsync_folder

_DIGEST = re.compile(r"sha256:([0-9a-f]{2})([0-9a-f]{62})")
_CLONE = 0x40049409  # FICLONE of Linux: share the extents (btrfs, XFS, bcachefs)
_INCOMING = ".incoming"


class Objects(Protocol):
    """Few methods with one contract test for every implementation."""

    def put_bytes(self, data: bytes) -> str:
        """Store a blob; its digest."""

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a file's bytes; digest and size. StateError if it changed while it was read."""

    def put_tree(self, folder: Path) -> tuple[str, dict[str, str]]:
        """Store a folder's files; the digest of the tree (`digest_tree`) and path → digest."""

    def has(self, digest: str) -> bool:
        """Whether the blob (or the manifest of the tree) is here."""

    def read(self, digest: str) -> bytes:
        """The blob, verified. StateCorrupt if it is not what its digest says or not here."""

    def path(self, digest: str, *, verify: bool = False) -> Path:
        """A local read-only file with the blob's bytes. StateCorrupt if it is not here."""

    def tree(self, digest: str, target: Path) -> Path:
        """Make the folder `target` of a stored tree, whole or not at all; verified either way."""

    def delete(self, digest: str) -> None:
        """Forget a blob; no error if it is not here."""

    def digests(self) -> Iterator[str]:
        """Every blob's digest, sorted."""


def manifest(data: bytes, digest: str) -> dict[str, str]:
    """Path → digest of a tree's manifest blob. StateCorrupt if the blob is none."""
    try:
        # `canonical` writes one more $ before a key that starts with one.
        files = {
            key.removeprefix("$"): value
            for key, value in json.loads(data.decode("utf-8", "surrogatepass")).items()
        }
        for name, content in files.items():
            pure = PurePosixPath(name)
            if pure.is_absolute() or ".." in pure.parts or not _DIGEST.fullmatch(content):
                raise ValueError(name)
    except (ValueError, AttributeError, TypeError) as error:
        raise StateCorrupt(f"{digest} is not the manifest of a tree ({error})") from error
    return files


def missing(digest: str) -> StateCorrupt:
    """The error for a blob that is named but not here."""
    return StateCorrupt(
        f"blob {digest} is missing from the object store",
        hint="`treadle up` makes again what can be made again; else restore objects/ from a backup",
    )


def damaged(digest: str, seen: str) -> StateCorrupt:
    """The error for a blob whose bytes are not those of its name."""
    return StateCorrupt(
        f"blob {digest} is damaged: its bytes have the digest {seen}",
        hint="delete that file under objects/ and run `treadle up`: what can be made again is made "
        "again; else restore it from a backup",
    )


def materialize(files: dict[str, str], digest: str, target: Path, blob: _BlobPath) -> Path:
    """Make `target` of the blobs of `files`: built beside it, verified, renamed into place.

    Nothing is flushed to the disk: the folder is a copy, which every call verifies before it is
    used. One that lost its content in a power cut is made again.
    """
    if target.is_dir():
        if digest_tree(target)[0] == digest:
            return target
        # Somebody changed it, or a file rotted: put it aside so that the rename below can do.
        aside = target.parent / f".{target.name}.{secrets.token_hex(4)}.wrong"
        with contextlib.suppress(FileNotFoundError), disk_errors(target):
            os.rename(target, aside)
            _remove(aside)
    building = target.parent / f".{target.name}.{secrets.token_hex(4)}.building"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            building.mkdir()
            for name, content in sorted(files.items()):
                place = building / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(blob(content), "rb") as source, open(place, "wb") as out:
                    seen, _ = _copy(source, out)
                if seen != content:
                    raise damaged(content, seen)
                place.chmod(0o444)
            crash.point("objects.tree.before")
            try:
                os.rename(building, target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                if digest_tree(target)[0] != digest:  # not another process making the same
                    raise StateError(f"{target} was changed while it was made") from error
            crash.point("objects.tree.after")
        finally:
            _remove(building)
    return target


class _BlobPath(Protocol):
    def __call__(self, digest: str) -> Path: ...


def _remove(folder: Path) -> None:
    import shutil  # with its archive formats, a tenth of the fast path

    shutil.rmtree(folder, ignore_errors=True)


def _copy(source: BinaryIO, out: BinaryIO) -> tuple[str, int]:
    """Copy all bytes; their digest and number. Shares the extents where the file system can."""
    if _clone(source, out):
        out.seek(0)
        with open(out.name, "rb") as copy:  # a clone is a still picture: hash that
            return "sha256:" + hashlib.file_digest(copy, "sha256").hexdigest(), os.fstat(
                copy.fileno()
            ).st_size
    hasher, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        hasher.update(chunk)
        out.write(chunk)
        size += len(chunk)
    return "sha256:" + hasher.hexdigest(), size


def _clone(source: BinaryIO, out: BinaryIO) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(out.fileno(), _CLONE, source.fileno())
    except OSError:
        return False
    return True


class DiskObjects:
    """Blobs as files `root/ab/<62 hex digits>`; see Objects for the methods."""

    def __init__(self, root: Path) -> None:
        """`root` is made at the first write."""
        self.root = root

    # -- places

    def _place(self, digest: str) -> Path:
        match = _DIGEST.fullmatch(digest)
        if not match:
            raise StateCorrupt(f"{digest!r} is no digest (sha256: and 64 hex digits)")
        return self.root / match[1] / match[2]

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[BinaryIO]:
        """A file to write a blob to; gone at the end unless `_keep` renamed it.

        Its writer holds a lock on it: `sweep` tells a dead writer's file by that.
        """
        folder = self.root / _INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{os.getpid()}-{secrets.token_hex(6)}"
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            named = _Named(file, os.fspath(path))
            try:
                yield named  # type: ignore[misc]
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _keep(self, file: BinaryIO, digest: str, size: int) -> None:
        """Give the written file its name, unless the same blob is there already."""
        place = self._place(digest)
        if _size(place) == size:
            return
        file.flush()
        crash.point("objects.write.before")
        flush(file.fileno())
        if not place.parent.is_dir():
            place.parent.mkdir(exist_ok=True)
            fsync_folder(self.root)
        crash.point("objects.rename.before")
        os.rename(file.name, place)  # over a file of another size: that one was damaged
        fsync_folder(place.parent)
        crash.point("objects.rename.after")

    # -- writing

    def put_bytes(self, data: bytes) -> str:
        """See Objects."""
        digest = digest_bytes(data)
        if _size(self._place(digest)) == len(data):
            return digest
        with disk_errors(self.root), self._incoming() as file:
            file.write(data)
            self._keep(file, digest, len(data))
        return digest

    def put_file(self, path: Path) -> tuple[str, int]:
        """See Objects. Copies while hashing: the file is read once, memory stays flat."""
        with open(path, "rb") as source, disk_errors(self.root), self._incoming() as file:
            before = os.fstat(source.fileno())
            digest, size = _copy(source, file)
            after = os.stat(path)
            if size != before.st_size or _identity(before) != _identity(after):
                raise StateError(
                    f"{path} changed while it was read "
                    f"({before.st_size} bytes before, {after.st_size} after)",
                    hint="wait until it is written, or write new files under another name and "
                    "rename them; then run the command again",
                )
            self._keep(file, digest, size)
        return digest, size

    def put_tree(self, folder: Path) -> tuple[str, dict[str, str]]:
        """See Objects. The manifest is written last: a tree that is named is whole."""
        files = {
            path.relative_to(folder).as_posix(): self.put_file(path)[0]
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.put_bytes(canonical(files)), files

    # -- reading

    def has(self, digest: str) -> bool:
        """See Objects."""
        return self._place(digest).exists()

    def read(self, digest: str) -> bytes:
        """See Objects."""
        try:
            data = self._place(digest).read_bytes()
        except FileNotFoundError:
            raise missing(digest) from None
        if (seen := digest_bytes(data)) != digest:
            raise damaged(digest, seen)
        return data

    def path(self, digest: str, *, verify: bool = False) -> Path:
        """See Objects."""
        place = self._place(digest)
        if not place.exists():
            raise missing(digest)
        if verify and (seen := digest_file(place)) != digest:
            raise damaged(digest, seen)
        return place

    def tree(self, digest: str, target: Path) -> Path:
        """See Objects."""
        return materialize(manifest(self.read(digest), digest), digest, target, self.path)

    # -- cleaning

    def delete(self, digest: str) -> None:
        """See Objects."""
        with disk_errors(self.root), contextlib.suppress(FileNotFoundError):
            self._place(digest).unlink()

    def digests(self) -> Iterator[str]:
        """See Objects."""
        if not self.root.is_dir():
            return
        for folder in sorted(os.listdir(self.root)):
            if len(folder) == 2:
                for name in sorted(os.listdir(self.root / folder)):
                    if _DIGEST.fullmatch(digest := f"sha256:{folder}{name}"):
                        yield digest

    def sweep(self, *, older_s: float = 60.0) -> int:
        """Delete what dead writers left behind; how many files. Never a living writer's."""
        folder, swept = self.root / _INCOMING, 0
        for name in os.listdir(folder) if folder.is_dir() else ():
            with contextlib.suppress(OSError):
                # The age covers the moment between a file's making and its locking.
                if time.time() - os.stat(folder / name).st_mtime < older_s:
                    continue
                with open(folder / name, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(folder / name)
                    swept += 1
        return swept


class _Named:
    """A binary file with its path as `name` (`os.fdopen` knows only the number)."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name
        self.write = file.write
        self.flush = file.flush
        self.fileno = file.fileno
        self.seek = file.seek


def _size(path: Path) -> int:
    """Bytes of the file, -1 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev
