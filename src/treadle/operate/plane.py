"""The data plane: predict, ready, metadata. It knows no HTTP; a protocol is a codec in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from treadle.base import clock
from treadle.base.errors import TreadleError
from treadle.operate.capture import Capture, Taken
from treadle.operate.codec import mlflow, v2
from treadle.operate.model import LoadedModel, input_example
from treadle.operate.query import Query
from treadle.operate.signature import WrongInput

Array = np.ndarray[Any, Any]


class ModelFailed(TreadleError):
    """The model raised on an input that fitted its signature; the cause is for the log alone."""


@dataclass(frozen=True)
class Identity:
    """Who answers: the parts of every prediction id, and what is served."""

    environment: str = "local"
    release: int = 0
    instance: str = "manual"
    model: str = "model"
    """The model's name in the Open Inference protocol: the project's."""
    content: str = ""
    """Digest of the model directory."""
    run: str = ""

    def prediction_id(self) -> str:
        """A new `ENV.RELEASE.INSTANCE.ULID`."""
        return f"{self.environment}.{self.release}.{self.instance}.{clock.ulid()}"


@dataclass(frozen=True)
class Answer:
    """Predictions with their id; row i has the id `<id>.<i>`."""

    id: str
    outputs: dict[str, Array]
    rows: int
    latency_s: float


@dataclass
class Plane:
    """One model that answers, and its capture. `predict` belongs to one thread."""

    model: LoadedModel
    identity: Identity
    capture: Capture | None = None
    ready: bool = False
    examples: dict[str, Array] = field(default_factory=dict)
    """Outputs of the warm-up: their names, types and shapes are the model's metadata."""

    def warm(self) -> str:
        """Make a real prediction on the input example, then be ready; says what was done.

        A model that cannot answer its own example raises and never gets ready.
        """
        body = input_example(self.model.folder)
        if body is None:
            self.ready = True
            return "not warmed: the model directory has no input example"
        query = mlflow.decode(body, "application/json", self.model.signature)
        outputs = self._outputs(query)[0]
        again = self._outputs(query)[0]  # the first call also pays for lazy imports and threads
        for name, array in outputs.items():
            if array.dtype.kind in "fiub" and not np.array_equal(
                array, again[name], equal_nan=array.dtype.kind == "f"
            ):
                raise ModelFailed(f"two predictions of the input example differ in {name}")
        self.examples = outputs
        self.ready = True
        return f"warmed by the input example ({query.rows} rows)"

    def predict(self, query: Query) -> Answer:
        """Answer a query. Raises WrongInput, or ModelFailed with the library's error as cause."""
        begun = clock.elapsed()
        outputs, prepared = self._outputs(query)
        latency = clock.elapsed() - begun
        answer = Answer(self.identity.prediction_id(), outputs, query.rows, latency)
        if self.capture is not None and query.rows and self.capture.wants():
            self.capture.take(
                Taken(answer.id, clock.now(), latency * 1000, query.rows, lambda: prepared,
                      outputs, self.model.features)
            )  # fmt: skip
        return answer

    def metadata(self) -> dict[str, Any]:
        """The model's metadata in the words of the Open Inference protocol."""
        return v2.metadata(
            self.model.signature, model=self.identity.model, version=str(self.identity.release),
            platform=f"{self.model.flavor}_mlflow", outputs=self.examples,
        )  # fmt: skip

    def info(self) -> Mapping[str, str]:
        """What `/version` and the metric `treadle_model_info` tell."""
        who = self.identity
        return {
            "environment": who.environment, "release": str(who.release), "instance": who.instance,
            "model": who.content, "flavor": self.model.flavor, "name": who.model, "run": who.run,
        }  # fmt: skip

    def _outputs(self, query: Query) -> tuple[dict[str, Array], Any]:
        prepared = self.model.prepare(query)
        try:
            return self.model.answer(prepared), prepared
        except WrongInput:
            raise
        except Exception as error:
            raise ModelFailed("the model failed on this input") from error
