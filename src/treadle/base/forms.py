"""Compiled forms of a model: a linear one of our own, and ONNX. A matrix in, answers out.

They lie in `compiled/` of a model directory beside `parity.json`, which says whether they may be used
(see `build/compile`); build compares and operate serves with this same code.

`linear.json`: one matrix product in float64, then a link.

    {"format": 1, "link": "logistic", "vector": false, "weights": [[…]], "bias": […]}

`weights[i][j]` belongs to feature i and output j. Links: `identity`, `exp`, `logistic` (one score →
probabilities of two classes), `softmax`. `vector`: the answer is [rows], not [rows, 1].

A form answers only what it was compared on: for a row with a missing or infinite value (but missing
ones in columns where the comparison had some) it gives None, and the original answers, or refuses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from treadle.base.errors import StateCorrupt

FORMAT = 1
PARITY = "parity.json"
LINEAR = "linear.json"
ONNX = "model.onnx"
INPUT = "X"
LINKS = ("identity", "exp", "logistic", "softmax")

Array = np.ndarray[Any, Any]


class Linear:
    """One matrix product and a link."""

    def __init__(self, weights: Array, bias: Array, link: str, *, vector: bool) -> None:
        self.weights, self.bias, self.link, self.vector = weights, bias, link, vector

    def __call__(self, matrix: Array) -> Array | None:
        """The answers of [rows, features] in float64; None where a score is not finite."""
        scores: Array = np.dot(matrix, self.weights)  # half the time of @ for one row
        scores += self.bias
        # A missing or infinite value of a feature that counts shows here; others may be missing.
        if not np.isfinite(scores).all():
            return None
        if self.link == "logistic":
            answer = np.empty((len(scores), 2))
            # 1 / (1 + exp(-score)) without overflow.
            np.exp(-np.logaddexp(0.0, -scores[:, 0]), out=answer[:, 1])
            np.subtract(1.0, answer[:, 1], out=answer[:, 0])
            return answer
        if self.link == "softmax":
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=1, keepdims=True)
        elif self.link == "exp":
            np.exp(scores, out=scores)
        return scores[:, 0] if self.vector else scores

    def text(self) -> str:
        """The content of `linear.json`; floats come back exactly."""
        return json.dumps({
            "format": FORMAT, "link": self.link, "vector": self.vector,
            "weights": self.weights.tolist(), "bias": self.bias.tolist(),
        }) + "\n"  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Linear:
        """The form in a file. StateCorrupt where it is none."""
        try:
            told = json.loads(path.read_bytes())
            weights = np.array(told["weights"], dtype=np.float64)
            bias = np.array(told["bias"], dtype=np.float64)
            fits = weights.ndim == 2 and bias.shape == weights.shape[1:]
            if told["format"] != FORMAT or told["link"] not in LINKS or not fits:
                raise ValueError("another format")
            return cls(weights, bias, told["link"], vector=bool(told["vector"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateCorrupt(f"{path.name} is no linear form: {error}") from None


class Onnx:
    """A graph that ONNX Runtime computes in float32, with float32 features."""

    def __init__(self, source: bytes | Path, missing: Sequence[int], *, vector: bool) -> None:
        """`missing`: positions of the features that may be missing. ImportError without runtime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # A model server is one process of its own: threads follow the same setting as OpenMP's.
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdigit() and int(threads):
            options.intra_op_num_threads = int(threads)
        # Threads that spin while they wait would take the core from the others of a small container.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        given = source if isinstance(source, bytes) else os.fspath(source)
        self._session = onnxruntime.InferenceSession(
            given, sess_options=options, providers=["CPUExecutionProvider"]
        )
        # A converted classifier gives labels first and probabilities after them.
        self._outputs = [self._session.get_outputs()[-1].name]
        self._missing = np.array(missing, dtype=np.intp)
        self._vector = vector

    def __call__(self, matrix: Array) -> Array | None:
        """The answers of [rows, features] in float64; None where a value was never compared."""
        with np.errstate(over="ignore", invalid="ignore"):
            features = np.ascontiguousarray(matrix, dtype=np.float32)
        finite = np.isfinite(features)
        if not finite.all():
            finite[:, self._missing] |= np.isnan(features[:, self._missing])
            if not finite.all():
                return None
        answer: Array = self._session.run(self._outputs, {INPUT: features})[0].astype(np.float64)
        return answer.reshape(len(answer)) if self._vector else answer


Form = Linear | Onnx
