from __future__ import annotations

import datetime
import sqlite3
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.base.errors import DataRefused, Unreachable, UsageError
from treadle.base.spec import DataSection, Incremental
from treadle.data import query as module
from treadle.data.load import frame
from treadle.data.scan import scan
from treadle.data.snapshot import will_read

from .conftest import Room

ALL = DataSection(query="SELECT * FROM t", database="sqlite:///t.db", key=("n",))
NEW = DataSection(
    query="SELECT n, at, x FROM t",
    database="sqlite:///t.db",
    key=("n",),
    event_time="at",
    incremental=Incremental("at", "2d"),
)


def day(number):
    return (datetime.datetime(2024, 1, 1) + datetime.timedelta(days=number)).isoformat(sep=" ")


def execute(room, sql, rows=None):
    connection = sqlite3.connect(room.folder / "t.db")
    connection.executescript(sql) if rows is None else connection.executemany(sql, rows)
    connection.commit()
    connection.close()


@pytest.fixture
def table(room, monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 10)
    execute(room, "CREATE TABLE t (n INTEGER, at TIMESTAMP, x REAL)")
    add(room, range(25))
    return room


def add(room, numbers, x=1.0):
    execute(room, "INSERT INTO t VALUES (?,?,?)", [(n, day(n), x) for n in numbers])


def content(snapshot):
    return [part.content for part in snapshot.parts]


def test_equal_rows_are_an_equal_snapshot_in_whatever_order_they_lie(table):
    first = table.take(ALL)
    assert [part.path for part in first.parts] == ["rows/000001", "rows/000002", "rows/000003"]
    assert [part.rows for part in first.parts] == [10, 10, 5] and first.rows == 25
    execute(
        table,
        "CREATE TABLE u AS SELECT * FROM t ORDER BY n DESC; DELETE FROM t; INSERT INTO t SELECT * FROM u",
    )
    assert table.take(ALL) == first and ("snapshot", "d") not in table.puts


def test_incremental_reads_only_what_is_new_and_keeps_earlier_parts(table):
    first = table.take(NEW)
    add(table, range(25, 32))
    execute(table, "UPDATE t SET x = 99 WHERE n < 5")  # older than restated: not read again
    second = table.take(NEW)
    assert content(second)[:2] == content(first)[:2] and second.rows == 32
    assert sum(frame(second, table.objects, "polars")["x"] == 99) == 0


def test_restated_rows_replace_what_was_stored_and_only_their_parts_change(table):
    first = table.take(NEW)
    execute(table, "UPDATE t SET x = 7 WHERE n >= 23; DELETE FROM t WHERE n = 24")
    second = table.take(NEW)
    assert content(second)[:2] == content(first)[:2] and content(second)[2] != content(first)[2]
    rows = frame(second, table.objects, "polars")
    assert rows["n"].to_list() == list(range(24)) and rows["x"][-1] == 7


def test_nothing_new_is_the_same_snapshot(table):
    first = table.take(NEW)
    assert table.take(NEW) == first and table.puts == []


def test_another_query_is_read_from_its_beginning(table):
    table.take(NEW)
    execute(table, "UPDATE t SET x = 5")
    import dataclasses

    again = table.take(dataclasses.replace(NEW, query="SELECT n, at, x FROM t WHERE n >= 0"))
    assert set(frame(again, table.objects, "polars")["x"]) == {5.0}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    turns=st.lists(st.integers(0, 13), min_size=1, max_size=4),
    restated=st.sampled_from(["0s", "1d", "12d"]),
)
def test_turns_leave_the_parts_that_one_reading_of_all_would(
    tmp_path_factory, turns, restated, monkeypatch
):
    monkeypatch.setattr(module, "PART_ROWS", 10)
    section = DataSection(
        query="SELECT * FROM t",
        database="sqlite:///t.db",
        key=("n",),
        incremental=Incremental("at", restated),
    )
    room = Room(tmp_path_factory.mktemp("room"))
    execute(room, "CREATE TABLE t (n INTEGER, at TIMESTAMP, x REAL)")
    begin = 0
    for count in turns:
        add(room, range(begin, begin + count))
        begin += count
        snapshot = room.take(section)
    whole = room.take(section, "another")
    assert content(snapshot) == content(whole) and snapshot.rows == begin
    room.journal.close()


def test_a_dry_snapshot_of_a_query_is_the_last_one_and_asks_nobody(table):
    first = table.take(NEW)
    (table.folder / "t.db").rename(table.folder / "away.db")
    assert table.take(NEW, dry=True) == first
    assert table.take(NEW, "never", dry=True).parts == ()
    assert will_read(NEW) and not will_read(DataSection(files="x.csv"))
    with pytest.raises(Unreachable, match=r"t\.db"):
        table.take(NEW)


def test_a_frame_and_a_scan_of_a_query_have_its_types(table):
    snapshot = table.take(NEW)
    made = frame(snapshot, table.objects, "pandas")
    assert {name: str(dtype) for name, dtype in made.dtypes.items()} == {
        "n": "int64",
        "at": "datetime64[us]",
        "x": "float64",
    }
    report = scan(snapshot, table.objects, NEW, None)
    assert report.violations == () and report.rows == 25


def test_a_query_without_rows_is_empty_and_then_fills(table):
    execute(table, "DELETE FROM t")
    snapshot = table.take(NEW)
    assert snapshot.rows == 0
    assert [v.rule for v in scan(snapshot, table.objects, NEW, None).violations] == ["empty"]
    add(table, [3])
    assert table.take(NEW).rows == 1


def test_a_column_whose_type_was_unknown_is_read_anew(table):
    section = DataSection(
        query="SELECT n, at, (SELECT max(y) FROM s WHERE s.n = t.n) AS y FROM t",
        database="sqlite:///t.db",
        incremental=Incremental("at"),
    )
    execute(table, "CREATE TABLE s (n INTEGER, y)")
    assert {c.name: c.type for c in table.take(section).columns}["y"] == "null"
    execute(table, "INSERT INTO s VALUES (24, 5)")
    assert {c.name: c.type for c in table.take(section).columns}["y"] == "integer"


def test_columns_that_are_not_there_are_named_at_once(table):
    section = DataSection(
        query="SELECT n FROM t",
        database="sqlite:///t.db",
        key=("m",),
        event_time="when_",
        incremental=Incremental("at"),
    )
    with pytest.raises(DataRefused) as caught:
        table.take(section)
    assert [v.column for v in caught.value.violations] == ["at", "when_", "m"]


def test_bad_queries_are_refused_with_the_reason(table):
    import dataclasses

    with pytest.raises(DataRefused, match="no such table"):
        table.take(dataclasses.replace(ALL, query="SELECT * FROM nope"))
    with pytest.raises(DataRefused, match="two columns called n"):
        table.take(dataclasses.replace(ALL, query="SELECT a.n, b.n FROM t a, t b"))
    execute(table, "INSERT INTO t VALUES (99, NULL, 1)")
    with pytest.raises(DataRefused, match="at is null in 1 rows"):
        table.take(NEW)
    by_number = dataclasses.replace(NEW, query="SELECT n, n AS at FROM t WHERE n < 90")
    table.take(by_number)
    with pytest.raises(UsageError, match="restated: 2d"):
        table.take(by_number)


def test_the_database_may_stand_in_the_environment(table):
    import dataclasses

    section = dataclasses.replace(ALL, database="${SHOP}")
    assert table.take(section, environ={"SHOP": "sqlite:///t.db"}).rows == 25
    with pytest.raises(UsageError, match="SHOP"):
        table.take(section)


@pytest.mark.slow
def test_postgres_incremental_with_restated_rows(room, monkeypatch):
    psycopg = pytest.importorskip("psycopg", reason="pip install 'treadle[postgres]'")
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    from postgres import server

    monkeypatch.setattr(module, "PART_ROWS", 10)
    with server() as url:

        def run(sql):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(sql)

        run("CREATE TABLE t (n int, at timestamptz, x numeric(6,2))")
        run(
            "INSERT INTO t SELECT n, timestamptz '2024-01-01Z' + n * interval '1 day', 1 FROM generate_series(0, 24) n"
        )
        section = DataSection(
            query="SELECT * FROM t",
            database="${DSN}",
            key=("n",),
            event_time="at",
            incremental=Incremental("at", "2d"),
        )
        environ = {"DSN": url}
        first = room.take(section, environ=environ)
        assert room.take(section, environ=environ) == first
        run(
            "UPDATE t SET x = 7 WHERE n >= 23 OR n = 0; INSERT INTO t SELECT 25, timestamptz '2024-01-26Z', 2"
        )
        second = room.take(section, environ=environ)
        assert content(second)[:2] == content(first)[:2]
        rows = frame(second, room.objects, "polars")
        assert (
            rows["n"].to_list() == list(range(26)) and float(rows["x"].sum()) == 1 * 23 + 2 * 7 + 2
        )
        assert {c.name: c.type for c in second.columns} == {
            "n": "integer",
            "at": "timestamp_utc",
            "x": "decimal(6,2)",
        }
        assert scan(second, room.objects, section, None).violations == ()
    with pytest.raises(Unreachable, match="127.0.0.1"):
        room.take(section, environ=environ)
