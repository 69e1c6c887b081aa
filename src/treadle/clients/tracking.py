"""The way to MLflow, seen from the loop: messages for the outbox, and the recorder that sends them.

MLflow is a projection of the journal and never asked to decide: the loop commits messages with its
changes, starts the recorder, and goes on. Nothing here imports MLflow (`clients/recorder.py` does,
in a process of its own).

Of one project there is one registered model, named like the project; a version of it for each
different model that was released; aliases `champion` and `challenger` for the default environment,
`champion-ENV` and `challenger-ENV` for the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.base import clock, crash
from treadle.base.errors import StateError
from treadle.base.plain import to_plain
from treadle.base.records import Finding, Message, Model, Release, Run, Snapshot, Verdict, Window
from treadle.base.spec import Spec
from treadle.clients.files import flocked
from treadle.clients.journal import Changes, Journal, SqliteJournal

if TYPE_CHECKING:
    import subprocess

    from treadle.clients.state import State

_LOG_BYTES = 1 << 20
NOT_INSTALLED = "MLflow is not installed; pip install 'treadle[mlflow]' and what waits is delivered"


# ---- messages ------------------------------------------------------------------------------------


def run_message(
    run: Run, snapshots: Sequence[Snapshot], model: Model | None, verdict: Verdict | None
) -> Message:
    """A run as it is now; told again at its end, it is the same run in MLflow."""
    return Message(
        "run",
        {
            "run": to_plain(run),
            "snapshots": [_compact(snapshot) for snapshot in snapshots],
            "model": to_plain(model),
            "verdict": _verdict(verdict),
        },
    )


def killed_message(run: Run, ended: str, error: str = "its process died") -> Message:
    """A run whose process is gone."""
    dead = dataclasses.replace(run, status="KILLED", ended=ended, error=run.error or error)
    return run_message(dead, (), None, None)


def model_message(project: str, model: Model, run: str) -> Message:
    """A model that a run made or found done, where the run's own message does not carry it."""
    return Message("model", {"project": project, "model": to_plain(model), "run": run})


def release_message(
    release: Release, model: Model, verdict: Verdict | None, *, project: str = ""
) -> Message:
    """A release: a version of the registered model, with its digests as tags.

    `project`: by default that of the release's run.
    """
    return Message(
        "release",
        {
            "project": project,
            "release": to_plain(release),
            "model": to_plain(model),
            "verdict": _verdict(verdict),
        },
    )


def alias_message(
    spec: Spec,
    environment: str,
    champion: int | None,
    model: str | None,
    challenger: tuple[int, str] | None = None,
) -> Message:
    """Which releases are champion and challenger of an environment now; None removes the alias.

    `champion` is the release's number and `model` its model's digest, `challenger` both. The
    recorder reads the records of kinds `release` and `model` that these name.
    """
    suffix = "" if environment == spec.default_environment else f"-{environment}"
    best = None if champion is None or model is None else [champion, model]
    return Message(
        "alias",
        {
            "project": spec.project,
            "environment": environment,
            "aliases": {
                f"champion{suffix}": best,
                f"challenger{suffix}": None if challenger is None else list(challenger),
            },
        },
    )


def windows_message(
    project: str, environment: str, windows: Sequence[Window], findings: Sequence[Finding] = ()
) -> Message:
    """Closed windows as points of one MLflow run per environment, at the time of their end."""
    return Message(
        "windows",
        {
            "project": project,
            "environment": environment,
            "windows": [to_plain(window) for window in windows],
            "alarms": [f"{f.window} {f.kind} {f.subject}" for f in findings if f.alarm],
        },
    )


def _compact(snapshot: Snapshot) -> dict[str, Any]:
    """What MLflow shows of a snapshot: a thousand parts are no use there."""
    paths = [part.path for part in snapshot.parts]
    return {
        "dataset": snapshot.dataset,
        "digest": snapshot.digest,
        "kind": snapshot.kind,
        "rows": snapshot.rows,
        "parts": len(paths),
        "bytes": sum(part.size_bytes for part in snapshot.parts),
        "source": paths[0] if len(paths) == 1 else _stem(paths) + "*",
        "columns": [to_plain(column) for column in snapshot.columns],
    }


def _stem(paths: Sequence[str]) -> str:
    """What all paths start with: `data/flights-2013-0`."""
    first, last = min(paths, default=""), max(paths, default="")
    same = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(same, min(len(first), len(last)))]


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    return None if verdict is None else {**to_plain(verdict), "digest": verdict.digest}


# ---- where to ------------------------------------------------------------------------------------


def tracking_uri(folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file of the state folder."""
    return environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"


@dataclass(frozen=True)
class Delivery:
    """How the projection stands, for `status`."""

    pending: int
    """Messages not yet delivered (counted up to 1000)."""
    error: str | None
    """Why the last delivery stopped, if it did."""
    conflicts: tuple[dict[str, Any], ...]
    """Aliases that a person moved in MLflow: environment, alias, ours, theirs, words, ways_out."""


def delivery(journal: Journal) -> Delivery:
    """How the projection stands: what waits, why, and what a person moved."""
    pending = len(journal.pending(1000))
    last = journal.get("recorder", "last")
    error = last["error"] if last and pending else None
    return Delivery(pending, error, tuple(value for _, value in journal.list("conflict")))


# ---- the recorder's process ----------------------------------------------------------------------

_started: list[subprocess.Popen[bytes]] = []


def spawn_recorder(state: State | Path) -> int | None:
    """Start the recorder, detached, if something waits and none is running; its process id.

    `state` is the opened state, or its folder. Returns at once (milliseconds). Its lock is taken here and handed over, so that there is no
    moment in which a second one could start, nor one in which `wait_recorder` sees none.
    """
    if isinstance(state, Path):
        journal: Journal = SqliteJournal(state / "journal.db", create=False)
        with contextlib.closing(journal):
            return _spawn(state, journal)
    return _spawn(state.folder, state.journal)


def _spawn(folder: Path, journal: Journal) -> int | None:
    import importlib.util

    _started[:] = [process for process in _started if process.poll() is None]  # reap the dead
    if os.environ.get("TREADLE_RECORDER") == "off":
        return None
    if not journal.pending(1) and not journal.list("conflict", limit=1):
        return None
    if importlib.util.find_spec("mlflow") is None:
        note(journal, NOT_INSTALLED)
        return None
    try:
        number = os.open(folder / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _start(folder, number)
        except BlockingIOError:
            return None  # it looks again after it has let go of its lock: nothing is missed
        finally:
            os.close(number)
    except OSError as error:  # MLflow never fails a turn: what waits, waits
        with contextlib.suppress(StateError):
            note(journal, f"the recorder could not be started: {error}")
        return None


def _start(folder: Path, lock: int) -> int:
    import subprocess

    log = folder / "recorder.log"
    with contextlib.suppress(FileNotFoundError):
        if os.stat(log).st_size > _LOG_BYTES:
            os.replace(log, folder / "recorder.log.1")
    crash.point("recorder.spawn.before")
    with open(log, "ab") as out:
        # -P: a json.py or types.py in the user's folder is not the standard library's.
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "treadle.clients.recorder",
                os.fspath(folder.resolve()),
                "--lock-fd",
                str(lock),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            pass_fds=(lock,),
        )
    crash.point("recorder.spawn.after")
    _started.append(process)
    return process.pid


def wait_recorder(state: State, timeout_s: float) -> bool:
    """Wait until no recorder is running; whether everything was delivered by then."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with flocked(state.folder / "recorder.lock", wait_s=0) as held:
            if held:
                break
        time.sleep(0.05)
    return not state.journal.pending(1)


def note(journal: Journal, error: str | None, **facts: Any) -> None:
    """Keep how the last delivery went, if that is news (kind `recorder`, key `last`)."""
    last = journal.get("recorder", "last")
    value = {"error": error, **facts}
    if last is None or {k: v for k, v in last.items() if k != "at"} != value:
        journal.commit(Changes().put("recorder", "last", {**value, "at": clock.text(clock.now())}))
