"""A directory is verified and loaded by its own library, and by nothing else."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.operate.model import model_zoo

from treadle.base.errors import StateCorrupt
from treadle.operate.model import boosters, sklearn_model
from treadle.operate.model import loaded as model
from treadle.operate.model.signature import Field, Signature, WrongInput

NAMES = tuple("abcd")
DOUBLES = Signature(tuple(Field(name, "double") for name in NAMES))


def rows(count: int = 80, *, positive: bool = False) -> pd.DataFrame:
    random = np.random.default_rng(7)
    columns = {name: random.normal(size=count) for name in NAMES}
    return pd.DataFrame({n: np.abs(c) if positive else c for n, c in columns.items()})


def public_class(name: str) -> Any:
    from sklearn.utils import all_estimators

    return dict(all_estimators()).get(name)


def same_without_names(fitted: Any, frame: pd.DataFrame) -> None:
    """The copy without names answers the matrix, and one row, as the original does the frame."""
    bare = sklearn_model.nameless(fitted, NAMES)
    assert bare is not None and not hasattr(bare, "feature_names_in_")
    assert tuple(fitted.feature_names_in_) == NAMES
    assert sklearn_model.nameless(fitted, NAMES[::-1]) is None
    matrix = np.asfortranarray(frame.to_numpy())
    for function in ("transform", *sorted(sklearn_model.FUNCTIONS)):
        if not hasattr(fitted, function):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = getattr(fitted, function)(frame)
            one = getattr(fitted, function)(frame.iloc[:1])
            warnings.filterwarnings("error", message="X does not have valid feature names")
            quick = sklearn_model.in_steps(bare, function)
            made, single = quick(matrix), quick(np.ascontiguousarray(matrix[:1]))
        for mine, theirs in ((made, expected), (single, one)):
            if hasattr(mine, "toarray"):
                mine, theirs = mine.toarray(), theirs.toarray()
            if isinstance(mine, list):  # of several targets
                mine, theirs = np.hstack(mine), np.hstack(theirs)
            if mine.dtype.kind == "f":
                # A frame's numbers lie in another order in memory than the matrix's, and on some
                # processors BLAS then adds them in another order: the last digits may differ.
                np.testing.assert_allclose(mine, theirs, rtol=1e-13, atol=1e-15)
            else:
                np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("columns", ["of two types", "of whole numbers"])
@pytest.mark.parametrize("name", sorted(sklearn_model._PLAIN))
def test_a_plain_class_answers_a_matrix_as_the_frame(name: str, columns: str) -> None:
    from sklearn.base import RegressorMixin

    kind = public_class(name)
    if kind is None:
        pytest.skip("this scikit-learn has no such class")
    frame = rows(positive=True)
    if columns == "of whole numbers":
        frame = (frame * 50).astype(int)
    else:
        frame["d"] = (frame.d * 50).astype(int)
    classes = (frame.a > frame.a.median()).astype(int)
    y = frame.a + frame.b + 1.0 if issubclass(kind, RegressorMixin) else classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = kind().fit(frame, y)
    same_without_names(fitted, frame)


MATRIX = Signature((Field("", "tensor", True, "float64", (-1, 4)),))


def test_pipeline_of_a_tensor_model_answers_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import linear_model, pipeline, preprocessing

    data, labels = rows().to_numpy(), np.arange(80) % 2
    steps = [preprocessing.StandardScaler(), "passthrough", linear_model.LogisticRegression()]
    fitted = pipeline.make_pipeline(*steps).fit(data, labels)
    expected = fitted.predict_proba(data)
    monkeypatch.setattr(pipeline, "check_is_fitted", lambda *_: pytest.fail("asked again"))
    found = sklearn_model.engine(fitted, "predict_proba", MATRIX)
    np.testing.assert_array_equal(found.call(data, {}), expected)
    data = data.copy()
    data[3, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        found.call(data, {})


def test_pipeline_of_another_library_is_its_own_to_walk_through() -> None:
    from sklearn import linear_model, pipeline

    class Sampler:
        def fit(self, data: Any, labels: Any) -> Sampler:
            return self

    class Pipeline(pipeline.Pipeline):
        def predict(self, data: Any) -> Any:
            return self.steps[-1][1].predict(data)

    data, labels = rows().to_numpy(), np.arange(80) % 2
    fitted = Pipeline([("sampler", Sampler()), ("line", linear_model.LogisticRegression())])
    fitted.steps[-1][1].fit(data, labels)
    found = sklearn_model.engine(fitted, "predict", MATRIX)
    np.testing.assert_array_equal(found.call(data, {}), fitted.predict(data))


def around() -> dict[str, Any]:
    from sklearn import (
        calibration,
        compose,
        ensemble,
        linear_model,
        model_selection,
        multiclass,
        multioutput,
        pipeline,
        preprocessing,
        tree,
    )

    line = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    trees = tree.DecisionTreeClassifier(max_depth=3, random_state=0)
    ridge, grown = linear_model.Ridge(), tree.DecisionTreeRegressor(max_depth=3, random_state=0)
    two = [("line", line), ("trees", trees)]
    return {
        "BaggingClassifier": ensemble.BaggingClassifier(line, 3, random_state=0),
        "BaggingRegressor": ensemble.BaggingRegressor(grown, 3, random_state=0),
        "CalibratedClassifierCV": calibration.CalibratedClassifierCV(line, cv=3),
        "GridSearchCV": model_selection.GridSearchCV(trees, {"max_depth": [2, 3]}, cv=3),
        "MultiOutputClassifier": multioutput.MultiOutputClassifier(trees),
        "MultiOutputRegressor": multioutput.MultiOutputRegressor(ridge),
        "OneVsOneClassifier": multiclass.OneVsOneClassifier(line),
        "OneVsRestClassifier": multiclass.OneVsRestClassifier(line),
        "RandomizedSearchCV": model_selection.RandomizedSearchCV(
            trees, {"max_depth": [2, 3]}, n_iter=2, cv=3, random_state=0
        ),
        "StackingClassifier": ensemble.StackingClassifier(two, cv=3),
        "StackingRegressor": ensemble.StackingRegressor(
            [("r", ridge), ("t", grown)], final_estimator=linear_model.Ridge(), cv=3
        ),
        "TransformedTargetRegressor": compose.TransformedTargetRegressor(
            ridge, func=np.log1p, inverse_func=np.expm1
        ),
        "VotingClassifier": ensemble.VotingClassifier(two, voting="soft"),
        "VotingRegressor": ensemble.VotingRegressor([("r", ridge), ("t", grown)]),
    }


@pytest.mark.parametrize("name", sorted(sklearn_model._AROUND))
def test_what_holds_plain_classes_answers_a_matrix_as_the_frame(name: str) -> None:
    frame = rows(positive=True)
    y: Any = (frame.a > frame.a.median()).astype(int) + (frame.b > 1)
    if name.startswith("MultiOutput"):
        y = pd.DataFrame({"y": y, "z": y % 2})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = around()[name].fit(frame, y)
    same_without_names(fitted, frame)


def test_what_looks_into_a_frame_is_given_one() -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    frame = rows()
    y = (frame.a > 0).astype(int)

    def bare(estimator: Any) -> Any:
        return sklearn_model.nameless(estimator.fit(frame, y), NAMES)

    class Mine(LogisticRegression):
        pass

    assert bare(make_pipeline(StandardScaler(), LogisticRegression())) is not None
    assert bare(make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression())) is None
    assert bare(make_pipeline(StandardScaler().set_output(transform="pandas"), Mine())) is None
    assert bare(Mine()) is None
    assert bare(VotingClassifier([("mine", Mine())])) is None
    assert bare(VotingClassifier([("plain", LogisticRegression())])) is not None
    chosen = ColumnTransformer([("s", StandardScaler(), ["a", "c"])])
    assert bare(make_pipeline(chosen, LogisticRegression())) is None
    assert bare(HistGradientBoostingClassifier(max_iter=2)) is not None
    frame["a"] = (frame.a > 0).astype(int)
    assert bare(HistGradientBoostingClassifier(max_iter=2, categorical_features=["a"])) is None


def test_missing_values_stay_an_error_where_the_model_refuses_them(tmp_path: Path) -> None:
    model_zoo.binary(tmp_path / "m")
    loaded = model.load(tmp_path / "m")
    assert loaded.matrix is not None
    with pytest.raises(ValueError, match="NaN"):
        loaded.predict({"a": [None, 1.0], "b": [1.0, 1.0], "n": [1, 1]})


def test_the_directorys_own_list_of_digests_is_held(tmp_path: Path) -> None:
    model_zoo.linear(tmp_path / "m")
    folder = tmp_path / "m"
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))
    assert model.load(folder).flavor == "sklearn"
    data = (folder / "model.skops").read_bytes()
    (folder / "model.skops").write_bytes(data + b"x")
    with pytest.raises(StateCorrupt, match="model.skops of the model is not what SHA256SUMS says"):
        model.load(folder)
    (folder / "model.skops").unlink()
    with pytest.raises(StateCorrupt, match="lacks model.skops"):
        model.load(folder)


PROGRAM = """
import json, sys
from pathlib import Path
from treadle.operate.model import loaded as model
from treadle.operate.query import Query
folder = Path(sys.argv[1])
example = json.loads((folder / "input_example.json").read_bytes())
loaded = model.load(folder)
query = Query(len(example["data"]), cells=example["data"], names=tuple(example["columns"]))
(answer,) = loaded.answer(loaded.prepare(query)).values()
print(json.dumps({"answer": answer.tolist(), "modules": sorted(sys.modules)}))
"""


def in_a_process_of_its_own(folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("kind", "absent"),
    [
        ("sklearn logistic regression", "pandas pyarrow mlflow scipy.stats starlette"),
        ("sklearn gradient boosting", "pandas pyarrow mlflow scipy.stats starlette"),
        ("lightgbm", "pandas pyarrow mlflow scipy sklearn lightgbm starlette"),
        ("xgboost booster", "pandas pyarrow mlflow scipy sklearn xgboost starlette"),
        ("onnx", "pandas pyarrow mlflow scipy sklearn onnx starlette"),
    ],
)
def test_a_model_of_numbers_is_served_without(kind: str, absent: str, tmp_path: Path) -> None:
    model_zoo.KINDS[kind].make(tmp_path / "m")
    told = in_a_process_of_its_own(tmp_path / "m")
    assert not set(absent.split()) & set(told["modules"])
    example = json.loads((tmp_path / "m" / "input_example.json").read_bytes())
    here = model.load(tmp_path / "m").predict(pd.DataFrame(**example))
    np.testing.assert_allclose(told["answer"], here, rtol=1e-12)


def test_pandas_and_scipy_stats_are_whole_after_a_lean_import() -> None:
    program = """
import sys
from treadle.operate.model import lean
with lean.imports():
    import sklearn.linear_model, sklearn.covariance, sklearn.preprocessing
    from sklearn._loss.link import gmean
    from sklearn.isotonic import spearmanr
    assert "pandas" not in sys.modules and type(gmean).__name__ == "_Later"
assert "scipy.stats" not in sys.modules
assert gmean([1.0, 4.0]) == 2.0
import pandas, scipy.stats, sklearn.utils.fixes
assert scipy.stats.gmean([1.0, 4.0]) == 2.0 and scipy.stats.norm.cdf(0) == 0.5
assert sklearn.covariance._robust_covariance.chi2.isf(0.5, 2) == scipy.stats.chi2.isf(0.5, 2)
from sklearn.preprocessing import PowerTransformer, QuantileTransformer, StandardScaler
rows = [[1.0], [2.0], [4.0], [9.0]]
normal = QuantileTransformer(n_quantiles=4, output_distribution="normal").fit_transform(rows)
assert normal[0] < normal[1] < normal[2] < normal[3]
assert abs(PowerTransformer().fit_transform(rows).mean()) < 1e-9
from scipy.stats.mstats import mquantiles
frame = StandardScaler().set_output(transform="pandas").fit_transform(pandas.DataFrame({"a": [1., 3.]}))
assert frame.a.tolist() == [-1.0, 1.0]
import numpy.f2py, numpy.testing
numpy.testing.assert_array_equal([1], [1])
assert callable(numpy.f2py.run_main) and numpy.f2py is sys.modules["numpy.f2py"]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_a_stranger_takes_out_of_scipy_stats_meanwhile_is_real() -> None:
    program = """
import sys
from treadle.operate.model import lean
with lean.imports():
    from scipy.stats import norm, gmean
    from scipy.stats.mstats import mquantiles
    import sklearn.inspection
    assert type(gmean).__name__ == "function" and norm.cdf(0) == 0.5
import scipy.stats
assert scipy.stats.gmean is gmean and sys.modules["scipy.stats"].norm is norm
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_lightgbm_of_categories_is_given_frames(tmp_path: Path) -> None:
    import lightgbm

    frame = rows()
    frame["a"] = pd.Categorical(np.where(frame.a > 0, "x", "y"))
    data = lightgbm.Dataset(frame, frame.b, params={"verbose": -1, "min_data_in_leaf": 2})
    fitted = lightgbm.train({"verbose": -1, "num_threads": 1}, data, 3)
    fitted.save_model(tmp_path / "model.lgb")
    assert boosters._pandas_categories(tmp_path / "model.lgb")
    engine = boosters.lightgbm(tmp_path / "model.lgb", DOUBLES)
    assert engine.matrix is None
    np.testing.assert_array_equal(engine.call(frame, {}), fitted.predict(frame))


def test_an_xgboost_of_other_columns_is_left_to_its_package(tmp_path: Path) -> None:
    import xgboost

    frame = rows()
    fitted = xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(frame[list(NAMES[::-1])], frame.a)
    fitted.save_model(tmp_path / "model.ubj")
    engine = boosters.xgboost(tmp_path / "model.ubj", "XGBRegressor", "predict", DOUBLES)
    assert engine.matrix is None
    with pytest.raises(ValueError, match="feature_names mismatch"):
        engine.call(frame, {})
    linear = xgboost.XGBRegressor(booster="gblinear", n_estimators=2, n_jobs=1).fit(frame, frame.a)
    linear.save_model(tmp_path / "linear.ubj")
    engine = boosters.xgboost(tmp_path / "linear.ubj", "XGBRegressor", "predict", DOUBLES)
    assert engine.matrix is None
    np.testing.assert_array_equal(engine.call(frame, {}), linear.predict(frame))


def test_an_xgboost_booster_refuses_infinities_as_a_dmatrix_does(tmp_path: Path) -> None:
    import xgboost

    frame = rows()
    fitted = xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(frame, frame.a)
    fitted.save_model(tmp_path / "model.ubj")
    bad = frame.to_numpy().copy()
    bad[3, 1] = 1e300
    with pytest.raises(xgboost.core.XGBoostError):
        xgboost.DMatrix(bad)
    booster = boosters.xgboost(tmp_path / "model.ubj", "Booster", "predict", DOUBLES)
    with pytest.raises(WrongInput, match="row 3"):
        booster.call(bad, {})
    bad[3, 1] = np.finfo(np.float32).max
    np.testing.assert_array_equal(
        booster.call(bad, {}),
        fitted.get_booster().predict(xgboost.DMatrix(bad, feature_names=NAMES)),
    )
    bad[3, 1] = np.inf
    wrapper = boosters.xgboost(tmp_path / "model.ubj", "XGBRegressor", "predict", DOUBLES)
    np.testing.assert_array_equal(wrapper.call(bad, {}), fitted.predict(bad))


def test_early_stopping_counts_as_the_package_counts(tmp_path: Path) -> None:
    import xgboost

    frame = rows()
    label = (frame.a + np.random.default_rng(0).normal(size=len(frame)) > 0).astype(int)
    fitted = xgboost.XGBClassifier(n_estimators=40, n_jobs=1, early_stopping_rounds=2)
    fitted.fit(frame, label, eval_set=[(frame[::2], label[::2])], verbose=False)
    fitted.get_booster().set_attr(best_iteration="1")
    fitted.save_model(tmp_path / "model.ubj")
    for name, function, expected in [
        ("XGBClassifier", "predict", fitted.predict(frame)),
        ("XGBClassifier", "predict_proba", fitted.predict_proba(frame)),
        ("Booster", "predict", fitted.get_booster().predict(xgboost.DMatrix(frame))),
    ]:
        engine = boosters.xgboost(tmp_path / "model.ubj", name, function, DOUBLES)
        assert engine.matrix is not None
        np.testing.assert_array_equal(engine.call(frame.to_numpy(), {}), expected)
        np.testing.assert_array_equal(engine.call(frame, {}), expected)


def test_a_library_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.lgb").write_text("no tree\npandas_categorical:null\n")
    (tmp_path / "model.ubj").write_text("no tree")
    with pytest.raises(boosters.LibraryError, match="LightGBM"):
        boosters.lightgbm(tmp_path / "model.lgb", DOUBLES)
    with pytest.raises(boosters.LibraryError, match="XGBoost"):
        boosters.xgboost(tmp_path / "model.ubj", "Booster", "predict", DOUBLES)
