"""Real MLflow loads what Treadle wrote without it, and answers as the model itself does."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from treadle.base.spec import ModelSection
from treadle.build.package import package

pytestmark = pytest.mark.filterwarnings("ignore")
FEATURES = ["whole", "real", "other"]


@pytest.fixture(scope="module")
def pyfunc():
    return importlib.import_module("mlflow.pyfunc")


def rows(classes: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 200
    frame = pd.DataFrame(
        {
            "text": rng.choice(["a", "b", "c"], n),
            "whole": rng.integers(0, 50, n),
            "real": rng.normal(size=n),
            "other": rng.normal(size=n),
        }
    )
    noisy = frame["real"] + rng.normal(size=n) / 3
    return frame.assign(y=pd.qcut(noisy, classes, labels=False).astype("int64"))


def section(classes: int) -> ModelSection:
    return ModelSection("model", "binary" if classes == 2 else "multiclass", "y")


@pytest.mark.parametrize("classes", [2, 3])
def test_scikit_learn(tmp_path: Path, pyfunc, classes: int) -> None:
    frame = rows(classes)
    encode = ColumnTransformer(
        [("t", OrdinalEncoder(), ["text"]), ("n", "passthrough", ["whole", "real"])]
    )
    model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5))
    model.fit(frame[["text", "whole", "real"]], frame["y"])
    package(model, section(classes), frame, tmp_path / "m")
    loaded = pyfunc.load_model(str(tmp_path / "m"))
    given = frame[["text", "whole", "real"]]
    np.testing.assert_array_equal(loaded.predict(given), model.predict_proba(given))
    assert loaded.metadata.get_input_schema().input_names() == list(given.columns)
    assert loaded.input_example.equals(given.head(3))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("api", ["scikit-learn", "booster"])
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosters(tmp_path: Path, pyfunc, library: str, api: str, classes: int) -> None:
    module = pytest.importorskip(library)
    frame = rows(classes)
    if library == "xgboost":
        model = module.XGBClassifier(n_estimators=5)
    else:
        model = module.LGBMClassifier(n_estimators=5, verbose=-1)
    model.fit(frame[FEATURES], frame["y"])
    wanted = model.predict_proba(frame[FEATURES])
    wanted = wanted[:, 1] if classes == 2 else wanted
    if api == "booster":
        model = model.get_booster() if library == "xgboost" else model.booster_
    made = package(model, section(classes), frame, tmp_path / "m")
    assert made.flavor == library
    assert made.classes == tuple(range(classes))
    answer = pyfunc.load_model(str(tmp_path / "m")).predict(frame[FEATURES])
    np.testing.assert_allclose(answer, wanted, rtol=1e-6)
    again = package(model, section(classes), frame, tmp_path / "again")
    assert again == made


def test_a_model_that_stopped_early_keeps_its_best_iteration(tmp_path: Path, pyfunc) -> None:
    xgboost = pytest.importorskip("xgboost")
    frame = rows()
    model = xgboost.XGBClassifier(n_estimators=200, early_stopping_rounds=3, learning_rate=1.0)
    held_out = [(frame[FEATURES][100:], frame["y"][100:])]
    model.fit(frame[FEATURES][:100], frame["y"][:100], eval_set=held_out, verbose=False)
    package(model, section(2), frame, tmp_path / "m")
    answer = pyfunc.load_model(str(tmp_path / "m")).predict(frame[FEATURES])
    np.testing.assert_allclose(answer, model.predict_proba(frame[FEATURES])[:, 1], rtol=1e-6)


def test_a_booster_as_a_step_of_a_pipeline(tmp_path: Path, pyfunc) -> None:
    xgboost = pytest.importorskip("xgboost")
    frame = rows()
    encode = ColumnTransformer([("t", OrdinalEncoder(), ["text"])], remainder="passthrough")
    model = make_pipeline(encode, xgboost.XGBClassifier(n_estimators=3))
    given = frame[["text", "whole"]]
    model.fit(given, frame["y"])
    made = package(model, section(2), frame, tmp_path / "m")
    assert any(line.startswith("xgboost") for line in made.requirements)
    answer = pyfunc.load_model(str(tmp_path / "m")).predict(given)
    np.testing.assert_allclose(answer, model.predict_proba(given), rtol=1e-6)


def onnx_model(width: int):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    weights = helper.make_tensor(
        "w", TensorProto.FLOAT, [width, 2], [0.1 * i for i in range(2 * width)]
    )
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["p"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 2])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), onnx


def test_onnx(tmp_path: Path, pyfunc) -> None:
    model, _ = onnx_model(3)
    frame = rows()[[*FEATURES, "y"]]
    made = package(model, section(2), frame, tmp_path / "m")
    assert made.flavor == "onnx"
    logits = frame[FEATURES].to_numpy("float32") @ np.array(
        [[0, 0.1], [0.2, 0.3], [0.4, 0.5]], "float32"
    )
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answer = pyfunc.load_model(str(tmp_path / "m")).predict(frame[FEATURES])
    np.testing.assert_allclose(answer["p"], wanted, rtol=1e-4)


def test_an_own_class_travels_with_its_code_under_trust(
    tmp_path: Path, pyfunc, monkeypatch
) -> None:
    (tmp_path / "ownpipeline.py").write_text(
        "import numpy as np\n\n\nclass Constant:\n    def predict(self, frame):\n"
        "        return np.full(len(frame), 7.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = importlib.import_module("ownpipeline").Constant()
    frame = rows()[["real", "y"]]
    spec = ModelSection("model", "regression", "y")
    made = package(model, spec, frame, tmp_path / "m", trust_pickle=True)
    assert made.flavor == "pyfunc"
    del sys.modules["ownpipeline"]
    os.remove(tmp_path / "ownpipeline.py")
    importlib.invalidate_caches()
    answer = pyfunc.load_model(str(tmp_path / "m")).predict(frame[["real"]])
    assert (answer == 7.0).all()


def test_classes_without_probabilities_are_texts(tmp_path: Path, pyfunc) -> None:
    from sklearn.svm import LinearSVC

    frame = rows(3).assign(y=lambda f: f["y"].map({0: "low", 1: "mid", 2: "high"}))
    model = LinearSVC().fit(frame[FEATURES], frame["y"])
    made = package(model, section(3), frame, tmp_path / "m")
    assert made.classes == ("high", "low", "mid")
    answer = pyfunc.load_model(str(tmp_path / "m")).predict(frame[FEATURES])
    assert list(answer) == list(model.predict(frame[FEATURES]))


def _shape(value: object) -> object:
    """The keys and kinds of a nested document, without its texts and numbers."""
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    return type(value).__name__


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_the_directory_has_the_form_that_mlflow_itself_writes(tmp_path: Path, task: str) -> None:
    import mlflow.sklearn
    from mlflow.models import infer_signature

    frame = rows()
    if task == "binary":
        model = RandomForestClassifier(n_estimators=2).fit(frame[FEATURES], frame["y"])
        answer, method = model.predict_proba(frame[FEATURES]), "predict_proba"
    else:
        model = LinearRegression().fit(frame[FEATURES], frame["y"])
        answer, method = model.predict(frame[FEATURES]), "predict"
    package(model, ModelSection("model", task, "y"), frame, tmp_path / "ours")
    told = json.loads((tmp_path / "ours/treadle.json").read_text())
    mlflow.sklearn.save_model(
        model,
        str(tmp_path / "theirs"),
        signature=infer_signature(frame[FEATURES], answer),
        input_example=frame[FEATURES].head(3),
        serialization_format="skops",
        pyfunc_predict_fn=method,
        pip_requirements=["scikit-learn"],
        skops_trusted_types=told["trusted"],
    )
    theirs = yaml.safe_load((tmp_path / "theirs/MLmodel").read_text())
    ours = yaml.safe_load((tmp_path / "ours/MLmodel").read_text())
    assert ours["signature"] == theirs["signature"]
    if task == "regression":  # MLflow names the method even if it is the usual one
        theirs["flavors"]["python_function"].pop("predict_fn")
    left_out = {"utc_time_created", "model_id", "prompts"}
    assert set(theirs) - set(ours) == left_out
    assert _shape(ours) == {k: v for k, v in _shape(theirs).items() if k not in left_out}
    names = {p.name for p in (tmp_path / "theirs").iterdir()}
    assert {p.name for p in (tmp_path / "ours").iterdir()} - names == {"treadle.json"}
    for name in ("input_example.json", "serving_input_example.json"):
        assert (tmp_path / "ours" / name).read_text() == (tmp_path / "theirs" / name).read_text()
