"""One small model of each kind in MLflow's own directories, for the tests of loading and batching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROWS = 60
NUMBERS = ["a", "b", "n"]
MIXED = ["carrier", "distance", "temp", "day"]


def numbers(*, holes: bool) -> pd.DataFrame:
    """Doubles (with holes or without) and whole numbers."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "a": random.normal(size=ROWS) * 1e3,
            "b": random.normal(size=ROWS),
            "n": random.integers(-5, 50, ROWS),
        }
    )
    if holes:
        frame.loc[::7, "a"] = np.nan
    return frame


def mixed() -> pd.DataFrame:
    """Texts and numbers, both with holes."""
    random = np.random.default_rng(4)
    frame = pd.DataFrame(
        {
            "carrier": random.choice(["UA", "AA", "B6", "ü"], ROWS),
            "distance": random.integers(100, 3000, ROWS),
            "temp": random.normal(50, 20, ROWS),
            "day": random.integers(0, 7, ROWS),
        }
    )
    frame.loc[::5, "temp"] = np.nan
    frame.loc[::9, "carrier"] = None
    return frame


@dataclass(frozen=True)
class Kind:
    """How a model is made and how exactly its answers must be the same."""

    make: Callable[[Path], None]
    table: Callable[[], pd.DataFrame]
    exact: bool = True
    """Whether to the bit; else to a relative 1e-12 (BLAS adds in another order in another shape)."""
    trust: bool = False
    matrix: bool = True
    """Whether the model must be called with a matrix."""
    params: tuple[dict[str, Any], ...] = ({},)


def label(frame: pd.DataFrame, classes: int = 2) -> np.ndarray[Any, Any]:
    first = frame.select_dtypes("number").fillna(0).sum(axis=1)
    return pd.qcut(first, classes, labels=False).to_numpy()


def _package(value: Any, frame: pd.DataFrame, task: Any, folder: Path) -> None:
    from treadle.base.spec import ModelSection
    from treadle.build import package

    section = ModelSection(result="m", task=task, label="y", features=tuple(frame.columns))
    package.package(value, section, frame, folder)


def _sklearn(estimator: Any, frame: pd.DataFrame, y: Any, task: str, folder: Path) -> None:
    _package(estimator.fit(frame, y), frame, task, folder)


def linear(folder: Path) -> None:
    from sklearn.linear_model import LinearRegression

    frame = numbers(holes=False)
    _sklearn(LinearRegression(), frame, frame.a * 2 - frame.n, "regression", folder)


def binary(folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame = numbers(holes=False)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    _sklearn(model, frame, label(frame), "binary", folder)


def multiclass(folder: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    frame = numbers(holes=False)
    model = RandomForestClassifier(5, random_state=0)
    _sklearn(model, frame, label(frame, 3), "multiclass", folder)


def several_outputs(folder: Path) -> None:
    from sklearn.linear_model import Ridge

    frame = numbers(holes=False)
    _sklearn(Ridge(), frame, frame[["a", "b"]] * 3, "regression", folder)


def gradient(folder: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    frame = numbers(holes=True)
    model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3)
    _sklearn(model, frame, label(frame), "binary", folder)


def encoded(folder: Path) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    frame = mixed()
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encode = ColumnTransformer(
        [("texts", ordinal, ["carrier"]), ("hot", one_hot, ["carrier"]),
         ("numbers", "passthrough", ["distance", "temp", "day"])]
    )  # fmt: skip
    trees = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3)
    model = Pipeline([("encode", encode), ("trees", trees)])
    _sklearn(model, frame, label(frame), "binary", folder)


def of_arrays(folder: Path) -> None:
    """scikit-learn with a signature of one tensor."""
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.tree import DecisionTreeClassifier

    table = numbers(holes=True).to_numpy()
    model = DecisionTreeClassifier(max_depth=3).fit(table, label(numbers(holes=True)))
    mlflow.sklearn.save_model(
        model, folder, signature=infer_signature(table, model.predict(table)),
        serialization_format="skops", skops_trusted_types=["sklearn.tree._tree.Tree"],
        pip_requirements=[],
    )  # fmt: skip


def _xgboost(name: str, classes: int, folder: Path) -> None:
    import mlflow.xgboost
    import xgboost
    from mlflow.models import infer_signature

    frame = numbers(holes=True)
    y: Any = label(frame, classes) if classes else frame.b
    model = getattr(xgboost, name)(n_estimators=4, max_depth=3, n_jobs=1).fit(frame, y)
    mlflow.xgboost.save_model(
        model, folder, signature=infer_signature(frame, model.predict(frame)), pip_requirements=[]
    )


def xgboost_booster(folder: Path) -> None:
    import xgboost

    frame = numbers(holes=True)
    model = xgboost.XGBClassifier(n_estimators=4, max_depth=3, n_jobs=1)
    _package(model.fit(frame, label(frame, 3)), frame, "multiclass", folder)


def _lightgbm(classes: int, folder: Path) -> Any:
    import lightgbm

    frame = numbers(holes=True)
    model = lightgbm.LGBMClassifier(
        n_estimators=4, min_child_samples=3, n_jobs=1, verbose=-1
    ).fit(frame, label(frame, classes))  # fmt: skip
    _package(model, frame, "binary" if classes == 2 else "multiclass", folder)


def lightgbm_estimator(folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm
    from mlflow.models import infer_signature

    frame = numbers(holes=True)
    model = lightgbm.LGBMClassifier(n_estimators=4, min_child_samples=3, n_jobs=1, verbose=-1)
    model.fit(frame, label(frame))
    mlflow.lightgbm.save_model(
        model, folder, signature=infer_signature(frame, model.predict(frame)), pip_requirements=[]
    )


def onnx(folder: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.array([[1.0], [-2.0], [0.5]]), "weights")
    ends = [
        helper.make_tensor_value_info(n, TensorProto.DOUBLE, [None, w])
        for n, w in (("row", 3), ("y", 1))
    ]
    node = helper.make_node("MatMul", ["row", "weights"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    value = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    _package(value, numbers(holes=False), "regression", folder)


def with_params(folder: Path) -> None:
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    class Times(mlflow.pyfunc.PythonModel):
        def predict(
            self, _context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
        ) -> Any:
            told = params or {}
            return (model_input["a"] * told["factor"] + told["power"]).to_numpy()

    frame = numbers(holes=True)
    mlflow.pyfunc.save_model(
        folder, python_model=Times(), pip_requirements=[],
        signature=infer_signature(frame, frame.a.to_numpy(), {"factor": 2.0, "power": 3}),
    )  # fmt: skip


def holey() -> pd.DataFrame:
    return numbers(holes=True)


def whole() -> pd.DataFrame:
    return numbers(holes=False)


KINDS: dict[str, Kind] = {
    "sklearn linear regression": Kind(linear, whole, exact=False),
    "sklearn logistic regression": Kind(binary, whole, exact=False),
    "sklearn forest of three classes": Kind(multiclass, whole),
    "sklearn two outputs": Kind(several_outputs, whole, exact=False),
    "sklearn gradient boosting": Kind(gradient, holey),
    "sklearn texts and numbers": Kind(encoded, mixed, matrix=False),
    "sklearn of arrays": Kind(of_arrays, holey, matrix=False),
    "xgboost booster": Kind(xgboost_booster, holey),
    "xgboost classifier": Kind(lambda f: _xgboost("XGBClassifier", 2, f), holey),
    "xgboost three classes": Kind(lambda f: _xgboost("XGBClassifier", 3, f), holey),
    "xgboost regressor": Kind(lambda f: _xgboost("XGBRegressor", 0, f), holey),
    "lightgbm": Kind(lambda f: _lightgbm(2, f), holey),
    "lightgbm three classes": Kind(lambda f: _lightgbm(3, f), holey),
    "lightgbm estimator": Kind(lightgbm_estimator, holey, trust=True, matrix=False),
    "onnx": Kind(onnx, whole, exact=False),
    "pyfunc with params": Kind(
        with_params, holey, trust=True, matrix=False,
        params=({}, {"factor": 0.5}, {"factor": 0.5, "power": 7}),
    ),
}  # fmt: skip
