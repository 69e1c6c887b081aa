"""Load an MLflow model directory by the model's own library, and predict with it.

scikit-learn (skops), XGBoost, LightGBM and ONNX are loaded natively from the `MLmodel` file, MLflow
is not imported; everything else falls back to `mlflow.pyfunc` where MLflow is installed. Answers are
those of the directory's own pyfunc, `predict_fn` included.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.base import digest, trust
from treadle.base.errors import MissingExtra, Refused, StateCorrupt, TreadleError, UsageError
from treadle.operate import signature as signatures
from treadle.operate.query import Query
from treadle.operate.signature import Signature, Values, WrongInput

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

_SKLEARN_FUNCTIONS = {"predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba"}
_PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle")


@dataclass(frozen=True)
class Prepared:
    """A query made to fit the signature: what the model is called with, and what came along."""

    data: Any
    """A DataFrame, an array or a dict of arrays."""
    rows: int
    extra: dict[str, Values] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class LoadedModel:
    """A model that answers. Not thread-safe: the server calls it from one thread."""

    folder: Path
    flavor: str
    signature: Signature
    function: str
    """`predict`, `predict_proba` …: the pyfunc's `predict_fn`."""
    call: Callable[[Any, Mapping[str, Any]], Any]
    """The library's own function: data and params → whatever the library returns."""
    native: Any
    """The library's model object, or the pyfunc."""
    content: str = ""
    """Digest of the directory, where the files were verified."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the input columns in the model's order; empty without a signature."""
        return self.signature.features

    def predict(self, data: pd.DataFrame | Array | Mapping[str, Values]) -> Array:
        """Predictions, one row (or one value) a row, of a frame, a matrix or columns by name.

        Columns are put in order and converted to the signature's types (see `signature`); unknown
        columns are ignored. Of a model with several outputs it is the one that `predict_fn` asks
        for, else the first. Raises WrongInput.
        """
        outputs = self.answer(self.prepare(query_of(data)))
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        wanted = "prob" if "proba" in self.function else ""
        return next(
            (v for name, v in outputs.items() if wanted in name), next(iter(outputs.values()))
        )

    def predict_frame(self, frame: pd.DataFrame) -> Array:
        """The same as `predict`, by the name that the gates use."""
        return self.predict(frame)

    def prepare(self, query: Query) -> Prepared:
        """Check a query against the signature and convert it. Raises WrongInput."""
        if query.params and not self.signature.params:
            raise WrongInput("params", "none (this model takes no parameters)", "parameters")
        unknown = [name for name in query.params if name not in self.signature.params]
        if unknown:
            raise WrongInput(
                "params", f"some of {', '.join(self.signature.params)}", "another parameter"
            )
        if query.rows == 0:
            return Prepared(None, 0, params=query.params)
        if self.signature.tensors:
            return Prepared(self._tensors(query), query.rows, params=query.params)
        return self._columns(query)

    def answer(self, prepared: Prepared) -> dict[str, Array]:
        """Call the model: output name → array with one row a row. No call for 0 rows."""
        if prepared.rows == 0:
            names = [f.name for f in self.signature.outputs] or [self.function]
            return {names[0]: np.empty(0)}
        raw = self.call(prepared.data, prepared.params)
        outputs = _outputs(raw, self._output_name())
        for name, values in outputs.items():
            if values.shape[:1] != (prepared.rows,):
                raise TreadleError(
                    f"the model gave {values.shape[0] if values.ndim else 'one value'} for "
                    f"{name} where {prepared.rows} rows were asked"
                )
        return outputs

    def _output_name(self) -> str:
        outputs = self.signature.outputs
        named = len(outputs) == 1 and outputs[0].name != "output"
        return outputs[0].name if named else self.function

    def _columns(self, query: Query) -> Prepared:
        import pandas as pd

        fields = self.signature.inputs
        columns = query.columns
        if columns is None:
            columns = _named(query, [f.name for f in fields])
        if not fields:  # no signature: what comes is what the model sees
            frame = pd.DataFrame(dict(columns))
            return Prepared(frame, query.rows, params=query.params)
        missing = [f.name for f in fields if f.required and f.name not in columns]
        if missing:
            word = "a column of this name" if len(missing) == 1 else "columns of these names"
            raise WrongInput(", ".join(missing), word, "none")
        converted = {
            f.name: signatures.convert(f.name, f.type, columns[f.name])
            for f in fields
            if f.name in columns
        }
        names = set(self.features)
        extra = {name: values for name, values in columns.items() if name not in names}
        # copy=False: every column is ours; pandas still may not alias what the client sent.
        frame = pd.DataFrame(converted, copy=False)
        return Prepared(frame, query.rows, extra, query.params)

    def _tensors(self, query: Query) -> Any:
        fields = self.signature.inputs
        if query.tensors is not None:
            given = dict(query.tensors)
            if len(fields) == 1 and len(given) == 1:
                given = {fields[0].name: next(iter(given.values()))}
        elif len(fields) == 1 and query.columns is not None:
            given = {fields[0].name: _matrix(query)}
        else:
            given = {name: np.asarray(values) for name, values in (query.columns or {}).items()}
        tensors = {}
        for spec in fields:
            if spec.name not in given:
                raise WrongInput(spec.name, "a tensor", "none of that name")
            tensors[spec.name] = _fit_tensor(spec, given[spec.name])
        lengths = {array.shape[0] for array in tensors.values()}
        if len(lengths) > 1:
            raise WrongInput("inputs", "tensors of equal first dimension", "different ones")
        return next(iter(tensors.values())) if len(fields) == 1 else tensors


def query_of(data: pd.DataFrame | Array | Mapping[str, Values]) -> Query:
    """A query from what a Python caller has."""
    if isinstance(data, np.ndarray):
        return Query(len(data), tensors={"": data})
    if isinstance(data, Mapping):
        return Query(len(next(iter(data.values()), ())), columns=data)
    return Query(len(data), columns=signatures.frame_columns(data))


def _named(query: Query, names: list[str]) -> dict[str, Values]:
    """Columns of a query that came as tensors: by name, or one matrix by position."""
    tensors = dict(query.tensors or {})
    if len(tensors) == 1 and not set(tensors) & set(names):
        matrix = next(iter(tensors.values()))
        if matrix.ndim == 1 and len(names) == 1:
            matrix = matrix.reshape(-1, 1)
        if matrix.ndim == 2 and not names:
            names = [str(number) for number in range(matrix.shape[1])]
        if matrix.ndim != 2 or matrix.shape[1] != len(names):
            shape = "x".join(str(n) for n in matrix.shape)
            raise WrongInput(
                "input",
                f"{len(names)} named columns, or a matrix of as many",
                f"values of shape {shape}",
            )
        return {
            name: matrix[:, i].tolist() if matrix.dtype == object else matrix[:, i]
            for i, name in enumerate(names)
        }
    columns: dict[str, Values] = {}
    for name, tensor in tensors.items():
        flat = tensor[:, 0] if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor
        if flat.ndim != 1:
            raise WrongInput(
                name, "a column: shape [rows] or [rows, 1]", f"{tensor.ndim} dimensions"
            )
        columns[name] = flat.tolist() if flat.dtype == object else flat
    return columns


def _matrix(query: Query) -> Array:
    columns = query.columns or {}
    if not columns:
        return np.empty((0, 0))
    try:
        return np.column_stack([np.asarray(values) for values in columns.values()])
    except ValueError:
        raise WrongInput("input", "columns of equal length", "different lengths") from None


def _fit_tensor(spec: signatures.Field, array: Array) -> Array:
    shape = spec.shape or (-1,)
    wanted = "[" + ", ".join(str(n) for n in shape) + "]"
    if array.ndim != len(shape) or any(
        want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)
    ):
        raise WrongInput(spec.name, f"shape {wanted}", f"shape {list(array.shape)}")
    target = np.dtype(spec.dtype or "float64")
    if array.dtype == target:
        return array
    if array.dtype == object:
        kinds = set(map(type, array.ravel().tolist()))
        numbers = {int, float, type(None)} if target.kind == "f" else {int}
        fits = {"f": numbers, "i": numbers, "u": numbers, "b": {bool}}.get(
            target.kind, {str, bytes}
        )
        if not kinds <= fits:
            raise WrongInput(spec.name, f"values of type {target.name}", "values of another type")
    elif target.kind in "iub" and array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = array.astype(target)
        if not np.array_equal(whole, array):
            raise WrongInput(spec.name, f"values of type {target.name}", "a number out of it")
        return whole
    elif (array.dtype.kind in "USO") != (target.kind in "USO") or (
        (array.dtype.kind == "b") != (target.kind == "b")
    ):
        raise WrongInput(spec.name, f"values of type {target.name}", "values of another type")
    if target.kind in "iu" and array.dtype.kind in "iu" and array.size:
        info = np.iinfo(target)
        if int(array.min()) < info.min or int(array.max()) > info.max:
            raise WrongInput(
                spec.name, f"values of type {target.name}", "a number beyond its range"
            )
    try:
        return array.astype(target)
    except (ValueError, TypeError, OverflowError):
        raise WrongInput(
            spec.name, f"values of type {target.name}", "values that do not convert"
        ) from None


def _outputs(raw: Any, name: str) -> dict[str, Array]:
    """Whatever a library returns, as named arrays."""
    if isinstance(raw, Mapping):
        return {str(key): _array(value) for key, value in raw.items()}
    if hasattr(raw, "columns") and hasattr(raw, "to_numpy"):  # a DataFrame
        return {str(column): raw[column].to_numpy() for column in raw.columns}
    if hasattr(raw, "toarray"):  # a sparse matrix
        raw = raw.toarray()
    return {name: _array(raw)}


def _array(value: Any) -> Array:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        # skl2onnx's ZipMap: one dict of class → probability a row.
        keys = sorted(value[0])
        return np.array([[row[key] for key in keys] for row in value])
    return np.asarray(value)


# ---- loading -------------------------------------------------------------------------------------


def load(
    folder: Path, *, files: Mapping[str, str] | None = None, trust_pickle: bool = False
) -> LoadedModel:
    """Load a model directory.

    `files` (relative path → digest) is compared with what lies there: a file that differs, is
    missing or is too many raises StateCorrupt before anything of the model is read. Formats that
    can run code when loaded (pickle, cloudpickle, joblib, pyfunc code) raise Refused unless
    `trust_pickle`; skops types are held against our own allow-list. MissingExtra names the library
    that the model needs.
    """
    folder = Path(folder)
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
        signature = signatures.Signature(fields, signature.outputs, signature.params)
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
            return LoadedModel(folder, flavor, signature, function, call, native, content)
    if not pyfunc:
        raise UsageError(
            f"the MLmodel file knows no python_function: {', '.join(flavors) or 'none'}"
        )
    native, call = _load_pyfunc(folder, pyfunc, trust_pickle)
    return LoadedModel(folder, "pyfunc", signature, function, call, native, content)


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


Loaded = tuple[Any, Callable[[Any, Mapping[str, Any]], Any]]


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
