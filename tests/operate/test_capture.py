"""Capture never stands in the way: bounded, sampled, capped, counted."""

from __future__ import annotations

import datetime as dt
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base import segments
from treadle.base.segments import hash_value
from treadle.operate.capture import Capture, Taken, output_columns
from treadle.operate.model.loaded import Prepared

NOW = dt.datetime(2013, 5, 1, tzinfo=dt.UTC)


def taken(number: int, rows: int = 1, data: Any = None) -> Taken:
    data = pd.DataFrame({"x": [float(number)] * rows}) if data is None else data
    seen = Prepared(data, rows)
    return Taken(f"id{number}", NOW, 1.0, rows, lambda: seen, {"predict": np.zeros(rows)})


def capture(folder: Path, **more: Any) -> Capture:
    return Capture(folder, environment="local", release=1, instance="abc", **more)


def offer(box: Capture, item: Taken) -> None:
    if box.wants():
        box.take(item)


def test_what_is_offered_is_written_by_the_end(tmp_path: Path) -> None:
    box = capture(tmp_path)
    for number in range(50):
        offer(box, taken(number))
    box.close()
    assert [c.record.id for c in segments.read_segments(tmp_path)] == [f"id{n}" for n in range(50)]
    assert box.captured == 50 and not list(tmp_path.glob("*.open"))


def test_the_cap_per_minute_and_the_queue_drop_and_count(tmp_path: Path) -> None:
    box = capture(tmp_path, per_minute=5, queue_rows=10)
    offer(box, taken(0, rows=11))
    for number in range(9):
        offer(box, taken(number))
    box.close()
    # The large one came to an empty queue; while it is there, no other has room beside it.
    assert box.dropped["per_minute"] == 5 and box.dropped["queue"] + box.captured == 5
    assert box.captured >= 1 <= box.dropped["queue"]


def test_a_rate_keeps_its_share(tmp_path: Path) -> None:
    box = capture(tmp_path, rate=0.5, per_minute=60_000)
    for number in range(1000):
        offer(box, taken(number))
    box.close()
    assert 400 < box.captured < 600


def test_flush_closes_the_segment_and_the_next_goes_on(tmp_path: Path) -> None:
    box = capture(tmp_path)
    offer(box, taken(0))
    assert box.flush() and len(list(tmp_path.glob("*.msgpack"))) == 1
    offer(box, taken(1))
    box.close()
    assert [c.record.id for c in segments.read_segments(tmp_path)] == ["id0", "id1"]


def test_every_kind_of_column_becomes_plain_values(tmp_path: Path) -> None:
    data = pd.DataFrame(
        {
            "text": pd.array(["a", None], dtype="str"),
            "when": pd.to_datetime(["2013-01-01", None]),
            "flag": np.array([True, None], dtype=object),
            "small": np.array([1, 2], dtype="int8"),
            "kind": pd.Categorical(["u", None]),
            "list": [[1], np.array([2])],
        }
    )
    box = capture(tmp_path)
    offer(box, taken(0, 2, data))
    box.close()
    (found,) = segments.read_segments(tmp_path)
    assert found.record.inputs == {
        "text": ["a", None],
        "when": ["2013-01-01T00:00:00.000000", None],
        "flag": [True, None],
        "small": [1, 2],
        "kind": ["u", None],
        "list": [[1], [2]],
    }


def test_outputs_have_the_names_that_monitoring_reads() -> None:
    assert output_columns({"predict": np.array([1.5])}) == {"prediction": [1.5]}
    both = {"probability": np.array([[0.1, 0.9]]), "label": np.array(["late"])}
    assert output_columns(both) == {"prediction_0": [0.1], "prediction_1": [0.9], "label": ["late"]}


def test_excluded_fields_are_gone_and_hashed_ones_still_join(tmp_path: Path) -> None:
    box = capture(tmp_path, exclude=["secret"], hashed=["customer", "x"])
    seen = Prepared(pd.DataFrame({"x": [1.0, None]}), 2, {"secret": [1, 2], "customer": ["é", "é"]})
    outputs = {"predict": np.zeros(2)}
    offer(box, Taken("id", NOW, 1.0, 2, lambda: seen, outputs, "00-ab-cd-01"))
    box.close()
    (found,) = segments.read_segments(tmp_path)
    assert found.record.extra == {"customer": [hash_value("é")] * 2}
    assert found.record.inputs == {"x": [hash_value(1), None]}
    assert found.record.trace == "00-ab-cd-01" and len(hash_value("é") or "") == 32


def test_a_row_that_cannot_be_recorded_is_counted_and_the_next_is_kept(tmp_path: Path) -> None:
    def broken() -> Prepared:
        raise ValueError("no")

    box = capture(tmp_path)
    offer(box, Taken("bad", NOW, 1.0, 1, broken, {"predict": np.zeros(1)}))
    offer(box, taken(1))
    box.close()
    assert box.dropped["error"] == 1 and box.captured == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2000), st.lists(st.floats(0, 30), min_size=1, max_size=200))
def test_no_minute_takes_more_than_its_share_and_none_begins_empty(
    share: int, pauses: list[float]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        box = capture(Path(folder), per_minute=share)
        now, taken_at = 0.0, []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("treadle.operate.capture.perf_counter", lambda: now)
            box._filled = now
            for pause in pauses:
                now += pause
                for _ in range(50):
                    if box.wants():
                        taken_at.append(now)
        box.close()
    for start in taken_at:
        assert sum(start <= at < start + 60 for at in taken_at) <= share
    assert len(taken_at) >= min(50, share, 50 * len(pauses))


def test_many_rows_are_written_before_the_interval_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.operate.capture.LATEST_S", 3600.0)
    box = capture(tmp_path)
    for number in range(10):
        offer(box, taken(number, rows=100))
    until = time.monotonic() + 20
    while box.captured < 10 and time.monotonic() < until:
        time.sleep(0.01)
    assert box.captured == 10
    box.close()


def test_piece_that_the_disk_refuses_is_counted_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.operate.capture._PIECE", 1)
    append = segments.SegmentWriter.append
    sizes: list[int] = []

    def second_fails(writer: segments.SegmentWriter, records: list[bytes]) -> None:
        sizes.append(len(records))
        if len(sizes) == 2:
            raise OSError(28, "No space left on device")
        append(writer, records)

    monkeypatch.setattr(segments.SegmentWriter, "append", second_fails)
    box = capture(tmp_path)
    for number in range(4):
        offer(box, taken(number))
    box.close()
    assert [c.record.id for c in segments.read_segments(tmp_path)] == ["id0", "id2", "id3"]
    assert box.captured == 3
    assert box.dropped["disk"] == 1
    assert [size for size in sizes if size] == [1, 1, 1, 1]
