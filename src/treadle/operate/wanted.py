"""Where a supervisor learns what is wanted, and where it says what it does.

`Folder`: the process target's files (base/supervision), changed by the command line of another
process. `CommandLine`: `serve --workers N` in a terminal or a container, one wish for good.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from treadle.base import supervision
from treadle.base.supervision import Supervised, Wanted

LOG_BYTES = 10 << 20


class Source(Protocol):
    """What a supervisor needs to know of its surroundings."""

    folder: Path | None
    """Where the workers run; None: where we do."""
    captured: bool
    """Whether what workers print comes to `write`; else it goes where ours goes."""

    def wanted(self) -> Wanted | None:
        """What is wanted now."""

    def arguments(self, wanted: Wanted) -> list[str]:
        """Arguments of `serve` for each worker."""

    def instance(self, wanted: Wanted) -> str:
        """The name of a new worker, in every prediction id of its own."""

    def tell(self, state: Supervised) -> None:
        """What is done now. OSError if nobody can be told."""

    def write(self, data: bytes) -> None:
        """What a worker printed."""

    def say(self, text: str) -> None:
        """A line of the log."""


class Folder:
    """An environment's folder: `wanted.json`, `supervisor.json`, `server.log`."""

    captured = True

    def __init__(self, folder: Path) -> None:
        self.folder: Path | None = folder
        self._home = folder
        self._log = Log(folder / supervision.LOG)
        self.write, self.say = self._log.write, self._log.say

    def wanted(self) -> Wanted | None:
        """What the command line asked for last."""
        return supervision.read(self._home / supervision.WANTED, Wanted)

    def arguments(self, wanted: Wanted) -> list[str]:
        """The wish in the words of `serve`."""
        return [
            wanted.model_folder, "--release", str(wanted.release), "--content", wanted.content,
            "--linger", str(wanted.linger_s), "--workers", str(wanted.workers), *wanted.arguments,
        ]  # fmt: skip

    def instance(self, wanted: Wanted) -> str:
        """Eight random digits."""
        del wanted
        return secrets.token_hex(4)

    def tell(self, state: Supervised) -> None:
        """Replace the state's file."""
        supervision.write(self._home / supervision.STATE, state)


class CommandLine:
    """The arguments that this process was started with; SIGHUP starts the same anew."""

    captured = False
    folder: Path | None = None

    def __init__(self, wanted: Wanted, arguments: Sequence[str], instance: str | None) -> None:
        self._wanted, self._arguments, self._instance = wanted, list(arguments), instance

    def wanted(self) -> Wanted | None:
        """The same model, loaded anew from where it lies."""
        return dataclasses.replace(self._wanted, id=secrets.token_hex(8))

    def arguments(self, wanted: Wanted) -> list[str]:
        """As they were given."""
        del wanted
        return self._arguments

    def instance(self, wanted: Wanted) -> str:
        """The given name with a part of its own for each worker: ids must differ."""
        del wanted
        return (
            f"{self._instance}-{secrets.token_hex(2)}" if self._instance else secrets.token_hex(4)
        )

    def tell(self, state: Supervised) -> None:
        """Nobody waits for it; the log has it."""

    def write(self, data: bytes) -> None:
        """Workers print where we do."""

    def say(self, text: str) -> None:
        """On standard error, as the workers' lines."""
        with contextlib.suppress(OSError):  # whoever read it has gone; the service has not
            sys.stderr.write(_line(text))
            sys.stderr.flush()


class Log:
    """server.log, rotated by size; every worker writes into it through a pipe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append."""
        try:
            if self._file.tell() + len(data) > LOG_BYTES:
                self._rotate()
            self._file.write(data)
        except OSError:
            pass  # a full disk must not stop the service

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        self.write(_line(text).encode())

    def _rotate(self) -> None:
        for number in range(supervision.ROTATED - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                os.replace(older, self._path.with_name(f"{self._path.name}.{number + 1}"))
        os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
        self._file.close()
        self._file = self._path.open("ab", buffering=0)


def _line(text: str) -> str:
    moment = dt.datetime.now().strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ005 - as the server's lines
    return f"{moment} INFO supervisor: {text}\n"
