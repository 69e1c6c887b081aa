"""A ColumnTransformer's pipeline answers plain columns as it answers the frame, to the bit."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from tests.operate.model import model_zoo

from treadle.operate.model import loaded as model
from treadle.operate.model import signature as signatures
from treadle.operate.model import sklearn_columns
from treadle.operate.model.signature import Field, Signature
from treadle.operate.query import Query

TEXTS, NUMBERS = ["x", "y"], ["a", "b", "n"]
TYPES = {"x": "string", "y": "string", "a": "double", "b": "float", "n": "long", "t": "boolean"}
SIGNATURE = Signature(tuple(Field(n, TYPES[n]) for n in [*TEXTS, *NUMBERS]))
ORDINAL = {"handle_unknown": "use_encoded_value", "unknown_value": -1}


def rows(count: int = 60, *, holes: bool = True) -> pd.DataFrame:
    random = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "x": random.choice(["p", "q", "ü", "rare"], count, p=[0.5, 0.3, 0.18, 0.02]),
            "y": random.choice(["1", "2"], count),
            "a": random.normal(size=count),
            "b": random.normal(size=count).astype("float32"),
            "n": random.integers(-3, 4, count),
        }
    )
    if holes:
        frame.loc[::5, "a"] = np.nan
        frame.loc[::7, "x"] = None
    return frame


TREES = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=3)
TAKEN: dict[str, Any] = {
    "ordinal and passthrough": make_pipeline(
        ColumnTransformer(
            [("t", OrdinalEncoder(**ORDINAL), TEXTS), ("n", "passthrough", NUMBERS)]
        ),
        TREES,
    ),
    "an encoding of missing texts": make_pipeline(
        ColumnTransformer(
            [("t", OrdinalEncoder(**ORDINAL, encoded_missing_value=-2), TEXTS)],
            remainder="passthrough",
        ),
        DecisionTreeClassifier(max_depth=4, random_state=0),
    ),
    "one hot, dense": make_pipeline(
        ColumnTransformer(
            [
                ("t", OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXTS),
                ("n", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
            ]
        ),
        LogisticRegression(),
    ),
    "one hot, sparse in itself and dense together": make_pipeline(
        ColumnTransformer(
            [
                ("t", OneHotEncoder(handle_unknown="ignore"), TEXTS),
                ("n", SimpleImputer(add_indicator=True), NUMBERS),
            ],
            sparse_threshold=0,
        ),
        StandardScaler(),
        LogisticRegression(),
    ),
    "rare texts in one column": make_pipeline(
        ColumnTransformer(
            [
                (
                    "t",
                    OneHotEncoder(
                        handle_unknown="infrequent_if_exist", min_frequency=3, sparse_output=False
                    ),
                    make_column_selector(dtype_include=["str", "object"]),
                )
            ],
            remainder=SimpleImputer(strategy="median"),
        ),
        TREES,
    ),
    "by position, some dropped": make_pipeline(
        ColumnTransformer(
            [("t", OrdinalEncoder(**ORDINAL), [1]), ("d", "drop", ["x"]), ("n", "passthrough", [2, 4])]
        ),
        TREES,
    ),
    "whole numbers as categories": make_pipeline(
        ColumnTransformer(
            [("n", OrdinalEncoder(**ORDINAL), ["n"]), ("a", "passthrough", ["a"])]
        ),
        TREES,
    ),
}  # fmt: skip
NOT_TAKEN: dict[str, Any] = {
    "a single column as a vector": make_pipeline(
        ColumnTransformer([("n", FunctionTransformer(lambda s: s.to_frame()), "n")]), TREES
    ),
    "a function of the user": make_pipeline(
        ColumnTransformer([("n", FunctionTransformer(lambda f: f.abs()), NUMBERS)]), TREES
    ),
    "weights": make_pipeline(
        ColumnTransformer([("n", "passthrough", NUMBERS)], transformer_weights={"n": 2}), TREES
    ),
    "texts and numbers in one encoder": make_pipeline(
        ColumnTransformer([("t", OrdinalEncoder(**ORDINAL), ["x", "n"])]), TREES
    ),
    "frames inside": make_pipeline(
        ColumnTransformer(
            [("n", "passthrough", NUMBERS)], verbose_feature_names_out=False
        ).set_output(transform="pandas"),
        TREES,
    ),
    "texts let through": make_pipeline(
        ColumnTransformer([("n", "passthrough", ["n", "x"])]),
        FunctionTransformer(lambda m: np.asarray(m)[:, :1].astype(float)),
        TREES,
    ),
}  # fmt: skip


def columns_of(frame: pd.DataFrame, signature: Signature = SIGNATURE) -> dict[str, Any]:
    given = signatures.frame_columns(frame)
    return {f.name: signatures.convert_plain(f.name, f.type, given[f.name])
            for f in signature.inputs}  # fmt: skip


def fit(estimator: Any, frame: pd.DataFrame) -> Any:
    return estimator.fit(frame, (frame.n + frame.b > 0).astype(int))


TEXT = st.one_of(st.none(), st.sampled_from(["p", "q", "ü", "rare", "1", ""]), st.text())
NUMBER = st.one_of(st.none(), st.floats(-1e6, 1e6, width=32))
ROW = st.tuples(TEXT, TEXT, NUMBER, NUMBER, st.integers(-5, 2**40))


@lru_cache
def taken(name: str) -> Any:
    return fit(TAKEN[name], rows())


@pytest.mark.parametrize("function", ["predict_proba", "predict"])
@pytest.mark.parametrize("name", list(TAKEN))
@settings(max_examples=25, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=4))
def test_columns_are_answered_as_the_frame(
    name: str, function: str, listed: list[tuple[Any, ...]]
) -> None:
    fitted = taken(name)
    quick = sklearn_columns.plan(fitted, function, SIGNATURE)
    assert quick is not None
    turned = zip([*TEXTS, *NUMBERS], map(list, zip(*listed, strict=True)), strict=True)
    given_columns = dict(turned)
    plain = {n: signatures.convert_plain(n, TYPES[n], c) for n, c in given_columns.items()}
    frame = pd.DataFrame({n: signatures.convert(n, TYPES[n], c) for n, c in given_columns.items()})
    pd.testing.assert_frame_equal(signatures.frame(plain, SIGNATURE), frame)
    np.testing.assert_array_equal(quick(plain), getattr(fitted, function)(frame))


@pytest.mark.parametrize("name", list(NOT_TAKEN))
def test_what_needs_a_frame_is_given_one(name: str) -> None:
    fitted = fit(NOT_TAKEN[name], rows())
    assert sklearn_columns.plan(fitted, "predict", SIGNATURE) is None


def test_sparse_matrices_and_booleans_are_left_to_the_frame() -> None:
    frame = rows()
    hot = ColumnTransformer([("t", OneHotEncoder(handle_unknown="ignore"), TEXTS)],
                            sparse_threshold=1)  # fmt: skip
    fitted = fit(make_pipeline(hot, LogisticRegression()), frame)
    assert sklearn_columns.plan(fitted, "predict", SIGNATURE) is None
    frame["t"] = frame.n > 0
    told = Signature((*SIGNATURE.inputs, Field("t", "boolean")))
    fitted = fit(make_pipeline(ColumnTransformer([("n", "passthrough", ["n", "t"])]), TREES), frame)
    assert sklearn_columns.plan(fitted, "predict", told) is None


def test_errors_are_those_of_the_frame() -> None:
    strict = ColumnTransformer([("t", OrdinalEncoder(), ["y"]), ("n", "passthrough", ["n"])])
    fitted = fit(make_pipeline(strict, LogisticRegression()), rows())
    quick = sklearn_columns.plan(fitted, "predict", SIGNATURE)
    assert quick is not None
    bad = rows().assign(y="never seen")
    for call, data in ((fitted.predict, bad), (quick, columns_of(bad))):
        with pytest.raises(ValueError, match="Found unknown categories"):
            call(data)


def test_an_absent_optional_column_is_the_estimators_to_judge(tmp_path: Path) -> None:
    model_zoo.encoded(tmp_path / "m")
    loaded = model.load(tmp_path / "m")
    assert (
        loaded.columns and not next(f for f in loaded.signature.inputs if f.name == "temp").required
    )
    query = Query(1, cells=[["UA", 5, 1]], names=("carrier", "distance", "day"))
    with pytest.raises(ValueError, match="columns are missing: {'temp'}"):
        loaded.answer(loaded.prepare(query))
    whole = Query(1, cells=[["UA", 5, None, 1]], names=("carrier", "distance", "temp", "day"))
    prepared = loaded.prepare(whole)
    assert isinstance(prepared.data, dict)
    (answer,) = loaded.answer(prepared).values()
    (frame,) = loaded.answer(loaded.prepare(Query(1, columns={
        "carrier": ["UA"], "distance": [5], "temp": [None], "day": [1]}))).values()  # fmt: skip
    np.testing.assert_array_equal(answer, frame)
    np.testing.assert_array_equal(
        loaded.native.predict_proba(signatures.frame(prepared.data, loaded.signature)), answer
    )
