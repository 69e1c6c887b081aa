"""What a caller (a person, a CI service) learns from the exit code and the message beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.conftest import Project
from tests.support.projects import SPEC, treadle

WORSE = (
    '.fit(train[["area", "rooms"]], train["price"])',
    '.fit(train[["area", "rooms"]], train["price"] * 3)',
)
"""A model that is off by a factor of three."""


# ---- 1: something failed -------------------------------------------------------------------------


def test_a_step_that_raises_shows_the_users_traceback_and_not_ours(project: Project) -> None:
    project.edit(
        "pipeline.py",
        ("    return LinearRegression", "    train['nothing']\n    return LinearRegression"),
    )
    ran = project("up", code=1)
    assert "model()" in ran.err
    assert "KeyError: 'nothing'" in ran.err
    assert "train['nothing']" in ran.err
    assert "pipeline.py" in ran.err
    assert "/treadle/" not in ran.err.replace(str(project.folder), ""), "no frame of ours"
    assert ran.out == ""
    assert project.status()["champion"] == 1
    runs = project("explain", "model").out
    assert "run" in runs


def test_a_bug_of_ours_saves_its_trace_and_says_where(project: Project) -> None:
    """A journal that is a folder stands for what nobody thought of."""
    code = (
        "import sys, treadle.cli.look as look, treadle.loop.service as service\n"
        "def broken(*a): raise RuntimeError('nobody thought of this')\n"
        "service.status = broken\n"
        "from treadle.cli.group import command_line\n"
        "sys.exit(command_line(sys.argv[1:]))\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=project.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    ran = run("status")
    assert ran.returncode == 1
    assert "RuntimeError: nobody thought of this" in ran.stderr
    assert "Traceback" not in ran.stderr
    trace = Path(next(word for word in ran.stderr.split() if "treadle-error-" in word))
    assert "nobody thought of this" in trace.read_text()
    assert trace.is_relative_to(project.folder / ".treadle")
    assert "Traceback" in run("status", "--debug").stderr


# ---- 2: usage ------------------------------------------------------------------------------------


def test_every_mistake_in_the_spec_is_shown_with_its_line_and_nothing_is_written(
    tmp_path: Path, template: Path
) -> None:
    shutil.copytree(template, tmp_path / "p", ignore=shutil.ignore_patterns(".treadle"))
    (tmp_path / "p" / "treadle.yaml").write_text(
        SPEC.replace("task: regression", "task: regresion")
        .replace("test:", "tset:")
        .replace("deploy:", "dashboard: {}\ndeploy:")
    )
    for command in ("plan", "up", "status"):
        ran = treadle(tmp_path / "p", command)
        assert ran.code == 2
        assert "treadle.yaml:4:" in ran.err
        assert "regression" in ran.err
        assert "treadle.yaml:5:1" in ran.err
        assert "did you mean" in ran.err.lower()
        assert "not supported yet" in ran.err
    assert not (tmp_path / "p" / ".treadle").exists()


def test_an_unknown_environment_names_those_that_exist(project: Project) -> None:
    for command in (["up"], ["plan"], ["status"], ["predict", "houses.csv"], ["down"], ["monitor"]):
        ran = project(*command, "--env", "production", code=2)
        assert "production" in ran.err
        assert "local" in ran.err


def test_set_names_what_exists(project: Project) -> None:
    ran = project("up", "--set", "model.interept=false", code=2)
    assert "model.intercept" in ran.err
    ran = project("up", "--set", "model.intercept=true,false", code=2)
    assert "treadle train" in ran.err


def test_no_terminal_means_an_error_that_names_the_flag(project: Project) -> None:
    project.edit("pipeline.py", ("intercept: bool = True", "intercept: bool = False"))
    project("up")
    assert "--yes" in project("rollback", code=2).err
    assert project.status()["champion"] == 2
    (project.folder / "empty").mkdir()
    ran = treadle(project.folder / "empty", "init")
    assert ran.code == 2
    assert "--yes" in ran.err
    assert not list((project.folder / "empty").iterdir())


# ---- 3: refused ----------------------------------------------------------------------------------


def test_a_gate_that_refuses_leaves_the_champion_serving(copy) -> None:
    project = copy()
    project("up")
    before = project("predict", "houses.csv", "-n", "1", "--json").json
    project.edit("pipeline.py", WORSE)
    ran = project("up", code=3)
    assert "refused, release 1 stays" in ran.out
    assert "next: treadle explain model" in ran.out
    assert "refuse" in project("explain", "model").out
    after = project("predict", "houses.csv", "-n", "1", "--json").json
    assert after["predictions"] == before["predictions"]
    assert after["release"] == before["release"]
    project("train", code=3)
    project("test", code=3)
    assert project.status()["champion"] == 1
    # And again: nothing new is decided, the answer stays the same.
    entries = len(project.ledger())
    project("up", code=3)
    assert len(project.ledger()) == entries


def test_data_that_is_refused_trains_nothing_and_the_old_model_serves(copy) -> None:
    project = copy()
    project("up")
    runs = len(project("lineage", "--from-data", "houses", "--json").json["links"])
    project.edit("houses.csv", ("area,rooms,year,price", "area,rooms,built,price"))
    ran = project("up", code=3)
    assert "year" in ran.err
    assert "nothing was trained" in ran.err
    assert "running model()" not in ran.err or "model: done" not in ran.err
    assert project("predict", "houses.csv", "-n", "1", "--json", code=0).json["release"] == "1"
    status = project("status").out
    assert "data houses was refused" in status
    assert "refuse" in project("explain", "houses").out
    assert "refuse" in project("plan").out
    project("up", code=3)
    # Mended, the loop goes on as if nothing had been.
    project.edit("houses.csv", ("area,rooms,built,price", "area,rooms,year,price"))
    ran = project("up")
    assert "running" not in ran.err
    assert project.status()["champion"] == 1
    assert "nothing to do" in project("up").out
    assert "was refused" not in project("status").out
    assert len(project("lineage", "--from-data", "houses", "--json").json["links"]) == runs


# ---- 4: unreachable ------------------------------------------------------------------------------


def test_predict_without_a_service_names_the_command_that_starts_it(project: Project) -> None:
    ran = project("predict", "houses.csv", code=4)
    assert "treadle up --env local" in ran.err


def test_existing_refuses_to_begin_a_second_ledger(fresh) -> None:
    project = fresh()
    ran = project("up", "--existing", code=4)
    assert "no journal" in ran.err
    assert "TREADLE_STATE" in ran.err
    assert not (project.folder / ".treadle").exists()


def test_a_command_on_a_project_that_was_never_turned_says_so(fresh) -> None:
    project = fresh()
    for command in (
        ["monitor"],
        ["gc"],
        ["rollback", "--yes"],
        ["approve", "x", "--reason", "y"],
        ["data", "accept", "--reason", "y", "--yes"],
        ["truth", "houses.csv"],
    ):
        ran = project(*command, code=4)
        assert "never turned" in ran.err, (command, ran)
        assert "treadle up" in ran.err
        assert "--existing" not in ran.err, "nobody said --existing"
    assert "never read" in project("status").out
    assert not (project.folder / ".treadle").exists()


def test_a_database_that_is_down_leaves_the_champion_serving(copy) -> None:
    project = copy()
    project("up")
    project.edit(
        "treadle.yaml",
        ('{files: "houses*.csv"}', '{query: SELECT * FROM houses, database: "${HOUSES_DSN}"}'),
    )
    ran = project("up", code=None)
    assert ran.code in (2, 4)
    assert "HOUSES_DSN" in ran.err
    ran = project(
        "up", code=4, env={"HOUSES_DSN": "postgresql://someone:secret@127.0.0.1:1/houses"}
    )
    assert "127.0.0.1" in ran.err
    assert "secret" not in ran.err + ran.out
    project("predict", "houses.csv", "-n", "1")
    assert project.status()["champion"] == 1


# ---- 5: undecided --------------------------------------------------------------------------------

UNDECIDED = [("at_most: 30", "at_most: 8.5")]
"""The model's error is 8.7: on the holdout the interval holds the ceiling."""


def test_an_undecided_verdict_waits_for_a_person_and_then_promotes(project: Project) -> None:
    project.edit("treadle.yaml", *UNDECIDED)
    project.edit(
        "pipeline.py", ("return LinearRegression(", "return LinearRegression(positive=True, ")
    )
    ran = project("up", code=5)
    assert "undecided, release 1 stays" in ran.out
    found = project.status()
    assert found["champion"] == 1
    waiting = next(line for line in found["attention"] if "is undecided" in line)
    digest = waiting.split("treadle approve ")[1].split()[0]
    assert f"treadle approve {digest}" in ran.out
    # A reason is asked for, and it stands in the ledger under the person's name.
    project("approve", digest, code=2)
    done = project("approve", digest, "--reason", "seen by hand", env={"GITHUB_ACTOR": "ada"})
    assert "next: treadle up" in done.out
    project("up")
    entries = project.ledger()
    approval = next(e for e in entries if e["kind"] == "approve")
    promotion = next(e for e in entries if e["kind"] == "promote")
    assert approval["by"] == promotion["by"] == "ada"
    assert "seen by hand" in approval["words"]
    assert promotion["evidence"]["champion"] == 2
    assert "is undecided" not in project("status").out
    assert "nothing to do" in project("up").out


def test_a_refusal_is_not_a_persons_to_overrule(project: Project) -> None:
    project.edit("pipeline.py", WORSE)
    project("up", code=3)
    digest = next(e for e in project.ledger() if e["kind"] == "verdict")["subject"]
    assert "refusal" in project("approve", digest, "--reason", "please", code=2).err
    assert "awaits" in project("approve", "feedbeef", "--reason", "please", code=2).err


# ---- 130: interrupted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(True, id="as a terminal does it"),
        pytest.param(False, id="one process", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_in_a_long_step_is_recorded_and_the_next_turn_works(
    project: Project, group: bool
) -> None:
    slow = (
        "    return LinearRegression",
        "    import time; open('begun', 'w').close(); time.sleep(60)\n    return LinearRegression",
    )
    project.edit("pipeline.py", slow)
    process = subprocess.Popen(
        [sys.executable, "-m", "treadle", "up"],
        cwd=project.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TREADLE_RECORDER": "off"},
    )
    begun = project.folder / "begun"
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted; what was done before is kept" in err
    assert "Traceback" not in err
    assert out == ""
    links = project("lineage", "--from-data", "houses", "--json").json["links"]
    runs = [link for link in links if link["kind"] == "run"]
    assert [run["facts"]["status"] for run in runs].count("FAILED") == 1
    newest = runs[0]["id"]
    assert "interrupted" in project("explain", newest).out.lower()
    project.edit("pipeline.py", (slow[1], slow[0]))
    assert "nothing to do" in project("up", code=0).out or project.status()["healthy"]
