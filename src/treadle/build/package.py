"""A fitted model as a canonical MLflow directory: same fitted model, same bytes, any machine.

Nothing in it differs from turn to turn: no time, no random uuid, no path, no lineage (that stays in
the journal beside the Model record). MLflow is not imported; `mlflow.pyfunc.load_model` reads the
result, and its `predict` gives what the model's own `predict_proba` (classifiers that have it) or
`predict` gives. `treadle.json` says the same to our server, in JSON:

    format, flavor, file, method (predict | predict_proba), output (ONNX), task, label,
    features [{name, type, required}], classes, outputs (MLflow's schema form), trusted (skops)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from treadle.base.digest import digest, digest_file, digest_tree
from treadle.base.errors import PipelineError
from treadle.base.records import Model
from treadle.base.spec import ModelSection

FORMAT = 1
"""Raised when the same model would be written with other bytes."""
EXAMPLE_ROWS = 3


def key(
    result: str, section: ModelSection, requirements: Sequence[str] | None, profile: str | None
) -> str:
    """The build key: equal keys, equal model directories.

    `result` is the digest of the model's stored result; `requirements` what the project pins.
    """
    return digest({
        "build": FORMAT,
        "result": result,
        "section": section,
        "requirements": None if requirements is None else list(requirements),
        "profile": profile,
        "python": platform.python_version(),
    })  # fmt: skip


def package(
    value: Any,
    section: ModelSection,
    example: Any,
    folder: Path,
    *,
    train_features: Any = None,
    requirements: Sequence[str] | None = None,
    trust_pickle: bool = False,
    profile: str | None = None,
    excluded: Iterable[str] = (),
    stored: bytes | None = None,
    holdout: Any = None,
) -> Model:
    """Write the model directory into `folder` (made here, or empty) and return its record.

    Args:
        value: the fitted model.
        section: the spec's `model:`.
        example: a few rows to show (pandas or polars; more than the features is fine).
        folder: where to write; an existing file in it is an error.
        train_features: the training rows, for types and for which columns have holes; by default
            the example's.
        requirements: pins to write instead of the ones found out here.
        trust_pickle: whether pickle may be used where nothing safer holds the model.
        profile: digest of the training profile's blob.
        excluded: columns that are never features unless named: key, event time, known later.
        stored: canonical skops bytes of `value`, if a step has stored them already.
        holdout: the rows that a compiled form is compared on (`compile: auto`).

    Raises:
        PipelineError: a column is missing or cannot be served, or the value is no model.
        Refused: only pickle could hold the model, and the project does not trust it.
    """
    from treadle.build import exported, flavor, mlmodel
    from treadle.build import requirements as pins
    from treadle.build.features import choose, describe

    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise PipelineError(f"{folder} is not empty: a model directory is written from scratch")
    rows = train_features if train_features is not None else example
    names = choose(value, section, [str(column) for column in rows.columns], excluded)
    features = describe(_pandas(rows[list(names)]), names)
    written = flavor.write(
        value, section.task, folder, trust_pickle=trust_pickle, stored=stored, width=len(names)
    )
    if written.inputs is not None and written.inputs != len(names):
        kind = {"onnx": "ONNX", "pytorch": "PyTorch"}[written.flavor]
        raise PipelineError(
            f"the {kind} model takes {written.inputs} columns, and there are {len(names)} features",
            hint="list the model's columns, in its order, under model.features",
        )
    shown = _pandas(example[list(names)].head(EXAMPLE_ROWS)).reset_index(drop=True)
    classes = _classes(value, section.task)
    if written.flavor == "pytorch":
        exported.check_features(features)
    prediction = _try(written, shown, features)
    outputs = _outputs(prediction)
    inputs = mlmodel.columns(features)
    if written.matrix is not None:
        # MLflow flattens the outputs for named columns; a tensor keeps rows apart.
        inputs = [mlmodel.tensor(written.matrix, (-1, len(names)))]
    if written.output is not None:
        outputs = [{**outputs[0], "name": written.output}]
    if section.task != "regression" and not classes and written.predict_fn == "predict":
        width = prediction.shape[1] if prediction.ndim == 2 else 2
        classes = tuple(range(width))
    _check_classes(classes, section)
    if written.flavor == "pytorch":
        exported.check_answers(written, section, _pandas(rows[list(names)]))
    modules = set(written.modules)
    if section.compile is not None:
        from treadle.build import compile as compiling

        judged = None if holdout is None else _pandas(holdout)
        parity = compiling.write(value, written, section, features, folder, judged)
        if parity.accepted and parity.form == "onnx":
            modules.add("onnxruntime")
    pinned = tuple(requirements) if requirements is not None else pins.pin(modules)
    rows_shown = {"columns": list(names), "data": _json_rows(shown)}
    texts = {
        "input_example.json": json.dumps(rows_shown),
        "serving_input_example.json": json.dumps({"dataframe_split": rows_shown}, indent=2),
        "treadle.json": json.dumps({
            "format": FORMAT, "flavor": written.flavor, "file": written.file,
            "method": written.predict_fn, "output": written.output, "task": section.task,
            "label": section.label, "features": mlmodel.columns(features),
            "classes": list(classes), "outputs": outputs, "trusted": list(written.trusted),
            "pickled": written.pickled,
        }, indent=1, ensure_ascii=False) + "\n",
        **mlmodel.environment(pinned),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    content, files = digest_tree(folder)
    more = dict(written.extra)
    if written.predict_fn != "predict":
        more["predict_fn"] = written.predict_fn
    (folder / "MLmodel").write_text(
        mlmodel.mlmodel(
            flavors={
                "python_function": mlmodel.python_function(
                    written.loader, written.file_key, written.file, **more
                ),
                **written.flavors,
            },
            inputs=inputs,
            outputs=outputs,
            content=content,
            size_bytes=sum((folder / name).stat().st_size for name in files),
        ),
        encoding="utf-8",
        newline="\n",
    )
    files = {**files, "MLmodel": digest_file(folder / "MLmodel")}
    for name in files:
        os.chmod(folder / name, 0o644)
    return Model(
        content=digest(files),
        files=dict(sorted(files.items())),
        flavor=written.flavor,
        task=section.task,
        label=section.label,
        features=names,
        classes=classes,
        requirements=pinned,
        profile=profile,
        size_bytes=sum((folder / name).stat().st_size for name in files),
    )


def discard(folder: Path) -> None:
    """Remove a directory that was begun and not finished."""
    shutil.rmtree(folder, ignore_errors=True)


def _pandas(frame: Any) -> Any:
    """A pandas frame of a pandas or polars one."""
    convert = getattr(frame, "to_pandas", None)
    return frame if convert is None else convert()


def _classes(value: Any, task: str) -> tuple[Any, ...]:
    if task == "regression":
        return ()
    try:
        found = getattr(value, "classes_", None)
    except AttributeError:  # XGBoost raises where a Booster was not trained as a classifier
        found = None
    if found is None:
        return ()
    return tuple(item.item() if hasattr(item, "item") else item for item in list(found))


def _check_classes(classes: tuple[Any, ...], section: ModelSection) -> None:
    shown = ", ".join(map(str, classes[:10]))
    if section.task != "regression" and len(classes) == 1:
        raise PipelineError(
            f"the model knows one class only: every training row has the {section.label} {shown}",
            hint="train on rows of both kinds",
        )
    if section.task == "binary" and len(classes) > 2:
        raise PipelineError(
            f"model.task is binary, and the model knows {len(classes)} classes: {shown}",
            hint="say `task: multiclass`, or make the label one of two values",
        )


def _try(written: Any, shown: Any, features: Sequence[Any]) -> Any:
    """Predict the example as it is and as a request would bring it: both must agree."""
    import numpy as np

    try:
        answer = np.asarray(written.predict(shown))
        served = np.asarray(written.predict(as_served(_json_rows(shown), features)))
    except Exception as error:
        raise PipelineError(
            f"the model cannot predict its own example rows: {type(error).__name__}: {error}",
            hint="it is fed the columns "
            + ", ".join(f.name for f in features)
            + "; if it needs another, or takes them prepared, put the preparation into a Pipeline",
        ) from error
    if answer.shape != served.shape or not _same(answer, served):
        raise PipelineError(
            "the model answers differently when its columns arrive as a request brings them "
            f"({', '.join(f'{f.name}: {f.type}' for f in features)})",
            hint="fit on plain numbers, text, booleans or times; encode categories in a Pipeline",
        )
    return answer


def _same(a: Any, b: Any) -> bool:
    import numpy as np

    if a.dtype.kind in "fc" and b.dtype.kind in "fc":
        return bool(np.allclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True))
    return bool(np.array_equal(a, b))


def as_served(rows: Sequence[Sequence[Any]], features: Sequence[Any]) -> Any:
    """The pandas frame that a request's rows become by the signature's types."""
    import pandas as pd

    data: dict[str, Any] = {}
    for index, feature in enumerate(features):
        values = [row[index] for row in rows]
        if feature.type == "datetime":
            data[feature.name] = pd.to_datetime(pd.Series(values))
        elif feature.type == "boolean":
            data[feature.name] = pd.Series(values, dtype=object if None in values else bool)
        elif feature.type in ("string", "binary"):
            data[feature.name] = pd.Series(values, dtype=object)
        else:
            whole = feature.type == "long" and None not in values
            data[feature.name] = pd.Series(values, dtype="int64" if whole else "float64")
    return pd.DataFrame(data)


def _json_rows(frame: Any) -> list[list[Any]]:
    """Rows as JSON's values: holes are null, times ISO texts."""
    columns = [[_json_value(v) for v in frame[name].tolist()] for name in frame.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _json_value(value: Any) -> Any:
    import base64
    import datetime as dt
    import math

    import pandas as pd

    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    item = getattr(value, "item", None)
    return item() if callable(item) else float(value)


def _outputs(prediction: Any) -> list[dict[str, Any]]:
    """MLflow's schema of a prediction: a tensor of numbers or booleans, or a column of text."""
    from treadle.build.mlmodel import tensor

    if prediction.dtype.kind in "biuf":
        return [tensor(str(prediction.dtype), (-1, *prediction.shape[1:]))]
    return [{"type": "string", "required": True}]


def flavor_of(files: Mapping[str, str]) -> str | None:
    """The flavor a model directory was written in, by its file; None for a foreign one."""
    names = {"model.skops": "sklearn", "model.ubj": "xgboost", "model.lgb": "lightgbm",
             "model.onnx": "onnx", "data/model.pt2": "pytorch", "model.pkl": "pyfunc"}  # fmt: skip
    return next((flavor for name, flavor in names.items() if name in files), None)
