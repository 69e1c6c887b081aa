"""The data plane: predict, ready, metadata. It knows no HTTP; a protocol is a codec in front of it.

A query is held against the signature when it comes (`admit`), waits in the batcher, is assembled
with its neighbours, answered by the model and handed back as an `Answer` with a prediction id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter
from typing import Any, NoReturn

import numpy as np

from treadle.base import clock
from treadle.base.errors import TreadleError
from treadle.operate.batch import Batcher, Job, Watch
from treadle.operate.capture import Capture, Taken
from treadle.operate.codec import mlflow, v2
from treadle.operate.limits import Limits
from treadle.operate.model.loaded import Admitted, LoadedModel, input_example
from treadle.operate.model.signature import WrongInput
from treadle.operate.query import Answer, Outputs, Query, Together
from treadle.operate.request import traceparent

Array = np.ndarray[Any, Any]
Done = Callable[[Answer | Exception], None]
_log = logging.getLogger("treadle.plane")


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
    image: str = ""
    """Digest of the container image; empty where there is none."""

    @property
    def prefix(self) -> str:
        """What every prediction id begins with: `ENV.RELEASE.INSTANCE.`"""
        return f"{self.environment}.{self.release}.{self.instance}."


class Plane:
    """One model that answers, its queue and its capture. `submit` belongs to the loop's thread."""

    def __init__(
        self,
        model: LoadedModel,
        identity: Identity,
        capture: Capture | None = None,
        *,
        limits: Limits | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.model, self.identity, self.capture = model, identity, capture
        self.limits = limits or Limits()
        self.ready = False
        self.examples: dict[str, Array] = {}
        """Outputs of the warm-up: their names, types and shapes are the model's metadata."""
        self.batcher: Batcher[Admitted, Outputs] = Batcher(self._call, self.limits, watch)
        self._admit, self._most_rows = model.admit, self.limits.max_rows
        self._prefix, self._ulids = identity.prefix, clock.Ulids()
        self._moment = 0.0
        self._done = self._finished  # bound once, not for each query

    # ---- one query ----

    def submit(
        self, query: Query, done: Done, limit_s: float | None = None, trace: str = ""
    ) -> Job[Admitted, Outputs] | None:
        """Have a query answered: `done` gets an Answer or an error, once, on the loop's thread.

        Returns the ticket to cancel it with; None where it was answered at once. Raises WrongInput
        where it does not fit the signature and Overloaded where the queue is full. `done` gets
        WrongInput (seen only when values were converted), ModelFailed or TooLate. `trace` is the
        request's `traceparent`, for the capture.
        """
        if query.rows > self._most_rows:
            self._refuse_rows(query)
        admitted = self._admit(query)
        if query.rows == 0:
            outputs = Outputs(self.model.answer(self.model.assemble([admitted])))
            done(Answer(self.prediction_id(), outputs, 0, 0, 0.0))
            return None

        return self.batcher.submit(admitted, self._done, limit_s, (done, trace))

    def quick(self, requests: int) -> bool:
        """Whether so many requests may be answered at once, if they are of a row each."""
        return self.batcher.quick(requests)

    def at_once(self, together: Together, began: float) -> Outputs | None:
        """The outputs for all rows of requests that came in one turn of the loop, the first at
        `began`. None where they are to be submitted.

        Raises whatever is wrong with a row, or what the model raises.
        """
        several = len(together.parts) > 1
        query = together.whole()
        if not several and query.rows > self._most_rows:
            return None
        admitted = self._admit(query)
        if several:
            if not self.model.plain(admitted):
                return None
            admitted.several = True
        return self.batcher.at_once(admitted, len(together.parts), began)

    def identify(
        self,
        together: Together,
        outputs: Outputs,
        began: float,
        headers: Sequence[Mapping[bytes, bytes]],
    ) -> list[bytes]:
        """A prediction id for each of these requests, which are answered now; a sample is captured."""
        identities = self._identities().several(self._prefix, len(together.parts))
        capture = self.capture
        if capture is not None:
            wanted = capture.sample(len(identities))
            if wanted:
                self._take_some(capture, wanted, together, outputs, identities, began, headers)
        return identities

    def _take_some(
        self,
        capture: Capture,
        wanted: Sequence[int],
        together: Together,
        outputs: Outputs,
        identities: list[bytes],
        began: float,
        headers: Sequence[Mapping[bytes, bytes]],
    ) -> None:
        latency_s = perf_counter() - began
        stops = list(accumulate(together.counts))
        for number in wanted:
            stop = stops[number]
            answer = Answer(
                identities[number].decode(),
                outputs,
                stop - together.counts[number],
                stop,
                latency_s,
            )
            self._take(
                capture, self._admit(together.query(number)), answer, traceparent(headers[number])
            )

    def _finished(self, job: Job[Admitted, Outputs]) -> None:
        done, trace = job.context
        outputs = job.value
        if outputs is None:
            assert job.error is not None
            done(_told_apart(job.error))
            return
        identity = self._prefix + self._identities().take()
        answer = Answer(identity, outputs, job.start, job.stop, perf_counter() - job.arrived)
        capture = self.capture
        if capture is not None and capture.wants():
            self._take(capture, job.work, answer, trace)
        done(answer)

    def _identities(self) -> clock.Ulids:
        """ULIDs of now, or of a millisecond ago: a look at the clock and at the randomness
        costs more than a hundred of them."""
        now = perf_counter()
        if now - self._moment > 0.001:
            self._ulids.refresh()
            self._moment = now
        return self._ulids

    def predict(self, query: Query) -> Answer:
        """Answer a query alone, on this thread: the warm-up's way. Raises as `submit` tells."""
        if query.rows > self._most_rows:
            self._refuse_rows(query)
        begun = clock.elapsed()
        admitted = self.model.admit(query)
        try:
            outputs = self._call([admitted])
        except Exception as error:
            told = _told_apart(error)
            raise told from told.__cause__
        answer = Answer(
            self.prediction_id(), outputs, 0, query.rows, clock.elapsed() - begun
        )  # fmt: skip
        if self.capture is not None and query.rows and self.capture.wants():
            self._take(self.capture, admitted, answer)
        return answer

    def prediction_id(self) -> str:
        """A new `ENV.RELEASE.INSTANCE.ULID`."""
        return self._prefix + clock.ulid()

    def _refuse_rows(self, query: Query) -> NoReturn:
        raise WrongInput("input", f"at most {self._most_rows} rows", f"{query.rows}")

    def _call(self, admitted: list[Admitted]) -> Outputs:
        return Outputs(self.model.answer(self.model.assemble(admitted)))

    def _take(self, capture: Capture, admitted: Admitted, answer: Answer, trace: str = "") -> None:
        # Made into columns on the capture's thread, from what the client sent, as the model saw it.
        outputs = {name: answer.array(name) for name in answer.names}
        capture.take(Taken(
            answer.id, clock.now(), answer.latency_s * 1000, answer.rows,
            lambda: self.model.assemble([admitted]), outputs, trace,
        ))  # fmt: skip

    # ---- the model as a whole ----

    def warm(self) -> str:
        """Make a real prediction on the input example, then be ready; says what was done.

        A model that cannot answer its own example raises and never gets ready.
        """
        body = input_example(self.model.folder)
        if body is None:
            self.ready = True
            return "not warmed: the model directory has no input example"
        query = mlflow.Scoring(self.model.signature, self.limits).decode(body, "application/json")
        answer = self._call([self.model.admit(query)]).arrays
        again = self._call([self.model.admit(query)]).arrays  # the first pays for lazy imports
        for name, array in answer.items():
            if array.dtype.kind in "fiub" and not np.array_equal(
                array, again[name], equal_nan=array.dtype.kind == "f"
            ):
                raise ModelFailed(f"two predictions of the input example differ in {name}")
        self.examples = dict(answer)
        self.ready = True
        return f"warmed by the input example ({query.rows} rows)"

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
            "image": who.image,
        }  # fmt: skip

    def close(self) -> None:
        """End the model's thread and write what was captured."""
        self.batcher.close()
        if self.capture is not None:
            self.capture.close()


def _told_apart(error: Exception) -> Exception:
    """Errors of ours as they are; the library's own as ModelFailed, itself the cause."""
    if isinstance(error, TreadleError):
        return error
    failed = ModelFailed("the model failed on this input")
    failed.__cause__ = error
    return failed
