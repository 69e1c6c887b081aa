"""LightGBM and XGBoost by their C interfaces: nothing of their Python packages is imported.

Importing those packages imports scikit-learn, SciPy, pandas and pyarrow wherever these are installed:
a second and a half, and more memory than a server should have; all that for a function of the shared
library that lies in the package. Both libraries document their C interface and keep it stable
(LightGBM: C_API.html, XGBoost: c.html). What it cannot answer as the Python package would (pandas
categories, linear boosters, models of another column order, parameters of a request) is left to the
Python package, which is then imported when the model is loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from treadle.base.errors import MissingExtra, Refused, TreadleError, UsageError
from treadle.operate.model import sklearn_model
from treadle.operate.model.engine import Call, Engine, common_type
from treadle.operate.model.signature import Signature, WrongInput

Array = np.ndarray[Any, Any]
_PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle")


class LibraryError(TreadleError):
    """A library's own complaint."""


def _shared_library(package: str, file: str) -> ctypes.CDLL | None:
    """The library inside an installed package, found without importing the package.

    None: it does not lie where it is expected (a package built otherwise).
    """
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in (Path(place) / "lib" / file, Path(place) / file):
            if path.is_file():
                return ctypes.CDLL(str(path))
    return None


# ---- LightGBM ------------------------------------------------------------------------------------


def load_lightgbm(
    folder: Path, conf: Mapping[str, Any], function: str, trust_pickle: bool, signature: Signature
) -> Engine:
    """The model of an MLflow directory of LightGBM's flavor; `conf` is its section."""
    path = folder / str(conf["data"])
    if str(conf.get("model_class") or "lightgbm.basic.Booster") == "lightgbm.basic.Booster":
        if function != "predict":
            raise UsageError(f"predict_fn {function}: a LightGBM Booster has predict alone")
        return lightgbm(path, signature)
    if importlib.util.find_spec("lightgbm") is None:
        raise MissingExtra("lightgbm", "lightgbm", "a LightGBM model")
    form = conf.get("serialization_format")
    bound = getattr(sklearn_model.load_file(path, form, trust_pickle), function)
    return Engine(bound.__self__, lambda data, _params: bound(data))


def lightgbm(path: Path, signature: Signature) -> Engine:
    """A Booster from LightGBM's own text file."""
    if importlib.util.find_spec("lightgbm") is None:
        raise MissingExtra("lightgbm", "lightgbm", "a LightGBM model")
    # As Booster.predict makes of a frame: at least single precision.
    matrix = common_type(signature, np.float32)
    tensor = len(signature.inputs) == 1 and signature.tensors
    library = _shared_library("lightgbm", "lib_lightgbm.so") if matrix or tensor else None
    if library is not None and not _pandas_categories(path):
        booster = LightGBM(library, path)
        if booster.width == len(signature.inputs) or tensor:
            return Engine(booster, _either(booster.predict, lambda: _python_lightgbm(path)), matrix)
    bound = _python_lightgbm(path)
    return Engine(bound.__self__, lambda data, _params: bound(data))  # type: ignore[attr-defined]


def _python_lightgbm(path: Path) -> Callable[[Any], Any]:
    import lightgbm as package

    bound: Callable[[Any], Any] = package.Booster(model_file=str(path)).predict
    return bound


def _pandas_categories(path: Path) -> bool:
    """Whether the last line of the file, which the Python package writes, lists categories."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        tail = file.read()
    _, found, text = tail.rpartition(b"pandas_categorical:")
    return not found or text.strip() not in (b"[]", b"null")


class LightGBM:
    """A Booster that predicts what `lightgbm.Booster.predict` does of a matrix."""

    def __init__(self, library: ctypes.CDLL, path: Path) -> None:
        self._library = library
        library.LGBM_GetLastError.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p()
        number = ctypes.c_int()
        self._check(
            library.LGBM_BoosterCreateFromModelfile(
                str(path).encode(), ctypes.byref(number), ctypes.byref(self._handle)
            )
        )
        self._check(library.LGBM_BoosterGetNumFeature(self._handle, ctypes.byref(number)))
        self.width = number.value
        """Number of features."""
        self._check(library.LGBM_BoosterGetNumClasses(self._handle, ctypes.byref(number)))
        self.outputs = number.value
        """Values that are predicted for each row."""
        self._got = ctypes.c_int64()
        self._row = ctypes.c_void_p()  # made at the first single row

    def predict(self, data: Array) -> Array:
        """[rows] predictions, or [rows, outputs] where there are several."""
        if data.ndim != 2 or data.shape[1] != self.width:
            raise WrongInput("inputs", f"rows of {self.width} numbers", f"shape {data.shape}")
        rows = len(data)
        if data.dtype not in (np.float32, np.float64):
            data = data.astype(np.float32)  # as Booster.predict does
        data = np.ascontiguousarray(data)
        made = np.empty(rows * self.outputs, dtype=np.float64)
        if rows == 1 and data.dtype == np.float64:
            self._single(data, made)
        else:
            self._check(
                self._library.LGBM_BoosterPredictForMat(
                    self._handle, ctypes.c_void_p(data.ctypes.data),
                    ctypes.c_int(int(data.dtype == np.float64)), ctypes.c_int32(rows),
                    ctypes.c_int32(self.width), ctypes.c_int(1), ctypes.c_int(0), ctypes.c_int(0),
                    ctypes.c_int(-1), b"", ctypes.byref(self._got),
                    ctypes.c_void_p(made.ctypes.data),
                )
            )  # fmt: skip
        if self._got.value != made.size:
            raise LibraryError(f"LightGBM gave {self._got.value} values for {rows} rows")
        return made if self.outputs == 1 else made.reshape(rows, self.outputs)

    def _single(self, data: Array, made: Array) -> None:
        """One row, by the function that keeps what it needs from call to call."""
        if not self._row:
            self._check(
                self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                    self._handle, ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(-1),
                    ctypes.c_int(1), ctypes.c_int32(self.width), b"", ctypes.byref(self._row),
                )
            )  # fmt: skip
        self._check(
            self._library.LGBM_BoosterPredictForMatSingleRowFast(
                self._row, ctypes.c_void_p(data.ctypes.data), ctypes.byref(self._got),
                ctypes.c_void_p(made.ctypes.data),
            )
        )  # fmt: skip

    def _check(self, code: int) -> None:
        if code:
            raise LibraryError(f"LightGBM: {self._library.LGBM_GetLastError().decode()}")

    def __del__(self) -> None:
        """Free what the library holds."""
        if self.__dict__.get("_row"):
            self._library.LGBM_FastConfigFree(self._row)
        if self.__dict__.get("_handle"):
            self._library.LGBM_BoosterFree(self._handle)


# ---- XGBoost -------------------------------------------------------------------------------------

_CLASSES = {"Booster", "XGBModel", "XGBClassifier", "XGBRegressor", "XGBRanker",
            "XGBRFClassifier", "XGBRFRegressor"}  # fmt: skip


def load_xgboost(
    folder: Path, conf: Mapping[str, Any], function: str, _trust: bool, signature: Signature
) -> Engine:
    """The model of an MLflow directory of XGBoost's flavor; `conf` is its section."""
    name = str(conf.get("model_class") or "xgboost.core.Booster").rpartition(".")[2]
    if name not in _CLASSES:
        raise UsageError(f"MLmodel names the XGBoost class {name}, which there is not")
    path = folder / str(conf["data"])
    if path.suffix in _PICKLES:
        raise Refused(f"{path.name} is a pickle, no XGBoost model file")
    return xgboost(path, name, function, signature)


def xgboost(path: Path, name: str, function: str, signature: Signature) -> Engine:
    """A Booster, or one of the classes of the scikit-learn interface, from XGBoost's own file."""
    if importlib.util.find_spec("xgboost") is None:
        raise MissingExtra("xgboost", "xgboost", "an XGBoost model")
    matrix = common_type(signature, np.float32)
    tensor = len(signature.inputs) == 1 and signature.tensors
    plain = not signature.params and function in ("predict", "predict_proba")
    library = _shared_library("xgboost", "libxgboost.so") if plain and (matrix or tensor) else None
    if library is not None:
        booster = XGBoost(library, path, every=name == "Booster")
        finish = booster.finish(name, function)
        if finish is not None and (tensor or booster.takes(signature.features)):
            return Engine(
                booster,
                _either(
                    lambda data: finish(booster.predict(data)),
                    lambda: _python_xgboost(path, name, function),
                ),
                matrix,
            )
    bound = _python_xgboost(path, name, function)

    def call(data: Any, params: Mapping[str, Any]) -> Any:
        return bound(data, **params)

    return Engine(bound, call)


def _python_xgboost(path: Path, name: str, function: str) -> Callable[..., Any]:
    """The function of the Python package, which takes frames and the parameters that it knows."""
    import xgboost as package

    model = getattr(package, name)()
    model.load_model(path)
    bound = getattr(model, function)
    known = frozenset(inspect.signature(bound).parameters)

    def call(data: Any, **params: Any) -> Any:
        kept = {key: value for key, value in params.items() if key in known}
        if name == "Booster" and not isinstance(data, package.DMatrix):
            data = package.DMatrix(data)
        return bound(data, **kept)

    return call


class XGBoost:
    """A booster of trees that predicts what `inplace_predict` does of a matrix."""

    def __init__(self, library: ctypes.CDLL, path: Path, *, every: bool) -> None:
        self._library = library
        library.XGBGetLastError.restype = ctypes.c_char_p
        self._every = every
        """Whether it answers as Booster.predict: by all trees, and refusing infinities."""
        self._handle = ctypes.c_void_p()
        self._check(library.XGBoosterCreate(None, ctypes.c_uint64(0), ctypes.byref(self._handle)))
        self._check(library.XGBoosterLoadModel(self._handle, str(path).encode()))
        number = ctypes.c_uint64()
        self._check(library.XGBoosterGetNumFeature(self._handle, ctypes.byref(number)))
        self.width = number.value
        """Number of features."""
        text = ctypes.c_char_p()
        self._check(
            library.XGBoosterSaveJsonConfig(self._handle, ctypes.byref(number), ctypes.byref(text))
        )
        learner = json.loads(text.value or b"{}")["learner"]
        self.objective = str(learner["objective"]["name"])
        self.trees = learner["gradient_booster"]["name"] != "gblinear"
        self.classes = int(learner["learner_model_param"]["num_class"])
        self.targets = int(learner["learner_model_param"].get("num_target", 1))
        best = self._attribute("best_iteration")
        last = 0 if every or best is None else int(best) + 1
        self._config = json.dumps({
            "type": 0, "training": False, "iteration_begin": 0, "iteration_end": last,
            "missing": float("nan"), "strict_shape": False, "cache_id": 0,
        }).encode()  # fmt: skip
        self._shape = ctypes.POINTER(ctypes.c_uint64)()
        self._dims = ctypes.c_uint64()
        self._values = ctypes.POINTER(ctypes.c_float)()

    def takes(self, features: tuple[str, ...]) -> bool:
        """Whether these are its columns, in its order, and no categories among them."""
        names, kinds = self._told("feature_name"), self._told("feature_type")
        return (
            self.trees
            and self.width == len(features)
            and names in ((), features)
            and "c" not in kinds
        )

    def finish(self, name: str, function: str) -> Callable[[Array], Array] | None:
        """What the scikit-learn interface makes of a prediction; None: not known here."""
        classifier = name.endswith("Classifier")
        if not self.trees or "c" in self._told("feature_type"):
            return None
        if not classifier:
            return (lambda made: made) if function == "predict" else None
        if self.targets > 1 or not self.objective.startswith(("binary:logistic", "multi:softprob")):
            return None
        several = self.classes > 2
        if function == "predict_proba":
            return (lambda made: made) if several else _two
        return (lambda made: made.argmax(axis=1)) if several else _label

    def predict(self, data: Array) -> Array:
        """[rows] predictions, or [rows, outputs] where there are several, single precision."""
        if data.ndim != 2 or data.shape[1] != self.width:
            raise WrongInput("inputs", f"rows of {self.width} numbers", f"shape {data.shape}")
        if data.dtype.kind not in "fiu":
            raise WrongInput("inputs", "numbers", "values of another type")
        if self._every:
            _finite(data)
        data = np.ascontiguousarray(data)
        described = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"%s","version":3}' % (
            data.ctypes.data, len(data), self.width, data.dtype.str.encode()
        )  # fmt: skip
        self._check(
            self._library.XGBoosterPredictFromDense(
                self._handle, described, self._config, None, ctypes.byref(self._shape),
                ctypes.byref(self._dims), ctypes.byref(self._values),
            )
        )  # fmt: skip
        shape = tuple(self._shape[: self._dims.value])
        # The values lie in the library's own memory until the next call.
        made = np.empty(shape, dtype=np.float32)
        ctypes.memmove(made.ctypes.data, self._values, made.nbytes)
        return made

    def _told(self, what: str) -> tuple[str, ...]:
        number = ctypes.c_uint64()
        texts = ctypes.POINTER(ctypes.c_char_p)()
        self._check(
            self._library.XGBoosterGetStrFeatureInfo(
                self._handle, what.encode(), ctypes.byref(number), ctypes.byref(texts)
            )
        )
        return tuple(texts[at].decode() for at in range(number.value))

    def _attribute(self, name: str) -> str | None:
        text, there = ctypes.c_char_p(), ctypes.c_int()
        self._check(
            self._library.XGBoosterGetAttr(
                self._handle, name.encode(), ctypes.byref(text), ctypes.byref(there)
            )
        )
        return (text.value or b"").decode() if there.value else None

    def _check(self, code: int) -> None:
        if code:
            raise LibraryError(f"XGBoost: {self._library.XGBGetLastError().decode()}")

    def __del__(self) -> None:
        """Free what the library holds."""
        if self.__dict__.get("_handle"):
            self._library.XGBoosterFree(self._handle)


def _two(made: Array) -> Array:
    """Probabilities of both classes of those of the second."""
    return np.vstack((1.0 - made, made)).transpose()


def _label(made: Array) -> Array:
    return (made > 0.5).astype(np.int64)


def _finite(data: Array) -> None:
    """Refuse what is infinite in single precision, as a DMatrix does."""
    if data.dtype.kind != "f":
        return
    largest = np.finfo(np.float32).max
    outside = np.abs(data) > largest  # a double just above it would round down to it: see below
    if outside.any():
        with np.errstate(over="ignore"):
            outside = np.isinf(data.astype(np.float32))
        if outside.any():
            row = int(outside.any(axis=1).argmax())
            raise WrongInput(f"row {row}", "numbers in the range of single precision", "another")


def _either(quick: Callable[[Array], Any], python: Callable[[], Callable[..., Any]]) -> Call:
    """Matrices go to the library, frames to the Python package, imported when the first one comes."""
    slow: list[Callable[..., Any]] = []

    def call(data: Any, _params: Mapping[str, Any]) -> Any:
        if type(data) is np.ndarray:
            return quick(data)
        if not slow:
            slow.append(python())
        return slow[0](data)

    return call
