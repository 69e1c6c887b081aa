"""Results come back equal, of the same type, and equal values have equal bytes."""

from __future__ import annotations

import datetime
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base.errors import Refused, StateCorrupt
from treadle.clients.memory import MemoryObjects
from treadle.code import store


def there_and_back(value, trust=False):
    objects = MemoryObjects()
    result = store.save("x", value, objects, trust)
    assert store.save("x", value, objects, trust) == result, "equal values give equal bytes"
    return store.load(result, objects), result


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.timedeltas()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers() | st.just("$float"), inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(st.integers() | st.text(), max_size=4)
        | st.sets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


@given(plain)
@settings(max_examples=150, deadline=None)
def test_plain_values_come_back_with_their_types(value):
    assert same(store.decode(store.encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        b"\x00\xff",
        bytearray(b"ab"),
        3,
        True,
        "ä\ud800",
        float("nan"),
        {"auc": np.float64(0.7), "n": np.int32(3)},
        {"a": np.arange(3)},
        np.float32(0.1),
        datetime.date(2013, 1, 1),
    ],
)
def test_single_values_keep_their_type(value):
    back, result = there_and_back(value)
    assert type(back) is type(value)
    if isinstance(value, dict):
        for key in value:
            assert type(back[key]) is type(value[key])
            assert np.array_equal(back[key], value[key])
    else:
        assert back == value or value != value


@given(
    st.integers(0, 5),
    st.sampled_from(["float64", "int8", "bool", "datetime64[ns]", "U3", "complex64", "float16"]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_arrays_come_back_with_dtype_and_shape(rows, dtype, fortran):
    value = np.zeros((rows, 2), dtype=dtype, order="F" if fortran else "C")
    back, _ = there_and_back(value)
    assert back.dtype == value.dtype and back.shape == value.shape and np.array_equal(back, value)


def test_an_array_of_objects_needs_pickle():
    with pytest.raises(store.NotStorable, match="x is a numpy.ndarray of objects"):
        store.save("x", np.array([object()]), MemoryObjects())


WIDE = pd.DataFrame(
    {
        "i8": pd.array([1, 2, 3], dtype="int8"),
        "f32": np.array([0.1, np.nan, 3], dtype="float32"),
        "Int": pd.array([1, None, 3], dtype="Int64"),
        "bool": [True, False, True],
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "str": ["a", None, "ü"],
        "cat": pd.Categorical(["lo", "hi", None], categories=["lo", "hi", "never"], ordered=True),
        "ns": pd.to_datetime(["2013-01-01", None, "2013-01-03"]).as_unit("ns"),
        "us": pd.to_datetime(["2013-01-01", None, "2013-01-03"]).as_unit("us"),
        "tz": pd.to_datetime(["2013-01-01"] * 3).tz_localize("America/New_York"),
        "td": pd.to_timedelta([1, 2, None], unit="s"),
        "object": pd.Series(["a", None, "b"], dtype=object),
        "lists": pd.Series([[1], [2, 3], None], dtype=object),
    }
)


@pytest.mark.parametrize(
    "frame",
    [
        WIDE,
        WIDE.iloc[:0],
        WIDE.set_index("str"),
        WIDE.set_index(["i8", "bool"]),
        WIDE.iloc[[2, 0]],
        pd.DataFrame({1: [1.0], 2: [2.0]}),
        pd.DataFrame(np.zeros((2, 3))),
        pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2013", periods=2, freq="D", name="day")),
        pd.DataFrame({"a": [1, 2]}).rename_axis(columns="kind"),
        pd.DataFrame(index=range(3)),
    ],
    ids=range(10),
)
def test_pandas_frames_come_back_exactly(frame):
    back, result = there_and_back(frame)
    pd.testing.assert_frame_equal(
        back, frame, check_freq=True, check_index_type="exact", check_column_type="exact"
    )
    assert result.type.startswith("pandas") and result.format == "parquet"


@pytest.mark.parametrize(
    "series",
    [WIDE["cat"], WIDE["tz"], pd.Series([1, 2], name=("a", 1)), pd.Series([1.5], index=["k"])],
    ids=range(4),
)
def test_pandas_series_come_back_exactly(series):
    back, _ = there_and_back(series)
    pd.testing.assert_series_equal(back, series)


def test_mixed_objects_in_a_column_are_refused_not_changed():
    for mixed in ([1, "a"], [1, 2.0], ["a", np.nan], [(1, 2), None]):
        frame = pd.DataFrame({"m": pd.Series(mixed, dtype=object)})
        with pytest.raises(store.NotStorable, match="mix"):
            store.save("x", frame, MemoryObjects())


def test_polars_frames_come_back_exactly():
    frame = pl.DataFrame(
        {
            "a": pl.Series([1, None, 3], dtype=pl.UInt8),
            "s": ["x", None, "z"],
            "c": pl.Series(["u", "v", None], dtype=pl.Categorical),
            "e": pl.Series(["u", "v", None], dtype=pl.Enum(["v", "u"])),
            "d": [datetime.date(2013, 1, 1)] * 3,
            "t": pl.Series([datetime.datetime(2013, 1, 1)] * 3, dtype=pl.Datetime("ns", "UTC")),
            "dur": [datetime.timedelta(seconds=1)] * 3,
            "l": [[1], [], None],
            "st": [{"a": 1}, {"a": 2}, {"a": None}],
        }
    )
    for value in (frame, frame[:0]):
        back, _ = there_and_back(value)
        assert back.schema == value.schema and back.equals(value)
    series, _ = there_and_back(frame["c"])
    assert series.equals(frame["c"]) and series.name == "c"
    with pytest.raises(store.NotStorable, match="LazyFrame"):
        store.save("x", frame.lazy(), MemoryObjects())


@given(st.lists(st.tuples(st.floats(), st.text(), st.integers(-(2**63), 2**63 - 1)), max_size=6))
@settings(max_examples=40, deadline=None)
def test_any_simple_frame_comes_back(rows):
    frame = pd.DataFrame(rows, columns=["f", "s", "i"]).astype(
        {"f": "float64", "s": "str", "i": "int64"}
    )
    back, _ = there_and_back(frame)
    pd.testing.assert_frame_equal(back, frame)


def test_arrow_tables_come_back():
    table = pa.table({"a": [1, None], "d": pa.array(["x", "y"]).dictionary_encode()})
    back, _ = there_and_back(table)
    assert back.equals(table) and back.schema.equals(table.schema)


def test_paths_are_kept_with_their_content(tmp_path):
    objects = MemoryObjects()
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file in files:
        file.write_text(file.name)
    result = store.save("x", files, objects)
    assert store.load(result, objects) == files
    files[0].unlink()
    files[1].write_text("changed by somebody")
    back = store.load(result, objects)
    assert back[0] == files[0] and files[0].read_text() == "a.txt"
    assert back[1] != files[1] and back[1].read_text() == "b.txt" and back[1].name == "b.txt"


class Own:
    def __eq__(self, other):
        return type(other) is Own


def test_other_types_need_trust_in_pickle_by_name():
    with pytest.raises(
        store.NotStorable, match="result x is a .*Own, for which there is no safe format"
    ) as caught:
        store.save("x", Own(), MemoryObjects())
    assert "trust: pickle" in caught.value.hint
    with pytest.raises(store.NotStorable, match="holding a .*Own"):
        store.save("x", {"a": [Own()]}, MemoryObjects())
    objects = MemoryObjects()
    result = store.save("x", {"a": Own()}, objects, trust_pickle=True)
    assert store.load(result, objects, trust_pickle=True) == {"a": Own()}
    with pytest.raises(Refused, match="trust: pickle"):
        store.load(result, objects)
    with pytest.raises(store.NotStorable, match="not even by pickle"):
        store.save("x", lambda: 1, MemoryObjects(), trust_pickle=True)


def test_a_damaged_blob_is_named():
    objects = MemoryObjects()
    result = store.save("x", [1, 2], objects)
    objects.delete(result.content)
    with pytest.raises(StateCorrupt):
        store.load(result, objects)


def fitted():
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    random = np.random.default_rng(0)
    frame = pd.DataFrame({"c": random.choice(list("xyz"), 200), "n": random.normal(size=200)})
    encode = ColumnTransformer([("c", OrdinalEncoder(), ["c"])], remainder="passthrough")
    model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5, random_state=0))
    return model.fit(frame, (frame.n > 0).astype(int)), frame


def test_a_fitted_pipeline_is_stored_without_pickle():
    model, frame = fitted()
    back, result = there_and_back(model)
    assert result.format == "model" and result.type == "sklearn.pipeline.Pipeline"
    assert np.array_equal(back.predict_proba(frame), model.predict_proba(frame))


def test_boosters_are_stored_in_their_own_formats():
    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(100, 3)), random.integers(0, 2, 100)
    models = [
        xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(x, y),
        xgboost.train({"max_depth": 2}, xgboost.DMatrix(x, y), 2),
        lightgbm.train({"verbose": -1}, lightgbm.Dataset(x, y), 2),
        lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(x, y),
    ]
    for model in models:
        back, _ = there_and_back(model)
        assert type(back) is type(model)
        rows = xgboost.DMatrix(x) if type(model) is xgboost.Booster else x
        assert np.array_equal(back.predict(rows), model.predict(rows)), type(model)


def test_an_estimator_of_the_users_own_needs_trust():
    from sklearn.base import BaseEstimator

    class Mine(BaseEstimator):
        pass

    with pytest.raises(store.NotStorable, match="Mine"):
        store.save("x", Mine(), MemoryObjects())


FIT = """
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from treadle.clients.memory import MemoryObjects
from treadle.code import store
random = np.random.default_rng(0)
x, y = random.normal(size=(100, 3)), random.integers(0, 2, 100)
texts = ["the dog", "a brown fox", "some cat", "hello"] * 25
for model, rows in [
    (HistGradientBoostingClassifier(max_iter=3, random_state=0), x),
    (RandomForestClassifier(3, random_state=0), x),
    (make_pipeline(TfidfVectorizer(stop_words="english"), RandomForestClassifier(2, random_state=0)), texts),
]:
    print(store.save("m", model.fit(rows, y), MemoryObjects()).content)
"""


def test_one_model_has_one_digest_in_two_processes():
    running = [
        subprocess.Popen(
            [sys.executable, "-c", FIT],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed},
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate()[0] for process in running)
    assert first == second and first.count("sha256:") == 3
