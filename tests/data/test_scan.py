from __future__ import annotations

import dataclasses
import datetime
import math
import shutil

import numpy as np
import polars as pl
import pytest

from treadle.base.digest import digest
from treadle.base.plain import from_plain, to_plain
from treadle.base.spec import DataSection, ModelSection
from treadle.data import scan as module
from treadle.data.profile import profile_frame
from treadle.data.scan import ScanReport, moves_on, scan

from .conftest import FLIGHTS

SECTION = DataSection(files="*", key=("id",), event_time="at")
MODEL = ModelSection(result="model", task="binary", label="y")
ROWS = 400


def good(rows=ROWS, **changed):
    columns = {
        "id": list(range(rows)),
        "at": [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=n) for n in range(rows)],
        "x": [n % 100 / 10 for n in range(rows)],
        "n": [n % 7 for n in range(rows)],
        "s": ["abc"[n % 3] for n in range(rows)],
        "y": [n % 2 for n in range(rows)],
    }
    columns.update(changed)
    return {name: values for name, values in columns.items() if values is not None}


def look(room, columns, learned=None, *, model=MODEL, section=SECTION, name="a.parquet", **options):
    for path in room.folder.iterdir():
        path.unlink()
    frames = columns if isinstance(columns, list) else [columns]
    for number, frame in enumerate(frames):
        pl.DataFrame(frame, strict=False).write_parquet(room.folder / f"{number}{name}")
    snapshot = room.take(section)
    return scan(snapshot, room.objects, section, learned, model=model, **options)


def with_(values, place, value):
    values = list(values)
    values[place] = value
    return values


def found(report):
    return [(v.rule, v.column, v.severity) for v in report.violations]


def test_good_data_breaks_no_rule_and_teaches_them(room):
    report = look(room, good())
    assert report.violations == () and report.learned and not report.refused
    rules = report.schema.columns
    assert rules["x"].range == (0, 9.9) and rules["n"].range == (0, 6)
    assert rules["s"].categories == ("a", "b", "c")
    assert rules["id"].range is None and rules["at"].range is None and rules["id"].missing is None
    assert report.schema.rows == ROWS and not report.schema.confirmed
    again = look(room, good(), report.schema)
    assert again.violations == () and not again.learned


def test_a_report_survives_the_journal(room):
    report = look(room, good(x=with_(good()["x"], 3, math.inf)))
    again = from_plain(ScanReport, to_plain(report))
    assert again.digest == report.digest and again == report
    assert digest(report.profile)


@pytest.mark.parametrize(
    "columns, wanted, words",
    [
        (good(id=[0, 0, *range(2, ROWS)]), ("duplicate_key", None), "1 rows repeat one"),
        (good(id=with_(range(ROWS), 5, None)), ("missing_key", "id"), "missing in 1 rows"),
        (good(at=with_(good()["at"], 5, None)), ("missing_time", "at"), "missing in 1 rows"),
        (good(at=["x"] * ROWS), ("event_time", "at"), "is string"),
        (good(y=None), ("missing_column", "y"), "there are id"),
        (good(y=[1] * ROWS), ("label", "y"), "one class only"),
        (good(y=[None] * ROWS), ("label", "y"), "missing in every row"),
        (good(y=[n % 3 for n in range(ROWS)]), ("label", "y"), "3 classes; task binary wants 2"),
        (good(rows=0), ("empty", None), "not a single row"),
    ],
)
def test_broken_structure_refuses_from_the_first_day(room, columns, wanted, words):
    report = look(room, columns)
    assert [(rule, column) for rule, column, severity in found(report) if severity == "refuse"] == [
        wanted
    ]
    assert words in report.violations[0].text and report.refused


def test_duplicate_keys_come_with_their_count_and_rows(room):
    columns = good(id=[7, 7, 7, 8, 8, *range(100, 100 + ROWS - 5)])
    [violation] = look(room, columns).violations
    assert violation.rows == 3 and violation.examples == ("id=7: 3 rows", "id=8: 2 rows")


def test_many_rows_are_compared_through_a_scratch_file_with_the_same_answer(room, monkeypatch):
    monkeypatch.setattr(module, "SORTED_ROWS", 50)
    section = DataSection(files="*", key=("id", "s"))
    ids = [n // 2 for n in range(ROWS)]
    texts = ["ab"[n % 2] for n in range(ROWS)]
    assert look(room, good(id=ids, s=texts), section=section).violations == ()
    texts[10:14] = ["a"] * 4
    [violation] = look(room, good(id=ids, s=texts), section=section).violations
    assert violation.rows == 2
    assert violation.examples == ("id=5, s=a: 2 rows", "id=6, s=a: 2 rows")


def test_everything_wrong_is_said_at_once(room):
    first = look(room, good()).schema
    columns = good(
        id=[0, 0, *range(2, ROWS)], x=["text"] * ROWS, n=None, s=["new"] * ROWS, y=[1] * ROWS
    )
    report = look(room, columns, first)
    assert set(found(report)) == {
        ("duplicate_key", None, "refuse"),
        ("type_changed", "x", "refuse"),
        ("missing_column", "n", "refuse"),
        ("label", "y", "refuse"),
        ("category", "s", "warn"),
    }


@pytest.mark.parametrize(
    "change, rule, column, rows",
    [
        ({"x": [n % 100 / 5 for n in range(ROWS)]}, "range", "x", 200),
        ({"s": ["abcd"[n % 4] for n in range(ROWS)]}, "category", "s", 100),
        ({"x": [None if n % 10 == 0 else 1.0 for n in range(ROWS)]}, "missing", "x", 40),
        ({"x": [math.nan if n % 10 == 0 else 1.0 for n in range(ROWS)]}, "missing", "x", 40),
        ({"x": with_(good()["x"], 9, math.inf)}, "infinite", "x", 1),
    ],
)
def test_learned_rules_warn_until_a_person_confirms_them(room, change, rule, column, rows):
    first = look(room, good()).schema
    report = look(room, good(**change), first)
    assert found(report) == [(rule, column, "warn")] and not report.refused
    assert report.violations[0].rows == rows and report.violations[0].examples[0].startswith("id=")
    confirmed = dataclasses.replace(first, confirmed=True)
    assert found(look(room, good(**change), confirmed)) == [(rule, column, "refuse")]


def test_a_few_rows_within_the_tolerance_only_ever_warn(room):
    first = dataclasses.replace(look(room, good(rows=3000)).schema, confirmed=True)
    report = look(room, good(rows=3000, x=with_(good(rows=3000)["x"], 5, 99.0)), first)
    assert found(report) == [("range", "x", "warn")] and "kept" in report.violations[0].text


def test_a_data_set_that_shrank_to_less_than_half_warns(room):
    first = look(room, good()).schema
    assert found(look(room, good(rows=190), first)) == [("volume", None, "warn")]
    assert found(look(room, good(rows=210), first)) == []


def test_categories_are_open_above_fifty_values(room):
    report = look(room, good(s=[f"v{n % 51}" for n in range(ROWS)]))
    assert report.schema.columns["s"].categories is None
    assert found(look(room, good(s=["quite new"] * ROWS), report.schema)) == []


@pytest.mark.parametrize(
    "name", ["sched_hour", "weekday", "arr_time", "createdAt", "user_id", "orderNo", "month"]
)
def test_calendar_and_numbering_names_move_on(name):
    assert moves_on(name)


@pytest.mark.parametrize("name", ["distance", "temp", "monthly_income", "category", "data", "idle"])
def test_other_names_do_not(name):
    assert not moves_on(name)


def test_a_column_that_one_file_lacks_or_has_otherwise_is_named_with_the_file(room):
    report = look(room, [good(), good(id=list(range(1000, 1000 + ROWS)), s=None, x=["t"] * ROWS)])
    assert found(report) == [("type_conflict", "x", "refuse"), ("missing_column", "s", "refuse")]
    assert "1a.parquet" in report.violations[0].text and "1a.parquet" in report.violations[1].text


def test_wider_types_are_no_change(room):
    first = look(room, good()).schema
    assert found(look(room, good(x=[1] * ROWS), first)) == []
    assert found(look(room, good(n=[0.5] * ROWS), first)) == [("type_changed", "n", "refuse")]


def test_the_profile_of_a_scan_is_that_of_the_frame(room):
    columns = good(
        x=with_(with_(good()["x"], 1, None), 2, math.nan), f=[n % 3 == 0 for n in range(ROWS)]
    )
    report = look(room, columns)
    profile = dict(report.profile)
    days = profile.pop("days")
    assert profile == profile_frame(pl.DataFrame(columns, strict=False))
    assert days["2024-01-01"] == 24 and sum(days.values()) == ROWS
    later = look(room, good(rows=300), report.schema, like=report.profile)
    assert later.profile["columns"]["x"]["edges"] == profile["columns"]["x"]["edges"]


def test_more_rows_than_a_sample_and_texts_without_end_stay_bounded(room, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_ROWS", 800)
    monkeypatch.setattr(module, "GROUPED", 20)
    rows = 4000
    columns = good(rows=rows, s=[f"v{n}" if n % 2 else "often" for n in range(rows)])
    report = look(room, columns)
    entry = report.profile["columns"]["s"]
    assert entry["counts"]["often"] == rows // 2 and len(entry["counts"]) <= 50
    assert sum(entry["counts"].values()) + entry["other"] + entry["missing"] == rows
    assert abs(report.columns["s"]["distinct"] - rows / 2) < rows * 0.05
    assert report.schema.columns["s"].categories is None


def test_text_files_are_scanned_as_parquet_is(room):
    csv = pl.DataFrame(good()).write_csv()
    section = dataclasses.replace(SECTION, files="a.csv")
    room.write("a.csv", csv)
    report = scan(room.take(section), room.objects, section, None, model=MODEL)
    parquet = look(room, good())
    assert report.profile == parquet.profile and report.schema == parquet.schema


def test_whole_numbers_beyond_the_exact_floats_are_counted_right(room):
    big = 2**60
    report = look(
        room, {"v": [big + n for n in range(64)]}, section=DataSection(files="*"), model=None
    )
    assert sum(report.profile["columns"]["v"]["counts"]) == 64


def test_paths_have_rows_and_no_columns(room):
    room.write("a.txt", "x")
    room.write("b.txt", "")
    section = DataSection(paths="*.txt")
    report = scan(room.take(section), room.objects, section, None)
    assert report.rows == 2 and found(report) == [("empty", None, "warn")]


@pytest.mark.slow
def test_a_year_of_clean_flights_is_never_refused(room):
    check_flights(room, range(5, 13))


def test_clean_flights_are_never_refused(room):
    check_flights(room, (7, 12))


def check_flights(room, months):
    section = DataSection(
        files="data/flights-*.parquet",
        key=("carrier", "flight", "sched_dep"),
        event_time="sched_dep",
        known_later=("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"),
    )
    model = ModelSection(result="model", task="binary", label="late")
    shutil.copytree(FLIGHTS / "data", room.folder / "data")
    first = scan(room.take(section), room.objects, section, None, model=model)
    assert first.violations == ()
    for month in months:
        shutil.copy(FLIGHTS / f"later/flights-2013-{month:02}.parquet", room.folder / "data")
        report = scan(room.take(section), room.objects, section, first.schema, model=model)
        assert not report.refused
        assert {v.column for v in report.violations}.isdisjoint(
            {"carrier", "origin", "dest", "tailnum"}
        )
    arrivals = DataSection(files="truth/*.parquet", key=section.key, event_time="known_at")
    shutil.copytree(FLIGHTS / "truth", room.folder / "truth")
    assert scan(room.take(arrivals, "arrivals"), room.objects, arrivals, None).violations == ()


def test_the_scan_depends_on_nothing_but_its_arguments(room):
    rng = np.random.default_rng(0)
    columns = good(x=rng.normal(size=ROWS).tolist())
    assert look(room, columns).digest == look(room, columns).digest
