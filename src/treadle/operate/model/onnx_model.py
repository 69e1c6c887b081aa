"""ONNX models by ONNX Runtime: one matrix, or one column an input; no frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from treadle.base.errors import MissingExtra
from treadle.operate.model.engine import Engine, common_type
from treadle.operate.model.signature import Signature

Array = np.ndarray[Any, Any]

_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
    "tensor(string)": object,
}  # fmt: skip


def load(
    folder: Path, conf: Mapping[str, Any], function: str, _trust: bool, signature: Signature
) -> Engine:
    """The session of an MLflow directory of ONNX's flavor; `conf` is its section.

    `treadle_output` in it names the one output that is the prediction.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime", "onnx", "an ONNX model") from None
    session = onnxruntime.InferenceSession(
        str(folder / str(conf["data"])),
        sess_options=_options(onnxruntime, conf),
        providers=["CPUExecutionProvider"],
    )
    return engine(session, function, signature, conf.get("treadle_output"))


def _options(onnxruntime: Any, conf: Mapping[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    told = conf.get("onnx_session_options") or {}
    for name in ("intra_op_num_threads", "inter_op_num_threads"):
        if told.get(name):
            setattr(options, name, int(told[name]))
    if told.get("execution_mode"):
        mode = f"ORT_{str(told['execution_mode']).upper()}"
        options.execution_mode = getattr(onnxruntime.ExecutionMode, mode)
    if told.get("graph_optimization_level"):
        level = int(told["graph_optimization_level"])
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    # One model server is one process of its own: threads follow the same setting as OpenMP's.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads):
        options.intra_op_num_threads = int(threads)
    return options


def engine(session: Any, function: str, signature: Signature, output: str | None = None) -> Engine:
    """A session as an engine. `output` names the one output that is the prediction."""
    inputs = [(item.name, _TYPES.get(item.type)) for item in session.get_inputs()]
    names = [item.name for item in session.get_outputs()]
    wanted = [output] if output in names else names
    name, kind = inputs[0]
    if len(wanted) == 1:

        def finish(made: Sequence[Any]) -> Any:
            return {wanted[0]: _flat(made[0])}

    else:

        def finish(made: Sequence[Any]) -> Any:
            answers = dict(zip(wanted, made, strict=True))
            if function == "predict_proba":
                answers = {n: v for n, v in answers.items() if "prob" in n} or answers
            return {n: _flat(v) for n, v in answers.items()}

    def call(data: Any, _params: Mapping[str, Any]) -> Any:
        if len(inputs) == 1:
            if isinstance(data, Mapping):
                data = data[name] if set(data) == {name} and signature.tensors else _stack(data)
            return finish(session.run(wanted, {name: _typed(data, kind)}))
        feed = {}
        for each, type_ in inputs:
            array = np.asarray(data[each])
            # skl2onnx gives each column of a frame an input of shape [rows, 1].
            feed[each] = _typed(array if signature.tensors else array.reshape(-1, 1), type_)
        return finish(session.run(wanted, feed))

    matrix = common_type(signature) if len(inputs) == 1 else None
    return Engine(session, call, matrix, columns=True)


def _typed(array: Array, kind: Any) -> Array:
    if kind is None:
        return array
    return array.astype(object) if kind is object else np.ascontiguousarray(array, dtype=kind)


def _stack(columns: Mapping[str, Any]) -> Array:
    """Columns of any types side by side, as a frame's values would be."""
    return np.column_stack([np.asarray(column) for column in columns.values()])


def _flat(value: Any) -> Any:
    """One value a row where the model gives [rows, 1]."""
    one = getattr(value, "ndim", 1) == 2 and value.shape[1] == 1
    return value.ravel() if one else value
