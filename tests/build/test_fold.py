"""Linear pipelines as one matrix product: the same answers, and the same numbers everywhere."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import clone
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    ElasticNet,
    HuberRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

from treadle.base.forms import Linear
from treadle.build import fold

NAMES = ["a", "b", "c", "d"]
SCALERS = [
    StandardScaler(), StandardScaler(with_mean=False), StandardScaler(with_std=False),
    MinMaxScaler((-1, 3)), MaxAbsScaler(), RobustScaler(), RobustScaler(with_centering=False),
    FunctionTransformer(), "passthrough",
]  # fmt: skip


def frame(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    made = pd.DataFrame(random.normal(size=(rows, 4)) * [1, 100, 0.01, 5] + [0, 1e4, 3, -2])
    made.columns = NAMES
    return made


def fitted(model: Any, classes: int = 0) -> Any:
    rows = frame()
    target = rows["a"] * 2 + rows["d"] + (rows["b"] - 1e4) / 100
    if classes:
        target = pd.qcut(target, classes, labels=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(rows, target)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(SCALERS), max_size=3),
    st.lists(st.tuples(st.sampled_from(SCALERS), st.sets(st.sampled_from(NAMES), min_size=1)),
             max_size=2),
    st.sampled_from(["drop", "passthrough"]),
    st.sampled_from([0, 2, 3]),
    st.booleans(),
)  # fmt: skip
def test_scaling_and_choosing_columns_before_a_linear_model_changes_no_answer(
    scalers: list[Any], parts: list[Any], rest: str, classes: int, nested: bool
) -> None:
    steps = [clone(scaler) if scaler != "passthrough" else scaler for scaler in scalers]
    if parts:
        chosen = [
            (str(n), clone(scaler) if scaler != "passthrough" else scaler, sorted(names))
            for n, (scaler, names) in enumerate(parts)
        ]
        steps.insert(0, ColumnTransformer(chosen, remainder=rest))
    last = LogisticRegression(max_iter=50) if classes else Ridge()
    model = make_pipeline(*steps, last)
    if nested:
        model = Pipeline([("inner", make_pipeline("passthrough", model))])
    function = "predict_proba" if classes else "predict"
    fitted(model, classes)
    form = fold.fold(model, NAMES, function)
    rows = frame(50, seed=1)
    wanted = getattr(model, function)(rows)
    answer = form(rows.to_numpy())
    assert answer is not None
    assert answer.shape == wanted.shape
    np.testing.assert_allclose(answer, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "model", [LinearRegression(), ElasticNet(), HuberRegressor(max_iter=20), PoissonRegressor()]
)
def test_every_kind_of_linear_regression_is_folded(model: Any) -> None:
    rows = frame()
    pipeline = make_pipeline(StandardScaler(), model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.fit(rows, rows["a"].abs())
    answer = fold.fold(pipeline, NAMES, "predict")(rows.to_numpy())
    assert answer is not None
    np.testing.assert_allclose(answer, pipeline.predict(rows), rtol=1e-9)


def test_several_targets_stay_several() -> None:
    rows = frame()
    model = LinearRegression().fit(rows, rows[["a", "d"]])
    answer = fold.fold(model, NAMES, "predict")(rows.to_numpy())
    assert answer is not None
    np.testing.assert_allclose(answer, model.predict(rows), atol=1e-9)
    one = LinearRegression().fit(rows, rows[["a"]])
    assert fold.fold(one, NAMES, "predict")(rows.to_numpy()).shape == (200, 1)


@pytest.mark.parametrize("classes", [2, 3])
def test_discriminant_analysis_is_linear_too(classes: int) -> None:
    model = fitted(LinearDiscriminantAnalysis(), classes)
    answer = fold.fold(model, NAMES, "predict_proba")(frame().to_numpy())
    assert answer is not None
    np.testing.assert_allclose(answer, model.predict_proba(frame()), atol=1e-9)


class OwnScaler(StandardScaler):
    pass


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (make_pipeline(PolynomialFeatures(2), Ridge()), "PolynomialFeatures is more than scaling"),
        (make_pipeline(MinMaxScaler(clip=True), Ridge()), "MinMaxScaler is more than scaling"),
        (make_pipeline(FunctionTransformer(np.abs), Ridge()), "FunctionTransformer is more"),
        (make_pipeline(OwnScaler(), Ridge()), "OwnScaler is no class of scikit-learn"),
        (ColumnTransformer([("a", "drop", ["a"])]), "no linear model"),
    ],
)
def test_what_is_more_than_linear_says_which_part(model: Any, words: str) -> None:
    with pytest.raises(fold.NotLinear, match=words):
        fold.fold(fitted(model), NAMES, "predict")


def test_columns_by_number_mask_and_range_are_found() -> None:
    for wanted in ([1, 2], slice(1, 3), np.array([False, True, True, False]), ["b", "c"]):
        assert fold.positions(wanted, NAMES) == [1, 2]
    with pytest.raises(fold.NotLinear, match="not there"):
        fold.positions(["x"], NAMES)


def test_a_form_comes_back_from_its_file_exactly(tmp_path) -> None:
    form = fold.fold(
        fitted(make_pipeline(StandardScaler(), LogisticRegression()), 3), NAMES, "predict_proba"
    )
    path = tmp_path / "linear.json"
    path.write_text(form.text())
    again = Linear.read(path)
    np.testing.assert_array_equal(again.weights, form.weights)
    np.testing.assert_array_equal(again(frame().to_numpy()), form(frame().to_numpy()))


def test_values_that_make_no_finite_score_are_left_to_the_original() -> None:
    form = fold.fold(fitted(Ridge()), NAMES, "predict")
    rows = frame(3).to_numpy(copy=True)
    for value in (np.nan, np.inf, -np.inf):
        rows[1, 2] = value
        assert form(rows) is None
    assert form(rows[:1]) is not None
    assert form(rows[:0]).shape == (0,)
