"""MLflow's scoring protocol: every form decodes to the table that the client had."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.operate.codec import tables
from tests.operate.codec.tables import Table

from treadle.operate.codec import mlflow
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature, WrongInput
from treadle.operate.query import Answer, Outputs

JSON = "application/json"
NUMBERS = ("double", "float", "long", "integer")
QUICK = {"split", "split with index", "split turned", "records", "inputs by position",
         "instances by position"}  # fmt: skip
HUGE = Table(Signature((Field("id", "long"),)), {"id": [2**63 - 1, -(2**63), 2**53 + 1]}, 3)
ODD = Table(
    Signature((Field("x", "double"), Field("", "string"))),
    {"x": [math.nan, math.inf, None, -0.0], "": ["\U0001f600", None, "", "NaN"]},
    4,
)


def scoring(signature: Signature, **limits: Any) -> mlflow.Scoring:
    return mlflow.Scoring(signature, Limits(**limits))


def answer(**arrays: np.ndarray[Any, Any]) -> Answer:
    rows = len(next(iter(arrays.values())))
    return Answer("id", Outputs(arrays), 0, rows, 0.0)


@given(tables.tables(), st.booleans())
@example(HUGE, True)
@example(ODD, False)
@settings(max_examples=40, deadline=None)
def test_each_json_form_holds_the_clients_table(table: Table, ascii_alone: bool) -> None:
    codec = scoring(table.signature)
    for form, document in tables.json_forms(table).items():
        body = json.dumps(document, ensure_ascii=ascii_alone).encode()
        query = codec.decode(body, "application/json; charset=utf-8")
        assert query.rows == table.rows, form
        assert tables.same(tables.columns_of(query, table.signature), table.seen), form


@given(tables.tables(kinds=NUMBERS))
@settings(max_examples=40, deadline=None)
def test_the_quick_way_and_the_general_one_agree(table: Table) -> None:
    codec = scoring(table.signature)
    floats = [v for values in table.columns.values() for v in values if isinstance(v, float)]
    nan, infinite = any(map(math.isnan, floats)), any(map(math.isinf, floats))
    for form, document in tables.json_forms(table).items():
        body = json.dumps(document).encode()
        quick = codec._forms.quick(body)
        general = codec._general(body)
        bare = infinite or (nan and b"\\" in body)  # the general way
        if form in QUICK:
            assert (quick is None) == bare, form
        if quick is not None:
            assert quick.numbers
            assert tables.same(
                tables.columns_of(quick, table.signature),
                tables.columns_of(general, table.signature),
            )


@given(tables.tables(kinds=NUMBERS, missing=False))
@settings(max_examples=50, deadline=None)
def test_numbers_come_as_cells_without_a_look_at_each(table: Table) -> None:
    body = json.dumps({"inputs": table.data}).encode()
    query = scoring(table.signature).decode(body, JSON)
    assert query.cells is not None and query.names is None
    assert query.numbers is not (b"Infinity" in body)


@given(st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=1, max_size=5),
       st.sampled_from(["float64", "float32"]))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_a_matrix_of_floats_comes_as_rows_and_deeper_tensors_as_arrays(
    rows: list[list[float]], dtype: str
) -> None:
    flat = Signature((Field("input", "tensor", True, dtype, (-1, 3)),))
    deep = Signature((Field("input", "tensor", True, dtype, (-1, 3, 1)),))
    for form in ("inputs", "instances"):
        query = scoring(flat).decode(json.dumps({form: rows}).encode(), JSON)
        seen = [[None if math.isnan(cell) else cell for cell in row] for row in rows]
        assert tables.same(query.cells, seen)
        nested = [[[cell] for cell in row] for row in rows]
        query = scoring(deep).decode(json.dumps({form: nested}).encode(), JSON)
        assert query.tensors is not None
        np.testing.assert_array_equal(query.tensors[""], np.array(nested, dtype=float))
    named = {"input": [[[cell] for cell in row] for row in rows]}
    query = scoring(deep).decode(json.dumps({"inputs": named}).encode(), JSON)
    assert query.tensors is not None and query.tensors["input"].shape == (len(rows), 3, 1)


def test_several_tensors_come_by_name_in_every_form() -> None:
    signature = Signature(
        (
            Field("a", "tensor", True, "int64", (-1,)),
            Field("b", "tensor", True, "float32", (-1, 2)),
        )
    )
    records = [{"a": 1, "b": [1, 2]}, {"a": 2**53 + 1, "b": [3, 4.5]}]
    for document in (
        {"instances": records},
        {"inputs": records},
        {"dataframe_records": records},
        {"inputs": {"a": [1, 2**53 + 1], "b": [[1, 2], [3, 4.5]]}},
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, [1, 2]], [2**53 + 1, [3, 4.5]]]}},
    ):
        query = scoring(signature).decode(json.dumps(document).encode(), JSON)
        assert query.tensors is not None and query.rows == 2
        assert query.tensors["a"].tolist() == [1, 2**53 + 1]
        assert query.tensors["b"].tolist() == [[1, 2], [3, 4.5]]


def test_records_that_lack_a_name_have_a_missing_value_there() -> None:
    body = b'{"dataframe_records": [{"a": 1}, {"b": 2, "a": 3}]}'
    query = scoring(Signature((Field("a", "long"), Field("b", "long", False)))).decode(body, JSON)
    assert query.columns == {"a": [1, 3], "b": [None, 2]}


def test_nan_among_texts_is_a_missing_value_as_pandas_writes_it() -> None:
    signature = Signature((Field("a", "string"), Field("b", "double")), params=("p",))
    for body in (
        b'{"dataframe_split": {"columns": ["a", "b"], "data": [[NaN, NaN], ["NaN", 1]]}}',
        b'{"dataframe_split": {"columns": ["a", "b"], "data": [[NaN, NaN], ["NaN", 1]]},'
        b' "params": {"p": "\\n"}}',
        b'{"dataframe_records": [{"a": NaN, "b": NaN}, {"a": "\\u004eaN", "b": 1}]}',
    ):
        query = scoring(signature).decode(body, JSON)
        assert query.cells == [[None, None], ["NaN", 1]] and query.names == ("a", "b")


def test_one_row_may_be_given_as_bare_values_by_name() -> None:
    query = scoring(Signature((Field("a", "long"), Field("b", "string")))).decode(
        b'{"inputs": {"a": 1, "b": "x"}}', JSON
    )
    assert query.columns == {"a": [1], "b": ["x"]} and query.rows == 1


def test_other_columns_come_along() -> None:
    signature = Signature((Field("a", "double"),))
    body = b'{"dataframe_split": {"columns": ["key", "a"], "data": [["k", 1.5]]}}'
    query = scoring(signature).decode(body, JSON)
    assert query.names == ("key", "a") and query.cells == [["k", 1.5]] and not query.numbers


def test_params_come_beside_each_form() -> None:
    signature = Signature((Field("a", "double"),), params=("top",))
    for document in ({"inputs": [[1]]}, {"dataframe_split": {"columns": ["a"], "data": [[1]]}}):
        body = json.dumps({**document, "params": {"top": 3}}).encode()
        query = scoring(signature).decode(body, JSON)
        assert query.params == {"top": 3} and query.cells == [[1]]
        body = json.dumps({**document, "params": None}).encode()
        assert scoring(signature).decode(body, JSON).params == {}


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "exactly one of"),
        ({"inputs": [], "instances": []}, "instances and inputs"),
        ({"inputs": [], "more": 1}, "1 other fields"),
        ({"messages": [{"role": "user", "content": "secret"}]}, "language models"),
        ({"prompt": "secret"}, "language models"),
        (["secret"], "an object, got a list"),
        ({"dataframe_split": {"data": [[1], [1, 2]], "columns": ["a"]}},
         "row 1: expected 1 cells, got 2"),
        ({"dataframe_split": {"data": [[1], [1, 2]]}}, "row 1: expected 1 cells, got 2"),
        ({"dataframe_split": {"data": [], "columns": ["secret", "secret"]}}, "one name twice"),
        ({"dataframe_split": {"data": [["secret"]], "columns": [{}]}}, "a list of texts"),
        ({"dataframe_split": {"columns": ["secret"]}}, "dataframe_split.data"),
        ({"dataframe_split": {"data": [], "secret": 1}}, "other fields"),
        ({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]], "index": "secret"}},
         "index: expected a list"),
        ({"dataframe_split": {"columns": [], "data": [[]]}}, "rows without any"),
        ({"dataframe_split": [1]}, "an object with data and columns, got a list"),
        ({"dataframe_records": [1]}, "a list of objects"),
        ({"dataframe_records": {"a": 1}}, "a list of objects, got an object"),
        ({"dataframe_records": [{}]}, "columns"),
        ({"instances": [[1, 2], [3]]}, "row 1"),
        ({"instances": "secret"}, "a list, got a single value"),
        ({"inputs": None}, "got null"),
        ({"inputs": {}}, "an empty object"),
        ({"inputs": {"secret": []}}, "a: expected a column of this name, got none"),
        ({"dataframe_split": {"columns": ["secret"], "data": []}}, "a: expected a column"),
        ({"inputs": {"a": [1], "b": [1, 2]}}, "equal length"),
        ({"inputs": [], "params": "secret"}, "params"),
    ],
)  # fmt: skip
def test_mistakes_in_a_document_are_named_without_its_values(document: Any, words: str) -> None:
    body = json.dumps(document).encode()
    for signature in (
        Signature((Field("a", "double"), Field("b", "double"))),
        Signature((Field("a", "string"),)),
    ):
        with pytest.raises(WrongInput) as caught:
            scoring(signature).decode(body, JSON)
        assert words in caught.value.message
        assert caught.value.field and caught.value.expected and caught.value.got
        assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "kind",
    ["text/html", "application/x-www-form-urlencoded", "application/json; charset=latin-1",
     "application/json; charset=utf-8; x=1", "application/vnd.apache.parquet", "secret"],
)  # fmt: skip
def test_an_unknown_content_type_is_415(kind: str) -> None:
    with pytest.raises(mlflow.WrongType) as caught:
        scoring(Signature()).decode(b'{"inputs": [1]}', kind)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [None, "", " "])
def test_a_missing_content_type_is_400_and_not_500_as_in_mlflow(kind: str | None) -> None:
    with pytest.raises(WrongInput, match="Content-Type: expected application/json or text/csv"):
        scoring(Signature()).decode(b'{"inputs": [1]}', kind)


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON", "application/json;charset=UTF-8",
     'application/json; charset="utf-8"', "application/json;"],
)  # fmt: skip
def test_json_in_utf_8_is_known_however_it_is_written(kind: str) -> None:
    assert scoring(Signature()).decode(b'{"inputs": [1]}', kind).rows == 1


def test_too_many_rows_are_refused_in_every_form() -> None:
    signature = Signature((Field("a", "double"),))
    table = Table(signature, {"a": [1.0] * 11}, 11)
    for form, document in tables.json_forms(table).items():
        body = json.dumps(document).encode()
        with pytest.raises(WrongInput, match="at most 10 rows"):
            scoring(signature, max_rows=10).decode(body, JSON)
        assert scoring(signature, max_rows=11).decode(body, JSON).rows == 11, form
    with pytest.raises(WrongInput, match="at most 10 rows"):
        scoring(signature, max_rows=10).decode(tables.csv_text(table).encode(), "text/csv")


def test_more_rows_than_allowed_are_refused_before_they_are_read() -> None:
    body = b'{"inputs": [' + b"[]," * 200_000 + b"[]]}"
    codec = scoring(Signature((Field("a", "double"),)), max_rows=1000)
    with pytest.raises(WrongInput, match=r"body: expected at most 1000 rows, got more"):
        codec.decode(body, JSON)


def test_brackets_in_texts_are_no_rows() -> None:
    text = "[{" * 600
    body = json.dumps({"dataframe_records": [{"a": text}]}).encode()
    query = scoring(Signature((Field("a", "string"),)), max_rows=1000).decode(body, JSON)
    assert query.cells == [[text]]


def test_nesting_beyond_the_limit_is_refused_in_every_place() -> None:
    deep = json.loads("[" * 40 + "]" * 40)
    for signature in (Signature(), Signature((Field("a", "double"),), params=("p",))):
        for document in (
            {"inputs": deep}, {"dataframe_records": [{"a": deep}]},
            {"inputs": [[1]], "params": {"p": deep}}, {"inputs": [[1]], "more": deep},
        ):  # fmt: skip
            with pytest.raises(WrongInput, match="at most 32 deep"):
                scoring(signature).decode(json.dumps(document).encode(), JSON)


# ---- answers -------------------------------------------------------------------------------------


def test_one_output_is_a_list_with_an_entry_a_row() -> None:
    codec = scoring(Signature())
    assert json.loads(codec.encode(answer(p=np.array([[0.25, 0.75], [1, 0]])))) == {
        "predictions": [[0.25, 0.75], [1, 0]]
    }
    assert codec.encode(answer(p=np.array([2**53 + 1]))) == b'{"predictions":[9007199254740993]}'


def test_several_outputs_are_records() -> None:
    told = answer(label=np.array([1, 0]), scores=np.array([[0.1, 0.9], [0.7, 0.3]]))
    assert json.loads(scoring(Signature()).encode(told)) == {
        "predictions": [{"label": 1, "scores": [0.1, 0.9]}, {"label": 0, "scores": [0.7, 0.3]}]
    }


def test_nan_and_infinities_are_null_and_never_bare_as_in_mlflow() -> None:
    body = scoring(Signature()).encode(answer(p=np.array([math.nan, math.inf, -math.inf, 0.5])))
    assert body == b'{"predictions":[null,null,null,0.5]}'


def test_a_queries_rows_alone_are_in_its_answer() -> None:
    outputs = Outputs({"p": np.arange(10) / 4})
    body = scoring(Signature()).encode(Answer("id", outputs, 3, 5, 0.0))
    assert json.loads(body) == {"predictions": [0.75, 1.0]}


def test_an_error_has_mlflows_shape_and_no_stack_trace() -> None:
    assert json.loads(mlflow.encode_error("BAD_REQUEST", "ü")) == {
        "error_code": "BAD_REQUEST",
        "message": "ü",
    }


def test_equal_columns_are_one_tuple_and_two_threads_never_mix_them() -> None:
    from concurrent.futures import ThreadPoolExecutor

    codec = scoring(Signature((Field("a", "double"), Field("b", "double"))))

    def body(names: list[str]) -> bytes:
        return json.dumps({"dataframe_split": {"columns": names, "data": [[1, 2]]}}).encode()

    assert codec.decode(body(["a", "b"]), JSON).names is codec.decode(body(["a", "b"]), JSON).names

    def run(names: list[str]) -> bool:
        text = body(names)
        return all(codec.decode(text, JSON).names == tuple(names) for _ in range(3000))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, [["a", "b"], ["b", "a"]] * 2))


@pytest.mark.parametrize("columns", [[0], [0, 1, 2], [False, True], [1, 0]])
@pytest.mark.parametrize("data", [[], [[1.0, 2.0]]])
def test_columns_by_number_are_as_many_as_the_model_has(
    columns: list[Any], data: list[Any]
) -> None:
    two = Signature((Field("a", "double"), Field("b", "double")))
    body = {"dataframe_split": {"columns": columns, "data": data}}
    with pytest.raises(WrongInput, match=r"dataframe_split"):
        scoring(two).decode(json.dumps(body).encode(), JSON)
    good = {"dataframe_split": {"columns": [0, 1], "data": data}}
    assert scoring(two).decode(json.dumps(good).encode(), JSON).rows == len(data)
