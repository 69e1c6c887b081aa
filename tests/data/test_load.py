from __future__ import annotations

import datetime
import decimal
import gzip
import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from treadle.base.errors import DataRefused, StateCorrupt, UsageError
from treadle.base.spec import DataSection
from treadle.data.load import frame, paths, read_file

from .conftest import FLIGHTS, Room

WORDS = st.text("abcxyz ,\"'é\n", min_size=1, max_size=6).filter(
    lambda text: text.strip() == text and "\n" not in text[-1:]
)
COLUMNS = {
    "integer": st.integers(-(2**40), 2**40),
    "float": st.floats(-1e9, 1e9).map(lambda value: value + 0.25),
    "string": WORDS.map(lambda text: "w" + text),
    "boolean": st.booleans(),
    "timestamp": st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1)),
    "date": st.dates(datetime.date(1970, 1, 1), datetime.date(2100, 1, 1)),
}
DTYPES = {
    "integer": pl.Int64,
    "float": pl.Float64,
    "string": pl.String,
    "boolean": pl.Boolean,
    "timestamp": pl.Datetime("us"),
    "date": pl.Date,
}


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 8))
    columns = {}
    for kind, values in COLUMNS.items():
        nullable = draw(st.booleans())
        cells = st.none() | values if nullable else values
        columns[kind] = draw(
            st.lists(cells, min_size=rows, max_size=rows).filter(
                lambda found: any(cell is not None for cell in found)
            )
        )
    return pl.DataFrame(columns, schema=DTYPES)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=tables())
def test_a_csv_a_json_lines_and_a_parquet_file_with_the_same_values_give_the_same_frame(
    table, tmp_path_factory
):
    room = Room(tmp_path_factory.mktemp("room"))
    table.write_parquet(room.folder / "a.parquet")
    table.write_csv(room.folder / "a.csv")
    table.with_columns(pl.col("boolean").cast(pl.String).str.to_titlecase()).write_csv(
        room.folder / "b.csv", separator=","
    )
    snapshots = [room.take(DataSection(files=name)) for name in ("a.parquet", "a.csv", "b.csv")]
    for snapshot in snapshots:
        assert [column.type for column in snapshot.columns] == list(COLUMNS)
        assert [column.nullable for column in snapshot.columns] == [
            table[name].null_count() > 0 for name in COLUMNS
        ]
    for snapshot in snapshots:
        assert_frame_equal(frame(snapshot, room.objects, "polars"), table)
    first = frame(snapshots[0], room.objects, "pandas")
    for snapshot in snapshots[1:]:
        pd.testing.assert_frame_equal(frame(snapshot, room.objects, "pandas"), first)
    room.journal.close()


def test_pandas_types_are_those_of_the_table_in_the_documentation(room):
    table = pa.table({
        "i": pa.array([1, 2], pa.int8()), "j": pa.array([1, None], pa.int16()),
        "big": pa.array([2**60, None]), "u": pa.array([2**64 - 1, 0], pa.uint64()),
        "f": pa.array([1.5, None], pa.float32()), "b": [True, False], "c": [True, None],
        "s": ["x", None], "cat": pa.array(["p", "q"]).dictionary_encode(),
        "d": [datetime.date(2024, 1, 2), None],
        "t": pa.array([datetime.datetime(2024, 1, 2), None], pa.timestamp("ns")),
        "z": pa.array([datetime.datetime(2024, 1, 2, 12)] * 2, pa.timestamp("us", "Europe/Berlin")),
        "m": [decimal.Decimal("1.10"), None], "raw": [b"\0", None], "n": pa.nulls(2),
        "span": [datetime.timedelta(hours=1), None], "l": [[1, 2], None],
    })  # fmt: skip
    pq.write_table(table, room.folder / "a.parquet")
    snapshot = room.take(DataSection(files="a.parquet"))
    made = frame(snapshot, room.objects, "pandas")
    assert list(made.columns) == table.column_names
    assert {name: str(dtype) for name, dtype in made.dtypes.items()} == {
        "i": "int64",
        "j": "float64",
        "big": "Int64",
        "u": "uint64",
        "f": "float64",
        "b": "bool",
        "c": "boolean",
        "s": "str",
        "cat": "str",
        "d": "datetime64[us]",
        "t": "datetime64[us]",
        "z": "datetime64[us, UTC]",
        "m": "object",
        "raw": "object",
        "n": "float64",
        "span": "timedelta64[us]",
        "l": "object",
    }
    assert made["z"][0] == pd.Timestamp("2024-01-02 12:00", tz="UTC")
    assert made["m"][0] == decimal.Decimal("1.10") and made["big"][0] == 2**60
    kinds = {column.name: column.type for column in snapshot.columns}
    assert kinds["m"] == "decimal(3,2)" and kinds["l"] == "nested" and kinds["n"] == "null"


def test_parts_follow_one_another_in_order_whatever_their_width_and_gaps(room):
    pl.DataFrame({"a": [1], "s": ["x"]}, schema={"a": pl.Int8, "s": pl.String}).write_parquet(
        room.folder / "1.parquet"
    )
    pl.DataFrame({"s": ["y"], "a": [2]}).write_parquet(room.folder / "2.parquet")
    pl.DataFrame({"a": [None, 3]}, schema={"a": pl.Int16}).write_parquet(room.folder / "3.parquet")
    room.write("4.csv", "s,a\nz,4\n")
    snapshot = room.take(DataSection(files="*"))
    made = frame(snapshot, room.objects, "polars")
    assert made.to_dict(as_series=False) == {
        "a": [1, 2, None, 3, 4],
        "s": ["x", "y", None, None, "z"],
    }


def test_what_the_first_rows_of_a_csv_do_not_tell_is_found_in_the_rest(room):
    rows = 12_000
    text = "late,whole,empty,flag,day,mixed\n" + "1,1,,,2024-01-01,1\n" * rows
    text += "2.5,2,7,True,2024-01-02T10:00:00,x\n"
    room.write("a.csv", text)
    snapshot = room.take(DataSection(files="a.csv"))
    assert {c.name: (c.type, c.nullable) for c in snapshot.columns} == {
        "late": ("float", False),
        "whole": ("integer", False),
        "empty": ("integer", True),
        "flag": ("boolean", True),
        "day": ("timestamp", False),
        "mixed": ("string", False),
    }
    made = frame(snapshot, room.objects, "polars")
    assert made.row(-1) == (2.5, 2, 7, True, datetime.datetime(2024, 1, 2, 10), "x")
    assert made["day"][0] == datetime.datetime(2024, 1, 1)


def test_texts_for_missing_values_are_missing_and_gzip_is_read(room):
    text = b"a,b,s\n1,NA,x\nNaN,2.5,null\n,nan,\n"
    room.write("a.csv.gz", gzip.compress(text))
    made = frame(room.take(DataSection(files="a.csv.gz")), room.objects, "polars")
    assert made.to_dict(as_series=False) == {
        "a": [1, None, None],
        "b": [None, 2.5, None],
        "s": ["x", None, None],
    }


def test_json_lines_have_their_times_and_lists(room):
    room.write(
        "a.jsonl",
        '{"a": 1, "t": "2024-01-02T03:04:05", "z": "2024-01-02T03:00:00Z"}\n'
        '{"a": 2.5, "t": null, "l": [1], "d": "2024-05-06"}\n',
    )
    snapshot = room.take(DataSection(files="a.jsonl"))
    kinds = {column.name: column.type for column in snapshot.columns}
    assert kinds == {
        "a": "float",
        "t": "timestamp",
        "z": "timestamp_utc",
        "l": "nested",
        "d": "date",
    }
    made = frame(snapshot, room.objects, "pandas")
    assert made["t"][0] == pd.Timestamp("2024-01-02 03:04:05") and made["d"].isna()[0]


def test_a_damaged_part_is_noticed_before_it_is_used(room):
    room.write("a.csv", "a\n1\n")
    snapshot = room.take(DataSection(files="a.csv"))
    blob = room.objects.path(snapshot.parts[0].content)
    os.chmod(blob, 0o644)
    blob.write_text("a\n2\n")
    with pytest.raises(StateCorrupt):
        frame(snapshot, room.objects, "pandas")


def test_the_flights_load_as_a_function_expects_them(room):
    os.symlink(FLIGHTS / "data", room.folder / "data")
    snapshot = room.take(DataSection(files="data/*.parquet"))
    made = frame(snapshot, room.objects, "pandas")
    assert made.shape == (109_119, 25)
    assert made["late"].dtype == np.float64 and made["late"].isna().sum() == 3_644
    assert made["distance"].dtype == np.int64 and str(made["carrier"].dtype) == "str"
    assert made["sched_dep"].is_monotonic_increasing or made["sched_dep"].notna().all()


def test_paths_are_the_users_own_files_while_they_are_unchanged(room, tmp_path):
    room.write("images/a.txt", "a")
    changed = room.write("images/b.txt", "b")
    section = DataSection(paths="images/*.txt")
    snapshot = room.take(section)
    assert paths(snapshot, room.objects, room.folder) == [
        room.folder / "images/a.txt",
        room.folder / "images/b.txt",
    ]
    changed.write_text("other")
    with pytest.raises(DataRefused, match=r"images/b\.txt changed"):
        paths(snapshot, room.objects, room.folder)
    own, stored = paths(snapshot, room.objects, room.folder, tmp_path / "work")
    assert own == room.folder / "images/a.txt"
    assert stored == tmp_path / "work/images/b.txt" and stored.read_text() == "b"
    with pytest.raises(UsageError):
        frame(snapshot, room.objects, "pandas")


def test_read_file_gives_plain_rows(tmp_path):
    (tmp_path / "a.csv").write_text("a,t,s\n1,2024-01-02 03:00:00,x\nNA,,\n")
    assert read_file(tmp_path / "a.csv") == [
        {"a": 1, "t": "2024-01-02T03:00:00", "s": "x"},
        {"a": None, "t": None, "s": None},
    ]
    assert len(read_file(tmp_path / "a.csv", limit=1)) == 1
    with pytest.raises(UsageError):
        read_file(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(DataRefused):
        read_file(tmp_path / "c.csv")
