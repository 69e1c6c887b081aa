"""BentoML with its adaptive batching: `bentoml serve bento:Probability`, BENCH_MODEL names the file."""

# No `from __future__ import annotations`: BentoML reads the types of `predict` as they stand.

import os

import bentoml
import joblib
import numpy as np


@bentoml.service(traffic={"timeout": 30}, workers=1)
class Probability:
    """A scikit-learn classifier."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["BENCH_MODEL"])

    @bentoml.api(batchable=True, max_batch_size=1000, max_latency_ms=1000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The probability of each class."""
        return self.model.predict_proba(rows)
