"""One project's life: from the first turn through changes, rollback and clean-up, back to its data."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.e2e.conftest import Project
from tests.support.projects import houses_csv

PARAMETER = ("intercept: bool = True", "intercept: bool = False")


def steps_that_ran(stderr: str) -> set[str]:
    return set(re.findall(r"(\w+): runs", stderr))


# ---- prediction → data and back ------------------------------------------------------------------


def test_a_predictions_id_leads_back_to_its_data_and_the_data_to_its_release(
    served: Project,
) -> None:
    answer = served("predict", "houses.csv", "-n", "2", "--json").json
    assert len(answer["ids"]) == 2
    links = served("lineage", answer["ids"][1], "--json").json["links"]
    assert [link["kind"] for link in links] == [
        "prediction", "instance", "release", "model", "verdict", "run", "code", "parameters", "data",
    ]  # fmt: skip
    found = {link["kind"]: link for link in links}
    assert found["prediction"]["facts"]["row"] == 1
    assert found["release"]["id"] == "local 1"
    assert found["parameters"]["facts"] == {"model.intercept": True}
    assert found["data"]["facts"]["rows"] == 400
    snapshot = found["data"]["id"]
    back = served("lineage", "--from-data", snapshot, "--json").json["links"]
    assert {"data", "run", "release"} <= {link["kind"] for link in back}
    assert any(link["id"] == found["run"]["id"] for link in back)
    text = served("lineage", answer["ids"][0]).out
    assert "houses.csv: sha256:" in text
    assert found["run"]["id"] in text


def test_lineage_takes_a_release_a_run_and_a_model_too_and_says_what_ids_look_like(
    served: Project,
) -> None:
    links = served("lineage", "release", "1", "--json").json["links"]
    found = {link["kind"]: link["id"] for link in links}
    for identifier in (found["run"], found["model"], "local 1", "1"):
        assert found["run"] in served("lineage", identifier).out
    assert "ENV.RELEASE.INSTANCE.ULID" in served("lineage", "nothing", code=2).err
    assert (
        "no release 9"
        in served("lineage", "local.9.b0000000.01M83C26YT782RM5TQHE3V8FF2.0", code=2).err
    )


def test_a_request_on_standard_input_is_answered(served: Project) -> None:
    rows = '{"area": 100, "rooms": 3}\n{"area": 50, "rooms": 2}\n'
    answer = served("predict", "-", "--json", input=rows).json
    assert answer["predictions"][0] == pytest.approx(20 + 250 + 24, abs=15)
    assert "JSON lines" in served("predict", "-", input="area,rooms\n1,2\n", code=2).err


# ---- what reruns ---------------------------------------------------------------------------------


def test_a_comment_reruns_nothing(project: Project) -> None:
    project.edit("pipeline.py", ("def model", "# a remark\ndef model"))
    actions = project("plan", "--json").json["plan"]["actions"]
    assert not [a for a in actions if a["phase"] == "code" and a["action"] != "keep"]
    ran = project("train")
    assert steps_that_ran(ran.err) == set()


def test_a_parameter_reruns_only_its_step_and_plan_says_what_changed(project: Project) -> None:
    project.edit("pipeline.py", PARAMETER)
    plan = project("plan")
    line = next(line for line in plan.out.splitlines() if "model()" in line)
    assert "param model.intercept True → False" in line
    assert all(
        "keep" in row for row in plan.out.splitlines() if "train()" in row or "holdout()" in row
    )
    ran = project("train")
    assert steps_that_ran(ran.err) == {"model"}
    assert "it ran because: param model.intercept True → False" in project("explain", "model").out
    assert "it ran because: first run" in project("explain", "train").out
    assert "nothing it depends on changed" in project("explain", "train").out


def test_a_new_file_is_named_with_its_rows_and_only_it_is_read(project: Project) -> None:
    (project.folder / "houses-2.csv").write_text(houses_csv(50, seed=2))
    plan = project("plan").out
    assert "data houses: +50 rows in 1 new file" in plan
    before = {
        path: path.stat().st_mtime_ns
        for path in (project.folder / ".treadle").rglob("*")
        if "objects" in path.parts and path.is_file()
    }
    ran = project("train")
    assert "reading houses-2.csv" in ran.err
    assert "reading houses.csv" not in ran.err or "(1 of" in ran.err
    assert steps_that_ran(ran.err) == {"train", "holdout", "model"}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    shown = project("data", "show", "--json").json["snapshots"]
    assert [s["rows"] for s in shown] == [450, 400]
    difference = project("data", "diff", shown[1]["digest"], "houses")
    assert "50" in difference.out
    assert "area" in project("data", "diff", shown[1]["digest"], "houses", "--json").out


def test_plan_writes_nothing(fresh) -> None:
    project = fresh()
    before = sorted(path.name for path in project.folder.iterdir())
    assert "model()" in project("plan").out
    assert sorted(path.name for path in project.folder.iterdir()) == before


# ---- experiments ---------------------------------------------------------------------------------


def test_experiments_stand_side_by_side_and_release_nothing(project: Project) -> None:
    ran = project("train", "--set", "model.intercept=true,false")
    rows = [line for line in ran.out.splitlines() if re.search(r"\b(True|False)\b", line)]
    assert len(rows) == 2
    assert "model.intercept" in ran.out
    assert "nothing was released" in ran.out
    found = project("train", "--set", "model.intercept=true,false", "--json").json["runs"]
    assert [run["parameters"]["model.intercept"] for run in found] == [True, False]
    assert found[0]["verdict"]["metrics"]["mae"] != found[1]["verdict"]["metrics"]["mae"]
    assert project.status()["champion"] == 1


def test_the_gates_alone_as_junit(project: Project) -> None:
    ran = project("test", "--junit", "gates.xml")
    assert "verdict pass" in ran.out
    root = ElementTree.parse(project.folder / "gates.xml").getroot()
    cases = [case.get("name") for case in root.iter("testcase")]
    assert "mae at_most 30" in cases
    assert not list(root.iter("failure"))
    project.edit("treadle.yaml", ("at_most: 30", "at_most: 1"))
    project("test", "release 1", "--junit", "gates.xml", code=3)
    root = ElementTree.parse(project.folder / "gates.xml").getroot()
    assert "at most 1 is wanted" in ElementTree.tostring(root, encoding="unicode")
    assert list(root.iter("failure"))


# ---- score ---------------------------------------------------------------------------------------


def test_a_file_a_glob_and_a_data_set_are_scored_with_lineage_in_the_parquet(
    project: Project,
) -> None:
    (project.folder / "more-1.csv").write_text(houses_csv(30, seed=3))
    (project.folder / "more-2.csv").write_text(houses_csv(20, seed=4))
    for source, rows in (("houses.csv", 400), ("more-*.csv", 50), ("houses", 400)):
        out = f"{rows}-{len(source)}.parquet"
        done = project("score", source, out, "--json").json
        assert done["rows"] == rows
        table = pq.read_table(project.folder / out)
        assert table.num_rows == rows
        assert {
            "prediction",
            "prediction_id",
            "treadle_release",
            "treadle_model",
            "treadle_run",
            "treadle_snapshot",
            "treadle_scored_at",
            "area",
            "price",
        } <= set(table.column_names)
        first = table["prediction_id"][0].as_py()
        assert first == done["first_id"]
        shown = project("lineage", first).out
        assert table["treadle_run"][0].as_py() in shown
        assert "a batch scoring" in shown
    assert "exists" in project("score", "houses.csv", "400-10.parquet", code=None).err
    assert "no file matches" in project("score", "nothing-*.csv", "x.parquet", code=2).err


# ---- champions, rollback, holds ------------------------------------------------------------------


def test_rollback_holds_the_release_until_a_person_names_it(project: Project) -> None:
    project.edit("pipeline.py", PARAMETER)
    project("up")
    between = project.ledger()[0]["at"]
    second = project("predict", "houses.csv", "-n", "1", "--json").json["predictions"]
    preview = project("rollback", "--dry-run").out
    assert "release 2 → release 1" in preview
    assert "mae" in preview
    assert project.status()["champion"] == 2
    project("rollback", "--yes", "--reason", "complaints", env={"GITHUB_ACTOR": "ada"})
    assert project.status()["champion"] == 1
    first = project("predict", "houses.csv", "-n", "1", "--json").json
    assert first["release"] == "1"
    assert first["predictions"] != second
    # Held: the same inputs do not bring it back.
    assert "held" in project("plan").out
    ran = project("up")
    assert "release 2, which is held" in ran.out
    assert project.status()["champion"] == 1
    assert "release 2 is held (complaints)" in project("status").out
    entry = project.ledger()
    assert next(e for e in entry if e["kind"] == "rollback")["by"] == "ada"
    # A person lets it go, and the next turn deploys it.
    project("approve", "release", "2", "--reason", "was a false alarm")
    project("up")
    found = project.status()
    assert found["champion"] >= 2
    assert project("predict", "houses.csv", "-n", "1", "--json").json["predictions"] == second
    assert "is held" not in project("status").out
    # The ledger knows who was champion when.
    then = project("ledger", "--as-of", between, "--json").json
    assert then["champion"] == 2
    assert project("ledger", "--as-of", "2020-01-01", "--json").json["champion"] is None
    kinds = [e["kind"] for e in project.ledger()]
    assert kinds.count("rollback") == 1
    assert "approve" in kinds
    for thing in ("promote", "rollback", "deploy", "release 1", "model", "data", "retrain"):
        assert project("explain", thing).out.strip()
    # The one that was champion then scores the past.
    done = project("score", "houses.csv", "then.parquet", "--as-of", between, "--json").json
    assert done["release"] == 2
    assert (
        project("score", "houses.csv", "one.parquet", "--release", "1", "--json").json["release"]
        == 1
    )
    assert (
        "no release 77"
        in project("score", "houses.csv", "x.parquet", "--release", "77", code=2).err
    )


def test_the_ledgers_entries_are_chained(project: Project) -> None:
    entries = project.ledger()
    assert len(entries) >= 4
    assert len({e["previous"] for e in entries}) == len(entries)
    assert {e["kind"] for e in entries} >= {"data", "verdict", "promote", "deploy"}
    assert all(e["words"] and e["rule"] and e["by"] for e in entries)
    assert "model acceptable" in project("ledger", "--evidence").out


# ---- gc ------------------------------------------------------------------------------------------


def test_what_gc_leaves_serves_rolls_back_and_reruns(project: Project) -> None:
    project.edit("pipeline.py", PARAMETER)
    project("up")
    for number in range(2):
        project.edit(
            "houses.csv",
            ("area,rooms,year,price\n", f"area,rooms,year,price\n{50 + number},2,2015,161.0\n"),
        )
        project("train")
    told = project("gc", "--dry-run", "--keep", "1", "--json").json
    done = project("gc", "--keep", "1", "--json").json
    assert done["deleted"] == told["deleted"]
    assert done["kept"] == told["kept"]
    assert project("gc", "--keep", "1", "--json").json["deleted"] == 0
    ran = project("up")
    assert steps_that_ran(ran.err) == set(), "the newest results are there"
    project("down")
    project("rollback", "--to", "1", "--yes")
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "1"
    project("monitor")
    project("lineage", "release", "1")


# ---- down and up ---------------------------------------------------------------------------------


def test_down_stops_the_service_and_up_starts_it_again(project: Project) -> None:
    project("up")
    address = project.status()["address"]
    assert "is down" in project("down").out
    assert "is not running" in project("down").out
    found = project.status()
    assert found["healthy"] is False
    assert any("not served" in line for line in found["attention"])
    assert "is not running" in project("plan").out
    ran = project("up")
    assert "rolling out" in ran.err
    assert project.status()["healthy"] is True
    assert address.startswith("http://127.0.0.1:")
    assert "serves" in project("logs").out
    assert len(project("logs", "-n", "1").out.splitlines()) == 1


@pytest.mark.slow
def test_a_service_that_was_killed_comes_back_by_itself(project: Project) -> None:
    project("up")
    state = json.loads(next((project.folder / ".treadle").rglob("supervisor.json")).read_text())
    worker = state["server_pid"]
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (
            project("predict", "houses.csv", "-n", "1", code=None).code == 0
            and project.status()["healthy"]
        ):
            break
        time.sleep(0.5)
    assert project.status()["healthy"] is True


def test_a_moved_folder_goes_on_where_it_was(project: Project, tmp_path: Path) -> None:
    moved = Project(project.folder.rename(tmp_path / "elsewhere"))
    actions = moved("plan", "--json").json["plan"]["actions"]
    assert {a["action"] for a in actions if a["phase"] != "deploy"} == {"keep"}
    moved("up")
    moved("predict", "houses.csv", "-n", "1")
    moved("down")
