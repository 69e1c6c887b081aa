"""Looking at an unchanged project: quick, on the right stream, and every answer as JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.test_group import HEAVY, modules_after
from tests.e2e.conftest import Project
from tests.support.projects import treadle


@pytest.mark.parametrize("command", ["plan", "status", "up"])
def test_an_unchanged_project_imports_nothing_heavy(served: Project, command: str) -> None:
    assert not modules_after(served.folder, command) & HEAVY


def test_25_an_unchanged_plan_has_nothing_to_do(served: Project) -> None:
    assert "nothing to do" in served("plan").out
    served("plan", "--exit-code", code=0)
    served("plan", "--set", "model.intercept=false", "--exit-code", code=10)
    served("plan", "--set", "model.intercept=false", code=0)
    assert served("plan", "--json").json["changes"] is False


def test_an_unchanged_turn_says_so_and_writes_nothing_into_the_ledger(served: Project) -> None:
    before = len(served.ledger())
    ran = served("up")
    assert "nothing to do" in ran.out
    assert len(served.ledger()) == before


JSON = [
    ("plan",), ("status",), ("ledger",), ("doctor",), ("monitor",), ("test",),
    ("data", "show"), ("data", "diff", "houses"), ("config", "show"), ("config", "show", "--origin"),
    ("config", "schema"), ("gc", "--dry-run"), ("explain", "model"), ("explain", "houses"),
    ("lineage", "release", "1"), ("lineage", "--from-data", "houses"),
    ("predict", "houses.csv", "-n", "1"), ("up",), ("up", "--dry-run"), ("train",),
    ("logs", "-n", "3"), ("service", "install", "--print"), ("ledger", "--as-of", "2100-01-01"),
]  # fmt: skip


@pytest.mark.parametrize("command", JSON, ids=" ".join)
def test_every_answer_is_one_json_document_with_a_schema_version(
    served: Project, command: tuple[str, ...]
) -> None:
    ran = served(*command, "--json")
    assert ran.json["schema_version"] == 1
    assert "\x1b" not in ran.out


def test_results_go_to_stdout_and_progress_to_stderr(project: Project) -> None:
    project.edit("pipeline.py", ('["price"])', '["price"] * 1.0)'))
    ran = project("train")
    assert "verdict" in ran.out
    assert "running model()" in ran.err
    assert "running" not in ran.out
    assert "\x1b" not in ran.err, "not a terminal: no colour"
    project.edit("pipeline.py", ('["price"] * 1.0)', '["price"] * 1.00001)'))
    ran = project("train", "-q")
    assert ran.err == ""
    assert "verdict" in ran.out


def test_status_says_that_nothing_turns_the_loop(served: Project) -> None:
    shown = served("status")
    assert "nothing turns this loop" in shown.out
    assert "wanted release 1, actual release 1 serving" in shown.out
    found = served.status()
    assert found["champion"] == 1
    assert found["healthy"] is True


def test_config_show_says_where_each_value_is_from(served: Project) -> None:
    settings = {
        s["key"]: s for s in served("config", "show", "--origin", "--json").json["settings"]
    }
    label = next(
        s for key, s in settings.items() if key.endswith("model.label") or key == "model.label"
    )
    assert label["where"].startswith("treadle.yaml:4")
    cooldown = next((s for key, s in settings.items() if "window" in key), None)
    assert cooldown is not None
    assert cooldown["where"] == "default"
    assert "treadle.yaml:4" in served("config", "show", "--origin").out


def test_doctor_names_a_fix_for_what_is_missing(served: Project) -> None:
    checks = {c["name"]: c for c in served("doctor", "--json").json["checks"]}
    assert checks["project"]["state"] == "ok"
    assert checks["python"]["state"] == "ok"
    assert all(c["fix"] for c in checks.values() if c["state"] != "ok")


def test_colour_comes_only_to_a_terminal_that_wants_it(served: Project) -> None:
    """On a terminal (a pty) an error is coloured; with NO_COLOR it is not."""
    import os
    import pty
    import subprocess
    import sys

    def on_a_terminal(environ: dict[str, str]) -> str:
        main, side = pty.openpty()
        done = subprocess.Popen(
            [sys.executable, "-m", "treadle", "explain", "nothing"],
            cwd=served.folder,
            stdin=subprocess.DEVNULL,
            stdout=side,
            stderr=side,
            env={**os.environ, "TERM": "xterm"} | environ,
        )
        os.close(side)
        text = b""
        while True:
            try:
                chunk = os.read(main, 4096)
            except OSError:  # the other end was closed
                break
            if not chunk:
                break
            text += chunk
        os.close(main)
        assert done.wait() == 2
        return text.decode()

    os.environ.pop("NO_COLOR", None)
    assert "\x1b[" in on_a_terminal({})
    assert "\x1b[" not in on_a_terminal({"NO_COLOR": "1"})


def test_a_subfolder_belongs_to_its_project(served: Project) -> None:
    below = served.folder / "notebooks"
    below.mkdir(exist_ok=True)
    assert treadle(below, "status", "--json").json["champion"] == 1
    assert treadle(below, "predict", "../houses.csv", "-n", "1").code == 0
    wrong = treadle(below, "explain", "nothing-like-it")
    assert wrong.code == 2
    assert "functions: " in wrong.err
    assert not (below / ".treadle").exists()


def test_what_a_step_prints_does_not_mix_with_the_result(project: Project) -> None:
    project.edit(
        "pipeline.py",
        ("    return LinearRegression", "    print('hello')\n    return LinearRegression"),
    )
    ran = project("train", "--json")
    assert ran.json["runs"][0]["verdict"]["outcome"] == "pass"
    assert "hello" in ran.err


def test_the_state_may_be_elsewhere(project: Project, tmp_path: Path) -> None:
    elsewhere = {"TREADLE_STATE": str(tmp_path / "state")}
    (project.folder / ".treadle").rename(tmp_path / "state")
    assert project("status", "--json", env=elsewhere).json["champion"] == 1
    assert project("status", "--json").json["champion"] is None
    assert project("up", "--existing", code=4).out == ""
    actions = project("plan", "--json", env=elsewhere).json["plan"]["actions"]
    assert {a["action"] for a in actions if a["phase"] != "deploy"} == {"keep"}
    assert not (project.folder / ".treadle").exists()
