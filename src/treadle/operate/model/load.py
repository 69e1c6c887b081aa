"""Open an MLflow model directory: verify its files, read `MLmodel`, load by the native library.

scikit-learn (skops), XGBoost, LightGBM, ONNX and PyTorch are loaded natively, MLflow is not
imported; everything else falls back to `mlflow.pyfunc` where MLflow is installed. What a loader
gives answers as the directory's own pyfunc does, `predict_fn` included.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from treadle.base.errors import MissingExtra, UsageError
from treadle.operate.model import signature as signatures
from treadle.operate.model.compiled import replaced
from treadle.operate.model.engine import Engine, common_type
from treadle.operate.model.folder import inside, listed, read_mlmodel, treadle_json, verify
from treadle.operate.model.signature import Signature
from treadle.operate.model.trusted import require_trust

Loader = Callable[[Path, Mapping[str, Any], str, bool, Signature], Engine]
"""Directory, the flavor's section of MLmodel, predict_fn, whether pickles are trusted, signature."""


@dataclass(frozen=True)
class Opened:
    """A model directory, opened."""

    flavor: str
    signature: Signature
    function: str
    """`predict`, `predict_proba` …: the pyfunc's `predict_fn`."""
    engine: Engine
    content: str
    """Digest of the directory, where the files were verified, else empty."""


def open_folder(
    folder: Path,
    *,
    files: Mapping[str, str] | None = None,
    trust_pickle: bool = False,
    compiled: bool = False,
) -> Opened:
    """Verify and load a model directory: see `model.load`."""
    content = verify(folder, files) if files is not None else ""
    if files is None:
        listed(folder)
    document = read_mlmodel(folder)
    flavors = document.get("flavors") or {}
    told = treadle_json(folder)
    signature = _signature(document, told)
    pyfunc = flavors.get("python_function") or {}
    function = str(pyfunc.get("predict_fn") or "predict")
    code = pyfunc.get("code")
    if code:
        require_trust(trust_pickle, f"the model brings its own code ({code}/)")
        sys.path.insert(0, str(inside(folder, str(code))))
    for flavor, (place, key) in _FLAVORS.items():
        if flavor in flavors:
            conf = {**(flavors[flavor] or {}), "treadle_output": told.get("output")}
            if key in conf:
                inside(folder, str(conf[key]))
            original = partial(_load, place, folder, conf, function, trust_pickle, signature)
            engine = replaced(folder, signature, original) if compiled else None
            engine = engine or original()
            return Opened(flavor, signature, function, engine, content)
    if not pyfunc:
        raise UsageError(
            f"the MLmodel file knows no python_function: {', '.join(flavors) or 'none'}"
        )
    return Opened("pyfunc", signature, function, load_pyfunc(folder, pyfunc, trust_pickle), content)


def _signature(document: Mapping[str, Any], told: Mapping[str, Any]) -> Signature:
    signature = signatures.read(document.get("signature"))
    if not (signature.tensors and told.get("features")):
        return signature
    # Treadle's ONNX models are tensors to MLflow, but their columns have names and an order.
    fields = tuple(signatures.Field(f["name"], f["type"], f["required"]) for f in told["features"])
    return Signature(fields, signature.outputs, signature.params, signature.parameters)


_FLAVORS = {
    "sklearn": ("sklearn_model:load", "pickled_model"),
    "xgboost": ("boosters:load_xgboost", "data"),
    "lightgbm": ("boosters:load_lightgbm", "data"),
    "onnx": ("onnx_model:load", "data"),
    "pytorch": ("load:load_torch", "model_data"),
}
"""Flavor of MLflow → its loader (imported when it is needed) and the key that names its file."""


def _load(place: str, *arguments: Any) -> Engine:
    module, _, name = place.partition(":")
    loader: Loader = getattr(import_module(f"treadle.operate.model.{module}"), name)
    return loader(*arguments)


def load_torch(
    folder: Path, conf: Mapping[str, Any], function: str, trust_pickle: bool, signature: Signature
) -> Engine:
    """A PyTorch model, which takes the columns' numbers as one matrix anyway."""
    from treadle.operate.model import torch_model

    names = () if signature.tensors else signature.features
    module, call = torch_model.load(folder, conf, function, trust_pickle, names)
    return Engine(module, call, common_type(signature), columns=bool(names))


def load_pyfunc(folder: Path, conf: Mapping[str, Any], trust_pickle: bool) -> Engine:
    """Any model, by the pyfunc of MLflow or mlflow-skinny."""
    require_trust(
        trust_pickle, f"the model is loaded by {conf.get('loader_module', 'python_function')}"
    )
    try:
        import mlflow.pyfunc
    except ImportError as error:
        # mlflow-skinny is there without the pandas that its pyfunc needs.
        lacking = (error.name or "mlflow").partition(".")[0]
        raise MissingExtra(lacking, "mlflow", "a model of MLflow's python_function") from None
    model = mlflow.pyfunc.load_model(str(folder))
    return Engine(model, lambda data, params: model.predict(data, params=dict(params) or None))
