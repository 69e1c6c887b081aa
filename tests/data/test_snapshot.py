from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time

import polars as pl
import pytest

from treadle.base.errors import DataRefused, StateError
from treadle.base.spec import DataSection
from treadle.clients.memory import MemoryObjects
from treadle.data import snapshot as module
from treadle.data.stored import by_digest, latest, stored

CSV = DataSection(files="data/*.csv")


def old(path, seconds=60.0):
    """As if written a while ago: an mtime from before the hash, so that the memo may hold."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def settle(room, section=CSV):
    """Take until nothing is racy: the ctime of `utime` is a moment ago."""
    time.sleep(0.03)
    room.take(section)
    return room.take(section)


def test_unchanged_files_are_neither_read_nor_hashed(room):
    for month in range(3):
        old(room.write(f"data/{month}.csv", f"a,b\n{month},x\n"))
    first = settle(room)
    assert [part.path for part in first.parts] == ["data/0.csv", "data/1.csv", "data/2.csv"]
    assert first.rows == 3
    assert room.take(CSV) == first
    assert room.lines == [] and room.puts == []


def test_a_new_month_reads_that_month_only(room):
    old(room.write("data/1.csv", "a\n1\n"))
    settle(room)
    old(room.write("data/2.csv", "a\n2\n"))
    snapshot = room.take(CSV)
    assert [line for line in room.lines if "reading" in line] == [
        "data d: reading data/2.csv (1 of 1)"
    ]
    assert snapshot.rows == 2
    assert latest("d", room.journal) == snapshot == by_digest(snapshot.digest, room.journal)


def test_a_change_of_equal_size_and_restored_mtime_is_seen(room):
    path = old(room.write("data/1.csv", "a\n1\n"))
    first = settle(room)
    before = path.stat()
    path.write_text("a\n2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert room.take(CSV) != first


def test_a_file_written_just_before_it_was_hashed_is_hashed_again(room, monkeypatch):
    """Git's racy rule: a write within the same tick of the clock bears the same mtime."""
    path = room.write("data/1.csv", "a\n1\n")
    first = room.take(CSV)
    assert room.journal.get("memo", "d/data/1.csv")[7] is True
    # What a coarse clock does: other bytes, all stamps the same.
    value = room.journal.get("memo", "d/data/1.csv")
    path.write_text("a\n2\n")
    stat = path.stat()
    value[1], value[6] = stat.st_mtime_ns, stat.st_ctime_ns
    from treadle.clients.journal import Changes

    room.journal.commit(Changes().put("memo", "d/data/1.csv", value))
    assert room.take(CSV) != first


def test_a_touched_file_with_the_same_bytes_is_the_same_snapshot(room):
    path = old(room.write("data/1.csv", "a\n1\n"))
    first = settle(room)
    old(path, 30)
    assert room.take(CSV) == first
    assert ("snapshot", "d") not in room.puts


def test_a_removed_file_leaves_the_snapshot_and_the_memo(room):
    old(room.write("data/1.csv", "a\n1\n"))
    gone = old(room.write("data/2.csv", "a\n2\n"))
    settle(room)
    gone.unlink()
    assert room.take(CSV).rows == 1
    assert [key for key, _ in room.journal.list("memo", "d/")] == ["d/data/1.csv"]


def test_dry_gives_the_same_digest_and_stores_nothing(room):
    room.write("data/1.csv", "a\n1\n")
    dry = room.take(CSV, dry=True)
    assert list(room.objects.digests()) == []
    assert latest("d", room.journal) is None
    assert room.take(CSV).digest == dry.digest


def test_a_blob_that_is_gone_is_stored_again(room):
    old(room.write("data/1.csv", "a\n1\n"))
    first = settle(room)
    room.objects.delete(first.parts[0].content)
    assert room.take(CSV) == first
    assert room.objects.has(first.parts[0].content)


def test_another_key_in_the_spec_is_another_snapshot(room):
    old(room.write("data/1.csv", "a\n1\n"))
    first = settle(room)
    second = room.take(DataSection(files="data/*.csv", key=("a",)))
    assert second.digest != first.digest and latest("d", room.journal) == second


def test_the_fast_path_imports_no_table_library(room):
    old(room.write("data/1.csv", "a\n1\n"))
    settle(room)
    code = f"""
import sys
from pathlib import Path
from treadle.base.spec import DataSection
from treadle.clients.memory import MemoryObjects
from treadle.base.log import silent
from treadle.clients.journal import SqliteJournal, Changes
from treadle.clients.objects import DiskObjects
from treadle.data.snapshot import take
changes = Changes()
folder = Path({str(room.folder)!r})
take("d", DataSection(files="data/*.csv"), folder, SqliteJournal(folder.parent / "journal.db"),
     DiskObjects(folder.parent / "objects"), changes, silent)
assert not changes
print([name for name in ("polars", "pandas", "pyarrow", "numpy", "ruamel", "pydantic") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_thousand_unchanged_files_take_milliseconds(room):
    room.objects = MemoryObjects()  # a thousand fsyncs are not what is asked here
    for number in range(1000):
        old(room.write(f"data/{number:04}.txt", f"{number}"))
    section = DataSection(paths="data/*.txt")
    settle(room, section)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert room.take(section).rows == 1000
        times.append(time.perf_counter() - began)
    assert room.lines == []
    assert min(times) < 0.5  # about .02 s; the benchmark tells, this only catches reading


def test_a_file_that_keeps_changing_while_it_is_read_is_noticed(room):
    path = room.write("data/1.csv", "a\n" + "1\n" * 2_000_000)
    done = threading.Event()

    def append():
        with path.open("a") as file:
            while not done.is_set():
                file.write("2\n")
                file.flush()

    writer = threading.Thread(target=append)
    writer.start()
    try:
        with pytest.raises(StateError, match="changed while it was read"):
            room.take(CSV)
    finally:
        done.set()
        writer.join()


@pytest.mark.parametrize(
    "name, content, rule, words",
    [
        ("a.csv", "", "empty", "no bytes"),
        ("a.csv", "\n1\n", "empty", "first line"),
        ("a.csv", "x;y\n1;2\n", "delimiter", "semicolon"),
        ("a.csv", "x\ty\n1\t2\n", "delimiter", r"\.tsv"),
        ("a.tsv", "x,y\n1,2\n", "delimiter", "comma"),
        ("a.csv", "x,y\n1,2,3\n", "unreadable", "more fields"),
        ("a.csv", "x,x\n1,2\n", "unreadable", "two columns"),
        ("a.csv", b"x,y\n\xff\xfe,2\n", "unreadable", "utf-8"),
        (
            "a.csv.gz",
            gzip.compress(b"x,y\n" + os.urandom(3000).hex().encode() + b",2\n")[:-900],
            "unreadable",
            "a",
        ),
        ("a.parquet", b"PAR1 and nothing", "unreadable", "no whole Parquet"),
        ("a.jsonl", '{"a": 1\n', "unreadable", "a"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_by_rule(room, name, content, rule, words):
    room.write("data/" + name, content)
    with pytest.raises(DataRefused, match=words) as caught:
        room.take(DataSection(files="data/*"))
    assert [violation.rule for violation in caught.value.violations] == [rule]
    assert name in caught.value.message
    assert caught.value.exit_code == 3


def test_a_parquet_file_cut_short_is_refused(room):
    pl.DataFrame({"a": range(1000)}).write_parquet(room.folder / "a.parquet")
    whole = (room.folder / "a.parquet").read_bytes()
    room.write("a.parquet", whole[: len(whole) // 2])
    with pytest.raises(DataRefused, match=r"a\.parquet.*no whole Parquet"):
        room.take(DataSection(files="a.parquet"))


def test_all_bad_files_are_named_at_once_and_nothing_is_recorded(room):
    room.write("data/1.csv", "a,b\n1,2\n")
    room.write("data/2.csv", "")
    room.write("data/3.csv", "a;b\n1;2\n")
    with pytest.raises(DataRefused) as caught:
        room.take(CSV)
    assert len(caught.value.violations) == 2
    assert "2.csv" in caught.value.message and "3.csv" in caught.value.message
    assert latest("d", room.journal) is None


def test_no_permission_is_a_violation_that_says_so(room, monkeypatch):
    """Root reads everything, so the store refuses as the system would for somebody else."""
    room.write("data/1.csv", "a\n1\n")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(room.objects, "put_file", denied)
    with pytest.raises(DataRefused, match=r"data/1\.csv: no permission"):
        room.take(CSV)


def test_files_that_differ_in_width_or_order_are_one_set_of_columns(room):
    (room.folder / "data").mkdir()
    pl.DataFrame({"a": [1], "b": ["x"]}, schema={"a": pl.Int8, "b": pl.String}).write_parquet(
        room.folder / "data/1.parquet"
    )
    pl.DataFrame({"b": ["y"], "a": [2.5]}).write_parquet(room.folder / "data/2.parquet")
    snapshot = room.take(DataSection(files="data/*.parquet"))
    assert [(c.name, c.type) for c in snapshot.columns] == [("a", "float"), ("b", "string")]
    assert all(part.columns is not None for part in snapshot.parts)
    again = stored(room.journal.get("snapshot", "d"))
    assert again == snapshot


def test_the_memo_of_one_data_set_is_not_the_memo_of_another(room):
    room.write("data/1.csv", "a\n1\n")
    room.take(CSV, "d")
    room.take(CSV, "d2")
    (room.folder / "data/1.csv").unlink()
    room.write("data/2.csv", "a\n1\n")
    room.take(CSV, "d")
    assert [key for key, _ in room.journal.list("memo", "d2/")] == ["d2/data/1.csv"]


def test_racy_follows_the_coarseness_of_the_clock():
    class Stat:
        def __init__(self, ns):
            self.st_mtime_ns = self.st_ctime_ns = ns

    second = 1_000_000_000
    assert module._racy(Stat(10 * second), 11 * second)  # whole seconds: two of them
    assert not module._racy(Stat(10 * second), 13 * second)
    assert not module._racy(Stat(10 * second + 1), 11 * second)
    assert module._racy(Stat(11 * second + 1), 11 * second)
