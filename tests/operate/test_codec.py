"""Every form of every protocol gives the model what the process would give it."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from treadle.operate import model, plane
from treadle.operate.codec import json as codec_json
from treadle.operate.codec import mlflow, v2
from treadle.operate.signature import Field, Signature, WrongInput

NAMES = ["carrier", "day", "distance", "temp", "rain"]
ROW = st.tuples(
    st.one_of(st.none(), st.sampled_from(["UA", "AA", ""]), st.text(max_size=6)),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32)),
    st.booleans(),
)
QUICK = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="session")
def loaded(sklearn_folder: Path) -> model.LoadedModel:
    return model.load(sklearn_folder)


def in_process(loaded: model.LoadedModel, rows: list[tuple[Any, ...]]) -> np.ndarray[Any, Any]:
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
    return loaded.native.predict_proba(frame)


def json_forms(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    columns = list(map(list, zip(*rows, strict=True)))
    records = [dict(zip(NAMES, row, strict=True)) for row in rows]
    return [
        {"dataframe_split": {"columns": NAMES, "data": [list(row) for row in rows]}},
        {
            "dataframe_split": {
                "columns": [*NAMES[::-1], "extra"],
                "data": [[*row[::-1], "x"] for row in rows],
                "index": [0],
            }
        },
        {"dataframe_records": records},
        {"instances": records},
        {"inputs": dict(zip(NAMES, columns, strict=True))},
        {"instances": [list(row) for row in rows]},
    ]


@QUICK
@given(st.lists(ROW, min_size=1, max_size=4))
@example([("UA", 1, 2**53 + 1, 1.5, True)])
@example([("naïve \U0001f600", 1, -1, None, False), (None, 0, 0, math.nan, True)])
def test_each_json_form_answers_as_in_the_process(
    loaded: model.LoadedModel, rows: list[tuple[Any, ...]]
) -> None:
    expected = in_process(loaded, rows)
    for document in json_forms(rows):
        body = json.dumps(document).encode()  # Python writes NaN bare: accepted
        query = mlflow.decode(body, "application/json; charset=utf-8", loaded.signature)
        outputs = loaded.answer(loaded.prepare(query))
        np.testing.assert_array_equal(outputs["predict_proba"], expected)
        answer = json.loads(mlflow.encode(outputs))
        np.testing.assert_array_equal(answer["predictions"], expected)


@QUICK
@given(st.lists(ROW, min_size=1, max_size=4))
def test_csv_answers_as_in_the_process(
    loaded: model.LoadedModel, rows: list[tuple[Any, ...]]
) -> None:
    # CSV has no word for an empty text, and \0 is no CSV.
    rows = [((row[0] or "").replace("\0", "") or None, *row[1:]) for row in rows]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(NAMES)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    try:
        body = text.getvalue().encode()
    except UnicodeEncodeError:
        return
    query = mlflow.decode(body, "text/csv", loaded.signature)
    np.testing.assert_array_equal(
        loaded.predict(dict(query.columns or {})), in_process(loaded, rows)
    )


@QUICK
@given(st.lists(ROW, min_size=1, max_size=4), st.booleans())
def test_open_inference_answers_as_in_the_process(
    loaded: model.LoadedModel, rows: list[tuple[Any, ...]], nested: bool
) -> None:
    kinds = ["BYTES", "INT32", "INT64", "FP64", "BOOL"]
    inputs = []
    for name, kind, values in zip(NAMES, kinds, zip(*rows, strict=True), strict=True):
        data = [[value] for value in values] if nested else list(values)
        shape = [len(rows), 1] if nested else [len(rows)]
        inputs.append({"name": name, "datatype": kind, "shape": shape, "data": data})
    query, identity, requested = v2.decode(json.dumps({"id": "7", "inputs": inputs}).encode())
    outputs = loaded.answer(loaded.prepare(query))
    expected = in_process(loaded, rows)
    answer = json.loads(
        v2.encode(outputs, model="m", version="1", identity=identity or "", requested=requested)
    )
    assert answer["id"] == "7" and answer["outputs"][0]["shape"] == [len(rows), 2]
    np.testing.assert_array_equal(answer["outputs"][0]["data"], expected.ravel())


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*NAMES, "data", "columns", "inputs", "name", "shape", "datatype"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]),
)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_a_query_or_wrong_input(value: Any, form: str) -> None:
    body = json.dumps({form: value}).encode("utf-8", "replace")
    columns = Signature((Field("carrier", "string"), Field("day", "integer")))
    tensor = Signature((Field("input", "tensor", True, "float64", (-1, 2)),))
    for signature in (columns, tensor, Signature()):
        loaded = model.LoadedModel(Path(), "none", signature, "predict", lambda d, _: d, None)
        try:
            loaded.prepare(mlflow.decode(body, "application/json", signature))
        except WrongInput:
            pass
    for document in (body, json.dumps({"inputs": value}).encode("utf-8", "replace")):
        try:
            v2.decode(document)
        except WrongInput:
            pass


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_wrong_input_at_worst(body: bytes) -> None:
    for kind in ("application/json", "text/csv"):
        try:
            mlflow.decode(body, kind, Signature((Field("a", "double"),)))
        except WrongInput:
            pass


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "exactly one of"),
        ({"inputs": [], "instances": []}, "instances and inputs"),
        ({"inputs": [], "more": 1}, "1 other fields"),
        (
            {"dataframe_split": {"data": [[1], [1, 2]], "columns": ["a"]}},
            "row 1: expected 1 cells, got 2",
        ),
        ({"dataframe_split": {"data": [], "columns": ["a", "a"]}}, "one name twice"),
        ({"dataframe_records": [1]}, "a list of objects"),
        ({"instances": [[1, 2], [3]]}, "equal length"),
        ({"inputs": {"a": [1], "b": [1, 2]}}, "equal length"),
        ({"inputs": [], "params": 1}, "params"),
    ],
)
def test_mistakes_in_a_document_are_named(document: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongInput) as caught:
        mlflow.decode(json.dumps(document).encode(), "application/json", Signature())
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"shape": [2], "datatype": "FP32", "data": [1]}, "2 values for its shape, got 1"),
        ({"shape": [10**30], "datatype": "FP32", "data": []}, "values for its shape"),
        ({"shape": [-1], "datatype": "FP32", "data": [1]}, "shape"),
        ({"shape": [1], "datatype": "X"}, "datatype"),
        ({"shape": [1], "datatype": "INT8", "data": [300]}, "beyond its range"),
        ({"shape": [1], "datatype": "INT8", "data": [True]}, "values of INT8"),
        ({"shape": [1], "datatype": "BYTES", "data": [1]}, "texts"),
        (
            {"shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
            "not supported yet",
        ),
        ({"shape": [2], "datatype": "FP32", "data": [[1], 2]}, "mixture"),
    ],
)
def test_mistakes_in_a_tensor_are_named(tensor: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongInput) as caught:
        v2.decode(json.dumps({"inputs": [{"name": "x", **tensor}]}).encode())
    assert words in caught.value.message


def test_a_mistake_in_json_is_told_by_its_place() -> None:
    with pytest.raises(WrongInput, match="a mistake at byte 6"):
        codec_json.loads(b'{"a": secret}')
    with pytest.raises(WrongInput):
        codec_json.loads(b"[" * 100_000)


def test_what_json_lacks_is_null_or_text() -> None:
    values = {
        "f": np.array([math.nan, math.inf, 1.5]),
        "g": np.array([0.1, math.nan], dtype="float32"),
        "t": np.array(["2013-01-01T00:00", "NaT"], dtype="datetime64[s]"),
        "b": [b"ab"],
        "i": np.array([2**63 - 1]),
        "s": np.array(["a", None], dtype=object),
    }
    assert json.loads(codec_json.dumps(values)) == {
        "f": [None, None, 1.5],
        "g": [0.1, None],
        "t": ["2013-01-01T00:00:00", None],
        "b": ["YWI="],
        "i": [2**63 - 1],
        "s": ["a", None],
    }


def test_a_tensor_model_takes_tensors_of_its_shape_alone() -> None:
    signature = Signature((Field("x", "tensor", True, "float32", (-1, 2)),))
    loaded = model.LoadedModel(
        Path(), "none", signature, "predict", lambda d, _: d.sum(axis=1), None
    )

    def ask(document: dict[str, Any]) -> Any:
        query = mlflow.decode(json.dumps(document).encode(), "application/json", signature)
        return loaded.answer(loaded.prepare(query))["predict"].tolist()

    assert ask({"inputs": [[1, 2], [3, 4.5]]}) == [3, 7.5] == ask({"instances": [[1, 2], [3, 4.5]]})
    assert ask({"inputs": {"x": [[1, 2]]}}) == [3]
    with pytest.raises(WrongInput, match=r"expected shape \[-1, 2\], got shape \[1, 3\]"):
        ask({"inputs": [[1, 2, 3]]})
    with pytest.raises(WrongInput, match="values of type float32"):
        ask({"inputs": [["a", "b"]]})


def test_several_outputs_are_records() -> None:
    outputs = {"label": np.array([1, 0]), "scores": np.array([[0.1, 0.9], [0.7, 0.3]])}
    assert json.loads(mlflow.encode(outputs)) == {
        "predictions": [{"label": 1, "scores": [0.1, 0.9]}, {"label": 0, "scores": [0.7, 0.3]}]
    }
    answer = json.loads(
        v2.encode(outputs, model="m", version="1", identity="i", requested=("scores",))
    )
    assert [o["name"] for o in answer["outputs"]] == ["scores"]
    with pytest.raises(WrongInput, match="some of label, scores"):
        v2.encode(outputs, model="m", version="1", identity="i", requested=("no",))


def test_no_rows_are_no_predictions(loaded: model.LoadedModel) -> None:
    for document in (
        {"dataframe_records": []},
        {"inputs": []},
        {"dataframe_split": {"columns": NAMES, "data": []}},
    ):
        query = mlflow.decode(json.dumps(document).encode(), "application/json", loaded.signature)
        assert plane.Plane(loaded, plane.Identity()).predict(query).outputs["output"].tolist() == []
