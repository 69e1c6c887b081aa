"""Bodies read by us and by MLflow's own scoring server: the model sees the same, or we say why not."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from treadle.operate.codec import mlflow
from treadle.operate.limits import Limits
from treadle.operate.model import signature as signatures
from treadle.operate.model.assemble import Assembler
from treadle.operate.model.signature import Signature, WrongInput

JSON, CSV = "application/json", "text/csv"
SCHEMAS: dict[str, list[tuple[Any, ...]]] = {
    "columns": [("double", "a"), ("long", "b"), ("string", "c"), ("boolean", "d"),
                ("datetime", "e")],
    "numbers": [("double", "a"), ("float", "b")],
    "one": [("double", "a")],
    "optional": [("double", "a"), ("double", "b", False)],
    "integers": [("long", "i"), ("integer", "j")],
    "texts": [("string", "c"), ("double", "a")],
    "flag": [("boolean", "d")],
    "matrix": [("float32", (-1, 2), None)],
    "tensors": [("float64", (-1, 2), "x"), ("int64", (-1,), "y")],
    "none": [],
}  # fmt: skip
ROW = {"a": 1.5, "b": 2, "c": "x", "d": True, "e": "2020-01-02T03:04:05"}
LIST = list(ROW.values())


def schema_of(name: str) -> Any:
    from mlflow.types import ColSpec, Schema, TensorSpec

    specs = []
    for kind, second, *more in SCHEMAS[name]:
        if isinstance(second, tuple):
            specs.append(TensorSpec(np.dtype(kind), second, more[0]))
        else:
            specs.append(ColSpec(kind, second, required=more[0] if more else True))
    return Schema(specs) if specs else None


def theirs(name: str, body: str, kind: str) -> Any:
    from mlflow.models.utils import _enforce_schema
    from mlflow.pyfunc import scoring_server

    schema = schema_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == CSV:
            data = scoring_server.parse_csv_input(io.StringIO(body), schema)
        else:
            data, _ = scoring_server._split_data_and_params(body)
            data = scoring_server.infer_and_parse_data(data, schema)
        return _enforce_schema(data, schema) if schema else data


def ours(name: str, body: str, kind: str) -> Any:
    schema = schema_of(name)
    signature = signatures.read({"inputs": schema.to_json()}) if schema else Signature()
    assembler = Assembler(signature)
    query = mlflow.Scoring(signature, Limits()).decode(body.encode(), kind)
    return assembler.assemble([assembler.admit(query)]).data


def shown(data: Any) -> Any:
    if isinstance(data, pd.DataFrame):
        return {str(name): (str(data[name].dtype), data[name].tolist()) for name in data}
    if isinstance(data, dict):
        return {name: (str(array.dtype), array.tolist()) for name, array in data.items()}
    return (str(data.dtype), data.tolist())


AGREED: list[tuple[str, Any]] = [
    ("columns", {"dataframe_split": {"columns": list(ROW), "data": [LIST, LIST]}}),
    ("columns", {"dataframe_split": {"columns": list(ROW)[::-1], "data": [LIST[::-1]]}}),
    ("columns", {"dataframe_split": {"columns": [*ROW, "k"], "data": [[*LIST, 1]]}}),
    ("columns", {"dataframe_records": [ROW, ROW]}),
    ("columns", {"instances": [ROW, ROW]}),
    ("columns", {"inputs": [ROW, ROW]}),
    ("columns", {"inputs": {name: [value, value] for name, value in ROW.items()}}),
    ("columns", {"inputs": ROW}),
    ("numbers", {"dataframe_split": {"columns": ["a", "b"], "data": [[None, 1], [2, np.nan]]}}),
    ("numbers", {"dataframe_split": {"columns": ["a", "b"], "data": [[np.inf, 0.1]]}}),
    ("numbers", {"dataframe_split": {"columns": ["a", "b"], "index": [7], "data": [[2, 1]]}}),
    ("one", {"inputs": [1, 2]}),
    ("one", {"instances": [1, 2]}),
    ("matrix", {"inputs": [[1, 2], [3, 4.5]]}),
    ("matrix", {"instances": [[1, 2], [3, 4.5]]}),
    ("matrix", {"dataframe_split": {"data": [[1, 2], [3, 4.5]]}}),
    ("matrix", {"dataframe_split": {"columns": ["p", "q"], "data": [[1, 2], [3, 4.5]]}}),
    ("matrix", {"dataframe_records": [{"p": 1, "q": 2}]}),
    ("tensors", {"inputs": {"x": [[1, 2], [3, 4]], "y": [5, 6]}}),
    ("tensors", {"instances": [{"x": [1, 2], "y": 5}, {"x": [3, 4], "y": 6}]}),
    ("optional", {"dataframe_records": [{"a": 1.5}, {"a": 2.5}]}),
    ("optional", {"dataframe_records": [{"a": 1.5}, {"a": 2.5, "b": 1}]}),
    ("integers", {"dataframe_split": {"columns": ["i", "j"], "data": [[2**53 + 1, 7]]}}),
    ("integers", {"dataframe_split": {"columns": ["i", "j"], "data": [[1.0, 7]]}}),
    ("none", {"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"]]}}),
    ("none", {"dataframe_split": {"data": [[1, 2]]}}),
    ("none", {"inputs": {"a": [1, 2]}}),
    ("numbers", "a,b\n1,2\n,3\nNA,4\n"),
    ("numbers", "b,a\n1,2\n"),
    ("integers", "i,j\n9007199254740993,1\n"),
    ("integers", "i,j\n5.0,1\n"),
    ("optional", "a\n1\n"),
    ("flag", "d\ntrue\nFalse\n"),
    ("flag", "d\n1\n0\n"),
    ("none", "a,b\n1,x\n2,y\n"),
]


@pytest.mark.parametrize(("name", "body"), AGREED)
def test_the_model_sees_what_mlflows_server_would_show_it(name: str, body: Any) -> None:
    kind = CSV if isinstance(body, str) else JSON
    text = body if isinstance(body, str) else json.dumps(body)
    assert repr(shown(ours(name, text, kind))) == repr(shown(theirs(name, text, kind)))


SPLIT = {"columns": ["i", "j"]}
MORE: list[tuple[str, Any, Any, str]] = [
    ("numbers", {"inputs": [[1, 2]]}, {"a": [1.0], "b": [2.0]}, "columns by position"),
    ("numbers", {"instances": [[1, 2]]}, {"a": [1.0], "b": [2.0]}, "columns by position"),
    ("numbers", {"dataframe_split": {"data": [[1, 2]]}}, {"a": [1.0], "b": [2.0]}, "by position"),
    ("columns", "a,b,c,d,e\n1.5,2,x,True,2020-01-02T03:04:05\n",
     {"a": [1.5], "b": [2], "c": ["x"], "d": [True], "e": [pd.Timestamp("2020-01-02T03:04:05")]},
     "datetimes in CSV: pandas refuses the signature's own type"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "expected", "why"), MORE)
def test_what_mlflow_refuses_and_we_take(name: str, body: Any, expected: Any, why: str) -> None:
    kind = CSV if isinstance(body, str) else JSON
    text = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(Exception, match=r".+"):
        theirs(name, text, kind)
    assert {n: values for n, (_, values) in shown(ours(name, text, kind)).items()} == expected, why


STRICTER: list[tuple[str, Any, str]] = [
    ("integers", {"dataframe_split": {**SPLIT, "data": [[1.5, 7]]}}, "MLflow cuts the fraction"),
    ("integers", {"dataframe_split": {**SPLIT, "data": [["1", 7]]}}, "a text is no number"),
    ("integers", {"dataframe_split": {**SPLIT, "data": [[True, 7]]}}, "a boolean is no number"),
    ("integers", {"dataframe_split": {**SPLIT, "data": [[1, 2**40]]}}, "MLflow wraps it to 0"),
]


@pytest.mark.parametrize(("name", "body", "why"), STRICTER)
def test_what_mlflow_takes_wrongly_and_we_refuse(name: str, body: Any, why: str) -> None:
    theirs(name, json.dumps(body), JSON)
    with pytest.raises(WrongInput):
        ours(name, json.dumps(body), JSON)


def test_a_text_that_says_na_stays_a_text_in_csv() -> None:
    """pandas makes it a missing value, also where the signature says that it is a text."""
    body = "c,a\nNA,1\n"
    assert theirs("texts", body, CSV)["c"].isna().all()
    assert ours("texts", body, CSV)["c"].tolist() == ["NA"]


REFUSED: list[tuple[str, Any]] = [
    ("numbers", {"dataframe_split": {"columns": ["a"], "data": [[1]]}}),
    ("numbers", {"inputs": [[1, 2], [3]]}),
    ("numbers", {"inputs": {"a": [1], "b": [1, 2]}}),
    ("numbers", {"inputs": [[1, 2]], "instances": [[1, 2]]}),
    ("numbers", {"dataframe_split": {"columns": ["a", "b"]}}),
    ("numbers", {"dataframe_split": {"columns": ["a", "b"], "data": [], "more": 1}}),
    ("numbers", {}),
    ("numbers", "[1]"),
    ("numbers", "{"),
    ("matrix", {"inputs": [[1, 2, 3]]}),
    ("tensors", {"inputs": {"x": [[1, 2]]}}),
]


@pytest.mark.parametrize(("name", "body"), REFUSED)
def test_what_both_refuse(name: str, body: Any) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(Exception, match=r".+"):
        theirs(name, text, JSON)
    with pytest.raises(WrongInput):
        ours(name, text, JSON)


def test_mlflow_echoes_the_input_and_we_do_not() -> None:
    body = '{"inputs": "4711-secret", '
    with pytest.raises(Exception, match="4711-secret"):
        theirs("numbers", body, JSON)
    with pytest.raises(WrongInput) as caught:
        ours("numbers", body, JSON)
    assert "secret" not in str(caught.value)
