"""LitServe: lit.py MODEL.joblib PORT. Unbatched, its default, which was the faster here."""

# No `from __future__ import annotations`, and no type at `request`: LitServe reads it as it stands.

import sys
from typing import Any

import joblib
import litserve
import numpy as np


class Api(litserve.LitAPI):
    """A scikit-learn classifier."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        del device
        self.model = joblib.load(sys.argv[1])

    def decode_request(self, request):
        """Rows of numbers."""
        return np.array(request["rows"])

    def predict(self, x: Any) -> Any:
        """The probability of each class."""
        return self.model.predict_proba(x)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Lists."""
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )
