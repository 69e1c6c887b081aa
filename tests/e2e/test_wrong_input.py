"""Wrong input of every kind: the exit code, what the message says, and the champion unharmed."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Project
from tests.support.projects import PIPELINE, SPEC, houses_csv


@pytest.fixture(scope="module")
def live(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One served project that every test of this module tries to harm."""
    import shutil

    project = Project(tmp_path_factory.mktemp("live") / "houses")
    shutil.copytree(template, project.folder)
    project("up")
    yield project
    project("down", code=None)


@pytest.fixture
def unharmed(live: Project) -> Iterator[Project]:
    """Afterwards the files are put back, and release 1 is champion and answers as before."""
    before = {
        name: (live.folder / name).read_bytes()
        for name in ("houses.csv", "pipeline.py", "treadle.yaml", "data.schema.yaml")
    }
    yield live
    for path in live.folder.glob("houses*.csv"):
        path.unlink()
    for name, content in before.items():
        (live.folder / name).write_bytes(content)
    status = live.status()
    assert status["champion"] == 1
    assert status["healthy"] is True
    answer = live("predict", "-", "--json", input='{"area": 100, "rooms": 3}\n').json
    assert answer["release"] == "1"
    live("ledger")  # verifies the chain


# ---- data ----------------------------------------------------------------------------------------

HEAD = "area,rooms,year,price\n"
BAD_DATA = {
    "an empty file": ("", ["houses.csv"]),
    "a header without rows": (HEAD, ["houses", "not a single row"]),
    "another delimiter": (houses_csv(50).replace(",", ";"), ["houses", "area"]),
    "a missing column": (
        houses_csv(50).replace("area,rooms,year,price", "area,rooms,year,cost"),
        ["price"],
    ),
    "another type": (houses_csv(50).replace("\n", "\nabc,2,2015,99.0\n", 1), ["area"]),
    "bytes that are no text": ("\x00\x01\x02 not a table \xff", ["houses"]),
    "rows of different lengths": (HEAD + "1,2,2015,3.0\n1,2\n1,2,3,4,5,6\n", ["houses"]),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_stops_the_turn_before_training(unharmed: Project, name: str) -> None:
    content, words = BAD_DATA[name]
    (unharmed.folder / "houses.csv").write_bytes(content.encode("latin-1"))
    ran = unharmed("up", code=3)
    for word in words:
        assert word in ran.err, ran
    assert ": runs" not in ran.err
    assert "hint:" in ran.err
    assert "bug" not in ran.err.lower()


def test_no_file_at_all_is_named_with_the_pattern(unharmed: Project) -> None:
    (unharmed.folder / "houses.csv").unlink()
    ran = unharmed("up", code=3)
    assert "houses*.csv" in ran.err


def test_duplicate_keys_are_counted_and_shown(unharmed: Project) -> None:
    unharmed.edit(
        "treadle.yaml",
        ('files: "houses*.csv"', 'files: "houses*.csv", key: [area, rooms, year, price]'),
    )
    with open(unharmed.folder / "houses.csv", "a") as file:
        file.write("100,3,2015,294.0\n" * 3)
    ran = unharmed("up", code=3)
    assert "area" in ran.err
    assert "3" in ran.err
    assert "key" in ran.err


def test_a_strange_value_warns_until_a_person_confirms_the_rules(unharmed: Project) -> None:
    """The whole flow: warned, confirmed, refused, accepted, learned."""
    rows = "".join(f"{9000 + n},3,2015,{20 + 2.5 * (9000 + n) + 24}\n" for n in range(20))
    with open(unharmed.folder / "houses.csv", "a") as file:
        file.write(rows)
    ran = unharmed("train", code=None)
    assert "warning: data houses:" in ran.err
    assert "area" in ran.err
    unharmed.edit("data.schema.yaml", ("confirmed: false", "confirmed: true"))
    ran = unharmed("up", code=3)
    assert "area" in ran.err
    assert "9" in ran.err, "an example"
    assert "treadle data accept houses" in ran.err
    assert "--yes" in unharmed("data", "accept", "houses", "--reason", "castles", code=2).err
    assert "confirmed: true" in (unharmed.folder / "data.schema.yaml").read_text()
    unharmed(
        "data", "accept", "houses", "--reason", "castles", "--yes", env={"GITHUB_ACTOR": "ada"}
    )
    schema = (unharmed.folder / "data.schema.yaml").read_text()
    assert "9019" in schema
    entry = unharmed.ledger()[0]
    assert (entry["kind"], entry["by"]) == ("accept", "ada")
    assert "castles" in entry["words"]
    ran = unharmed("train", code=None)
    assert ran.code in (0, 3, 5)
    assert "breaks" not in ran.err
    assert "nothing to accept" in unharmed("data", "accept", "--reason", "x", "--yes", code=2).err


@pytest.mark.parametrize("value", ["inf", "NaN", pytest.param("-inf", marks=pytest.mark.slow)])
def test_a_value_that_is_no_number_does_not_pass_unseen(unharmed: Project, value: str) -> None:
    with open(unharmed.folder / "houses.csv", "a") as file:
        file.write(f"100,3,2015,{value}\n" * 60)
    ran = unharmed("train", code=None)
    assert ran.code in (0, 1, 3)
    assert "price" in ran.err or "NaN" in ran.err or "inf" in ran.err, ran
    assert "bug" not in ran.err.lower()


CLASSES = """\
import pandas as pd
from sklearn.linear_model import LogisticRegression

def train(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] < 2020]

def holdout(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] >= 2020]

def model(train: pd.DataFrame) -> LogisticRegression:
    return LogisticRegression().fit(train[["area", "rooms"]], train["dear"])
"""


def test_one_class_only_is_named_and_nothing_is_released(fresh) -> None:
    project = fresh(
        pipeline=CLASSES,
        spec=SPEC.replace("regression", "binary")
        .replace("price", "dear")
        .replace("mae, at_most: 30", "roc_auc, at_least: 0.6"),
    )
    path = project.folder / "houses.csv"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(["area,rooms,year,dear", *(f"{line.rpartition(',')[0]},1" for line in lines[1:])])
        + "\n"
    )
    ran = project("up", code=None)
    assert ran.code in (1, 3), ran
    assert "class" in ran.err
    assert "bug" not in ran.err.lower()
    assert project.status()["champion"] is None
    # The class is there while learning but not on the holdout.
    path.write_text(
        "area,rooms,year,dear\n"
        + "".join(
            f"{30 + n},{n % 5},{2010 + n % 15},{int(n % 2 and n % 15 < 10)}\n" for n in range(300)
        )
    )
    ran = project("up", code=None)
    assert ran.code in (3, 5), ran
    assert "bug" not in ran.err.lower()
    assert project.status()["champion"] is None


# ---- code ----------------------------------------------------------------------------------------

BAD_CODE = {
    "a parameter nobody provides": (
        PIPELINE.replace("train: pd.DataFrame, intercept", "trian: pd.DataFrame, intercept")
        .replace('train[["area"', 'trian[["area"')
        .replace('train["price"]', 'trian["price"]'),
        ["trian", "train", "model", "houses"],
    ),
    "a cycle": (
        PIPELINE.replace(
            "def train(houses: pd.DataFrame)", "def train(houses: pd.DataFrame, model)"
        ),
        ["train", "model", "→"],
    ),
    "a function that returns None": (
        PIPELINE.replace("    return LinearRegression", "    LinearRegression"),
        ["model", "None", "return"],
    ),
    "a step that raises": (
        PIPELINE.replace(
            "    return LinearRegression",
            '    raise ValueError("too few")\n    return LinearRegression',
        ),
        ["model", "ValueError: too few", "pipeline.py"],
    ),
    "a step that ends the process": (
        PIPELINE.replace(
            "    return LinearRegression",
            "    import sys; sys.exit(3)\n    return LinearRegression",
        ),
        ["model", "sys.exit(3)"],
    ),
    "a syntax error": (PIPELINE.replace("def model(", "def model(("), ["pipeline.py", ":"]),
    "a package that is not there": (
        PIPELINE.replace("sklearn.linear_model", "not_there_at_all"),
        ["not_there_at_all", "pipeline.py"],
    ),
    "no model": (PIPELINE.replace("def model", "def modell"), ["model", "modell"]),
}


@pytest.mark.parametrize("name", BAD_CODE)
def test_bad_code_is_named_and_where_it_is(unharmed: Project, name: str) -> None:
    code, words = BAD_CODE[name]
    (unharmed.folder / "pipeline.py").write_text(code)
    ran = unharmed("up", code=None)
    assert ran.code in (1, 2), ran
    for word in words:
        assert word in ran.err, ran
    assert "bug" not in ran.err.lower()
    assert "treadle/code" not in ran.err
    plan = unharmed("plan", code=None)
    assert plan.code in (0, ran.code)


def test_a_step_that_is_killed_leaves_a_clear_record(unharmed: Project) -> None:
    unharmed.edit(
        "pipeline.py",
        (
            "    return LinearRegression",
            "    import os; os.kill(os.getpid(), 9)\n    return LinearRegression",
        ),
    )
    unharmed("up", code=-9)
    unharmed.edit("pipeline.py", ("    import os; os.kill(os.getpid(), 9)\n", ""))
    ran = unharmed("up")
    assert "died in model()" in ran.err
    links = unharmed("lineage", "--from-data", "houses", "--json").json["links"]
    dead = [x for x in links if x["kind"] == "run" and x["facts"]["status"] == "KILLED"]
    assert len(dead) == 1
    assert "ended without a word in model()" in unharmed("explain", dead[0]["id"]).out


# ---- the machine ---------------------------------------------------------------------------------


def test_a_port_in_use_names_the_process_and_the_next_turn_takes_it_up(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        project.edit("treadle.yaml", ("port: 0", f"port: {port}"))
        ran = project("up", code=None)
        assert ran.code == 2, ran
        assert str(port) in ran.err
        assert str(os.getpid()) in ran.err, "the process that has it"
        assert "hint:" in ran.err
        assert project.ledger()[0]["outcome"] == "failed"
        assert any("not served" in line for line in project.status()["attention"])
    project("up")
    assert project.status()["address"].endswith(f":{port}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere: nothing would be refused")
def test_no_permission_names_the_folder(project: Project) -> None:
    (project.folder / ".treadle").chmod(0o500)
    try:
        ran = project("train", code=1)
        assert ".treadle" in ran.err
    finally:
        (project.folder / ".treadle").chmod(0o700)


def test_a_database_that_is_not_there_is_named(fresh) -> None:
    spec = SPEC.replace(
        '{files: "houses*.csv"}', '{query: SELECT * FROM houses, database: "sqlite:///houses.db"}'
    )
    project = fresh(spec=spec)
    ran = project("up", code=4)
    assert "houses.db" in ran.err
    assert not (project.folder / "houses.db").exists(), "looking must not make one"
    with sqlite3.connect(project.folder / "houses.db") as database:
        database.execute("CREATE TABLE homes (area, rooms, year, price)")
    ran = project("up", code=None)
    assert ran.code in (3, 4), ran
    assert "houses" in ran.err
    assert project.status()["champion"] is None


def test_a_state_that_a_newer_treadle_wrote_is_refused(project: Project) -> None:
    with sqlite3.connect(project.folder / ".treadle" / "journal.db") as journal:
        journal.execute("UPDATE meta SET value = '999' WHERE name = 'schema_version'")
        assert journal.execute("SELECT changes()").fetchone() == (1,)
    for command in (["status"], ["up"], ["plan"]):
        assert "newer" in project(*command, code=1).err


def test_a_broken_ledger_is_named_by_whoever_reads_it(project: Project) -> None:
    with sqlite3.connect(project.folder / ".treadle" / "journal.db") as journal:
        journal.execute("DROP TRIGGER ledger_stay")
        journal.execute("UPDATE ledger SET entry = replace(entry, 'root', 'toor') WHERE seq = 2")
        journal.execute(
            "UPDATE ledger SET entry = replace(entry, 'accept', 'accepd') WHERE seq = 1"
        )
    ran = project("ledger", code=1)
    assert "ledger" in ran.err
    checks = project("doctor", "--json", code=1).json["checks"]
    assert next(c for c in checks if c["name"] == "project")["state"] == "missing"


def test_a_request_that_cannot_be_answered_says_why(live: Project) -> None:
    ran = live("predict", "-", input='{"area": 100}\n', code=None)
    assert ran.code in (1, 2, 3), ran
    assert "rooms" in ran.err
    ran = live("predict", "-", input='{"area": "large", "rooms": 3}\n', code=None)
    assert ran.code != 0
    assert "area" in ran.err
    assert "Traceback" not in ran.err
    ran = live("predict", "nothing.csv", code=None)
    assert ran.code == 2
    assert "nothing.csv" in ran.err
    live("predict", "houses.csv", "-n", "1")
