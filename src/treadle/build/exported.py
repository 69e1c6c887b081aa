"""PyTorch models as MLflow lays them out: an exported program in `data/model.pt2`, no pickle.

What a module has to be: `forward(x)` takes the feature columns, all numbers (booleans count), as one
matrix `[rows, features]` of the module's own type (float32 as a rule) and gives one tensor:

- regression: `[rows]` (or `[rows, 1]`) numbers
- binary: `[rows]` probabilities of class 1 (a sigmoid is forward's last step), or `[rows, 2]`
- multiclass: `[rows, k]` probabilities that add up to 1 (a softmax), or `[rows]` class numbers (int64)

Classes are 0, 1, …, k-1. Scores that are no probabilities (logits) are refused here, with words:
every gate, threshold and drift rule reads them as probabilities. A hole in a column arrives as NaN.

Weights alone (a state_dict, a safetensors file) are no model: to be called they need the project's
class. The raw weights of an exported program can be read without torch, as safetensors' can. What
takes text, images or several inputs, transformers' directories included, is MLflow's to write and to
load: our server answers such a directory by MLflow's pyfunc, with `trust: pickle`, since loading it
runs code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from treadle.base.errors import PipelineError, Refused
from treadle.base.spec import ModelSection
from treadle.build.features import Feature
from treadle.build.flavor import Written

NUMBERS = ("double", "long", "boolean", "float", "integer")
_CHECKED_ROWS = 10_000
_SUM_TOLERANCE = 1e-3


def write(model: Any, folder: Path, width: int | None) -> Written:
    """Write `data/model.pt2`. Refused or PipelineError where the module cannot be exported."""
    from treadle.clients import torch_file

    torch = torch_file.library()
    try:
        program = torch_file.dumps(model, width)
    except Refused as error:
        raise Refused(
            f"the model cannot be stored without pickle: {error.message}",
            hint="use torch's own operators on one matrix; or, with `trust: pickle`, return an "
            "object of your own whose predict(frame) calls the module",
        ) from error
    (folder / "data").mkdir()
    (folder / "data" / "model.pt2").write_bytes(program.data)
    # What the file says is predicted with, not the object: the two must be the same.
    forward = torch_file.loads(program.data).forward

    def predict(frame: Any) -> Any:
        with torch.inference_mode():
            return forward(torch.from_numpy(frame.to_numpy(dtype=program.dtype, copy=True))).numpy()

    return Written(
        "pytorch", "data",
        {"pytorch": {"code": None, "model_data": "data", "pytorch_version": torch.__version__}},
        "mlflow.pytorch", "data", "predict", frozenset({"torch"}), predict,
        inputs=program.shape[1] if program.shape[1] >= 0 else None, matrix=program.dtype,
        extra={"config": {"device": None}, "pickle_module_name": "mlflow.pytorch.pickle_module"},
    )  # fmt: skip


def check_features(features: Sequence[Feature]) -> None:
    """Refuse what no matrix of numbers holds."""
    texts = [feature for feature in features if feature.type not in NUMBERS]
    if texts:
        raise PipelineError(
            f"a PyTorch model takes numbers, and {texts[0].name!r} is a {texts[0].type}",
            hint="encode it in a step before the model, or list the features under model.features",
        )


def check_answers(written: Written, section: ModelSection, rows: Any) -> None:
    """Refuse a model whose answers on its training rows are not what its task calls for."""
    import numpy as np

    answer = np.asarray(written.predict(rows.iloc[:: max(1, len(rows) // _CHECKED_ROWS)]))
    known = answer[np.isfinite(answer)] if answer.dtype.kind == "f" else answer
    if section.task == "regression":
        if answer.ndim != 1:
            raise PipelineError(
                f"forward gives {answer.shape[1:]} numbers a row, and a regression gives one",
                hint="return a tensor of shape [rows]",
            )
        return
    if answer.ndim == 1 and answer.dtype.kind in "iub":
        return  # class numbers
    if answer.ndim == 1 and section.task == "multiclass":
        raise PipelineError(
            "forward gives one number a row, and a multiclass model gives a probability a class",
            hint="end forward with softmax(…, dim=1), or return argmax's class numbers",
        )
    last = "sigmoid" if answer.ndim == 1 else "softmax(…, dim=1)"
    hint = f"end forward with {last}: gates, thresholds and drift read probabilities"
    if known.size and (known.min() < 0 or known.max() > 1 + 1e-6):
        worst = known.min() if known.min() < 0 else known.max()
        raise PipelineError(
            f"forward gives {worst:.4g} where a probability, 0 to 1, is expected", hint=hint
        )
    if answer.ndim == 2 and known.size:
        sums = answer.sum(axis=1)
        sums = sums[np.isfinite(sums)]
        if sums.size and np.abs(sums - 1).max() > _SUM_TOLERANCE:
            worst = sums[np.abs(sums - 1).argmax()]
            raise PipelineError(
                f"forward's {answer.shape[1]} probabilities of a row add up to {worst:.4g}, not 1",
                hint=hint,
            )
