"""Every protocol gives the model what the process would give it, and its answer back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.operate.codec import tables
from tests.operate.codec.tables import Table

from treadle.operate.codec import mlflow, v1, v2
from treadle.operate.limits import Limits
from treadle.operate.model import loaded as model
from treadle.operate.query import Answer, Outputs, Query

NAMES = ["carrier", "day", "distance", "temp", "rain"]
ROW = st.tuples(
    st.one_of(st.none(), st.sampled_from(["UA", "AA", ""]), tables.TEXT),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.one_of(st.none(), st.floats(allow_infinity=False, width=32)),
    st.booleans(),
)
QUICK = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def loaded(sklearn_folder: Path) -> model.LoadedModel:
    return model.load(sklearn_folder)


def table_of(loaded: model.LoadedModel, rows: Rows) -> Table:
    columns = map(list, zip(*rows, strict=True))
    return Table(loaded.signature, dict(zip(NAMES, columns, strict=True)), len(rows))


def in_process(loaded: model.LoadedModel, rows: Rows) -> np.ndarray[Any, Any]:
    columns = list(zip(*rows, strict=True))
    frame = pd.DataFrame(
        {
            "carrier": pd.array(columns[0], dtype="str"),
            "day": np.array(columns[1], dtype="int32"),
            "distance": np.array(columns[2], dtype="int64"),
            "temp": np.array(columns[3], dtype=float),
            "rain": np.array(columns[4], dtype=bool),
        }
    )
    found: np.ndarray[Any, Any] = loaded.native.predict_proba(frame)
    return found


def answered(loaded: model.LoadedModel, query: Query) -> Answer:
    outputs = loaded.answer(loaded.prepare(query))
    return Answer("id", Outputs(outputs), 0, query.rows, 0.0)


@QUICK
@given(st.lists(ROW, min_size=1, max_size=4))
@example([("UA", 1, 2**53 + 1, 1.5, True)])
@example([("naïve \U0001f600", 1, -1, None, False), (None, 0, 0, math.nan, True)])
def test_mlflow_and_v1_answer_as_the_process(loaded: model.LoadedModel, rows: Rows) -> None:
    expected = in_process(loaded, rows)
    scoring = mlflow.Scoring(loaded.signature, Limits())
    predict = v1.Predict(loaded.signature, Limits())
    for document in tables.json_forms(table_of(loaded, rows)).values():
        body = json.dumps(document).encode()
        told = scoring.encode(answered(loaded, scoring.decode(body, "application/json")))
        np.testing.assert_array_equal(json.loads(told)["predictions"], expected)
        if document.keys() & {"inputs", "instances"}:
            told = predict.encode(answered(loaded, predict.decode(body)))
            np.testing.assert_array_equal(json.loads(told)["predictions"], expected)


@QUICK
@given(st.lists(ROW, min_size=1, max_size=4))
def test_csv_answers_as_the_process(loaded: model.LoadedModel, rows: Rows) -> None:
    # CSV has no word for an empty text, and \0 is no CSV.
    rows = [((row[0] or "").replace("\0", "") or None, *row[1:]) for row in rows]
    scoring = mlflow.Scoring(loaded.signature, Limits())
    query = scoring.decode(tables.csv_text(table_of(loaded, rows)).encode(), "text/csv")
    told = json.loads(scoring.encode(answered(loaded, query)))
    np.testing.assert_array_equal(told["predictions"], in_process(loaded, rows))


@QUICK
@given(st.lists(ROW, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_open_inference_answers_as_the_process(
    loaded: model.LoadedModel, rows: Rows, binary: bool, nested: bool
) -> None:
    codec = v2.Inference(loaded.signature, Limits(), model="m", version="1")
    body, header = tables.v2_body(table_of(loaded, rows), binary=binary, nested=nested)
    request = codec.decode(body, header)._replace(binary_output=binary)
    told, length = codec.encode(answered(loaded, request.query), request)
    document = json.loads(told[:length])
    (output,) = document["outputs"]
    assert document["id"] == "7" and output["shape"] == [len(rows), 2]
    flat = np.frombuffer(told[length:]) if binary else output["data"]
    np.testing.assert_array_equal(flat, in_process(loaded, rows).ravel())


def test_no_rows_are_no_predictions(loaded: model.LoadedModel) -> None:
    scoring = mlflow.Scoring(loaded.signature, Limits())
    for document in (
        {"dataframe_records": []}, {"inputs": []}, {"instances": []},
        {"dataframe_split": {"columns": NAMES, "data": []}}, {"inputs": {n: [] for n in NAMES}},
    ):  # fmt: skip
        query = scoring.decode(json.dumps(document).encode(), "application/json")
        assert query.rows == 0
        assert scoring.encode(answered(loaded, query)) == b'{"predictions":[]}'
        some = scoring.decode(
            json.dumps(
                {"dataframe_split": {"columns": NAMES, "data": [["UA", 1, 2, 1.5, True]]}}
            ).encode(),
            "application/json",
        )
        assert answered(loaded, query).names == answered(loaded, some).names
