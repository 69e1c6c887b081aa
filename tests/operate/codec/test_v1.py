"""KServe's V1: instances in, predictions out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tests.operate.codec import tables
from tests.operate.codec.tables import Table

from treadle.operate.codec import v1
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature, WrongInput
from treadle.operate.query import Answer, Outputs


@given(tables.tables())
@settings(max_examples=50, deadline=None)
def test_instances_and_inputs_hold_the_clients_table(table: Table) -> None:
    codec = v1.Predict(table.signature, Limits())
    for form, document in tables.json_forms(table).items():
        if not document.keys() & {"instances", "inputs"}:
            continue
        query = codec.decode(json.dumps(document).encode())
        assert tables.same(tables.columns_of(query, table.signature), table.seen), form


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "instances or inputs, got neither"),
        ({"instances": [], "inputs": []}, "got instances and inputs"),
        ({"instances": [[1.5]], "secret": 1}, "instances alone, got 1 other fields"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]]}}, "got neither"),
        ({"instances": "secret"}, "a list"),
        (["secret"], "an object"),
    ],
)
def test_mistakes_are_named_without_values(document: Any, words: str) -> None:
    codec = v1.Predict(Signature((Field("a", "double"),)), Limits())
    with pytest.raises(WrongInput) as caught:
        codec.decode(json.dumps(document).encode())
    assert words in caught.value.message and "secret" not in caught.value.message


def test_answers_are_predictions_and_errors_an_error() -> None:
    codec = v1.Predict(Signature(), Limits())
    told = Answer("id", Outputs({"p": np.array([0.5, np.nan])}), 0, 2, 0.0)
    assert codec.encode(told) == b'{"predictions":[0.5,null]}'
    assert v1.encode_error("ü") == '{"error":"ü"}'.encode()
