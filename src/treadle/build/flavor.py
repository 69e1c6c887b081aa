"""How each kind of model is written: its own safe format where there is one, else with trust.

| value | file | format |
|---|---|---|
| scikit-learn estimators | model.skops | skops, canonical bytes |
| XGBoost (Booster and scikit-learn API) | model.ubj | XGBoost's own |
| LightGBM (Booster and scikit-learn API) | model.lgb | LightGBM's own text |
| onnx.ModelProto | model.onnx | ONNX |
| torch.nn.Module, ExportedProgram | data/model.pt2 | exported program (torch.export), canonical bytes |
| anything with `predict` | model.pkl | pickle, only with `trust: pickle` |

The scikit-learn classes of XGBoost and LightGBM are written as their booster: its `predict` gives
the probabilities (for two classes: of the second), which MLflow's pyfunc of the classifier would
not. What a PyTorch module has to be: `build/exported`.
"""

from __future__ import annotations

import io
import os
import re
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.base.digest import digest, digest_bytes, digest_file
from treadle.base.errors import MissingExtra, PipelineError, Refused, TreadleError
from treadle.base.spec import Task
from treadle.base.trust import allowed, skops_io
from treadle.clients.torch_file import is_torch

Predict = Callable[[Any], Any]
"""A frame of the features → ndarray: (n,) or (n, k)."""


@dataclass(frozen=True)
class Written:
    """A model file and what MLflow must know of it."""

    flavor: str
    file: str
    flavors: Mapping[str, Mapping[str, Any]]
    """MLflow's flavor sections other than python_function."""
    loader: str
    file_key: str
    """How python_function calls the file: model_path or data."""
    predict_fn: str
    """predict or predict_proba."""
    modules: frozenset[str]
    """Import names that loading it needs."""
    predict: Predict
    output: str | None = None
    """ONNX: the output that holds the prediction."""
    inputs: int | None = None
    """ONNX and PyTorch: the width of its one input."""
    matrix: str | None = None
    """ONNX and PyTorch: MLflow feeds it one matrix of this type, not named columns."""
    trusted: tuple[str, ...] = ()
    """Types that skops is told to trust when it loads the file."""
    pickled: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def write(
    model: Any,
    task: Task,
    folder: Path,
    *,
    trust_pickle: bool = False,
    stored: bytes | None = None,
    width: int | None = None,
) -> Written:
    """Write the model's file into `folder`.

    `stored` holds the canonical skops bytes of the model where a step has stored it already,
    `width` is the number of features (a PyTorch module is exported for it).
    Raises Refused where only pickle could hold the model and the project does not trust it, and
    PipelineError for a value that is no model.
    """
    kinds = {
        f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}" for cls in type(model).__mro__
    }
    if "xgboost.Booster" in kinds or "xgboost.XGBModel" in kinds:
        return _xgboost(model, folder)
    if "lightgbm.Booster" in kinds or "lightgbm.LGBMModel" in kinds:
        return _lightgbm(model, folder)
    if "onnx.ModelProto" in kinds or type(model).__name__ == "ModelProto":
        return _onnx(model, folder)
    if is_torch(model):
        from treadle.build import exported

        return exported.write(model, folder, width)
    if not callable(getattr(model, "predict", None)):
        raise PipelineError(
            f"the model result is a {_name(model)}, which cannot predict",
            hint="a model is a scikit-learn, XGBoost or LightGBM estimator, an onnx.ModelProto, a "
            "torch.nn.Module or (with `trust: pickle`) any object with predict(frame)",
        )
    if "sklearn.BaseEstimator" in kinds:
        refused = _sklearn(model, task, folder, stored)
        if isinstance(refused, Written):
            return refused
        reason = refused
    else:
        reason = f"{_name(model)} has no format that is safe to load"
    if not trust_pickle:
        raise Refused(
            f"the model cannot be stored without pickle: {reason}",
            hint="use the library's own classes, or say `trust: pickle` in treadle.yaml: "
            "loading such a model can run any code",
        )
    return _pickle(model, task, folder)


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _method(model: Any, task: Task) -> str:
    proba = task != "regression" and callable(getattr(model, "predict_proba", None))
    return "predict_proba" if proba else "predict"


def _sklearn(model: Any, task: Task, folder: Path, stored: bytes | None) -> Written | str:
    """Written, or why skops cannot hold the model."""
    import sklearn

    from treadle.clients import skops_file

    try:
        data = skops_file.dumps(model) if stored is None else stored
    except MissingExtra:
        raise
    except TreadleError as error:
        return error.message
    schema = _schema(data)
    # What skops trusts by itself depends on how it was imported: all of scikit-learn's classes and
    # all functions are named, so that the list is the same in every process.
    classes = (f"{module}.{name}" for name, module in _CLASSES.findall(schema))
    trusted = tuple(sorted({
        *skops_io().get_untrusted_types(data=data),
        *(name for name in classes if name.startswith("sklearn.")),
        *(f"{module}.{name}" for name, module in _FUNCTIONS.findall(schema)),
    }))  # fmt: skip
    foreign = [name for name in trusted if not allowed(name)]
    if foreign:
        return f"it holds {', '.join(foreign)}"
    (folder / "model.skops").write_bytes(data)
    modules = {name.partition(".")[0] for name in _MODULES.findall(schema)} | {"sklearn", "skops"}
    if getattr(model, "feature_names_in_", None) is not None:
        modules.add("pandas")
    method = _method(model, task)
    return Written(
        "sklearn", "model.skops",
        {"sklearn": {
            "code": None, "pickled_model": "model.skops", "serialization_format": "skops",
            "sklearn_version": sklearn.__version__, "skops_trusted_types": list(trusted),
        }},
        "mlflow.sklearn", "model_path", method, frozenset(modules),
        getattr(model, method), trusted=trusted,
    )  # fmt: skip


_CLASSES = re.compile(r'"__class__":\s*"([\w.]+)",\s*"__module__":\s*"([\w.]+)"')
_FUNCTIONS = re.compile(_CLASSES.pattern + r',\s*"__loader__":\s*"FunctionNode"')
_MODULES = re.compile(r'"__module__":\s*"([\w.]+)"')


def _schema(data: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read("schema.json").decode()


def _xgboost(model: Any, folder: Path) -> Written:
    import math

    import xgboost

    booster = model
    if not isinstance(model, xgboost.Booster):
        missing = model.missing
        if not (isinstance(missing, float) and math.isnan(missing)):
            raise PipelineError(
                f"this {type(model).__name__} takes {missing!r} for a missing value, which XGBoost's "
                "own file does not keep",
                hint="turn such values into NaN before the model, and leave `missing` as it is",
            )
        booster = model.get_booster()
        # The scikit-learn API predicts with the best iteration, a booster with all of them.
        best = getattr(model, "best_iteration", None) if _stopped_early(booster) else None
        if best is not None:
            booster = booster[: best + 1]
    booster.save_model(folder / "model.ubj")

    def predict(frame: Any) -> Any:
        return booster.predict(xgboost.DMatrix(frame), validate_features=True)

    return Written(
        "xgboost", "model.ubj",
        {"xgboost": {
            "code": None, "data": "model.ubj", "model_class": "xgboost.core.Booster",
            "model_format": "ubj", "xgb_version": xgboost.__version__,
        }},
        "mlflow.xgboost", "data", "predict", frozenset({"xgboost", "pandas"}), predict,
    )  # fmt: skip


def _stopped_early(booster: Any) -> bool:
    return booster.attr("best_iteration") is not None


def _lightgbm(model: Any, folder: Path) -> Written:
    import lightgbm

    booster = model if isinstance(model, lightgbm.Booster) else model.booster_
    text = booster.model_to_string()
    (folder / "model.lgb").write_text(text, encoding="utf-8")
    return Written(
        "lightgbm", "model.lgb",
        {"lightgbm": {
            "code": None, "data": "model.lgb", "lgb_version": lightgbm.__version__,
            "model_class": "lightgbm.basic.Booster",
        }},
        "mlflow.lightgbm", "data", "predict", frozenset({"lightgbm", "pandas"}),
        # What the file says is predicted with, not the object: the two must be the same.
        lightgbm.Booster(model_str=text).predict,
    )  # fmt: skip


def _onnx(model: Any, folder: Path) -> Written:
    import onnx

    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", "predicting with an ONNX model") from error
    data = model.SerializeToString(deterministic=True)
    path = folder / "model.onnx"
    path.write_bytes(data)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].type not in _ONNX_INPUTS:
        seen = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
        raise PipelineError(
            f"this ONNX model takes {seen}",
            hint="give one input of floats, a row for each case and a column for each feature",
        )
    dense = [o for o in outputs if o.type in _ONNX_INPUTS]
    if not dense:
        seen = ", ".join(f"{o.name}: {o.type}" for o in outputs)
        raise PipelineError(
            f"this ONNX model gives {seen}, and no tensor of floats",
            hint="convert it without ZipMap: options={'zipmap': False}",
        )
    # A converted classifier gives labels first and probabilities after them.
    output, given, wanted = dense[-1].name, inputs[0].name, _ONNX_INPUTS[inputs[0].type]

    def predict(frame: Any) -> Any:
        return session.run([output], {given: frame.to_numpy().astype(wanted)})[0]

    width = inputs[0].shape[1]
    return Written(
        "onnx", "model.onnx",
        {"onnx": {
            "code": None, "data": "model.onnx", "onnx_session_options": None,
            "onnx_version": onnx.__version__, "providers": ["CPUExecutionProvider"],
        }},
        "mlflow.onnx", "data", "predict", frozenset({"onnxruntime", "onnx"}), predict,
        output=output, inputs=width if isinstance(width, int) else None, matrix="float64",
    )  # fmt: skip


_ONNX_INPUTS = {"tensor(float)": "float32", "tensor(double)": "float64"}


def _pickle(model: Any, task: Task, folder: Path) -> Written:
    """MLflow's scikit-learn flavor, which takes any pickled object that predicts.

    Classes of the project itself are stored by value (cloudpickle), so that the directory can be
    loaded where the project's code is not.
    """
    import pickle

    own = _project_modules()
    path = folder / "model.pkl"
    if own:
        try:
            import cloudpickle  # type: ignore[import-untyped,unused-ignore]
        except ImportError as error:
            raise MissingExtra(
                "cloudpickle", "mlflow", "storing classes of your project"
            ) from error
        data = _by_value(cloudpickle, model, own)
    else:
        data = pickle.dumps(model, protocol=5)
    path.write_bytes(data)
    modules = _pickle_modules(data) | ({"cloudpickle"} if own else set())
    modules -= {module.__name__.partition(".")[0] for module in own}
    if getattr(model, "feature_names_in_", None) is not None:
        modules.add("pandas")
    method = _method(model, task)
    version = sys.modules["sklearn"].__version__ if "sklearn" in modules else None
    return Written(
        "sklearn" if "sklearn" in modules else "pyfunc", "model.pkl",
        {"sklearn": {
            "code": None, "pickled_model": "model.pkl",
            "serialization_format": "cloudpickle" if own else "pickle",
            "sklearn_version": version, "skops_trusted_types": None,
        }},
        "mlflow.sklearn", "model_path", method, frozenset(modules), getattr(model, method),
        pickled=True,
    )  # fmt: skip


def _by_value(cloudpickle: Any, model: Any, own: Sequence[Any]) -> bytes:
    """The bytes of a model with the classes and functions of the project's modules in them.

    cloudpickle gives each such class a random id, by which a process knows it again: here it is the
    digest of the project's sources, so that equal code gives equal bytes, and two versions of a class
    in one process (champion and challenger) stay two.
    """
    sources = digest({m.__name__: digest_file(m.__file__) for m in own})
    implementation = cloudpickle.cloudpickle
    original = implementation._get_or_create_tracker_id

    def named(cls: type) -> str:
        return digest_bytes(f"{sources} {cls.__module__}.{cls.__qualname__}".encode())[-32:]

    for module in own:
        cloudpickle.register_pickle_by_value(module)
    implementation._get_or_create_tracker_id = named
    try:
        return bytes(cloudpickle.dumps(model, protocol=5))
    except Exception as error:
        raise PipelineError(f"not even pickle can store the {_name(model)}: {error}") from error
    finally:
        implementation._get_or_create_tracker_id = original
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


def _project_modules() -> list[Any]:
    """Loaded modules whose file is in no installed place: the project's own code."""
    paths = sysconfig.get_paths()
    installed = tuple({paths[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")})
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or name == "__main__" or name.partition(".")[0] == "treadle":
            continue
        if not os.path.isabs(file):  # torch has modules that are no files and say they were
            continue
        if not file.startswith(installed) and "site-packages" not in file:
            found.append(module)
    return found


def _pickle_modules(data: bytes) -> set[str]:
    """Top-level packages whose names a pickle's opcodes bring in."""
    import pickletools

    texts: list[str] = []
    modules: set[str] = set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("GLOBAL", "INST"):
            modules.add(str(argument).partition(" ")[0].partition(".")[0])
        elif "UNICODE" in opcode.name:
            texts.append(str(argument))
        elif opcode.name == "STACK_GLOBAL":
            # The module is one of the texts before; which one memo opcodes may hide.
            modules.update(t.partition(".")[0] for t in texts if t in sys.modules)
    return modules
