"""The state folder of a project: `.treadle/`, its journal, its objects and the lock of the turn."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from treadle.base import clock
from treadle.base.errors import StateBusy, StateCorrupt, StateError, UsageError
from treadle.base.log import Report, silent
from treadle.clients.files import disk_errors, flocked, write_file
from treadle.clients.journal import SqliteJournal
from treadle.clients.objects import DiskObjects

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_KEPT_ERRORS = 50
_BUILDING_SECONDS = 3600.0

NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "smb",
        "afs",
        "9p",
        "ceph",
        "fuse.ceph",
        "glusterfs",
        "fuse.glusterfs",
        "lustre",
        "beegfs",
        "gpfs",
        "davfs",
        "fuse.davfs2",
        "webdav",
        "fuse.sshfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "fuse.goofys",
        "fuse.juicefs",
        "afpfs",
        "ocfs2",
        "gfs2",
        "coda",
    }
)
"""File systems on which SQLite's shared memory or flock does not hold between machines."""


@dataclass(frozen=True)
class Holder:
    """Who holds the lock of the turn."""

    pid: int
    host: str
    command: str
    since: str

    def __str__(self) -> str:
        return (
            f"process {self.pid} (`{self.command}`, since {self.since[:19].replace('T', ' ')} UTC)"
        )


class State:
    """An opened state folder. A context manager: leaving it closes the journal."""

    def __init__(self, folder: Path, journal: SqliteJournal) -> None:
        self.folder = folder
        self.journal = journal
        self.objects = DiskObjects(folder / "objects")

    @staticmethod
    def folder_of(project_folder: Path) -> Path:
        """Where a project's state is: `.treadle` in it, or what TREADLE_STATE names."""
        moved = os.environ.get("TREADLE_STATE")
        return Path(moved).expanduser() if moved else project_folder / ".treadle"

    @classmethod
    def open(cls, project_folder: Path, *, create: bool, read_only: bool = False) -> State:
        """Open the state of a project; `create` begins one where there is none.

        Raises StateError (absent, network file system, not writable), StateVersion, StateCorrupt,
        StateBusy, DiskFull. `read_only` writes nothing and works in a folder that is read-only.
        """
        folder = cls.folder_of(project_folder)
        if read_only:
            create = False
        if not create and not (folder / "journal.db").exists():
            refuse_lost(folder)
            raise StateError(
                f"there is no state at {folder}",
                hint="`treadle up` begins one; on a runner, use the environment's own state",
            )
        _refuse_network(folder, new=not folder.is_dir())
        if create and not (folder / "journal.db").exists():
            refuse_lost(folder)
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            if not (folder / ".gitignore").exists():
                write_file(folder / ".gitignore", b"*\n")
        return cls(folder, SqliteJournal(folder / "journal.db", create=create, read_only=read_only))

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- places

    def environment_folder(self, environment: str) -> Path:
        """`environments/NAME/`, made if absent. UsageError if the name cannot name a folder."""
        if not _NAME.fullmatch(environment):
            raise UsageError(f"{environment!r} cannot name an environment")
        folder = self.folder / "environments" / environment
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def model_folder(self, content: str) -> Path:
        """`models/<hex>/`: the model tree with this digest, verified, made if absent."""
        return self.objects.tree(content, self.folder / "models" / content.removeprefix("sha256:"))

    def sweep(self, needed: Container[str]) -> int:
        """Delete what dead writers left and the model folders that are not `needed`; how many.

        For the holder of the turn's lock: a model that is being made right now is not touched, as
        nobody else makes any (the recorder makes them anew if it must).
        """
        import shutil

        swept = self.objects.sweep()
        folder = self.folder / "models"
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.startswith("."):
                unneeded = time.time() - path.stat().st_mtime > _BUILDING_SECONDS
            else:
                unneeded = f"sha256:{path.name}" not in needed
            if unneeded:
                shutil.rmtree(path, ignore_errors=True)
                swept += 1
        return swept

    def error_file(self, trace: str) -> Path:
        """Save a traceback; the newest 50 are kept."""
        folder = self.folder / "errors"
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # The id goes by the wall clock, not by a replayed one: this is about the process.
            path = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.txt"
            path.write_text(trace, encoding="utf-8", errors="backslashreplace")
            for old in sorted(folder.glob("*.txt"))[:-_KEPT_ERRORS]:
                old.unlink(missing_ok=True)
        return path

    # -- the turn

    @contextlib.contextmanager
    def turn_lock(self, words: str, wait: bool, report: Report = silent) -> Iterator[None]:
        """Be the only one that turns this loop; the kernel releases it if this process dies.

        `words` say what this process does, for those who wait. `wait=False` raises StateBusy that
        names the holder; `wait=True` reports whom it waits for, once for each holder.
        """
        path = self.folder / "turn.lock"
        named: Holder | None = None
        while True:
            # The short wait covers a reader that only looks (`turn_holder`).
            with flocked(path, wait_s=0.5 if wait else 0.1) as held:
                if held:
                    self._sign(path, words)
                    try:
                        yield
                    finally:
                        with contextlib.suppress(OSError):
                            os.truncate(path, 0)
                    return
            holder = _holder(path)
            if not wait:
                raise StateBusy(
                    f"this loop is being turned by {holder or 'another process'}",
                    hint="wait for it, or stop it; nothing has to be unlocked by hand",
                )
            if holder is not None and holder != named:
                named = holder
                report(f"waiting for {holder}", waiting_for=holder.pid)

    @contextlib.contextmanager
    def small_writer(self) -> Iterator[None]:
        """Store blobs and then the record that needs them, beside a turn and others like it.

        Monitoring and truth need no turn's lock. But between a blob and its record nothing needs
        the blob, so `gc` waits (`no_writers`) until all of these are through.
        """
        with self._writers(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def no_writers(self) -> Iterator[None]:
        """Wait for the small writers, and have new ones wait."""
        with self._writers(fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _writers(self, kind: int) -> Iterator[None]:
        path = self.folder / "writers.lock"
        with disk_errors(path), open(path, "ab") as file:
            fcntl.flock(file, kind)  # released by the kernel, however this process ends
            yield

    def _sign(self, path: Path, words: str) -> None:
        import socket

        text = json.dumps(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "command": words,
                "since": clock.text(clock.now()),
            }
        )
        with disk_errors(path), open(path, "r+", encoding="utf-8") as file:
            file.truncate()
            file.write(text)

    def turn_holder(self) -> Holder | None:
        """Who turns the loop now, if anybody."""
        path = self.folder / "turn.lock"
        if not path.exists():
            return None
        try:
            with flocked(path, wait_s=0) as held:
                return None if held else _holder(path) or Holder(0, "", "unknown", "")
        except StateError:  # a read-only folder: nobody can be asked, the file says the last
            return None


def _holder(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # just being written, or just released
        return None


def refuse_lost(folder: Path) -> None:
    """A state folder with results but no journal has lost it: not to be taken for a new one."""
    objects = folder / "objects"
    if objects.is_dir() and any(len(name) == 2 for name in os.listdir(objects)):
        raise StateCorrupt(
            f"{folder / 'journal.db'} is gone, but {objects} holds results",
            hint=f"restore journal.db from a backup, or delete {folder} to begin anew",
        )


def _refuse_network(folder: Path, *, new: bool) -> None:
    kind = network_file_system(folder, ask=new)
    if kind is not None:
        raise StateError(
            f"{folder} is on a network file system ({kind}), where locks and SQLite's shared "
            "memory do not hold: the journal could be damaged",
            hint="set TREADLE_STATE to a folder on a local disk, for example "
            f"TREADLE_STATE=~/.local/state/treadle/{folder.resolve().parent.name}",
        )


def network_file_system(folder: Path, *, ask: bool = True) -> str | None:
    """The type of the file system that `folder` is (or would be) on, if it is a network's."""
    kind = file_system(folder, ask=ask)
    return kind if kind in NETWORK else None


def file_system(folder: Path, *, ask: bool = True) -> str | None:
    """The type of the file system that `folder` is (or would be) on; None if it is not known.

    Linux tells in a file; macOS through `mount`, which is only run when `ask` is true.
    """
    place = os.path.realpath(folder)
    system: str = sys.platform  # as text: mypy drops the other system's branch otherwise
    if system == "linux":
        try:
            with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
                return mounted(file.read(), place)
        except OSError:
            return None
    if system == "darwin" and ask:
        import subprocess

        try:
            lines = subprocess.run(
                ["/sbin/mount"], capture_output=True, text=True, check=True, timeout=10
            ).stdout.splitlines()
        except (OSError, subprocess.SubprocessError):
            return None
        found = (re.match(r".* on (/.*) \((\w+)[,)]", line) for line in lines)
        return mounted(
            "\n".join(f"- {m[1].replace(' ', chr(92) + '040')} {m[2]}" for m in found if m), place
        )
    return None


def mounted(table: str, place: str) -> str | None:
    """The type of the mount that holds `place`, by a table like /proc/mounts (the last one wins)."""
    best, kind = -1, None
    for line in table.splitlines():
        fields: list[Any] = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[1])
        stem = point.rstrip("/") + "/"
        if (place == point or place.startswith(stem)) and len(point) >= best:
            best, kind = len(point), fields[2]
    return kind
