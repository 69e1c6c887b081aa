"""Compiled forms: accepted where the answers are the same on the holdout, refused where they are not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC

from treadle.base import forms
from treadle.base.digest import digest_tree
from treadle.base.errors import MissingExtra
from treadle.base.records import Model
from treadle.base.spec import ModelSection
from treadle.build.convert import NotConvertible, convert
from treadle.build.package import package

FEATURES = ("a", "b", "c")
needs_skl2onnx = pytest.mark.skipif(
    importlib.util.find_spec("skl2onnx") is None,
    reason="skl2onnx is not installed: pip install 'treadle[compile]'",
)


def rows(count: int = 400, classes: int = 2, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    made = pd.DataFrame({name: random.normal(size=count) for name in FEATURES})
    made["a"] = random.integers(0, 20, count)
    score = made["a"] / 5 + made["b"] + random.normal(size=count) / 2
    return made.assign(
        text=random.choice(["x", "y"], count), y=pd.qcut(score, classes, labels=False), r=score
    )


def section(task: Any = "binary", label: str = "y", features: Any = FEATURES) -> ModelSection:
    return ModelSection("model", task, label, features, compile="auto")


def made(folder: Path, model: Any, given: ModelSection, holdout: Any = None) -> dict[str, Any]:
    """Fit and package; what `parity.json` says."""
    train = rows(classes=3 if given.task == "multiclass" else 2)
    features = list(given.features or FEATURES)
    model.fit(train[features], train[given.label])
    judged = rows(seed=1) if holdout is None else holdout
    package(model, given, train, folder, holdout=judged)
    found: dict[str, Any] = json.loads((folder / "compiled/parity.json").read_text())
    return found


def test_a_linear_pipeline_is_folded_and_says_how_near_it_is(tmp_path: Path) -> None:
    told = made(tmp_path / "m", make_pipeline(StandardScaler(), LogisticRegression()), section())
    assert told["accepted"]
    assert told["form"] == "linear"
    assert (told["rows"], told["outside"], told["classes_changed"]) == (400, 0, 0)
    assert told["worst"]["absolute"] <= told["tolerance"]["absolute"] == 1e-9
    names = sorted(path.name for path in (tmp_path / "m/compiled").iterdir())
    assert names == ["linear.json", "parity.json"]
    assert "onnxruntime" not in (tmp_path / "m/requirements.txt").read_text()


@needs_skl2onnx
@pytest.mark.parametrize(
    ("model", "task", "label"),
    [
        (HistGradientBoostingClassifier(max_iter=5), "binary", "y"),
        (HistGradientBoostingClassifier(max_iter=5), "multiclass", "y"),
        (HistGradientBoostingRegressor(max_iter=5), "regression", "r"),
        (RandomForestClassifier(5), "binary", "y"),
        (
            make_pipeline(
                ColumnTransformer([("all", "passthrough", ["b", "a"])]),
                HistGradientBoostingClassifier(max_iter=5),
            ),
            "binary",
            "y",
        ),
    ],
)
def test_trees_become_a_graph(tmp_path: Path, model: Any, task: Any, label: str) -> None:
    told = made(tmp_path / "m", model, section(task, label))
    assert told["accepted"], told
    assert told["form"] == "onnx"
    assert told["tolerance"] == {"absolute": 1e-5, "relative": 1e-5}
    assert "onnxruntime==" in (tmp_path / "m/requirements.txt").read_text()
    form = forms.Onnx(tmp_path / "m/compiled/model.onnx", (), vector=told["vector"])
    data = rows(seed=2)[list(FEATURES)]
    wanted = getattr(model, "predict_proba", model.predict)(data)
    answer = form(data.to_numpy(dtype="float64"))
    assert answer is not None
    assert answer.dtype == np.float64
    np.testing.assert_allclose(answer, wanted, rtol=1e-5, atol=1e-5)


@needs_skl2onnx
def test_a_class_that_float32_flips_refuses_the_form(tmp_path: Path) -> None:
    # Whole numbers around 2**30: float32 keeps every 128th of them, the tree tells each apart.
    train = pd.DataFrame({"a": 2**30 + np.arange(400) % 40, "b": 0.0, "c": 0.0})
    train["y"] = train["a"] % 2
    model = HistGradientBoostingClassifier(max_iter=60, min_samples_leaf=1)
    model.fit(train[list(FEATURES)], train["y"])
    package(model, section(), train, tmp_path / "m", holdout=train)
    told = json.loads((tmp_path / "m/compiled/parity.json").read_text())
    assert not told["accepted"]
    assert told["classes_changed"] > 0
    assert told["outside"] > 0
    assert "400 rows differ by more than 1e-05" in told["why"]
    assert [path.name for path in (tmp_path / "m/compiled").iterdir()] == ["parity.json"]
    assert "onnxruntime" not in (tmp_path / "m/requirements.txt").read_text()


@pytest.mark.parametrize(
    ("model", "given", "why"),
    [
        (
            make_pipeline(
                ColumnTransformer([("t", OrdinalEncoder(), ["text"])], remainder="passthrough"),
                LogisticRegression(),
            ),
            section(features=("a", "text")),
            "text is a string, and compiled forms take numbers",
        ),
        (LinearSVC(), section(), "LinearSVC gives classes alone"),
        pytest.param(
            KNeighborsClassifier(), section(), "KNeighborsClassifier would not be faster",
            marks=needs_skl2onnx,
        ),
    ],
)  # fmt: skip
def test_what_has_no_form_says_why(
    tmp_path: Path, model: Any, given: ModelSection, why: str
) -> None:
    told = made(tmp_path / "m", model, given)
    assert not told["accepted"]
    assert why in told["why"]


@needs_skl2onnx
def test_boosting_that_splits_on_categories_is_not_converted() -> None:
    train = rows()
    model = HistGradientBoostingClassifier(max_iter=2, categorical_features=[0])
    model.fit(train[list(FEATURES)].to_numpy(), train["y"])
    with pytest.raises(NotConvertible, match="splits on categories"):
        convert(make_pipeline("passthrough", model), FEATURES, "predict_proba")


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosters_are_left_to_their_own_fast_library(tmp_path: Path, library: str) -> None:
    module = pytest.importorskip(library)
    model = module.XGBClassifier if library == "xgboost" else module.LGBMClassifier
    told = made(tmp_path / "m", model(n_estimators=2, verbosity=0), section())
    assert not told["accepted"]
    assert "own predictor is compiled already" in told["why"]


def test_an_empty_holdout_proves_nothing(tmp_path: Path) -> None:
    told = made(tmp_path / "m", LogisticRegression(), section(), rows().head(0))
    assert not told["accepted"]
    assert "no row of the holdout" in told["why"]


def test_missing_values_are_answered_by_a_form_only_where_they_were_compared(
    tmp_path: Path,
) -> None:
    pytest.importorskip("skl2onnx", reason="pip install 'treadle[compile]'")
    holes = rows(seed=1)
    holes.loc[::3, "b"] = np.nan
    told = made(tmp_path / "m", HistGradientBoostingClassifier(max_iter=5), section(), holes)
    assert told["accepted"], told
    assert told["missing"] == [1]
    form = forms.Onnx(tmp_path / "m/compiled/model.onnx", told["missing"], vector=False)
    matrix = rows(3)[list(FEATURES)].to_numpy(dtype="float64", copy=True)
    matrix[0, 1] = np.nan
    assert form(matrix) is not None
    for value in (np.nan, np.inf, 1e300):
        other = matrix.copy()
        other[1, 2] = value
        assert form(other) is None
    matrix[0, 1] = np.inf
    assert form(matrix) is None


def test_without_the_word_there_is_no_compiled_folder(tmp_path: Path) -> None:
    train = rows()
    model = LogisticRegression().fit(train[list(FEATURES)], train["y"])
    plain = ModelSection("model", "binary", "y", FEATURES)
    record = package(model, plain, train, tmp_path / "m", holdout=train)
    assert not (tmp_path / "m/compiled").exists()
    assert not any(name.startswith("compiled") for name in record.files)


def test_the_record_covers_the_compiled_files(tmp_path: Path) -> None:
    train = rows()
    model = LogisticRegression().fit(train[list(FEATURES)], train["y"])
    record: Model = package(model, section(), train, tmp_path / "m", holdout=train)
    content, files = digest_tree(tmp_path / "m")
    assert record.content == content
    assert {"compiled/linear.json", "compiled/parity.json"} <= set(files) == set(record.files)
    pyfunc = pytest.importorskip("mlflow.pyfunc", reason="pip install 'treadle[mlflow]'")
    answer = pyfunc.load_model(str(tmp_path / "m")).predict(train[list(FEATURES)])
    np.testing.assert_array_equal(answer, model.predict_proba(train[list(FEATURES)]))


def test_an_absent_skl2onnx_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(MissingExtra) as caught:
        made(tmp_path / "m", RandomForestClassifier(2), section())
    assert caught.value.hint == "pip install 'treadle[compile]'"
    assert made(tmp_path / "l", Ridge(), section("regression", "r"))["form"] == "linear"


SCRIPT = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from treadle.base.spec import ModelSection
from treadle.build.package import package
random = np.random.default_rng(0)
frame = pd.DataFrame(random.normal(size=(300, 3)), columns=list("abc"))
frame["y"] = (frame.sum(axis=1) + random.normal(size=300) > 0).astype(int)
section = ModelSection("m", "binary", "y", ("a", "b", "c"), compile="auto")
for name, model in (
    ("linear", make_pipeline(StandardScaler(), LogisticRegression())),
    ("onnx", HistGradientBoostingClassifier(max_iter=5, random_state=0)),
):
    model.fit(frame[list("abc")], frame.y)
    print(package(model, section, frame, Path(sys.argv[1], name), holdout=frame).content)
"""


@needs_skl2onnx
def test_the_same_model_has_the_same_compiled_bytes_in_another_process(tmp_path: Path) -> None:
    printed = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / seed)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        printed.append(done.stdout.split())
    assert len(printed[0]) == 2
    assert printed[0] == printed[1]
    assert (tmp_path / "1/onnx/compiled/model.onnx").is_file()
    assert (tmp_path / "1/linear/compiled/linear.json").is_file()
