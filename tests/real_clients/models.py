"""Model directories whose answers anybody can work out, and one that scikit-learn trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

WEIGHTS = np.array([[0.5], [-1.25], [3.0]], dtype=np.float32)
TYPES = {
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "f16": "float16", "f32": "float32", "f64": "float64", "flag": "bool", "text": "str",
}  # fmt: skip
"""Inputs of the echo and their numpy types; each comes back as `<name>_back`."""
COLUMNS = ["carrier", "day", "distance", "temp", "rain"]
_SAFE = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]


def _save(folder: Path, graph: Any, inputs: list[Any], outputs: list[Any], example: Any) -> Path:
    from onnx import helper, save

    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, str(folder / "model.onnx"))
    (folder / "MLmodel").write_text(json.dumps({
        "flavors": {
            "onnx": {"data": "model.onnx", "onnx_version": "1.17"},
            "python_function": {"data": "model.onnx", "loader_module": "mlflow.onnx"},
        },
        "saved_input_example_info": {"artifact_path": "input_example.json", "type": "ndarray"},
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
    }))  # fmt: skip
    (folder / "input_example.json").write_text(json.dumps({"inputs": example}))
    return folder


def _spec(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"type": "tensor", "name": name, "tensor-spec": {"dtype": dtype, "shape": shape}}


def linear(folder: Path, *, work: int = 0) -> Path:
    """x [n, 3] → `total` = x·WEIGHTS [n] and `double` = 2x [n, 3], in float32.

    `work`: side of square matrices that it multiplies besides, so that a call takes its time.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["column"]),
        helper.make_node("Add", ["x", "x"], ["double"]),
    ]
    made = [numpy_helper.from_array(WEIGHTS, "weights"),
            numpy_helper.from_array(np.array([-1], dtype=np.int64), "flat")]  # fmt: skip
    column = "column"
    if work:
        # Zeros computed from the input, so that nothing can be folded away: (0·x)[0, 0] spread over
        # a matrix, multiplied with itself, and its first element added to the column.
        zero, square = np.zeros((1,), dtype=np.float32), np.zeros((work, work), dtype=np.float32)
        made += [numpy_helper.from_array(zero, "zero"), numpy_helper.from_array(square, "square")]
        nodes += [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["none"]),
            helper.make_node("Add", ["square", "none"], ["left"]),
            helper.make_node("MatMul", ["left", "left"], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["most"], keepdims=0),
            helper.make_node("Add", ["column", "most"], ["later"]),
        ]
        column = "later"
    nodes.append(helper.make_node("Reshape", [column, "flat"], ["total"]))
    graph = helper.make_graph(
        nodes, "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [None]),
         helper.make_tensor_value_info("double", TensorProto.FLOAT, [None, 3])],
        made,
    )  # fmt: skip
    return _save(
        folder, graph, [_spec("x", "float32", [-1, 3])],
        [_spec("total", "float32", [-1]), _spec("double", "float32", [-1, 3])],
        [[1.0, 2.0, 3.0]],
    )  # fmt: skip


def echo(folder: Path) -> Path:
    """One input of each type, given back."""
    from onnx import helper

    def kind(dtype: str) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(object if dtype == "str" else dtype))

    nodes = [helper.make_node("Identity", [name], [f"{name}_back"]) for name in TYPES]
    graph = helper.make_graph(
        nodes, "echo",
        [helper.make_tensor_value_info(n, kind(t), [None]) for n, t in TYPES.items()],
        [helper.make_tensor_value_info(f"{n}_back", kind(t), [None]) for n, t in TYPES.items()],
    )  # fmt: skip
    example = {
        name: [True] if name == "flag" else ["a"] if name == "text" else [1] for name in TYPES
    }
    return _save(
        folder, graph, [_spec(name, dtype, [-1]) for name, dtype in TYPES.items()],
        [_spec(f"{name}_back", dtype, [-1]) for name, dtype in TYPES.items()], example,
    )  # fmt: skip


_SCALED = """
import mlflow


class Scaled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        told = params or {}
        return model_input["x"] * told.get("factor", 1.0) + len(told.get("text", ""))


mlflow.models.set_model(Scaled())
"""


def scaled(folder: Path) -> Path:
    """A model of MLflow's own kind with parameters: x · factor + length of text."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    folder.parent.mkdir(parents=True, exist_ok=True)
    code = folder.parent / "scaled.py"
    code.write_text(_SCALED)
    mlflow.pyfunc.save_model(
        folder, python_model=str(code), input_example=pd.DataFrame({"x": [1.0, 2.0]}),
        signature=ModelSignature(
            inputs=Schema([ColSpec("double", "x")]), outputs=Schema([ColSpec("double", "y")]),
            params=ParamSchema([ParamSpec("factor", "double", 1.0), ParamSpec("text", "string", "")]),
        ),
        pip_requirements=["mlflow-skinny"],
    )  # fmt: skip
    return folder


def frame(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    """Rows of the trained model's columns; `temp` has gaps."""
    random = np.random.default_rng(seed)
    return pd.DataFrame({
        "carrier": random.choice(["UA", "AA", "B6", "日本 ✈"], rows),
        "day": random.integers(0, 7, rows).astype("int32"),
        "distance": random.integers(100, 3000, rows),
        "temp": np.where(random.random(rows) < 0.2, np.nan, random.normal(50, 20, rows)),
        "rain": random.random(rows) < 0.3,
    })  # fmt: skip


def trained() -> Any:
    """A pipeline over texts, integers, numbers with gaps and booleans."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    rows = frame()
    texts = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    encode = ColumnTransformer(
        [("texts", texts, ["carrier"]), ("numbers", "passthrough", COLUMNS[1:])]
    )
    # It takes whatever number there is: NaN, infinity, and what is beyond float32.
    trees = HistGradientBoostingClassifier(max_iter=20, random_state=0)
    late = (rows.distance > 1500).astype("int8") ^ (rows.day > 3) ^ rows.rain
    return Pipeline([("encode", encode), ("trees", trees)]).fit(rows, late)


def columns(folder: Path, pipeline: Any) -> Path:
    """The trained pipeline as MLflow saves it, answering probabilities."""
    import mlflow.sklearn
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    kinds = ["string", "integer", "long", "double", "boolean"]
    mlflow.sklearn.save_model(
        pipeline, folder,
        signature=ModelSignature(
            inputs=Schema([ColSpec(k, n) for k, n in zip(kinds, COLUMNS, strict=True)]),
            outputs=Schema([TensorSpec(np.dtype("float64"), (-1, 2))]),
        ),
        input_example=frame(3), serialization_format="skops", skops_trusted_types=_SAFE,
        pyfunc_predict_fn="predict_proba", pip_requirements=["scikit-learn"],
    )  # fmt: skip
    return folder
