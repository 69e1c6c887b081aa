"""Capture segments survive kills, show the latest records, and name damage."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base import segments
from treadle.base.errors import StateCorrupt

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
)


def record(number: int = 0, **changes: Any) -> segments.Record:
    fields: dict[str, Any] = {
        "id": f"local.1.abc.{number}",
        "time": "2013-05-01T00:00:00.000000Z",
        "environment": "local",
        "release": 1,
        "instance": "abc",
        "latency_ms": 1.5,
        "rows": 1,
        "inputs": {"x": [number]},
        "outputs": {"prediction": [0.5]},
    }
    return segments.Record(**(fields | changes))


@given(st.lists(st.dictionaries(st.text(max_size=5), st.lists(VALUES, max_size=4)), max_size=5))
@settings(max_examples=50, deadline=None)
def test_what_was_written_is_read(columns: list[dict[str, list[Any]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = [record(i, inputs=c, extra=c) for i, c in enumerate(columns)]
        writer = segments.SegmentWriter(Path(folder), "abc")
        for item in records:
            writer.append([segments.encode(item)])
        writer.close()
        assert [c.record for c in segments.read_segments(Path(folder))] == records


def test_nan_and_infinities_come_back(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "abc")
    writer.append([segments.encode(record(inputs={"x": [math.nan, math.inf, None]}))])
    (found,) = segments.read_segments(tmp_path)
    values = found.record.inputs["x"]
    assert math.isnan(values[0]) and values[1:] == [math.inf, None]


def test_open_segments_are_read_and_the_cursor_survives_the_renaming(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "abc")
    writer.append([segments.encode(record(0))])
    first, cursor = segments.read_new(tmp_path)
    assert [r.id for r in first] == ["local.1.abc.0"]
    writer.append([segments.encode(record(1))])
    writer.close()
    second, cursor = segments.read_new(tmp_path, cursor)
    assert [r.id for r in second] == ["local.1.abc.1"]
    assert segments.read_new(tmp_path, cursor) == ([], cursor)


def test_a_segment_that_is_gone_leaves_the_cursor(tmp_path: Path) -> None:
    assert segments.read_new(tmp_path, {"gone.msgpack": 100}) == ([], {})


@pytest.mark.parametrize("cut", [1, 5, 8, 9, 30])
def test_a_torn_tail_is_skipped_and_read_when_it_is_whole(tmp_path: Path, cut: int) -> None:
    writer = segments.SegmentWriter(tmp_path, "abc")
    writer.append([segments.encode(record(0)), segments.encode(record(1))])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    first, cursor = segments.read_new(tmp_path)
    assert [r.id for r in first] == ["local.1.abc.0"]
    path.write_bytes(whole)
    assert [r.id for r in segments.read_new(tmp_path, cursor)[0]] == ["local.1.abc.1"]


def test_damage_before_the_end_is_named(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "abc")
    writer.append([segments.encode(record(0)), segments.encode(record(1))])
    writer.close()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[30] ^= 255
    path.write_bytes(data)
    with pytest.raises(StateCorrupt, match=r"damaged at byte 8"):
        list(segments.read_segments(tmp_path))


def test_a_full_segment_is_closed_and_the_next_sorts_after_it(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "abc", max_bytes=400)
    for number in range(10):
        writer.append([segments.encode(record(number))])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) > 2 and sum(name.endswith(".open") for name in names) <= 1
    found = [c.record.id for c in segments.read_segments(tmp_path)]
    assert found == [f"local.1.abc.{n}" for n in range(10)]
    assert len(segments.read_new(tmp_path, limit=3)[0]) == 3
