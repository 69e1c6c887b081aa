"""KServe's Python server with a model of ours: kserve_model.py MODEL.joblib PORT (V1)."""

from __future__ import annotations

import logging
import sys
from typing import Any

import joblib
import numpy as np
from kserve import Model, ModelServer


class Probability(Model):
    """A scikit-learn classifier."""

    def __init__(self, file: str) -> None:
        super().__init__("model")
        self.model = joblib.load(file)
        self.ready = True

    async def predict(
        self, payload: dict[str, Any], headers: Any = None, response_headers: Any = None
    ) -> dict[str, Any]:
        """The probability of each class."""
        del headers, response_headers
        rows = np.array(payload["instances"])
        return {"predictions": self.model.predict_proba(rows).tolist()}


if __name__ == "__main__":
    server = ModelServer(
        http_port=int(sys.argv[2]), enable_grpc=False, workers=1, access_log_format=None,
        enable_latency_logging=False,
    )  # fmt: skip
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)  # five lines a request otherwise
    server.start([Probability(sys.argv[1])])
