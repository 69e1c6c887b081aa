from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base.errors import UsageError
from treadle.base.segments import hash_value
from treadle.monitor import truth

UTC = datetime.UTC
DAY = datetime.timedelta(days=1)
START = datetime.datetime(2013, 5, 6, tzinfo=UTC)
LATER = START + 30 * DAY
_TIME = pa.timestamp("us", tz="UTC")


def captured(**columns):
    rows = len(next(iter(columns.values())))
    base = {
        "prediction_id": [f"local.1.i.{n}.0" for n in range(rows)],
        "release": [1] * rows,
        "at": pa.array([START] * rows, _TIME),
        "when": pa.array([START + DAY] * rows, _TIME),
        "prediction": [0.5] * rows,
    }
    return pa.table(base | columns)


def test_requests_carry_times_as_text_and_numbers_as_floats_and_still_join():
    window = captured(
        flight=[1545.0, 1714.0], sched_dep=["2013-05-06T05:15:00", "2013-05-06 05:29"]
    )
    frame = pd.DataFrame(
        {
            "flight": np.array([1545, 1714], dtype="int16"),
            "sched_dep": pd.to_datetime(["2013-05-06 05:15", "2013-05-06 05:29"]),
            "late": [1.0, 0.0],
        }
    )
    for given_frame in (frame, pl.from_pandas(frame), pa.Table.from_pandas(frame)):
        table, key = truth.normalise(given_frame, ["flight", "sched_dep"], "late")
        joined, coverage = truth.join(window, table, key, LATER)
        assert joined["truth"].to_pylist() == [1.0, 0.0]
        assert coverage.share == 1.0
    texts = frame.assign(sched_dep=frame["sched_dep"].astype(str))
    table, key = truth.normalise(texts, ["flight", "sched_dep"], "late")
    assert truth.join(window, table, key, LATER)[0]["truth"].to_pylist() == [1.0, 0.0]


def test_a_hashed_key_still_joins_whatever_the_number_is_written_as():
    window = captured(flight=[hash_value(1545), hash_value(1714.0)], carrier=["UA", "AA"])
    frame = pd.DataFrame({"flight": [1714.0, 1545.0], "carrier": ["AA", "UA"], "late": [0, 1]})
    table, key = truth.normalise(frame, ["flight", "carrier"], "late")
    joined, _ = truth.join(window, truth.hash_key(table, {"flight", "absent"}), key, LATER)
    assert joined["truth"].to_pylist() == [1, 0]


def test_prediction_ids_join_where_the_truth_has_them_and_no_key():
    window = captured(x=[1, 2])
    table, key = truth.normalise(
        pd.DataFrame({"prediction_id": ["local.1.i.1.0"], "late": [1]}), ["flight"], "late"
    )
    joined, coverage = truth.join(window, table, key, LATER)
    assert key == ("prediction_id",)
    assert joined["truth"].to_pylist() == [None, 1]
    assert (coverage.covered, coverage.absent) == (1, 1)


def test_a_truth_without_label_or_key_says_what_it_lacks():
    with pytest.raises(UsageError, match="lacks late; it has flight"):
        truth.normalise(pd.DataFrame({"flight": [1]}), ["flight"], "late")
    with pytest.raises(UsageError, match="lacks a key, or prediction_id"):
        truth.normalise(pd.DataFrame({"late": [1]}), [], "late")


def test_young_rows_are_not_judged_and_a_null_label_is_an_answer():
    window = captured(
        k=["old", "cancelled", "unknown", "young"],
        when=pa.array([START, START, START, START + 9 * DAY], _TIME),
    )
    table, key = truth.normalise(
        pd.DataFrame({"k": ["old", "cancelled", "young"], "y": [1.0, np.nan, 1.0]}), ["k"], "y"
    )
    joined, coverage = truth.join(window, table, key, START + 5 * DAY)
    assert joined["judged"].to_pylist() == [True, False, False, False]
    assert (coverage.matured, coverage.covered, coverage.no_truth, coverage.absent) == (3, 1, 1, 1)
    assert coverage.young == 1 and coverage.share == pytest.approx(1 / 3)
    assert "1 have none (null label, such as a cancelled flight)" in coverage.words


def test_the_truth_known_last_wins_and_disagreement_is_counted():
    window = captured(k=["a", "b", "c"])
    frame = pd.DataFrame(
        {
            "k": ["a", "a", "b", "b", "z", "z"],
            "y": [0, 1, 1, 1, 0, 1],
            "known": pd.to_datetime(["2013-05-09", "2013-05-08"] * 3),
        }
    )
    table, key = truth.normalise(frame, ["k"], "y", "known")
    joined, coverage = truth.join(window, table, key, LATER)
    assert joined["truth"].to_pylist() == [0, 1, None]
    assert coverage.conflicts == 1, "b agrees, z is of another window"
    early, _ = truth.join(
        window, table, key, LATER, known_by=datetime.datetime(2013, 5, 8, 1, tzinfo=UTC)
    )
    assert early["truth"].to_pylist() == [1, 1, None], "what was known then can be said again"


def test_by_key_the_last_answer_before_the_event_is_judged_once_a_release():
    at = [START, START + DAY / 2, START + 2 * DAY, START]
    window = captured(k=["a", "a", "a", "a"], release=[1, 1, 1, 2], at=pa.array(at, _TIME))
    table, key = truth.normalise(pd.DataFrame({"k": ["a"], "y": [1]}), ["k"], "y")
    joined, coverage = truth.join(window, table, key, LATER)
    assert joined["judged"].to_pylist() == [False, True, False, True]
    assert (coverage.superseded, coverage.matured, coverage.covered) == (2, 2, 2)


def test_a_row_without_its_key_is_absent_and_stands_alone():
    window = captured(k=[None, None, "a"])
    table, key = truth.normalise(pd.DataFrame({"k": ["a", None], "y": [1, 0]}), ["k"], "y")
    joined, coverage = truth.join(window, table, key, LATER)
    assert joined["judged"].to_pylist() == [False, False, True]
    assert (coverage.absent, coverage.superseded) == (2, 0)
    without, coverage = truth.join(captured(x=[1]), table, key, LATER)
    assert without["judged"].to_pylist() == [False] and coverage.absent == 1


def test_no_truth_and_no_rows_are_fine():
    table, key = truth.normalise(pd.DataFrame({"k": ["a"], "y": [1]}), ["k"], "y")
    joined, coverage = truth.join(captured(k=["a"]).slice(0, 0), table, key, LATER)
    assert joined.num_rows == 0 and coverage.share == 0.0
    joined, coverage = truth.join(captured(k=["a"]), table.slice(0, 0), key, LATER)
    assert joined["judged"].to_pylist() == [False] and coverage.absent == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), max_size=20),
    st.lists(
        st.tuples(
            st.sampled_from("abcde"),
            st.integers(0, 2),
            st.integers(0, 5),
            st.sampled_from([0.0, 1.0, None]),
        ),
        max_size=20,
    ),
)
def test_the_join_is_what_a_dictionary_says(rows, known):
    window = captured(
        k=[k for k, _ in rows] or pa.array([], pa.string()),
        n=[n for _, n in rows] or pa.array([], pa.int64()),
    )
    frame = pa.table(
        {
            "k": pa.array([k for k, *_ in known], pa.string()),
            "n": pa.array([n for _, n, *_ in known], pa.int64()),
            "y": pa.array([y for *_, y in known], pa.float64()),
            "known": pa.array([START + DAY * d for _, _, d, _ in known], _TIME),
        }
    )
    table, key = truth.normalise(frame, ["k", "n"], "y", "known")
    joined, coverage = truth.join(window, table, key, LATER)
    expected = {}
    for k, n, _, y in sorted(known, key=lambda one: one[2]):
        expected[k, n] = y
    assert joined["truth"].to_pylist() == [expected.get(row) for row in rows]
    assert coverage.matured == coverage.covered + coverage.no_truth + coverage.absent
    assert coverage.rows == coverage.matured + coverage.superseded + coverage.young
    assert coverage.matured == len(set(rows))
