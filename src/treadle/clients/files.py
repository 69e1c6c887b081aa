"""Files that are whole or absent, locks that die with their holder, and the disk's errors in words.

Only the standard library, and only what the fast path can afford.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from treadle.base import crash
from treadle.base.errors import DiskFull, StateError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def disk_full(path: str | os.PathLike[str]) -> DiskFull:
    """The error for a full disk, naming the file that did not fit."""
    return DiskFull(
        f"no space left on the device while writing {os.fspath(path)}; "
        "everything written before is intact",
        hint="free some space (`treadle gc` deletes what nothing needs) and run the command again",
    )


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the errors of writing `path` into ours: DiskFull, and StateError for no permission."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(error.filename or path) from error
        if error.errno in _DENIED:
            raise StateError(
                f"no permission to write {error.filename or os.fspath(path)} "
                f"({os.strerror(error.errno or 0).lower()})",
                hint="make the folder writable, or set TREADLE_STATE to a folder that is",
            ) from error
        raise


def flush(number: int) -> None:
    """Bring an open file to the disk itself: macOS's fsync stops at the drive's cache."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # a file system that does not know it
            fcntl.fcntl(number, full)
            return
    os.fsync(number)


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in `folder` (a rename, a new file) survive a power cut."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flush(number)
    finally:
        os.close(number)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` so that readers, and a crash, see the old or the new content whole."""
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
    with disk_errors(path):
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                flush(file.fileno())
            crash.point("files.write.before")
            os.rename(temporary, path)
            crash.point("files.write.after")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        fsync_folder(path.parent)


@contextlib.contextmanager
def flocked(path: Path, *, wait_s: float | None = None) -> Iterator[bool]:
    """Hold the kernel's lock on `path`; yields False if it was not to be had within `wait_s`.

    `wait_s=None` waits for good, 0 asks once. The kernel releases the lock when the holder dies.
    """
    with disk_errors(path):
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if wait_s is None:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield True
            return
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.02)
            else:
                yield True
                return
    finally:
        os.close(number)
