"""MLflow's scoring protocol: the bodies of `POST /invocations` and its answers.

JSON with exactly one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, and
optional `params`; or CSV with a header. Answers are `{"predictions": …}`: a list with one entry a
row, or records for a model with several outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from treadle.operate.codec import csv, json
from treadle.operate.codec.forms import Forms
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Signature, WrongInput
from treadle.operate.query import Answer, Outputs, Query, Together

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_UNWRAPPED = {"messages", "prompt", "input"}
_KINDS = "application/json or text/csv"
Array = np.ndarray[Any, Any]


class WrongType(Exception):
    """A content type that this protocol does not know (415)."""


class Scoring:
    """The codec of one model."""

    def __init__(self, signature: Signature, limits: Limits) -> None:
        self._signature, self._limits = signature, limits
        self._forms = Forms(signature, limits, FORMS)

    def decode(self, body: bytes, content_type: str | None) -> Query:
        """The query in a body. WrongInput (400) or WrongType (415)."""
        if content_type != "application/json" and media_type(content_type) == "text/csv":
            return csv.decode(body, self._signature, self._limits)
        return self._forms.quick(body) or self._general(body)

    def together(self, bodies: Sequence[bytes]) -> Together | None:
        """The rows of usual JSON bodies; None: decode each by itself."""
        return self._forms.together(bodies)

    def encode_all(self, outputs: Outputs, counts: Sequence[int]) -> list[bytes]:
        """The bodies of answers of so many rows each, in order, of one call."""
        names = list(outputs.arrays)
        rows: list[Any] = outputs.values(names[0])
        if len(names) > 1:
            columns = [outputs.values(name) for name in names]
            rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        dumps = json.dumps
        if len(rows) == len(counts):
            return [dumps({"predictions": [row]}) for row in rows]
        stops = accumulate(counts)
        return [
            dumps({"predictions": rows[stop - count : stop]})
            for count, stop in zip(counts, stops, strict=True)
        ]

    def encode(self, answer: Answer) -> bytes:
        """The body of an answer."""
        names = answer.names
        if len(names) == 1:
            return json.dumps({"predictions": answer.values(names[0])})
        columns = [answer.values(name) for name in names]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return json.dumps({"predictions": rows})

    def _general(self, body: bytes) -> Query:
        document = self._forms.document(body)
        given = [name for name in FORMS if name in document]
        if len(given) != 1:
            if not given and document.keys() & _UNWRAPPED:
                raise WrongInput(
                    "body", f"exactly one of {', '.join(FORMS)}",
                    "the bare form of language models, which is not taken here: wrap it in inputs",
                )  # fmt: skip
            raise WrongInput(
                "body", f"exactly one of {', '.join(FORMS)}", " and ".join(given) or "none of them"
            )
        unknown = document.keys() - {given[0], "params"}
        if unknown:
            raise WrongInput("body", f"{given[0]} and params alone", f"{len(unknown)} other fields")
        params = document.get("params")
        if params is None:
            params = {}
        if not isinstance(params, dict):
            raise WrongInput("params", "an object", "something else")
        return self._forms.general(given[0], document[given[0]], params)


def media_type(content_type: str | None) -> str:
    """The type without its parameters. WrongInput where there is none, WrongType if unknown."""
    if not content_type or not content_type.strip():
        raise WrongInput("Content-Type", _KINDS, "none")
    kind, *parameters = content_type.split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().lower().partition("=")
        if name and (name.strip() != "charset" or value.strip(' "') not in ("utf-8", "utf8")):
            raise WrongType("the only parameter of the content type is charset=utf-8")
    kind = kind.strip().lower()
    if kind not in ("application/json", "text/csv"):
        raise WrongType(f"send {_KINDS} in the Content-Type")
    return kind


def encode_error(code: str, message: str) -> bytes:
    """The body of an error: `code` is MLflow's word, such as BAD_REQUEST."""
    return json.dumps({"error_code": code, "message": message})
