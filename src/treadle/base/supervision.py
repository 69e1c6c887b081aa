"""The two files between the supervisor of a model server and those who ask about it.

`wanted.json` is written by the command line, `supervisor.json` by the supervisor alone; each
atomically. A process is identified by its pid and its start time, because pids are used again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from treadle.base.plain import from_plain, to_plain

WANTED, STATE, LOG, LOCK = "wanted.json", "supervisor.json", "server.log", "supervisor.lock"
ROTATED = 3
"""How many older logs are kept: `server.log.1` is the newest of them."""
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What the supervisor is asked to run."""

    id: str
    model_folder: str
    release: int
    content: str
    arguments: tuple[str, ...]
    """Further arguments of `python -m treadle.operate serve`."""
    environ: dict[str, str] = field(default_factory=dict)
    """Variables of the server over those of the supervisor."""
    start_timeout_s: float = 60.0
    linger_s: float = 10.0
    workers: int = 1
    """Processes that share the port; each may take `start_timeout_s` to get ready, one by one."""


@dataclass(frozen=True)
class Supervised:
    """What the supervisor does."""

    pid: int
    start: str
    """`start_of(pid)`."""
    host: str
    port: int
    status: Literal["starting", "serving", "restarting", "failed", "stopped"]
    since: str
    """When the status began (ISO 8601, real time)."""
    answered: str = ""
    """The id of the last `Wanted` that was served or refused."""
    release: int = 0
    content: str = ""
    model_folder: str = ""
    instance: str = ""
    server_pid: int = 0
    """The first worker that serves, as `instance` and `command`; 0 where none does."""
    restarts: int = 0
    """Workers that died or were stuck, since the supervisor began."""
    error: str | None = None
    """Why the `Wanted` named by `answered` is not served; None when it is."""
    hint: str | None = None
    command: tuple[str, ...] = ()
    workers: int = 0
    """As many should serve."""
    ready: int = 0
    """As many do; while they are fewer the service says of itself that it is not ready."""
    server_pids: tuple[int, ...] = ()
    instances: tuple[str, ...] = ()
    compared: str | None = None
    """How the answers to the input example differ from those of the version before."""

    @property
    def address(self) -> str:
        """`http://127.0.0.1:8080`"""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def start_of(pid: int) -> str:
    """When a process began, in a form that is only compared; "" if there is no such process."""
    if os.path.exists("/proc/self/stat"):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] == "Z" else fields[19]  # ended, not yet waited for
    import subprocess

    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def alive(state: Supervised) -> bool:
    """Whether the supervisor that wrote `state` still runs."""
    return bool(state.start) and start_of(state.pid) == state.start


def write(path: Path, record: Any) -> None:
    """Replace a file by a record's JSON: readers see the old or the new one, never half."""
    temporary = path.with_name(path.name + ".next")
    temporary.write_text(json.dumps(to_plain(record), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read(path: Path, kind: type[T]) -> T | None:
    """The record in a file; None if there is none or another Treadle wrote it."""
    try:
        plain = json.loads(path.read_bytes())
        return from_plain(kind, plain) if isinstance(plain, dict) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return None
