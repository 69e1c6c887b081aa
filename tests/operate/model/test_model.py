"""Models answer as their own pyfunc does, and only what fits their signature reaches them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from treadle.base.digest import digest_tree
from treadle.base.errors import Refused, StateCorrupt, UsageError
from treadle.operate import plane
from treadle.operate.model import loaded as model
from treadle.operate.model import signature
from treadle.operate.model.signature import WrongInput

MLMODEL = "flavors: {flavors}\nsignature: {{inputs: '{inputs}', outputs: '[]', params: null}}\n"


def write_mlmodel(folder: Path, flavors: dict[str, Any], inputs: list[dict[str, Any]]) -> None:
    (folder / "MLmodel").write_text(
        MLMODEL.format(flavors=json.dumps(flavors), inputs=json.dumps(inputs))
    )


def some(rows: int = 20) -> pd.DataFrame:
    random = np.random.default_rng(1)
    return pd.DataFrame({"a": random.normal(size=rows), "b": random.normal(size=rows)})


COLUMNS = [{"type": "double", "name": n, "required": True} for n in ("a", "b")]


def test_sklearn_answers_as_its_own_pyfunc(sklearn_folder: Path, sklearn_model: Any) -> None:
    import mlflow.pyfunc

    loaded = model.load(sklearn_folder)
    rows = pd.DataFrame(
        {
            "carrier": ["UA", "none", None],
            "day": pd.array([1, 2, 3], dtype="int32"),
            "distance": [100, 200, 2900],
            "temp": [1.0, np.nan, 3.0],
            "rain": [True, False, True],
        }
    )
    expected = sklearn_model.predict_proba(rows)
    assert loaded.flavor == "sklearn" and loaded.function == "predict_proba"
    np.testing.assert_array_equal(loaded.predict(rows), expected)
    np.testing.assert_array_equal(loaded.predict(rows[rows.columns[::-1]]), expected)
    np.testing.assert_array_equal(loaded.predict(rows.assign(flight=[1, 2, 3])), expected)
    np.testing.assert_array_equal(
        mlflow.pyfunc.load_model(str(sklearn_folder)).predict(rows), expected
    )


def test_41_files_are_verified_before_anything_is_loaded(
    sklearn_folder: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "m"
    shutil.copytree(sklearn_folder, folder)
    content, files = digest_tree(folder)
    assert model.load(folder, files=files).content == content
    (folder / "extra.py").write_text("")
    with pytest.raises(StateCorrupt, match=r"holds extra.py"):
        model.load(folder, files=files)
    (folder / "extra.py").unlink()
    data = (folder / "model.skops").read_bytes()
    (folder / "model.skops").write_bytes(data[:-1])
    with pytest.raises(StateCorrupt, match=r"model.skops of the model is not what was released"):
        model.load(folder, files=files)
    (folder / "model.skops").unlink()
    with pytest.raises(StateCorrupt, match=r"lacks model.skops"):
        model.load(folder, files=files)


def test_42_the_allow_list_is_ours_and_not_the_models(tmp_path: Path) -> None:
    import skops.io

    class Mine:
        pass

    Mine.__module__, Mine.__qualname__ = "os", "Mine"
    skops.io.dump(Mine(), tmp_path / "model.skops")
    flavors = {
        "sklearn": {
            "pickled_model": "model.skops",
            "serialization_format": "skops",
            "skops_trusted_types": ["os.Mine"],
        },
        "python_function": {},
    }
    write_mlmodel(tmp_path, flavors, [])
    with pytest.raises(Refused, match=r"off the allow-list: os.Mine"):
        model.load(tmp_path)


def test_42_pickles_and_files_outside_are_refused(tmp_path: Path) -> None:
    import pickle

    from sklearn.dummy import DummyRegressor

    fitted = DummyRegressor().fit(some(), np.arange(20))
    (tmp_path / "m").mkdir()
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(fitted))
    (tmp_path / "m" / "model.pkl").write_bytes(pickle.dumps(fitted))
    for name, match in [("model.pkl", "model.pkl is a pickle"), ("../model.pkl", "lies outside")]:
        flavors = {
            "sklearn": {"pickled_model": name, "serialization_format": "pickle"},
            "python_function": {},
        }
        write_mlmodel(tmp_path / "m", flavors, COLUMNS)
        with pytest.raises(Refused, match=match):
            model.load(tmp_path / "m")
    write_mlmodel(tmp_path / "m", flavors | {"sklearn": {"pickled_model": "model.pkl"}}, COLUMNS)
    assert model.load(tmp_path / "m", trust_pickle=True).predict(some()).shape == (20,)
    write_mlmodel(tmp_path / "m", {"python_function": {"loader_module": "evil"}}, COLUMNS)
    with pytest.raises(Refused, match="loaded by evil"):
        model.load(tmp_path / "m")


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no MLmodel file"):
        model.load(tmp_path)
    (tmp_path / "MLmodel").write_text("a: [")
    with pytest.raises(UsageError, match="no YAML"):
        model.load(tmp_path)


def test_xgboost_answers_as_in_process(tmp_path: Path) -> None:
    import xgboost

    rows = some()
    fitted = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(rows, rows.a > 0)
    fitted.save_model(tmp_path / "model.ubj")
    flavors = {
        "xgboost": {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier"},
        "python_function": {"predict_fn": "predict_proba"},
    }
    write_mlmodel(tmp_path, flavors, COLUMNS)
    np.testing.assert_array_equal(model.load(tmp_path).predict(rows), fitted.predict_proba(rows))
    booster = flavors | {"xgboost": {"data": "model.ubj"}, "python_function": {}}
    write_mlmodel(tmp_path, booster, COLUMNS)
    expected = fitted.get_booster().predict(xgboost.DMatrix(rows))
    np.testing.assert_array_equal(model.load(tmp_path).predict(rows), expected)


def test_lightgbm_answers_as_in_process(tmp_path: Path) -> None:
    import lightgbm

    rows = some()
    data = lightgbm.Dataset(rows, rows.a, params={"verbose": -1, "min_data_in_leaf": 1})
    fitted = lightgbm.train({"verbose": -1, "num_threads": 1}, data, 3)
    fitted.save_model(tmp_path / "model.lgb")
    write_mlmodel(tmp_path, {"lightgbm": {"data": "model.lgb"}, "python_function": {}}, COLUMNS)
    np.testing.assert_array_equal(model.load(tmp_path).predict(rows), fitted.predict(rows))


@pytest.mark.parametrize("kind", ["sklearn", "xgboost", "lightgbm", "onnx"])
def test_directories_of_our_own_build_answer_as_the_model_that_was_packaged(
    kind: str, tmp_path: Path
) -> None:
    from treadle.base.spec import ModelSection
    from treadle.build import flavor, package

    rows = some(40)
    label = (rows.a + rows.b > 0).astype(int)
    value: Any
    if kind == "sklearn":
        from sklearn.linear_model import LogisticRegression

        value = LogisticRegression().fit(rows, label)
    elif kind == "xgboost":
        import xgboost

        value = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(rows, label)
    elif kind == "lightgbm":
        import lightgbm

        value = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(rows, label)
    else:
        from onnx import TensorProto, helper, numpy_helper

        weights = numpy_helper.from_array(np.array([[1.0], [-2.0]]), "weights")
        ends = [
            helper.make_tensor_value_info(n, TensorProto.DOUBLE, [None, w])
            for n, w in (("row", 2), ("y", 1))
        ]
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["row", "weights"], ["y"])],
            "g",
            ends[:1],
            ends[1:],
            [weights],
        )
        value = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    task: Any = "regression" if kind == "onnx" else "binary"
    section = ModelSection(result="model", task=task, label="late", features=("a", "b"))
    written = package.package(value, section, rows.assign(late=label), tmp_path / "m")
    (tmp_path / "again").mkdir()
    expected = np.asarray(flavor.write(value, task, tmp_path / "again").predict(rows))
    loaded = model.load(tmp_path / "m", files=written.files)
    assert loaded.content == written.content and loaded.features == written.features
    other = rows.assign(flight=1)[["flight", "b", "a"]]
    np.testing.assert_array_equal(
        loaded.predict(other), expected.reshape(-1) if kind == "onnx" else expected
    )
    assert plane.Plane(loaded, plane.Identity()).warm() == "warmed by the input example (3 rows)"


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        ("integer", [1, 2], "int32"),
        ("integer", [1.0, 2], "int32"),
        ("integer", [1, None], "float64"),
        ("integer", [1, float("nan")], "float64"),
        ("long", [2**53 + 1, 2], "int64"),
        ("long", [2**53 + 1, 2.0], "int64"),
        ("float", [1, 2.5], "float32"),
        ("double", [None, 1], "float64"),
        ("boolean", [True, False], "bool"),
        ("boolean", [True, None], "object"),
        ("datetime", ["2013-01-01", "2013-01-01T05:00:00+02:00", None], "datetime64[ns]"),
        ("string", ["a", None], "str"),
        ("any", [[1], {"a": 2}], "object"),
    ],
)
def test_columns_become_the_signatures_types(kind: str, values: list[Any], dtype: str) -> None:
    column = pd.Series(signature.convert("x", kind, values))
    assert str(column.dtype) == dtype
    given = [None if v != v else v for v in values]
    if kind == "datetime":
        assert column[1] == pd.Timestamp("2013-01-01T03:00:00")
    else:
        assert [None if pd.isna(v) is True else v for v in column.tolist()] == given


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("integer", [1, 2.5], "x, row 1: expected a integer, got a number with a fraction"),
        ("integer", [2**31], "beyond its range"),
        ("integer", [1.0, 1e300], "beyond its range"),
        ("integer", [float("inf"), None], "beyond its range"),
        ("long", [2**63], "beyond its range"),
        ("integer", [True], "a boolean"),
        ("double", ["secret"], "x, row 0: expected a double, got a text"),
        ("double", [10**400], "beyond its range"),
        ("string", [1], "a number"),
        ("boolean", [1], "a number"),
        ("datetime", ["soon"], "a text that is none"),
        ("datetime", [5], "a number"),
        ("binary", ["§"], "a text"),
        ("double", [[1.0]], "a list"),
    ],
)
def test_what_does_not_fit_is_refused_without_an_echo(
    kind: str, values: list[Any], words: str
) -> None:
    with pytest.raises(WrongInput) as caught:
        signature.convert("x", kind, values)
    assert words in caught.value.message and "secret" not in caught.value.message


def test_a_missing_column_is_named(sklearn_folder: Path) -> None:
    with pytest.raises(WrongInput, match="temp: expected a column of this name, got none"):
        model.load(sklearn_folder).predict(
            {"carrier": ["UA"], "day": [1], "distance": [5], "rain": [True]}
        )


def test_probabilities_of_several_targets_are_outputs_of_their_own(tmp_path: Path) -> None:
    import pickle

    from sklearn.multioutput import MultiOutputClassifier
    from sklearn.tree import DecisionTreeClassifier

    rows = some()
    targets = np.column_stack([rows.a > 0, rows.b > 0, rows.a > rows.b])
    fitted = MultiOutputClassifier(DecisionTreeClassifier(max_depth=2)).fit(rows, targets)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(fitted))
    flavors = {
        "sklearn": {"pickled_model": "model.pkl"},
        "python_function": {"predict_fn": "predict_proba"},
    }
    write_mlmodel(tmp_path, flavors, COLUMNS)
    loaded = model.load(tmp_path, trust_pickle=True)
    answer = loaded.answer(loaded.prepare(model.query_of(rows)))
    expected = fitted.predict_proba(rows)
    assert list(answer) == ["predict_proba_0", "predict_proba_1", "predict_proba_2"]
    for got, wanted in zip(answer.values(), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_two_allow_lists_are_one() -> None:
    from treadle.base import trust
    from treadle.clients import skops_file

    for name in (
        "sklearn.svm._classes.SVC",
        "sklearn.datasets.x.y",
        "numpy.load",
        "numpy.add",
        "os.system",
        "builtins.eval",
        "scipy.sparse._csr.csr_matrix",
        "numpy.ma.x.y",
    ):
        assert trust.allowed(name) == skops_file.allowed(name), name
