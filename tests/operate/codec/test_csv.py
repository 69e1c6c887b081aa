"""CSV decodes to the table that the client had; what it cannot say is said here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operate.codec import tables
from tests.operate.codec.tables import Table

from treadle.operate.codec import csv
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature, WrongInput

MISSING = {"", "NA", "NaN", "nan", "null", "None"}


def decode(text: str, signature: Signature, **limits: Any) -> Any:
    return csv.decode(text.encode(), signature, Limits(**limits))


@given(tables.tables())
@settings(max_examples=100, deadline=None)
def test_a_table_written_as_csv_is_read_as_it_was(table: Table) -> None:
    if any("\0" in name or not name for name in table.names):
        return  # \0 is no CSV; a line of one empty name is an empty line
    for values in table.columns.values():
        values[:] = [v.replace("\0", "") if isinstance(v, str) else v for v in values]
    if len(table.names) == 1 and any(v in (None, "") for v in table.columns[table.names[0]]):
        return  # a line of one missing value is an empty line
    query = decode(tables.csv_text(table), table.signature)
    found = tables.columns_of(query, table.signature)
    for name, values in table.columns.items():
        kind = table.kind(name)
        expected: list[Any] = []
        for value in values:
            if value == "" or (kind in ("double", "float") and value is not None
                               and math.isnan(value)):  # fmt: skip
                value = None  # CSV has one word for an empty text, NaN and a missing value
            expected.append(value)
        assert tables.same(found[name], expected), name


@pytest.mark.parametrize("cell", sorted(MISSING))
def test_words_for_a_missing_value(cell: str) -> None:
    signature = Signature((Field("a", "double"), Field("b", "string"), Field("c", "boolean")))
    query = decode(f"a,b,c\n{cell},{cell},{cell}\n", signature)
    assert query.columns == {"a": [None], "b": [cell or None], "c": [None]}


def test_without_a_signature_a_column_of_numbers_is_numbers() -> None:
    query = decode("a,b,c,d\n1,1.5,x,9007199254740993\n2,,1,1\n", Signature())
    assert query.columns == {
        "a": [1, 2], "b": [1.5, None], "c": ["x", "1"], "d": [9007199254740993, 1],
    }  # fmt: skip


def test_a_tensor_model_gets_a_matrix() -> None:
    signature = Signature((Field("input", "tensor", True, "float64", (-1, 2)),))
    query = decode("a,b\n1,2\n3,\n", signature)
    np.testing.assert_array_equal(query.tensors[""], [[1, 2], [3, math.nan]])
    assert decode("a,b\n", signature).tensors[""].shape == (0, 2)
    for text in ("a\n", "a\n1\n"):
        with pytest.raises(WrongInput, match="header: expected 2 columns, got 1"):
            decode(text, signature)
    two = Signature(
        (Field("a", "tensor", True, "float64", (-1,)), Field("b", "tensor", True, "int64", (-1,)))
    )
    assert {n: v.tolist() for n, v in decode("a,b\n1,2\n", two).tensors.items()} == {
        "a": [1], "b": [2],
    }  # fmt: skip


def test_a_byte_order_mark_and_quoted_line_breaks_are_taken() -> None:
    query = decode('\ufeffa,b\r\n"x\r\ny","1,5"\r\n', Signature((Field("a", "string"),)))
    assert query.columns == {"a": ["x\r\ny"], "b": ["1,5"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an empty text"),
        ("\n\n", "an empty text"),
        ("a,a\n1,2\n", "one name twice"),
        ("secret", "a: expected a column of this name, got none"),
        ("a,b\n1,2\n3\n", "row 1: expected 2 cells, got 1"),
        ("a,b\n1,secret\n", "b, row 0: expected a long, got another text"),
        ("a,b\n1,1_000\n", "b, row 0: expected a long"),
        ("a,b\nsecret,1\n", "a, row 0: expected a double"),
        ("a,c\n1,secret\n", "c, row 0: expected a boolean"),
        ('a,b\n1,"secret\n', "quotes"),
        ('a,b\n1,"sec"ret\n', "quotes"),
        ("a,b\n1," + "9" * 500 + "\n", "b, row 0"),
        ("a,b\n1," + "9" * 200_000 + "\n", "too long"),
    ],
)
def test_mistakes_are_named_without_a_cell(text: str, words: str) -> None:
    signature = Signature((Field("a", "double"), Field("b", "long"), Field("c", "boolean", False)))
    with pytest.raises(WrongInput) as caught:
        decode(text, signature)
    assert words in caught.value.message and "sec" not in caught.value.message


def test_a_name_that_may_be_a_value_is_not_told() -> None:
    tensor = Signature((Field("input", "tensor", True, "float64", (-1, 1)),))
    with pytest.raises(WrongInput, match="column 0, row 0: expected a double, got another text"):
        decode("4711-secret\nx\n", tensor)


@given(st.binary(max_size=200), st.sampled_from(["double", "long", "boolean", "datetime"]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_query_or_wrong_input(body: bytes, kind: str) -> None:
    for signature in (Signature((Field("a", kind),)), Signature()):
        for text in (body, b"a\n" + body):
            try:
                csv.decode(text, signature, Limits(max_rows=5))
            except WrongInput as wrong:
                assert wrong.field and wrong.expected and wrong.got
