"""Small ONNX model directories: y = a*x + b*z over two columns; they load in a fraction of a second."""

from __future__ import annotations

import json
from pathlib import Path

MLMODEL = """\
flavors:
  onnx: {{data: model.onnx, onnx_version: '1.23'}}
  python_function: {{data: model.onnx, loader_module: mlflow.onnx}}
saved_input_example_info: {{artifact_path: input_example.json, type: dataframe, pandas_orient: split}}
signature:
  inputs: '{inputs}'
  outputs: '{outputs}'
  params: null
"""


def several(home: Path) -> dict[str, Path]:
    """Two that answer and one that cannot."""
    return {
        "one": linear(home / "one", 1, 0),
        "two": linear(home / "two", 0, 1),
        "broken": linear(home / "broken", 1, 1, broken=True),
    }


def linear(folder: Path, a: float, b: float, *, broken: bool = False) -> Path:
    """A model directory whose answer is a*x + b*z."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["row", "weights"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("row", TensorProto.DOUBLE, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 1])],
        [numpy_helper.from_array(np.array([[a], [b]], dtype=float), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, str(folder / "model.onnx"))
    if broken:
        (folder / "model.onnx").write_bytes(b"this is no model")
    inputs = [{"type": "double", "name": n, "required": True} for n in ("x", "z")]
    (folder / "MLmodel").write_text(
        MLMODEL.format(
            inputs=json.dumps(inputs),
            outputs=json.dumps([{"type": "double", "name": "y"}]),
        )
    )
    (folder / "input_example.json").write_text(
        json.dumps({"columns": ["x", "z"], "data": [[1.0, 2.0], [3.0, 4.0]]})
    )
    return folder
