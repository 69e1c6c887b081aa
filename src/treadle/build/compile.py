"""Compiled forms: the same answers many times faster, only where that was shown (`compile: auto`).

A linear pipeline is folded into one matrix product (`fold`), another scikit-learn model becomes an
ONNX graph (`convert`). The form is then compared with the original on every row of the holdout, in
batches and the first rows one by one: numbers within the tolerance, the same class everywhere. Only
an accepted form stays in `compiled/`; `compiled/parity.json` says what came out either way:

    {"format": 1, "accepted": true, "form": "linear", "why": "", "rows": 1234,
     "tolerance": {"absolute": 1e-09, "relative": 1e-09},
     "worst": {"absolute": 1e-12, "relative": 1e-12}, "outside": 0, "classes_changed": 0,
     "missing": [], "vector": false}

`worst` is rounded up to 1, 2 or 5 times a power of ten and not below 1e-12: what is under that is the
machine's, and equal models are equal bytes on any machine. `missing` are the features (by position)
that had missing values in the comparison; `vector` says that the answer is [rows].
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.base import forms
from treadle.base.errors import TreadleError
from treadle.base.spec import ModelSection
from treadle.build import convert, fold
from treadle.build.features import Feature
from treadle.build.flavor import Written

FOLDER = "compiled"
TOLERANCES = {"linear": 1e-9, "onnx": 1e-5}
"""Absolute and relative: |compiled - original| ≤ t + t × |original|. ONNX computes in float32."""
NUMBERS = ("double", "float", "long", "integer", "boolean")
_BATCH_ROWS = 20_000
_SINGLE_ROWS = 64
_FLOOR = 1e-12

_ALREADY = {
    "xgboost": "XGBoost's own predictor is compiled already",
    "lightgbm": "LightGBM's own predictor is compiled already",
    "onnx": "an ONNX graph is compiled already",
    "pytorch": "an exported program is a graph already",
    "pyfunc": "a pickled model has no parts that are known",
}


@dataclass(frozen=True)
class Parity:
    """What came of compiling a model."""

    accepted: bool
    form: str | None
    """linear, onnx; None where there is none."""
    why: str
    """Why no form is used; empty if one is."""
    rows: int = 0
    tolerance: float = 0.0
    worst_absolute: float = 0.0
    worst_relative: float = 0.0
    outside: int = 0
    """Rows with a number outside the tolerance."""
    classes_changed: int = 0
    missing: tuple[int, ...] = ()
    vector: bool = False

    def document(self) -> dict[str, Any]:
        """The content of `parity.json`."""
        return {
            "format": forms.FORMAT, "accepted": self.accepted, "form": self.form, "why": self.why,
            "rows": self.rows,
            "tolerance": {"absolute": self.tolerance, "relative": self.tolerance},
            "worst": {"absolute": self.worst_absolute, "relative": self.worst_relative},
            "outside": self.outside, "classes_changed": self.classes_changed,
            "missing": list(self.missing), "vector": self.vector,
        }  # fmt: skip


def write(
    value: Any,
    written: Written,
    section: ModelSection,
    features: Sequence[Feature],
    folder: Path,
    holdout: Any,
) -> Parity:
    """Make, compare and write the compiled form of a packaged model into `folder`/compiled.

    `holdout` is a pandas frame with the features' columns, or None. MissingExtra where the model
    needs skl2onnx and it is absent.
    """
    target = folder / FOLDER
    target.mkdir()
    parity = _compile(value, written, section, features, target, holdout)
    text = json.dumps(parity.document(), indent=1) + "\n"
    (target / forms.PARITY).write_text(text, encoding="utf-8", newline="\n")
    return parity


def _compile(
    value: Any,
    written: Written,
    section: ModelSection,
    features: Sequence[Feature],
    target: Path,
    holdout: Any,
) -> Parity:
    def refused(why: str) -> Parity:
        return Parity(False, None, why)

    if written.flavor != "sklearn" or written.pickled:
        return refused(_ALREADY["pyfunc" if written.pickled else written.flavor])
    texts = [feature for feature in features if feature.type not in NUMBERS]
    if texts:
        return refused(f"{texts[0].name} is a {texts[0].type}, and compiled forms take numbers")
    if section.task != "regression" and written.predict_fn != "predict_proba":
        return refused(f"{type(value).__name__} gives classes alone, no probabilities")
    if holdout is None or not len(holdout):
        return refused("there is no row of the holdout to compare on")
    names = [feature.name for feature in features]
    try:
        matrix = _matrix(holdout, names)
        original = _original(written, holdout[names])
    except Exception as error:
        return refused(f"the model cannot predict the holdout: {type(error).__name__}")
    vector = original.ndim == 1
    missing = _missing(matrix)
    try:
        linear = fold.fold(value, names, written.predict_fn)
    except fold.NotLinear:
        pass
    else:
        parity = _compare(linear, "linear", original, matrix, section, missing, vector=vector)
        if parity.accepted:
            (target / forms.LINEAR).write_text(linear.text(), encoding="utf-8", newline="\n")
            return parity
    try:
        source = convert.convert(value, names, written.predict_fn)
        graph = forms.Onnx(source, missing, vector=vector)
    except convert.NotConvertible as error:
        return refused(str(error))
    except TreadleError:
        raise
    except Exception as error:
        return refused(f"ONNX Runtime does not take the graph: {type(error).__name__}")
    parity = _compare(graph, "onnx", original, matrix, section, missing, vector=vector)
    if parity.accepted:
        (target / forms.ONNX).write_bytes(source)
    return parity


def _matrix(frame: Any, names: Sequence[str]) -> Any:
    """The columns as the server makes one matrix of them: float64, missing is NaN."""
    import numpy as np
    import pandas as pd

    columns = [
        pd.to_numeric(frame[name]).to_numpy(dtype="float64", na_value=np.nan) for name in names
    ]
    return np.column_stack(columns)


def _original(written: Written, frame: Any) -> Any:
    import numpy as np

    parts = [
        np.asarray(written.predict(frame.iloc[start : start + _BATCH_ROWS]), dtype=np.float64)
        for start in range(0, len(frame), _BATCH_ROWS)
    ]
    return np.concatenate(parts)


def _missing(matrix: Any) -> tuple[int, ...]:
    import numpy as np

    return tuple(int(number) for number in np.flatnonzero(np.isnan(matrix).any(axis=0)))


def _compare(
    form: forms.Form,
    kind: str,
    original: Any,
    matrix: Any,
    section: ModelSection,
    missing: tuple[int, ...],
    *,
    vector: bool,
) -> Parity:
    import numpy as np

    tolerance = TOLERANCES[kind]

    def refused(why: str, **more: Any) -> Parity:
        more = {"rows": len(matrix), "tolerance": tolerance, **more}
        return Parity(False, kind, f"the {kind} form was not accepted: {why}", **more)

    starts = range(0, len(matrix), _BATCH_ROWS)
    try:
        answers = [form(matrix[start : start + _BATCH_ROWS]) for start in starts]
        # One row alone may take another way through a library than many.
        singles = [form(matrix[row : row + 1]) for row in range(min(_SINGLE_ROWS, len(matrix)))]
    except Exception as error:
        return refused(f"it fails on the holdout: {type(error).__name__}")
    if any(answer is None for answer in (*answers, *singles)):
        return refused("the holdout has values that it does not take")
    answer = np.concatenate([a for a in (*answers, *singles) if a is not None])
    wanted = np.concatenate([original, original[: len(singles)]])
    if answer.shape != wanted.shape:
        return refused(f"it gives {list(answer.shape[1:])} a row, not {list(wanted.shape[1:])}")
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.abs(answer - wanted)
        relative = np.where(apart == 0, 0.0, apart / np.abs(wanted))
    # A number that is none (NaN) on one side only is outside whatever the tolerance.
    apart = np.where(np.isnan(answer) & np.isnan(wanted), 0.0, apart)
    outside = ~(apart <= tolerance + tolerance * np.abs(wanted))
    rows_outside = int((outside.any(axis=1) if outside.ndim == 2 else outside)[: len(matrix)].sum())
    changed = 0
    if section.task != "regression":
        changed = int((_classes(answer) != _classes(wanted))[: len(matrix)].sum())
    numbers: dict[str, Any] = {
        "rows": len(matrix),
        "tolerance": tolerance,
        "worst_absolute": _rounded(apart),
        "worst_relative": _rounded(relative),
        "outside": rows_outside,
        "classes_changed": changed,
        "missing": missing,
        "vector": vector,
    }
    if outside.any() or changed:
        told = f"{max(rows_outside, 1):,} of {len(matrix):,} rows" if outside.any() else "no row"
        return refused(
            f"{told} differ by more than {tolerance:g} (the worst by "
            f"{numbers['worst_absolute']:g}), {changed:,} in their class",
            **numbers,
        )
    return Parity(True, kind, "", **numbers)


def _classes(answer: Any) -> Any:
    return answer.argmax(axis=1) if answer.ndim == 2 else answer >= 0.5


def _rounded(values: Any) -> float:
    """The largest one, rounded up to 1, 2 or 5 times a power of ten; 0 where all are 0."""
    worst = float(values.max(initial=0.0))
    if worst == 0.0 or not math.isfinite(worst):
        return worst if worst == 0.0 else 1e308
    worst = max(worst, _FLOOR)
    power = 10.0 ** math.floor(math.log10(worst))
    step = next((s for s in (1, 2, 5) if worst <= s * power * (1 + 1e-9)), 10)
    return float(f"{step * power:.0e}")
