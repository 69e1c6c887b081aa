"""Damage on the disk is detected, named, and mended or refused with a way out; never a traceback."""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.crash.world import World

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc"),
]


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with release 1; nothing of it runs."""
    world = World(tmp_path_factory.mktemp("turned") / "houses")
    world("up")
    world.kill_all()
    sql(world, "PRAGMA wal_checkpoint(TRUNCATE)")  # or the pages would be in the log
    return world.folder


@pytest.fixture
def damaged(turned: Path, tmp_path: Path) -> Iterator[World]:
    """A copy of it, to be damaged."""
    shutil.copytree(turned, tmp_path / "houses")
    world = World(tmp_path / "houses", make=False)
    yield world
    world.kill_all()


def flip(path: Path, at: int | None = None) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def blob(world: World, digest: str) -> Path:
    return world.state / "objects" / digest[7:9] / digest[9:]


def truncate(path: Path) -> None:
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def result(world: World, step: str) -> str:
    found = world.photo().kind("step_last")[step]["results"][0]["content"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_a_damaged_result_is_named_and_made_again(harm: Callable[[Path], object], damaged):
    content = result(damaged, "train")
    harm(blob(damaged, content))
    ran = damaged("train", "--set", "model.intercept=false")
    if harm is not Path.unlink:
        assert "result train of train() is damaged and is made again" in ran.err
        assert content in ran.err
    assert "train: runs" in ran.err
    damaged.verify()


@pytest.mark.parametrize("harm", [flip, truncate])
def test_a_damaged_holdout_is_named_and_the_way_out_works(harm, damaged):
    content = result(damaged, "holdout")
    harm(blob(damaged, content))
    ran = damaged("train", "--set", "model.intercept=false", code=None)
    if ran.code:
        assert ran.code == 1
        assert content in ran.err
        assert "hint: " in ran.err
        blob(damaged, content).unlink()
        damaged("train", "--set", "model.intercept=false")
    damaged.verify()


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_damaged_data_is_named_and_the_way_out_works(harm, damaged):
    (part,) = damaged.photo().kind("snapshot")["houses"]["parts"]
    harm(blob(damaged, part["content"]))
    pipeline = damaged.folder / "pipeline.py"
    pipeline.write_text(pipeline.read_text().replace("< 2020", "< 2019"))
    ran = damaged("train", code=None)
    if ran.code:
        assert ran.code == 1
        assert part["content"] in ran.err
        assert "hint: " in ran.err
        blob(damaged, part["content"]).unlink()
        damaged("train")
    damaged.verify()


def test_a_damaged_model_folder_is_made_again_before_it_is_served(damaged):
    (folder,) = (damaged.state / "models").iterdir()
    flip(folder / "model.skops")
    damaged("up")
    damaged.verify()
    assert damaged.served()["release"] == 1


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_a_damaged_model_is_never_served(harm, damaged):
    (model,) = damaged.photo().kind("model").values()
    harm(blob(damaged, model["files"]["model.skops"]))
    shutil.rmtree(damaged.state / "models")
    ran = damaged("up", code=None)
    assert model["files"]["model.skops"] in ran.err
    if harm is not Path.unlink:
        assert ran.code == 1
        assert "hint: delete that file under objects/" in ran.err
        # the way out: the blob goes, and what can be made again is made again
        blob(damaged, model["files"]["model.skops"]).unlink(missing_ok=True)
        damaged("up")
    assert [d["kind"] for d in damaged.photo().ledger].count("verdict") == 1
    damaged.verify()
    assert damaged.served()["release"] == 1


def sql(world: World, *statements: str) -> None:
    with sqlite3.connect(world.state / "journal.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET entry = replace(entry, 'promoted', 'refused') WHERE seq = 3",
        "DELETE FROM ledger WHERE seq = 2",
        "DELETE FROM ledger WHERE seq = (SELECT max(seq) FROM ledger)",
    ],
)
def test_a_ledger_that_was_changed_decides_nothing(statement, damaged):
    sql(damaged, "DROP TRIGGER ledger_keep", "DROP TRIGGER ledger_stay", statement)
    ran = damaged("ledger", code=1)
    assert "the ledger is broken: " in ran.err
    assert "entry" in ran.err
    pipeline = damaged.folder / "pipeline.py"
    pipeline.write_text(pipeline.read_text().replace("< 2020", "< 2018"))
    before = damaged.photo().kind("release_state")
    ran = damaged("up", code=1)
    assert "the ledger is broken: " in ran.err
    assert damaged.photo().kind("release_state") == before
    assert damaged("doctor", code=1)


COMMANDS = [("up",), ("status",), ("ledger",), ("plan",), ("data", "show")]


def all_refuse(world: World, *words: str) -> None:
    for command in COMMANDS:
        ran = world(*command, code=1)
        for word in (*words, "hint: "):
            assert word in ran.err, (command, ran)


def test_a_journal_that_is_cut_gone_or_no_journal_is_refused(damaged):
    journal = damaged.state / "journal.db"
    whole = journal.read_bytes()
    truncate(journal)
    for command in COMMANDS:
        ran = damaged(*command, code=None)
        assert ran.code in (0, 1), ran
        if ran.code:
            assert "damaged" in ran.err
    journal.write_bytes(b"")
    all_refuse(damaged, "is damaged: it is empty", "restore it from a backup")
    journal.write_bytes(b"x" * 100_000)
    all_refuse(damaged, "is damaged", "restore it from a backup")
    journal.unlink()
    all_refuse(damaged, "is gone, but", "restore journal.db from a backup")
    journal.write_bytes(whole)
    damaged("plan")


def test_damaged_pages_of_the_journal_never_end_in_a_traceback(damaged):
    """A page of noise; one flipped bit. What is noticed is named; the rest still works."""
    journal = damaged.state / "journal.db"
    whole = journal.read_bytes()
    source = random.Random(7)
    pages = len(whole) // 4096
    noticed = 0
    for page in range(pages):
        data = bytearray(whole)
        data[page * 4096 : (page + 1) * 4096] = source.randbytes(4096)
        journal.write_bytes(data)
        ran = damaged("ledger" if page % 2 else "plan", code=None)
        assert ran.code in (0, 1), ran
        if ran.code:
            assert "damaged" in ran.err or "broken" in ran.err, ran
            assert "hint: " in ran.err
            noticed += 1
    assert noticed > pages / 2
    journal.write_bytes(whole)
    damaged("ledger")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (99, "written by a newer Treadle"),
        (0, "has no migration from version 0"),
    ],
)
def test_a_state_of_another_version_is_refused(version, words, damaged):
    sql(damaged, f"UPDATE meta SET value = '{version}' WHERE name = 'schema_version'")
    before = (damaged.state / "journal.db").read_bytes()
    all_refuse(damaged, words)
    assert (damaged.state / "journal.db").read_bytes() == before


@pytest.mark.parametrize(
    "file",
    [
        "environments/local/supervisor.json",
        "environments/local/wanted.json",
        "turn.lock",
        "environments/local/files-000001.json",
        "schema.json",
        "mlflow.db",
        "recorder.lock",
    ],
)
@pytest.mark.parametrize("content", [b"", b'{"pid": 1', b"\xff\xfe\x00", b"[]", b'{"pid": "x"}'])
def test_noise_in_the_small_files_beside_the_journal_stops_nothing(file, content, damaged):
    path = damaged.state / file
    path.write_bytes(content)
    damaged("status")
    damaged("plan")
    if content == b"[]":
        damaged("up")
        damaged.verify()
        assert damaged.served()["release"] == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"houses: [", b"houses:\n  columns: 7\n"])
def test_a_damaged_schema_is_named_with_its_line(content, damaged):
    (damaged.folder / "data.schema.yaml").write_bytes(content)
    ran = damaged("up", code=None)
    assert ran.code in (1, 2), ran
    assert "data.schema.yaml" in ran.err
