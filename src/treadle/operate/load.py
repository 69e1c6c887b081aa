"""Open an MLflow model directory: verify its files, read `MLmodel`, load by the native library.

scikit-learn (skops), XGBoost, LightGBM and ONNX are loaded natively, MLflow is not imported;
everything else falls back to `mlflow.pyfunc` where MLflow is installed. What a loader gives answers
as the directory's own pyfunc does, `predict_fn` included.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from treadle.base import digest, trust
from treadle.base.errors import MissingExtra, Refused, StateCorrupt, UsageError
from treadle.operate import signature as signatures
from treadle.operate.signature import Signature

Array = np.ndarray[Any, Any]
Loaded = tuple[Any, Callable[[Any, Mapping[str, Any]], Any]]
"""The library's model object, and its function: data and params → what the library returns."""

_SKLEARN_FUNCTIONS = {"predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba"}
_PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle")


@dataclass(frozen=True)
class Opened:
    """A model directory, opened."""

    flavor: str
    signature: Signature
    function: str
    """`predict`, `predict_proba` …: the pyfunc's `predict_fn`."""
    native: Any
    call: Callable[[Any, Mapping[str, Any]], Any]
    content: str
    """Digest of the directory, where the files were verified, else empty."""


def open_folder(
    folder: Path, *, files: Mapping[str, str] | None = None, trust_pickle: bool = False
) -> Opened:
    """Verify and load a model directory: see `model.load`."""
    content = verify(folder, files) if files is not None else ""
    document = read_mlmodel(folder)
    flavors = document.get("flavors") or {}
    signature = signatures.read(document.get("signature"))
    told = _treadle_json(folder)
    if signature.tensors and told.get("features"):
        # Treadle's ONNX models are tensors to MLflow, but their columns have names and an order.
        fields = tuple(
            signatures.Field(f["name"], f["type"], f["required"]) for f in told["features"]
        )
        signature = signatures.Signature(
            fields, signature.outputs, signature.params, signature.parameters
        )
    pyfunc = flavors.get("python_function") or {}
    function = str(pyfunc.get("predict_fn") or "predict")
    code = pyfunc.get("code")
    if code:
        _trusted(trust_pickle, f"the model brings its own code ({code}/)")
        sys.path.insert(0, str(_inside(folder, str(code))))
    for flavor, loader in _LOADERS.items():
        if flavor in flavors:
            conf = {**(flavors[flavor] or {}), "treadle_output": told.get("output")}
            native, call = loader(folder, conf, function, trust_pickle)
            return Opened(flavor, signature, function, native, call, content)
    if not pyfunc:
        raise UsageError(
            f"the MLmodel file knows no python_function: {', '.join(flavors) or 'none'}"
        )
    native, call = _load_pyfunc(folder, pyfunc, trust_pickle)
    return Opened("pyfunc", signature, function, native, call, content)


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """The MLmodel file as plain values. UsageError where there is none or it is no YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = (folder / "MLmodel").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is no model directory: it has no MLmodel file",
            hint="name a directory that MLflow or Treadle saved a model in",
        ) from None
    try:
        document = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise UsageError(f"{folder / 'MLmodel'} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{folder / 'MLmodel'} is no mapping")
    return document


def _treadle_json(folder: Path) -> dict[str, Any]:
    """What Treadle's own directories say beyond MLflow's words: named features, the one output."""
    import json

    try:
        told = json.loads((folder / "treadle.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) and told.get("format") == 1 else {}


def verify(folder: Path, files: Mapping[str, str]) -> str:
    """The digest of the directory, if every file is what `files` says. StateCorrupt otherwise."""
    content, found = digest.digest_tree(folder)
    for name in sorted(files.keys() | found.keys()):
        if name not in found:
            raise StateCorrupt(f"the model directory lacks {name}")
        if name not in files:
            raise StateCorrupt(f"the model directory holds {name}, which does not belong to it")
        if found[name] != files[name]:
            raise StateCorrupt(
                f"{name} of the model is not what was released: wanted "
                f"{digest.short(files[name])}, found {digest.short(found[name])}"
            )
    return content


def input_example(folder: Path) -> bytes | None:
    """The directory's input example as a body for `/invocations`, or None."""
    import json

    name = (read_mlmodel(folder).get("saved_input_example_info") or {}).get("artifact_path")
    serving = folder / "serving_input_example.json"
    if serving.is_file():
        return serving.read_bytes()
    if not name or not _inside(folder, str(name)).is_file():
        return None
    value = json.loads(_inside(folder, str(name)).read_bytes())
    if isinstance(value, dict) and "data" in value:
        return json.dumps({"dataframe_split": value}).encode()
    if isinstance(value, dict) and set(value) == {"inputs"}:
        return json.dumps(value).encode()
    return json.dumps({"inputs": value}).encode()


def _inside(folder: Path, name: str) -> Path:
    """A file that MLmodel names, which must lie in the directory."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise Refused(f"the MLmodel file names {name}, which lies outside the model directory")
    return path


def _trusted(trust_pickle: bool, what: str) -> None:
    if not trust_pickle:
        raise Refused(
            f"{what}: loading it runs code that came with the model",
            hint="`trust: pickle` in treadle.yaml (serve: --trust-pickle) allows it; or save the "
            "model in a safe format: skops, XGBoost JSON, LightGBM text, ONNX",
        )


def _skops_load(path: Path, trust_pickle: bool) -> Any:
    try:
        skops_io = trust.skops_io()
    except ImportError:
        raise MissingExtra("skops", "sklearn", "a scikit-learn model") from None
    types = skops_io.get_untrusted_types(file=path)
    refused = [name for name in types if not trust.allowed(name)]
    if refused:
        _trusted(trust_pickle, f"the model holds types off the allow-list: {', '.join(refused)}")
    return skops_io.load(path, trusted=types)


def _unpickle(path: Path, form: str, trust_pickle: bool) -> Any:
    _trusted(trust_pickle, f"{path.name} is a pickle")
    if form == "joblib" or path.suffix == ".joblib":
        import joblib

        return joblib.load(path)
    import pickle

    with path.open("rb") as file:
        return pickle.load(file)


def _load_sklearn_file(path: Path, form: str | None, trust_pickle: bool) -> Any:
    if form == "skops" or path.suffix == ".skops":
        return _skops_load(path, trust_pickle)
    return _unpickle(path, form or "pickle", trust_pickle)


def _load_sklearn(folder: Path, conf: dict[str, Any], function: str, trust_pickle: bool) -> Loaded:
    path = _inside(folder, str(conf["pickled_model"]))
    estimator = _load_sklearn_file(path, conf.get("serialization_format"), trust_pickle)
    if function not in _SKLEARN_FUNCTIONS or not hasattr(estimator, function):
        raise UsageError(f"predict_fn {function}: {type(estimator).__name__} has none")
    bound = getattr(estimator, function)
    return estimator, lambda data, _params: bound(data)


def _load_xgboost(folder: Path, conf: dict[str, Any], function: str, _trust: bool) -> Loaded:
    try:
        import xgboost
    except ImportError:
        raise MissingExtra("xgboost", "xgboost", "an XGBoost model") from None
    name = str(conf.get("model_class") or "xgboost.core.Booster").rpartition(".")[2]
    kinds = {"Booster", "XGBModel", "XGBClassifier", "XGBRegressor", "XGBRanker",
             "XGBRFClassifier", "XGBRFRegressor"}  # fmt: skip
    if name not in kinds:
        raise UsageError(f"MLmodel names the XGBoost class {name}, which there is not")
    model = getattr(xgboost, name)()
    path = _inside(folder, str(conf["data"]))
    if path.suffix in _PICKLES:
        raise Refused(f"{path.name} is a pickle, no XGBoost model file")
    model.load_model(path)
    if isinstance(model, xgboost.Booster):
        return model, lambda data, _params: model.predict(
            data if isinstance(data, xgboost.DMatrix) else xgboost.DMatrix(data)
        )
    bound = getattr(model, function)
    return model, lambda data, _params: bound(data)


def _load_lightgbm(folder: Path, conf: dict[str, Any], function: str, trust_pickle: bool) -> Loaded:
    try:
        import lightgbm
    except ImportError:
        raise MissingExtra("lightgbm", "lightgbm", "a LightGBM model") from None
    path = _inside(folder, str(conf["data"]))
    if str(conf.get("model_class") or "lightgbm.basic.Booster") == "lightgbm.basic.Booster":
        booster = lightgbm.Booster(model_file=str(path))
        return booster, lambda data, _params: booster.predict(data)
    estimator = _load_sklearn_file(path, conf.get("serialization_format"), trust_pickle)
    bound = getattr(estimator, function)
    return estimator, lambda data, _params: bound(data)


def _load_onnx(folder: Path, conf: dict[str, Any], function: str, _trust: bool) -> Loaded:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime", "onnx", "an ONNX model") from None
    options = onnxruntime.SessionOptions()
    # One model server is one process of its own: threads follow the same setting as OpenMP's.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(
        str(_inside(folder, str(conf["data"]))),
        sess_options=options,
        providers=["CPUExecutionProvider"],
    )
    inputs = [(item.name, item.type) for item in session.get_inputs()]
    names = [item.name for item in session.get_outputs()]
    wanted = [conf["treadle_output"]] if conf.get("treadle_output") in names else names

    def call(data: Any, _params: Mapping[str, Any]) -> Any:
        if isinstance(data, Mapping):
            feed = {name: np.asarray(data[name]) for name, _ in inputs}
        elif len(inputs) > 1 or (hasattr(data, "columns") and list(data.columns) == [inputs[0][0]]):
            # skl2onnx gives each column of a frame an input of shape [rows, 1].
            feed = {name: np.asarray(data[name]).reshape(-1, 1) for name, _ in inputs}
        else:
            feed = {inputs[0][0]: data.to_numpy() if hasattr(data, "to_numpy") else data}
        feed = {name: _onnx_type(feed[name], kind) for name, kind in inputs}
        answers = dict(zip(wanted, session.run(wanted, feed), strict=True))
        if function == "predict_proba" and len(answers) > 1:
            answers = {n: v for n, v in answers.items() if "prob" in n} or answers
        return {n: v.ravel() if getattr(v, "ndim", 1) == 2 and v.shape[1] == 1 else v
                for n, v in answers.items()}  # fmt: skip

    return session, call


def _onnx_type(array: Array, kind: str) -> Array:
    wanted = {"tensor(float)": np.float32, "tensor(double)": np.float64,
              "tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(kind)  # fmt: skip
    if kind == "tensor(string)":
        return array.astype(object)
    return array if wanted is None else np.ascontiguousarray(array, dtype=wanted)


def _load_pyfunc(folder: Path, conf: dict[str, Any], trust_pickle: bool) -> Loaded:
    _trusted(trust_pickle, f"the model is loaded by {conf.get('loader_module', 'python_function')}")
    try:
        import mlflow.pyfunc
    except ImportError:
        raise MissingExtra("mlflow", "mlflow", "a model of MLflow's python_function") from None
    model = mlflow.pyfunc.load_model(str(folder))
    return model, lambda data, params: model.predict(data, params=dict(params) or None)


_LOADERS: dict[str, Callable[[Path, dict[str, Any], str, bool], Loaded]] = {
    "sklearn": _load_sklearn,
    "xgboost": _load_xgboost,
    "lightgbm": _load_lightgbm,
    "onnx": _load_onnx,
}
