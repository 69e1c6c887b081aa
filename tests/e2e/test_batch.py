"""A batch environment: it scores with another's champion, shares its ledger and touches nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.e2e.conftest import Project
from tests.support.projects import houses_csv

NIGHTLY = """\
  nightly: {target: batch, of: local, input: "incoming/*.csv", output: forecasts/}
"""


@pytest.fixture
def nightly(project: Project) -> Project:
    project.add_spec(NIGHTLY)
    (project.folder / "incoming").mkdir()
    (project.folder / "incoming" / "monday.csv").write_text(houses_csv(40, seed=5))
    return project


def test_up_of_a_batch_scores_once_and_again_when_a_file_comes(nightly: Project) -> None:
    assert "score 1 files with release 1" in nightly("plan", "--env", "nightly").out
    ran = nightly("up", "--env", "nightly")
    assert "scoring 1 files with release 1" in ran.err
    (first,) = (nightly.folder / "forecasts").glob("*.parquet")
    table = pq.read_table(first)
    assert table.num_rows == 40
    assert table["prediction_id"][0].as_py().startswith("nightly.1.") or table["prediction_id"][
        0
    ].as_py().startswith("local.1.")
    lineage = nightly("lineage", table["prediction_id"][7].as_py()).out
    assert "houses.csv: sha256:" in lineage
    # No other environment was touched: the service of `local` was not started.
    assert nightly.status()["healthy"] is False
    assert "nothing to do" in nightly("up", "--env", "nightly").out
    nightly("plan", "--env", "nightly", "--exit-code", code=0)
    (nightly.folder / "incoming" / "tuesday.csv").write_text(houses_csv(10, seed=6))
    nightly("plan", "--env", "nightly", "--exit-code", code=10)
    done = nightly("up", "--env", "nightly", "--json").json
    assert done["made"]["rows"] == "50"
    # One ledger: both names show it.
    entries = nightly.ledger()
    assert entries == nightly("ledger", "--env", "nightly", "--json").json["decisions"]
    assert [e["outcome"] for e in entries[:2]] == ["scored", "scored"]
    assert nightly("explain", "deploy", "--env", "nightly").out.count("scored") >= 2


def test_a_batch_without_input_or_champion_says_so(fresh, project: Project) -> None:
    project.add_spec(NIGHTLY)
    assert "incoming/*.csv" in project("up", "--env", "nightly", code=2).err
    other = fresh()
    other.add_spec(NIGHTLY)
    (other.folder / "incoming").mkdir()
    (other.folder / "incoming" / "monday.csv").write_text(houses_csv(5))
    ran = other("up", "--env", "nightly", code=2)
    assert "no champion" in ran.err
    assert "treadle up --env local" in ran.err


def test_a_batch_whose_file_lacks_a_feature_is_refused_and_writes_nothing(nightly: Project) -> None:
    (nightly.folder / "incoming" / "tuesday.csv").write_text("area,price\n1,2\n")
    ran = nightly("up", "--env", "nightly", code=3)
    assert "tuesday.csv lacks rooms" in ran.err
    assert not list((nightly.folder / "forecasts").glob("*.parquet"))


def test_commands_that_train_work_for_a_batch_or_say_which_environment_is_meant(
    nightly: Project,
) -> None:
    for command in (
        ["train"],
        ["test"],
        ["test", "release 1"],
        ["plan", "--set", "model.intercept=false"],
        ["up", "--set", "model.intercept=false"],
    ):
        ran = nightly(*command, "--env", "nightly", code=2)
        assert "local" in ran.err, (command, ran)
    assert "released" not in nightly("status", "--env", "nightly").out
    assert nightly("status", "--env", "nightly", "--json").json["champion"] == 1


def test_the_output_may_be_one_file(project: Project, tmp_path: Path) -> None:
    project.add_spec(
        "  nightly: {target: batch, of: local, input: houses.csv, output: out/all.parquet}\n"
    )
    project("up", "--env", "nightly")
    assert pq.read_table(project.folder / "out" / "all.parquet").num_rows == 400
