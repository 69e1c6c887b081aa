"""`up --watch`: it looks, says what it sees, turns when the rule says so, and ends when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Project
from tests.support.projects import houses_csv


class Watcher:
    """A running `treadle up --watch`; its stderr is read as it comes."""

    def __init__(self, project: Project, *arguments: str) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("TREADLE_", "MLFLOW_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "treadle", "up", "--watch", "--every", "200ms", *arguments],
            cwd=project.folder,
            env=environ | {"TREADLE_RECORDER": "off"},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                self.lines.append(line.rstrip())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, what: str | Callable[[], bool], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if what() if callable(what) else what in self.text:
                return
            assert self.process.poll() is None, self.text
            time.sleep(0.1)
        raise AssertionError(f"waited for {what!r}:\n{self.text}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        self.reader.join(10)
        return code


@pytest.fixture
def watch() -> Iterator[Callable[..., Watcher]]:
    made: list[Watcher] = []

    def begin(project: Project, *arguments: str) -> Watcher:
        made.append(Watcher(project, *arguments))
        return made[-1]

    yield begin
    for watcher in made:
        watcher.process.kill()
        watcher.process.wait()


def test_it_serves_turns_on_new_rows_takes_up_the_spec_and_ends_on_ctrl_c(
    project: Project, watch: Callable[..., Watcher]
) -> None:
    project.add_spec("retrain: {when: [drift], new_rows: 50, cooldown: 0s}\n")
    watcher = watch(project)
    watcher.wait_for("retrain? no")
    found = project.status()
    assert found["healthy"] is True, "a champion that was not served is served"
    assert f"process {watcher.process.pid}" in found["turned_by"]
    assert "`treadle up --watch`" in project("status").out
    # Too few rows: nothing turns.
    (project.folder / "houses-2.csv").write_text(houses_csv(20, seed=2))
    time.sleep(1)
    assert "runs" not in watcher.text
    # Enough rows: the rule says yes, and says why.
    (project.folder / "houses-3.csv").write_text(houses_csv(200, seed=3))
    watcher.wait_for("the turn ended")
    assert "220 new labelled rows" in watcher.text
    yes = next(e for e in project.ledger() if e["kind"] == "retrain" and e["outcome"] == "yes")
    assert yes["by"] == "treadle"
    verdicts = [e for e in project.ledger() if e["kind"] == "verdict"]
    assert len(verdicts) == 2
    # A changed spec is taken up; one with a mistake is not, and the loop goes on.
    project.edit("treadle.yaml", ("new_rows: 50", "new_rows: 5000"))
    watcher.wait_for("treadle.yaml has changed and is read again")
    project.edit("treadle.yaml", ("new_rows: 5000", "new_rowz: 5000"))
    watcher.wait_for("not taken up")
    project.edit("treadle.yaml", ("new_rowz: 5000", "new_rows: 5000"))
    assert watcher.stop() == 130
    assert "interrupted" in watcher.text
    assert "Traceback" not in watcher.text
    found = project.status()
    assert found["turned_by"].startswith("nothing turns this loop")
    assert found["healthy"] is True, "the service outlives the watcher"


def test_bad_data_is_reported_and_the_loop_goes_on(
    project: Project, watch: Callable[..., Watcher]
) -> None:
    project.add_spec("retrain: {when: [drift], new_rows: 50, cooldown: 0s}\n")
    bad = project.folder / "houses-2.csv"
    bad.write_text(houses_csv(100, seed=2).replace("price", "cost"))
    watcher = watch(project)
    watcher.wait_for("warning: the data breaks")
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "1"
    bad.write_text(houses_csv(100, seed=2))
    watcher.wait_for("the turn ended")
    assert watcher.stop() == 130


def test_a_batchs_schedule_runs_where_the_loop_runs(
    project: Project, watch: Callable[..., Watcher], tmp_path: Path
) -> None:
    project.add_spec(
        '  nightly: {target: batch, of: local, input: houses.csv, output: forecasts/, at: "* * * * *"}\n'
    )
    watcher = watch(project)
    watcher.wait_for("scoring 1 files with release 1")
    forecasts = project.folder / "forecasts"
    watcher.wait_for(lambda: bool(list(forecasts.glob("*.parquet"))))
    watcher.wait_for(lambda: project.ledger()[0]["outcome"] == "scored")
    entry = project.ledger()[0]
    assert (entry["subject"], entry["by"]) == ("nightly", "treadle")
    assert watcher.stop() == 130


def test_a_second_turn_waits_or_exits_naming_the_process(project: Project) -> None:
    """Eight at once are another test; here: what the second one is told."""
    slow = "    import time; open('begun', 'w').close(); time.sleep(4)\n    return LinearRegression"
    project.edit("pipeline.py", ("    return LinearRegression", slow))
    first = subprocess.Popen(
        [sys.executable, "-m", "treadle", "train"],
        cwd=project.folder,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TREADLE_RECORDER": "off"},
    )
    deadline = time.monotonic() + 60
    while not (project.folder / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    busy = project("up", "--no-wait", code=1)
    assert str(first.pid) in busy.err
    assert "treadle train" in busy.err
    assert str(first.pid) in project.status()["turned_by"]
    project("plan")
    waited = project("train")
    assert str(first.pid) in waited.err, "it says for whom it waits"
    assert first.wait(60) == 0
    assert "model: runs" not in waited.err, "the first one's result was taken"


def test_eight_first_turns_at_once_make_one_release(fresh) -> None:
    project = fresh()
    environ = {**os.environ, "TREADLE_RECORDER": "off"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "treadle", "up"],
            cwd=project.folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for one in running:
        out, err = one.communicate(timeout=250)
        assert one.returncode == 0, err + out
    kinds = [e["kind"] for e in project.ledger()]
    assert kinds.count("promote") == 1
    assert kinds.count("verdict") == 1
    assert kinds.count("deploy") == 1
    assert project.status()["healthy"] is True
