"""Makes what is served: models.py CASE FOLDER writes model directories, rows and right answers.

Rows and answers (`case.json`) come from the fitted model called in this process, before any
directory is read back. A process of its own, so that the one that measures stays small.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ASKED = 256
"""Different rows with known answers."""
TREES = 200
TREADLE = Path(sys.executable).parent / "treadle"
FLIGHTS = Path(__file__).resolve().parents[2] / "examples" / "flights"
TITLES = {
    "logreg": "Logistic regression over 30 numbers (StandardScaler, scikit-learn, skops)",
    "flights": "The flights model: named columns, categories, weather (frames, scikit-learn)",
    "lightgbm": f"LightGBM, {TREES} trees",
    "hgb": f"HistGradientBoosting, {TREES} trees (scikit-learn)",
    "onnx": "Logistic regression as ONNX (float32)",
}
CASES = tuple(TITLES)

PIPELINE = """\
from typing import NamedTuple

import pandas as pd
from sklearn.model_selection import train_test_split


class Split(NamedTuple):
    train: pd.DataFrame
    holdout: pd.DataFrame


def split(rows: pd.DataFrame, seed: int = 0) -> Split:
    return Split(*train_test_split(rows, test_size=0.25, random_state=seed))


def model(train: pd.DataFrame):
    features, label = train.drop(columns="label"), train["label"]
"""
FITS = {
    "logreg": """\
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, label)
""",
    "hgb": f"""\
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter={TREES}, early_stopping=False, random_state=0
    ).fit(features, label)
""",
    "lightgbm": f"""\
    import lightgbm

    return lightgbm.LGBMClassifier(
        n_estimators={TREES}, num_threads=1, deterministic=True, verbose=-1
    ).fit(features, label).booster_
""",
}
PROJECT = """\
project: bench
pipeline: pipeline.py
data:
  rows: {files: rows.csv}
model: {result: model, task: binary, label: label%s}
test:
  holdout: holdout
  gates:
    - {metric: roc_auc, at_least: 0.5}
"""


def cancer() -> tuple[Any, Any, list[str]]:
    """The breast cancer data: 569 rows of 30 numbers, the label, the columns' names."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return data.data, data.target, [name.replace(" ", "_") for name in data.feature_names]


def train(folder: Path) -> Path:
    """The model directory that `treadle train` made in a project. SystemExit with its words."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TREADLE_")
    }
    done = subprocess.run(
        [TREADLE, "train"], cwd=folder, capture_output=True, text=True,
        env=environment | {"NO_COLOR": "1"}, check=False,
    )  # fmt: skip
    found = sorted((folder / ".treadle" / "models").glob("*/MLmodel"))
    if not found:  # a verdict other than pass is none of our business: the model was made
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        first = next((i for i, line in enumerate(lines) if line.startswith("error:")), -2)
        raise SystemExit("treadle train: " + " ".join(lines[first:][:2]))
    with (
        contextlib.suppress(FileNotFoundError),
        open(folder / ".treadle" / "recorder.lock") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)  # what it left behind is no part of what is measured
    return found[0].parent


def project(kind: str, folder: Path, *, compiled: bool = False) -> Path:
    """A Treadle project over the breast cancer rows; its model directory."""
    import pandas as pd

    matrix, label, names = cancer()
    folder.mkdir(parents=True)
    pd.DataFrame(matrix, columns=names).assign(label=label).to_csv(folder / "rows.csv", index=False)
    (folder / "pipeline.py").write_text(PIPELINE + FITS[kind])
    (folder / "treadle.yaml").write_text(PROJECT % (", compile: auto" if compiled else ""))
    return train(folder)


def fitted(kind: str) -> Any:
    """The same model as the project's, without Treadle; scikit-learn's is fitted on an array.

    So it is asked with arrays without a word about names.
    """
    import pandas as pd

    matrix, label, names = cancer()
    space: dict[str, Any] = {}
    exec(compile(PIPELINE + FITS[kind], f"<{kind}>", "exec"), space)
    rows = space["split"](pd.DataFrame(matrix, columns=names).assign(label=label)).train
    model = space["model"](rows)
    if kind == "lightgbm":
        return model
    return model.fit(rows.drop(columns="label").to_numpy(), rows["label"])


def save(case: str, folder: Path, **facts: Any) -> None:
    """case.json: what is asked and what is right."""
    (folder / "case.json").write_text(json.dumps({"case": case, "title": TITLES[case], **facts}))


def _signature(width: int, outputs: int | None) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    shape = (-1,) if outputs is None else (-1, outputs)
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float64"), (-1, width))]),
        outputs=Schema([TensorSpec(np.dtype("float64"), shape)]),
    )


def make_sklearn(case: str, folder: Path) -> None:
    """Logistic regression or HistGradientBoosting: as MLflow saves it, and by hand."""
    import joblib
    import mlflow.sklearn

    matrix, _, names = cancer()
    model = fitted(case)
    asked = matrix[:ASKED]
    joblib.dump(model, folder / "model.joblib")
    mlserver = folder / "mlserver"
    mlserver.mkdir()
    shutil.copyfile(folder / "model.joblib", mlserver / "model.joblib")
    mlflow.sklearn.save_model(
        model, folder / "tensor", signature=_signature(30, 2), input_example=asked[:3],
        serialization_format="skops", pyfunc_predict_fn="predict_proba",
        skops_trusted_types=_types(model), pip_requirements=["scikit-learn"],
    )  # fmt: skip
    directories = {"tensor": str(folder / "tensor")}
    if case == "logreg":
        directories["frame"] = str(project(case, folder / "project"))
    save(
        case, folder, columns=names, rows=asked.tolist(), tolerance=1e-9,
        expected=model.predict_proba(asked).tolist(), directories=directories,
        native=str(folder / "model.joblib"),
    )  # fmt: skip


def _types(model: Any) -> list[str]:
    """Types that skops asks about: ours to answer, the model was made above."""
    import skops.io

    return list(skops.io.get_untrusted_types(data=skops.io.dumps(model)))


def make_lightgbm(case: str, folder: Path) -> None:
    """A booster, its library's own text format."""
    import mlflow.lightgbm

    matrix, _, names = cancer()
    booster = fitted(case)
    asked = matrix[:ASKED]
    mlflow.lightgbm.save_model(
        booster, folder / "tensor", signature=_signature(30, None), input_example=asked[:3],
        pip_requirements=["lightgbm"],
    )  # fmt: skip
    booster.save_model(folder / "model.lgb")
    save(
        case, folder, columns=names, rows=asked.tolist(), tolerance=1e-9,
        expected=booster.predict(asked).reshape(-1, 1).tolist(),
        directories={"tensor": str(folder / "tensor")}, native=str(folder / "model.lgb"),
    )  # fmt: skip


def make_onnx(case: str, folder: Path) -> None:
    """The logistic regression in the operators that skl2onnx writes it in."""
    import mlflow.onnx
    import numpy as np
    import onnxruntime
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from onnx import TensorProto, checker, helper

    matrix, _, names = cancer()
    scaler, linear = fitted("logreg")
    weights, bias = linear.coef_[0], linear.intercept_[0]
    graph = helper.make_graph(
        [
            helper.make_node(
                "Scaler", ["input"], ["scaled"], domain="ai.onnx.ml",
                offset=scaler.mean_.tolist(), scale=(1 / scaler.scale_).tolist(),
            ),
            helper.make_node(
                "LinearClassifier", ["scaled"], ["label", "probabilities"], domain="ai.onnx.ml",
                coefficients=np.concatenate([-weights, weights]).tolist(),
                intercepts=[-bias, bias], classlabels_ints=[0, 1], post_transform="LOGISTIC",
            ),
        ],
        "logreg",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 30])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
    )  # fmt: skip
    model = helper.make_model(
        graph, ir_version=8,
        opset_imports=[helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)],
    )  # fmt: skip
    checker.check_model(model)
    asked = matrix[:ASKED].astype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 30), "input")]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 2), "probabilities")]),
    )
    mlflow.onnx.save_model(
        model, folder / "tensor", signature=signature, pip_requirements=["onnxruntime"],
        input_example={"input": asked[:3]}, save_as_external_data=False,
    )  # fmt: skip
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    save(
        case, folder, columns=names, rows=matrix[:ASKED].tolist(), tolerance=1e-6,
        expected=session.run(["probabilities"], {"input": asked})[0].tolist(),
        directories={"tensor": str(folder / "tensor")}, native=str(folder / "model.onnx"),
    )  # fmt: skip


def make_flights(case: str, folder: Path) -> None:
    """The example's own project, in a copy; rows of its holdout."""
    import importlib.util

    import joblib
    import pandas as pd

    copy = folder / "project"
    copy.mkdir()
    for name in ("treadle.yaml", "pipeline.py"):
        shutil.copyfile(FLIGHTS / name, copy / name)
    for name in ("data", "truth"):
        shutil.copytree(FLIGHTS / name, copy / name)
    directory = train(copy)
    spec = importlib.util.spec_from_file_location("flights_pipeline", copy / "pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    pipeline = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = pipeline
    spec.loader.exec_module(pipeline)
    flights = pd.concat(map(pd.read_parquet, sorted((copy / "data").glob("flights-*.parquet"))))
    parts = pipeline.split(flights)
    model = pipeline.model(parts.train)
    # Every 40th row of the holdout, one with missing weather first if there is one.
    asked = parts.holdout[pipeline.FEATURES]
    holes = asked[asked.isna().any(axis=1)].head(8)
    asked = pd.concat([holes, asked.iloc[::40]]).head(ASKED).reset_index(drop=True)
    joblib.dump((model, asked), folder / "model.joblib")
    save(
        case, folder, columns=pipeline.FEATURES, tolerance=1e-9,
        rows=json.loads(asked.to_json(orient="values", double_precision=15)),
        expected=model.predict_proba(asked).tolist(), directories={"frame": str(directory)},
        native=str(folder / "model.joblib"),
    )  # fmt: skip


MAKE: dict[str, Callable[[str, Path], None]] = {
    "logreg": make_sklearn,
    "hgb": make_sklearn,
    "lightgbm": make_lightgbm,
    "onnx": make_onnx,
    "flights": make_flights,
}


def main() -> None:
    """CASE FOLDER, or CASE:compiled FOLDER (prints the directory)."""
    name, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    kind, _, compiled = name.partition(":")
    if compiled:
        print(project(kind, folder, compiled=True))
        return
    folder.mkdir(parents=True)
    MAKE[kind](kind, folder)


if __name__ == "__main__":
    main()
