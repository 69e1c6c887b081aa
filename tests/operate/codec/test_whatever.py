"""Whatever a stranger sends is a query or wrong input, said without a value of what was sent."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from treadle.operate.codec import mlflow, v1, v2
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature, WrongInput
from treadle.operate.query import Query

SIGNATURES = [
    Signature((Field("carrier", "string"), Field("day", "integer"))),
    Signature((Field("a", "double"), Field("b", "long")), params=("p",)),
    Signature((Field("x", "any"),)),
    Signature((Field("input", "tensor", True, "float64", (-1, 2)),)),
    Signature((Field("x", "tensor", True, "int64", (-1,)), Field("y", "tensor", True, "object", (-1, 3)))),
    Signature(),
]  # fmt: skip
LIMITS = Limits(max_rows=50, max_depth=8)
SCORING = [mlflow.Scoring(signature, LIMITS) for signature in SIGNATURES]
PREDICT = [v1.Predict(signature, LIMITS) for signature in SIGNATURES]
INFERENCE = [v2.Inference(signature, LIMITS, model="m", version="1") for signature in SIGNATURES]
WHICH = st.integers(0, len(SIGNATURES) - 1)
WORDS = ["dataframe_split", "dataframe_records", "instances", "inputs", "params", "data", "columns",
         "index", "name", "shape", "datatype", "parameters", "binary_data_size", "outputs", "id",
         "carrier", "day", "a", "b", "x"]  # fmt: skip
LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from(["FP64", "INT64", "BYTES", "BOOL", "x", 10**30, 10**400, -1, 1])
)  # fmt: skip
ANY = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=15,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "a"]) | ANY, "shape": st.lists(st.integers(-1, 4), max_size=3) | ANY,
     "datatype": st.sampled_from([*v2.binary.DTYPES, "BYTES"]) | ANY},
    optional={"data": ANY, "parameters": st.fixed_dictionaries(
        {}, optional={"binary_data_size": st.integers(-1, 20) | ANY}) | ANY},
)  # fmt: skip


def checked(query: Query) -> None:
    assert 0 <= query.rows <= LIMITS.max_rows
    given = [form for form in (query.columns, query.tensors, query.cells) if form is not None]
    assert len(given) == 1
    if query.cells is not None:
        assert len(query.cells) == query.rows and len(set(map(len, query.cells))) == 1
        if query.names is not None:
            assert len(query.names) == len(query.cells[0]) == len(set(query.names))
    if query.tensors is not None:
        assert all(array.shape[0] == query.rows for array in query.tensors.values())
    if query.columns is not None:
        assert all(len(values) == query.rows for values in query.columns.values())


def told(wrong: WrongInput) -> None:
    assert wrong.field and wrong.expected and wrong.got
    assert wrong.message == f"{wrong.field}: expected {wrong.expected}, got {wrong.got}"


@given(
    ANY | st.dictionaries(st.sampled_from(WORDS[:5]), ANY, min_size=1, max_size=2),
    WHICH,
)
@settings(max_examples=250, deadline=None)
@example({"inputs": [[1, [2]]]}, 3)
@example({"inputs": {"x": [[1], 2]}}, 4)
@example({"dataframe_split": {"columns": [["a"]], "data": []}}, 0)
@example({"dataframe_split": {"columns": {}, "data": [[]]}}, 0)
@example({"dataframe_split": {"columns": "ab", "data": [[1, 2]]}}, 0)
@example({"dataframe_split": {"columns": 5, "data": [[1, 2]]}}, 0)
@example({"instances": [{}]}, 0)
@example({"instances": [[[[]]]]}, 5)
def test_any_document_is_a_query_or_wrong_input(document: Any, which: int) -> None:
    body = json.dumps(document).encode()
    for read in (
        lambda: SCORING[which].decode(body, "application/json"),
        lambda: PREDICT[which].decode(body),
        lambda: INFERENCE[which].decode(body).query,
    ):
        try:
            checked(read())
        except WrongInput as wrong:
            told(wrong)


@given(st.lists(TENSOR, max_size=3), st.binary(max_size=30), WHICH, ANY, ANY)
@settings(max_examples=250, deadline=None)
def test_any_tensor_is_a_query_or_wrong_input(
    tensors: list[Any], tail: bytes, which: int, parameters: Any, outputs: Any
) -> None:
    codec = INFERENCE[which]
    for document in (
        {"inputs": tensors},
        {"inputs": tensors, "parameters": parameters, "outputs": outputs},
    ):
        head = json.dumps(document).encode()
        for body, length in ((head, None), (head + tail, len(head)), (head + tail, len(tail))):
            try:
                request = codec.decode(body, length)
            except WrongInput as wrong:
                told(wrong)
            else:
                checked(request.query)


@given(st.binary(max_size=200), st.integers(-1, 250), WHICH)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_query_or_wrong_input(body: bytes, length: int, which: int) -> None:
    for kind in ("application/json", "text/csv"):
        try:
            checked(SCORING[which].decode(body, kind))
        except WrongInput as wrong:
            told(wrong)
    try:
        INFERENCE[which].decode(body, length)
    except WrongInput as wrong:
        told(wrong)


SECRET = "s3cr3t"
SECRETS = st.recursive(
    st.just(SECRET) | st.just(4711047110) | st.just(None) | st.just(4711.04711),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([SECRET, *WORDS]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(SECRETS, WHICH, st.integers(0, 12))
@settings(max_examples=250, deadline=None)
def test_nothing_of_the_input_is_in_a_message(value: Any, which: int, cut: int) -> None:
    texts = [json.dumps(value)]
    texts += [json.dumps({word: value}) for word in WORDS[:4]]
    texts += [json.dumps({"inputs": [{"name": SECRET, "shape": value, "datatype": SECRET}]}),
              json.dumps({"inputs": [{"name": SECRET, "shape": [1], "datatype": "FP64", "data": value}],
                          "parameters": value}),
              f"{SECRET},4711047110\n{SECRET},{json.dumps(value)}\n"]  # fmt: skip
    for text in texts:
        body = text.encode()[: len(text) - cut]
        for read in (
            lambda: SCORING[which].decode(body, "application/json"),
            lambda: SCORING[which].decode(body, "text/csv"),
            lambda: PREDICT[which].decode(body),
            lambda: INFERENCE[which].decode(body),
        ):
            try:
                read()
            except WrongInput as wrong:
                assert SECRET not in wrong.message and "4711" not in wrong.message
