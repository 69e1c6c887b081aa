"""The compiled form of a model in place of its library, where `compiled/parity.json` accepts it.

The form takes one float64 matrix (see `base/forms`) and answers as the original does, within the
tolerance that was compared on the holdout. The original is loaded when it is first needed: for rows
with values that were never compared (missing, infinite), for columns that lose digits as floats. Until
then neither scikit-learn nor pandas is imported.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from treadle.base import forms
from treadle.base.errors import StateCorrupt
from treadle.operate.model.engine import Engine, common_type
from treadle.operate.model.signature import Signature

_log = logging.getLogger("treadle.server")
_MATRIX = np.dtype(np.float64)
_WHOLE: dict[str, np.dtype[Any]] = {"long": np.dtype(np.int64), "integer": np.dtype(np.int32)}

Original = Callable[[], Engine]
"""Loads the model by its own library."""


def parity(folder: Path) -> dict[str, Any] | None:
    """What `compiled/parity.json` of a model directory says; None where there is none."""
    try:
        told = json.loads((folder / "compiled" / forms.PARITY).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateCorrupt(f"compiled/{forms.PARITY} cannot be read: {error}") from None
    return told if isinstance(told, dict) and told.get("format") == forms.FORMAT else None


def replaced(folder: Path, signature: Signature, original: Original) -> Engine | None:
    """The engine of the accepted form; None (and a line in the log) where the original answers."""
    told = parity(folder)
    if told is None:
        return None
    if told.get("accepted") is not True:
        _log.info("the model's own library answers: %s", told.get("why"))
        return None
    try:
        form = _form(folder / "compiled", told, len(signature.inputs))
    except ImportError:
        _log.warning(
            "the model's compiled form needs onnxruntime, which is not installed (pip install "
            "'treadle[compile]'): its own library answers, more slowly"
        )
        return None
    answers = _Answers(form, signature, original)
    _log.info("the model's compiled form (%s) answers", told["form"])
    return Engine(form, answers, common_type(signature) and _MATRIX, columns=True)


def _form(folder: Path, told: Mapping[str, Any], width: int) -> forms.Form:
    if told.get("form") == "linear":
        linear = forms.Linear.read(folder / forms.LINEAR)
        if len(linear.weights) != width:
            raise StateCorrupt(
                f"{forms.LINEAR} takes {len(linear.weights)} features, and the model has {width}"
            )
        return linear
    if told.get("form") == "onnx":
        path = folder / forms.ONNX
        if not path.is_file():
            raise StateCorrupt(f"the compiled form {forms.ONNX} is not there")
        return forms.Onnx(path, told.get("missing") or (), vector=told.get("vector") is True)
    raise StateCorrupt(f"compiled/{forms.PARITY} names a form that there is not")


class _Answers:
    """The engine's call: by the form, or by the original where the form gives none."""

    def __init__(self, form: forms.Form, signature: Signature, original: Original) -> None:
        self._form = form
        self._fields = signature.inputs
        # Columns where a matrix would have done are ones that would lose digits as a matrix.
        self._numbers = common_type(signature) is not None
        self._load = original
        self._original: Engine | None = None

    def __call__(self, data: Any, params: Mapping[str, Any]) -> Any:
        if isinstance(data, np.ndarray):
            answer = self._form(data)
            return self._by_original(data, params) if answer is None else answer
        names = [field.name for field in self._fields]
        if not self._numbers and data.keys() == set(names):
            matrix = np.column_stack([np.asarray(data[name], dtype=np.float64) for name in names])
            answer = self._form(matrix)
            if answer is not None:
                return answer
        return self._named(data, params)

    def _engine(self) -> Engine:
        if self._original is None:
            self._original = self._load()
            _log.info("the model's own library was loaded for values that were never compared")
        return self._original

    def _by_original(self, matrix: np.ndarray[Any, Any], params: Mapping[str, Any]) -> Any:
        engine = self._engine()
        if engine.matrix is not None:
            return engine.call(matrix.astype(engine.matrix, copy=False), params)
        columns = {
            field.name: _column(matrix[:, number], field.type)
            for number, field in enumerate(self._fields)
        }
        return self._named(columns, params)

    def _named(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
        engine = self._engine()
        if engine.columns:
            return engine.call(columns, params)
        import pandas as pd

        return engine.call(pd.DataFrame(dict(columns)), params)


def _column(values: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """A column as the signature's conversion gives it: whole numbers, unless some are missing."""
    whole = _WHOLE.get(kind)
    if whole is not None and np.isfinite(values).all():
        return values.astype(whole)
    return values.astype(np.float32) if kind == "float" else values
