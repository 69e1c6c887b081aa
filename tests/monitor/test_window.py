from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base import clock
from treadle.base.digest import digest_bytes
from treadle.base.segments import Record, SegmentWriter, encode, read_new
from treadle.base.spec import MonitorSection
from treadle.monitor import window

DAILY = MonitorSection(window="1d")
START = datetime.datetime(2013, 5, 6, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def record(hours: float, rows: int = 1, *, name: str = "", event: float | None = None, **inputs):
    moment = START + hours * HOUR
    values = {k: v if isinstance(v, list) else [v] * rows for k, v in inputs.items()}
    when = {} if event is None else {"event": [clock.text(START + event * HOUR)] * rows}
    return Record(
        id=f"local.3.i1.{name or hours}",
        time=clock.text(moment),
        environment="local",
        release=3,
        instance="i1",
        latency_ms=1.0,
        rows=rows,
        inputs=values or {"x": [1.0] * rows},
        outputs={"prediction_0": [0.75] * rows, "prediction_1": [0.25] * rows},
        extra=when,
    )


def go(records, now, cursor=None, open_rows=None, section=DAILY, event=None, **more):
    return window.advance(
        records,
        "local",
        section,
        event,
        (),
        cursor,
        START + now * HOUR,
        open_rows=open_rows,
        **more,
    )


def test_windows_begin_on_mondays_and_on_the_hour():
    week, hour = datetime.timedelta(days=7), HOUR
    moment = datetime.datetime(2013, 5, 9, 17, 42, tzinfo=datetime.UTC)
    assert window.floor(moment, week) == datetime.datetime(2013, 5, 6, tzinfo=datetime.UTC)
    assert window.floor(moment, hour) == moment.replace(minute=0)


def test_a_window_closes_once_now_is_past_its_end_and_the_grace():
    records = [record(1), record(23), record(25)]
    first = go(records, 24.0)
    assert first.windows == [] and first.open_rows.num_rows == 3
    second = go([], 24.2, first.cursor, first.open_rows)
    (closed,) = second.windows
    assert closed.window.start == clock.text(START)
    assert closed.window.end == clock.text(START + 24 * HOUR)
    assert (closed.window.rows, closed.window.releases) == (2, (3,))
    assert closed.window.content == digest_bytes(closed.blob)
    assert window.decode(closed.blob).equals(closed.table)
    assert second.open_rows.num_rows == 1
    assert go([], 24.3, second.cursor, second.open_rows).windows == []


def test_rows_keep_inputs_outputs_and_where_they_came_from():
    made = go([record(1, 2, x=[1.5, None], name="N", release="a", prediction=[1, 2])], 30)
    table = made.windows[0].table
    assert table["x"].to_pylist() == [1.5, None]
    assert table["input.release"].to_pylist() == ["a", "a"]
    assert table["input.prediction"].to_pylist() == [1, 2]
    assert table["prediction_1"].to_pylist() == [0.25, 0.25]
    assert table["prediction_id"].to_pylist() == ["local.3.i1.N.0", "local.3.i1.N.1"]
    assert set(window.RESERVED) <= set(table.column_names)


def test_event_time_decides_the_window_and_capture_stands_in_where_it_is_missing():
    made = go([record(1, event=30), record(2)], 60, event="event")
    assert [c.window.rows for c in made.windows] == [1, 1]
    assert made.cursor["counts"]["implausible"] == 1
    far = go([record(1, event=10_000)], 60, event="event")
    assert far.windows[0].window.rows == 1, "an event over a year ahead is taken for a mistake"


def test_a_row_for_a_closed_window_goes_to_the_first_open_one_and_is_counted():
    first = go([record(1, event=1)], 30, event="event")
    late = go([record(30, event=2)], 60, first.cursor, first.open_rows, event="event")
    assert late.cursor["counts"]["late"] == 1
    (closed,) = late.windows
    assert closed.window.start == clock.text(START + 24 * HOUR)
    assert closed.table["late_arrival"].to_pylist() == [True]
    kept = go([], 61, late.cursor, late.open_rows, event="event")
    assert kept.cursor["counts"]["late"] == 1, "counted once"


def test_an_empty_span_is_one_window_without_rows_and_no_traffic_at_all_is_seen():
    made = go([record(1), record(24 * 5 + 1)], 24 * 6 + 1)
    assert [(c.window.rows, c.window.start) for c in made.windows] == [
        (1, clock.text(START)),
        (0, clock.text(START + 24 * HOUR)),
        (1, clock.text(START + 5 * 24 * HOUR)),
    ]
    silent = go([], 24 * 3 + 1, since=START + 2 * HOUR)
    assert [(c.window.rows, c.window.end) for c in silent.windows] == [
        (0, clock.text(START + 3 * 24 * HOUR))
    ]
    assert go([], 24 * 3 + 1).windows == [], "nothing deployed, nothing missed"


def test_a_prediction_id_counts_once():
    made = go([record(1, name="a"), record(1, name="a"), record(2, name="b")], 30)
    assert made.windows[0].window.rows == 2
    assert made.cursor["counts"]["duplicates"] == 1


def test_a_column_that_changes_its_type_between_records_loses_nothing():
    first = go([record(1, name="a", x=1)], 2)
    second = go(
        [record(2, name="b", x="one"), record(3, name="c", x=2.5)],
        30,
        first.cursor,
        first.open_rows,
    )
    assert second.windows[0].table["x"].to_pylist() == ["1", "one", "2.5"]


def test_segments_of_a_server_become_the_same_windows_however_often_they_are_read():
    with tempfile.TemporaryDirectory() as folder:
        writer = SegmentWriter(Path(folder), "i1")
        everything = [record(hour, 3, name=f"r{hour}") for hour in range(60)]
        cursor, rows, blobs = None, None, []
        for start in range(0, 60, 7):
            writer.append([encode(one) for one in everything[start : start + 7]])
            fresh, after = read_new(Path(folder), (cursor or {}).get("segments"))
            cursor_after = go(fresh, start + 7, cursor, rows, segments=after)
            repeated = go(fresh, start + 7, cursor, rows, segments=after)  # died before the commit
            assert [c.blob for c in repeated.windows] == [c.blob for c in cursor_after.windows]
            cursor, rows = cursor_after.cursor, cursor_after.open_rows
            blobs += [c.blob for c in cursor_after.windows]
        writer.close()
    at_once = go(everything, 63)
    assert blobs == [c.blob for c in at_once.windows]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 200), st.floats(-50, 250), st.integers(1, 4)), max_size=25),
    st.lists(st.floats(0, 300), min_size=1, max_size=6),
)
def test_every_row_is_in_exactly_one_window_or_still_open(rows, moments):
    records = [record(at, n, name=f"r{i}", event=event) for i, (at, event, n) in enumerate(rows)]
    records.sort(key=lambda one: one.time)
    cursor, open_rows, closed = None, None, []
    for now in sorted(moments):
        due = [one for one in records if one.time <= clock.text(START + now * HOUR)]
        records = records[len(due) :]
        cursor_open = go(due, now, cursor, open_rows, event="event")
        closed += cursor_open.windows
        cursor, open_rows = cursor_open.cursor, cursor_open.open_rows
        seen = [i for c in closed for i in c.table["prediction_id"].to_pylist()]
        seen += open_rows["prediction_id"].to_pylist()
        assert len(seen) == len(set(seen)) == cursor["counts"]["rows"]
        spans = [(c.window.start, c.window.end) for c in closed]
        assert all(a[1] == b[0] for a, b in zip(spans, spans[1:])), "no gap, no overlap"


def test_equal_rows_give_equal_bytes_whatever_their_order():
    records = [record(hour, name=f"r{hour}") for hour in range(5)]
    assert go(records, 30).windows[0].blob == go(records[::-1], 30).windows[0].blob


def test_later_knowledge_leaves_the_windows_identity_alone():
    made = go([record(1)], 30).windows[0].window
    known = window.with_quality(made, coverage=0.5, realised={"roc_auc": 0.7})
    assert (known.id, known.content, known.coverage) == (made.id, made.content, 0.5)
    assert known.realised == {"roc_auc": 0.7} and isinstance(window.encode(pa.table({})), bytes)
