"""PyTorch models: MLflow's `pytorch` flavor, loaded by torch alone.

What Treadle and MLflow (`serialization_format="pt2"`) write is an exported program: it is checked and
written anew in memory first (`base/pt2`), so that loading it runs nothing that came with it. A module
that was pickled (`model.pth`) is loaded only with `trust: pickle`.

Answers are those of MLflow's pyfunc: one matrix in, one tensor out. A frame's columns become one
matrix of the program's type (float32), in the order of the signature.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from treadle.base import pt2
from treadle.base.errors import MissingExtra, Refused, TreadleError, UsageError

EXPORTED = "model.pt2"
PICKLED = "model.pth"

Loaded = tuple[Any, Callable[[Any, Mapping[str, Any]], Any]]


def load(
    folder: Path,
    conf: Mapping[str, Any],
    function: str,
    trust_pickle: bool,
    names: Sequence[str] = (),
) -> Loaded:
    """The module and its predict: data and params → an array of [rows] or [rows, k].

    Data are a matrix, or the columns `names` as a dict of arrays or as a frame (one that is absent is
    missing in every row); without names, one tensor.

    Raises Refused for what could run code when loaded, without `trust_pickle`; MissingExtra where
    torch is absent; UsageError where the directory holds no model of PyTorch.
    """
    data = (folder / str(conf.get("model_data") or "data")).resolve()
    if not data.is_relative_to(folder.resolve()):
        raise Refused(f"the MLmodel file names {conf['model_data']}, outside the model directory")
    if function != "predict":
        raise UsageError(f"predict_fn {function}: a PyTorch model has predict alone")
    if (data / EXPORTED).is_file():
        module, dtype = _exported((data / EXPORTED).read_bytes(), trust_pickle)
    elif (data / PICKLED).is_file():
        module, dtype = _pickled(data, trust_pickle), "float32"
    else:
        raise UsageError(f"{data.name}/ of the model holds neither {EXPORTED} nor {PICKLED}")
    return module, _caller(module, np.dtype(dtype), names)


def _exported(source: bytes, trust_pickle: bool) -> tuple[Any, str]:
    dtype = "float32"
    try:
        program = pt2.read(source)
        source, dtype = program.data, program.dtype
    except Refused as error:
        if not trust_pickle:
            raise _refused(error.message) from None
    torch = _torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.load(io.BytesIO(source))
        # Names, order and width are checked against the signature before a row comes here.
        return exported.module(check_guards=False), dtype


def _pickled(data: Path, trust_pickle: bool) -> Any:
    if not trust_pickle:
        raise _refused(f"{PICKLED} is a pickle")
    torch = _torch()
    # cloudpickle, which MLflow writes with, is needed to be importable, not to read.
    module = torch.load(data / PICKLED, map_location="cpu", weights_only=False)
    return module.eval()


def _refused(why: str) -> Refused:
    return Refused(
        f"{why}: loading it runs code that came with the model",
        hint="`trust: pickle` in treadle.yaml (serve: --trust-pickle) allows it; or save it with "
        'mlflow.pytorch.save_model(…, serialization_format="pt2")',
    )


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise MissingExtra("torch", "torch", "a PyTorch model") from None


def _caller(
    module: Any, dtype: np.dtype[Any], names: Sequence[str]
) -> Callable[[Any, Mapping[str, Any]], Any]:
    torch = _torch()
    # The module's __call__ would check the shape once more, at twice the cost of a small model.
    forward = module.forward

    def call(data: Any, _params: Mapping[str, Any]) -> Any:
        with torch.inference_mode():
            answer = forward(torch.from_numpy(_matrix(data, dtype, names)))
        if not isinstance(answer, torch.Tensor):
            raise TreadleError(f"forward gave a {type(answer).__name__}, and not one tensor")
        return answer.numpy()

    return call


def _matrix(data: Any, dtype: np.dtype[Any], names: Sequence[str]) -> np.ndarray[Any, Any]:
    """Rows of one type that torch may read: contiguous and our own to write."""
    if isinstance(data, Mapping):
        first = next(iter(data.values()))
        if names:
            matrix = np.full((len(first), len(names)), np.nan, dtype=dtype)
            for number, name in enumerate(names):
                if name in data:
                    matrix[:, number] = data[name]
            return matrix
        data = first
    elif hasattr(data, "to_numpy"):
        if names and list(data.columns) != list(names):
            data = data.reindex(columns=list(names))
        data = data.to_numpy(dtype=dtype, na_value=np.nan)
    array = np.asarray(data)
    if array.dtype != dtype and array.dtype.kind in "biuf":
        array = array.astype(dtype)
    return np.require(array, requirements=["C", "W"])
