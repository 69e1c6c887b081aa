"""A project whose commands are killed, what is on its disk, and what must be the same afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.projects import Ran, houses

from treadle.base.digest import digest_bytes
from treadle.base.plain import from_plain
from treadle.base.records import Decision
from treadle.base.supervision import STATE, Supervised, read
from treadle.clients.journal import SqliteJournal

MARK = "CRASH_TEST_WORLD"
"""A variable that every process of a world inherits: so all of them are found, whoever began them."""

PASSING = {"turning", "running", "rolling"}
"""Kinds of records that say what goes on; gone when it is over."""
CHANGING = {"run", "rollout"}
"""Kinds whose records get an end."""


@dataclass(frozen=True)
class Photo:
    """Everything that is on the disk of a state."""

    records: dict[tuple[str, str], Any]
    ledger: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    blobs: frozenset[str]

    def kind(self, kind: str) -> dict[str, Any]:
        return {key: value for (found, key), value in self.records.items() if found == kind}


class World:
    """One project and all processes that came of its commands."""

    def __init__(self, folder: Path, *, make: bool = True, state: Path | None = None, **options):
        self.folder = houses(folder, **options) if make else folder
        self.state = state or folder / ".treadle"
        self.mark = secrets.token_hex(8)

    # -- commands

    def environ(self, env: dict[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TREADLE_", "MLFLOW_"))}
        if self.state != self.folder / ".treadle":
            kept["TREADLE_STATE"] = str(self.state)
        return {**kept, "TREADLE_RECORDER": "off", MARK: self.mark, **(env or {})}

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Begin a command in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "treadle", *arguments], cwd=self.folder,
            env=self.environ(env), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def __call__(
        self,
        *arguments: str,
        code: int | None = 0,
        env: dict[str, str] | None = None,
        timeout: float = 180,
    ) -> Ran:
        process = self.start(*arguments, env=env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError((arguments, "did not end", out, err)) from None
        ran = Ran(subprocess.CompletedProcess(arguments, process.returncode, out, err))
        assert code is None or ran.code == code, (arguments, ran)
        assert "Traceback" not in ran.err or "user_traceback" in ran.err, ran
        assert "bug in Treadle" not in ran.err, ran
        return ran

    def killed(self, point: str, *arguments: str) -> Photo:
        """Run a command that dies at a crash point; what it leaves on the disk."""
        ran = self(*(arguments or ("up",)), code=None, env={"TREADLE_CRASH": point})
        assert ran.code == -signal.SIGKILL, (point, ran)
        return self.photo()

    # -- processes

    def processes(self) -> dict[int, str]:
        """Living processes of this world: pid → command line."""
        found = {}
        wanted = f"{MARK}={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        if command:  # a zombie has none
                            found[int(entry.name)] = command
        return found

    def kill_all(self) -> None:
        """SIGKILL for every process of this world, until none is left."""
        until = time.monotonic() + 20
        while found := self.processes():
            assert time.monotonic() < until, found
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def supervised(self, environment: str = "local") -> Supervised | None:
        return read(self.state / "environments" / environment / STATE, Supervised)

    # -- what is there

    def photo(self) -> Photo:
        path = self.state / "journal.db"
        records: dict[tuple[str, str], Any] = {}
        ledger: list[dict[str, Any]] = []
        messages: list[dict[str, Any]] = []
        if path.exists():
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                for kind, key, value in database.execute("SELECT kind, key, value FROM records"):
                    records[kind, key] = json.loads(value)
                rows = database.execute("SELECT entry FROM ledger ORDER BY seq")
                ledger = [json.loads(entry) for (entry,) in rows]
                rows = database.execute("SELECT message FROM outbox ORDER BY seq")
                messages = [json.loads(message) for (message,) in rows]
        objects = self.state / "objects"
        blobs = frozenset(str(blob.relative_to(objects)) for blob in objects.glob("??/*"))
        return Photo(records, ledger, messages, blobs)

    def essence(self) -> dict[str, Any]:
        """What does not depend on when, where and in how many attempts the turns were done."""
        photo = self.photo()
        done = [
            message
            for message in photo.messages
            if message["kind"] != "run" or message["payload"]["run"]["status"] == "FINISHED"
        ]
        finished = [r for r in photo.kind("run").values() if r["status"] == "FINISHED"]
        return {
            "steps": {key: step["results"] for key, step in photo.kind("step").items()},
            "step_last": {key: step["key"] for key, step in photo.kind("step_last").items()},
            "snapshots": {key: s["parts"] for key, s in photo.kind("snapshot").items()},
            **{
                kind: photo.kind(kind)
                for kind in (
                    "checked",
                    "model",
                    "model_of",
                    "verdict",
                    "verdict_of",
                    "attempts",
                    "baseline",
                    "release_state",
                    "served",
                    "profile",
                )
            },
            "releases": {
                key: [r["number"], r["model"], r["content"], r["verdict"], r["reason"]]
                for key, r in photo.kind("release").items()
            },
            "ledger": [
                [d["environment"], d["kind"], d["subject"], d["outcome"], d["rule"]]
                for d in photo.ledger
            ],
            "messages": [m["kind"] for m in done],
            "runs": [
                [r["model"], r["verdict"], r["steps"], r["snapshots"], r["metrics"]]
                for r in finished
            ],
            "schema": (self.folder / "data.schema.yaml").read_text(),
            "blobs": sorted(photo.blobs),
        }

    def verify(self) -> Photo:
        """The journal's pages, the ledger's chain, every blob, every reference; nothing goes on."""
        journal = SqliteJournal(self.state / "journal.db", create=False)
        try:
            journal.verify()
        finally:
            journal.close()
        for blob in (self.state / "objects").glob("??/*"):
            assert digest_bytes(blob.read_bytes()) == f"sha256:{blob.parent.name}{blob.name}"
        photo = self.photo()
        previous = ""
        for entry in photo.ledger:
            assert entry["previous"] == previous
            previous = from_plain(Decision, entry).digest
        for kind in PASSING:
            assert photo.kind(kind) == {}, kind
        for rollout in photo.kind("rollout").values():
            assert rollout["status"] != "running", rollout
        for run in photo.kind("run").values():
            assert run["status"] != "RUNNING", run
        for digest in _digests(
            {
                k: v
                for k, v in photo.records.items()
                if k[0] in ("step", "snapshot", "model", "baseline")
            }
        ):
            if digest in _CONTENTS(photo):
                assert f"{digest[7:9]}/{digest[9:]}" in photo.blobs, digest
        assert not list((self.state / "tmp").glob("*")), "left by a dead process"
        return photo

    def served(self) -> dict[str, Any]:
        """The one server answers, once any that was replaced has drained: release, predictions."""
        until = time.monotonic() + 30
        while True:
            commands = self.processes().values()
            servers = [c for c in commands if "treadle.operate serve" in c]
            supervisors = [c for c in commands if "treadle.operate supervise" in c]
            if len(servers) == len(supervisors) == 1:
                return self.answer()
            assert time.monotonic() < until, commands
            time.sleep(0.1)

    def answer(self) -> dict[str, Any]:
        """Which release is served, and what it says."""
        state = self.supervised()
        assert state is not None
        rows = {"columns": ["area", "rooms"], "data": [[100, 3], [50, 1]]}
        request = urllib.request.Request(
            f"{state.address}/invocations",
            json.dumps({"dataframe_split": rows}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            predictions = json.load(answer)
        return {"release": state.release, **predictions}


def _digests(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value} if value.startswith("sha256:") and len(value) == 71 else set()
    if isinstance(value, dict):
        return set().union(*map(_digests, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(_digests, value)) if value else set()
    return set()


def _CONTENTS(photo: Photo) -> set[str]:  # noqa: N802
    """The digests among a photo's records that name blobs."""
    found: set[str] = set()
    for step in photo.kind("step").values():
        found |= {result["content"] for result in step["results"]}
    for snapshot in photo.kind("snapshot").values():
        found |= {part["content"] for part in snapshot["parts"]}
    for model in photo.kind("model").values():
        found |= {model["content"], model["profile"], *model["files"].values()}
    return found | set(photo.kind("baseline").values())


def nothing_lost(
    before: Photo, after: Photo, ran: Ran | None = None, *, moving: Collection[str] = ()
) -> None:
    """Whatever was written when the process died is there now, and was not done again."""
    for (kind, key), value in before.records.items():
        if kind in PASSING or kind in moving or kind == "memo":  # a copied file has another inode
            continue
        now = after.records.get((kind, key))
        if kind in CHANGING and value["status"].upper() == "RUNNING":
            assert now is not None
            assert now["status"] in ("KILLED", "failed", "done"), now
        else:
            assert now == value, (kind, key, value, now)
    assert after.ledger[: len(before.ledger)] == before.ledger
    assert after.messages[: len(before.messages)] == before.messages
    assert before.blobs <= after.blobs
    # Each run that was going on is KILLED, here and in what MLflow will be told.
    for run in before.kind("run").values():
        if run["status"] == "RUNNING":
            assert after.kind("run")[run["id"]]["status"] == "KILLED"
            told = [
                m["payload"]["run"]["status"]
                for m in after.messages
                if m["kind"] == "run" and m["payload"]["run"]["id"] == run["id"]
            ]
            assert told == ["KILLED"]
    if ran is not None:
        for step in before.kind("step").values():
            assert f"{step['name']}: runs" not in ran.err, ran
