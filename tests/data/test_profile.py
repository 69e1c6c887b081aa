from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base.distance import ks_from_counts, psi
from treadle.data.profile import distances, merge, profile_frame

FLOATS = st.lists(st.none() | st.floats(allow_nan=True), max_size=30)
TEXTS = st.lists(st.none() | st.sampled_from("abcdefgh"), max_size=30)


def table(numbers, texts, flags):
    rows = min(len(numbers), len(texts), len(flags))
    return pl.DataFrame(
        {"x": numbers[:rows], "s": texts[:rows], "b": flags[:rows]},
        schema={"x": pl.Float64, "s": pl.String, "b": pl.Boolean},
    )


TABLES = st.builds(table, FLOATS, TEXTS, st.lists(st.none() | st.booleans(), max_size=30))


def total(entry):
    counts = entry["counts"]
    return (
        sum(counts.values() if isinstance(counts, dict) else counts)
        + entry.get("other", 0)
        + entry["missing"]
    )


@settings(deadline=None)
@given(TABLES)
def test_every_row_is_counted_once_and_the_profile_is_json(frame):
    found = profile_frame(frame)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["rows"] == len(frame)
    for entry in found["columns"].values():
        assert total(entry) == len(frame)
        if entry["kind"] == "numeric":
            assert entry["edges"] == sorted(set(entry["edges"]))
            assert len(entry["counts"]) == len(entry["edges"]) + 1


@settings(deadline=None)
@given(TABLES, TABLES)
def test_merged_profiles_are_the_profile_of_both(one, two):
    first = profile_frame(one)
    second = profile_frame(two, like=first)
    both = profile_frame(pl.concat([one, two]), like=first)
    assert merge(first, second) == both
    third = profile_frame(one, like=second)
    assert merge(first, second) == merge(third, second)


@settings(deadline=None)
@given(TABLES)
def test_pandas_and_polars_frames_have_the_same_profile(frame):
    other = pd.DataFrame(
        {
            "x": frame["x"].to_numpy() if len(frame) else np.array([], dtype=float),
            "s": pd.Series(frame["s"].to_list(), dtype="str"),
            "b": pd.Series(frame["b"].to_list(), dtype="boolean"),
        }
    )
    assert profile_frame(other) == profile_frame(frame)


def test_counts_belong_to_the_upper_edge_and_the_ends_are_open():
    first = {
        "rows": 0,
        "columns": {
            "x": {"kind": "numeric", "edges": [1.0, 2.0], "counts": [0, 0, 0], "missing": 0}
        },
    }
    found = profile_frame(
        pl.DataFrame({"x": [1.0, 1.5, 2.0, 3.0, math.inf, -math.inf, math.nan, None]}), like=first
    )
    assert found["columns"]["x"] == {
        "kind": "numeric",
        "edges": [1.0, 2.0],
        "counts": [2, 2, 2],
        "missing": 2,
    }


def test_at_most_fifty_values_are_named_and_the_rest_is_other():
    values = [f"v{number:03}" for number in range(80)] + ["v079"]
    entry = profile_frame(pl.DataFrame({"s": values}))["columns"]["s"]
    assert len(entry["counts"]) == 50 and entry["counts"]["v079"] == 2 and entry["other"] == 30
    named = {
        "rows": 1,
        "columns": {"s": {"kind": "category", "counts": {"v078": 1}, "other": 0, "missing": 0}},
    }
    assert (
        "v078" in profile_frame(pl.DataFrame({"s": values}), like=named)["columns"]["s"]["counts"]
    )


def test_merging_what_cannot_be_merged_says_so():
    a = profile_frame(pl.DataFrame({"x": [1.0, 2.0]}))
    b = profile_frame(pl.DataFrame({"x": [5.0, 6.0]}))
    c = profile_frame(pl.DataFrame({"x": ["a"]}))
    with pytest.raises(ValueError, match="edges"):
        merge(a, b)
    with pytest.raises(ValueError, match="category"):
        merge(a, c)
    assert merge(a, profile_frame(pl.DataFrame({"y": [True]})))["columns"]["x"]["missing"] == 1


def test_object_columns_of_pandas_are_read_by_what_they_hold():
    import decimal

    frame = pd.DataFrame(
        {
            "m": pd.Series([decimal.Decimal("1.5"), None], dtype=object),
            "s": pd.Series(["a", None], dtype=object),
            "t": pd.to_datetime(["2024-01-01", None]),
            "l": pd.Series([[1], None], dtype=object),
        }
    )
    found = profile_frame(frame)["columns"]
    assert found["m"]["kind"] == "numeric" and found["m"]["missing"] == 1
    assert found["s"]["counts"] == {"a": 1} and "t" not in found and "l" not in found


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_a_distribution_has_no_distance_to_itself(counts):
    assert psi(counts, counts) == 0
    ks = ks_from_counts(counts, counts)
    assert ks == 0 or (math.isnan(ks) and sum(counts) == 0)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=20))
def test_distances_are_symmetric_and_bounded(pairs):
    left, right = zip(*pairs, strict=True)
    assert psi(left, right) == pytest.approx(psi(right, left)) and psi(left, right) >= 0
    ks = ks_from_counts(left, right)
    assert math.isnan(ks) or (0 <= ks <= 1 and ks == pytest.approx(ks_from_counts(right, left)))


def test_psi_and_ks_are_the_textbooks_on_large_counts():
    left, right = [10_000, 30_000, 60_000], [20_000, 30_000, 50_000]
    wanted = (0.2 - 0.1) * math.log(2) + (0.5 - 0.6) * math.log(5 / 6)
    assert psi(left, right) == pytest.approx(wanted, abs=1e-4)
    assert ks_from_counts(left, right) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="bins"):
        psi([1], [1, 2])
    with pytest.raises(ValueError, match="negative"):
        psi([-1], [1])


def test_ks_from_a_profile_is_close_to_the_exact_one():
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20_000), rng.normal(0.1, 1.1, size=20_000)
    first = profile_frame(pl.DataFrame({"x": a}))
    second = profile_frame(pl.DataFrame({"x": b}), like=first)
    shift, ks = distances(first["columns"]["x"], second["columns"]["x"])
    assert ks == pytest.approx(ks_2samp(a, b).statistic, abs=0.01) and 0.005 < shift < 0.05
