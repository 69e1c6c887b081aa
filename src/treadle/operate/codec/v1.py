"""KServe's protocol V1: `{"instances": […]}` to `POST /v1/models/NAME:predict`, `{"predictions": …}`.

KServe's own servers take `inputs` as well; both are read as MLflow's forms of the same names.
"""

from __future__ import annotations

from collections.abc import Sequence

from treadle.operate.codec import json, mlflow
from treadle.operate.codec.forms import Forms
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Signature, WrongInput
from treadle.operate.query import Answer, Outputs, Query, Together

_FORMS = ("instances", "inputs")


class Predict:
    """The codec of one model."""

    def __init__(self, signature: Signature, limits: Limits) -> None:
        self._forms = Forms(signature, limits, _FORMS)
        self._answers = mlflow.Scoring(signature, limits)

    def decode(self, body: bytes) -> Query:
        """The query in a body. WrongInput."""
        return self._forms.quick(body) or self._general(body)

    def together(self, bodies: Sequence[bytes]) -> Together | None:
        """The rows of usual bodies; None: decode each by itself."""
        return self._forms.together(bodies)

    def encode_all(self, outputs: Outputs, counts: Sequence[int]) -> list[bytes]:
        """The bodies of answers of so many rows each, in order, of one call."""
        return self._answers.encode_all(outputs, counts)

    def encode(self, answer: Answer) -> bytes:
        """The body of an answer."""
        return self._answers.encode(answer)

    def _general(self, body: bytes) -> Query:
        document = self._forms.document(body)
        given = [name for name in _FORMS if name in document]
        if len(given) != 1:
            raise WrongInput("body", "instances or inputs", " and ".join(given) or "neither")
        if len(document) > 1:
            raise WrongInput("body", f"{given[0]} alone", f"{len(document) - 1} other fields")
        return self._forms.general(given[0], document[given[0]], {})


def encode_error(message: str) -> bytes:
    """The body of an error."""
    return json.dumps({"error": message})
