"""JSON in and out: what is believed, and what is written for what JSON lacks."""

from __future__ import annotations

import json as standard
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from treadle.operate.codec import json
from treadle.operate.model.signature import WrongInput

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


@given(ANY, st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_pythons_json_writes_is_read_as_it_was(value: Any, ascii_alone: bool) -> None:
    body = standard.dumps(value, ensure_ascii=ascii_alone).encode("utf-8", "surrogatepass")
    expected = standard.loads(body)
    try:
        body.decode()
        standard.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:  # half of a surrogate pair is no Unicode
        with pytest.raises(WrongInput):
            json.loads(body)
        return
    assert repr(json.loads(body)) == repr(expected)


@given(ANY, st.integers(0, 6))
@settings(max_examples=300, deadline=None)
@example([[{"a": [1]}], '[[[[[[["[\\'], 3)
@example(["\\", "[[[["], 1)
def test_nesting_is_counted_exactly_and_texts_do_not_count(value: Any, most: int) -> None:
    body = standard.dumps(value).encode()
    if depth(value) > most:
        with pytest.raises(WrongInput, match=f"at most {most} deep"):
            json.check_depth(body, most)
    else:
        json.check_depth(body, most)


@given(ANY)
@settings(max_examples=200, deadline=None)
def test_arrays_and_objects_are_counted_outside_of_texts(value: Any) -> None:
    def count(value: Any) -> int:
        if isinstance(value, list):
            return 1 + sum(map(count, value))
        if isinstance(value, dict):
            return 1 + sum(map(count, value.values()))
        return 0

    assert json.containers(standard.dumps(value).encode(), 0) == count(value)


def test_a_document_deeper_than_any_stack_is_refused_in_words() -> None:
    for opening in (b"[", b'{"a":', b'[{"a":'):
        with pytest.raises(WrongInput, match="JSON"):
            json.loads(opening * 100_000)
    with pytest.raises(WrongInput, match="at most 32 deep"):
        json.loads(b"[" * 33 + b"]" * 33)
    assert json.loads(b"[" * 32 + b"]" * 32)


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b'{"a": secret}', "a mistake at byte 6"),
        (b'{"a": "secret', "a text that ends too early"),
        (b'{"a": "secret\xff"}', "a text that is no UTF-8"),
        (b'{"secret": 1e400}', "a number beyond the range of floats"),
        (b'["\\ud800secret", NaN]', "a mistake at byte"),
        (b"1" * 5000, "a number beyond the range of floats"),
        (b"", "a text that ends too early"),
        (b"NaN secret", "a mistake at byte 0"),
    ],
)
def test_a_mistake_is_told_by_its_place_and_never_by_its_text(body: bytes, got: str) -> None:
    with pytest.raises(WrongInput) as caught:
        json.loads(body)
    assert got in caught.value.got
    assert "secret" not in str(caught.value)


def test_bare_nan_and_infinities_are_floats() -> None:
    found = json.loads(b'{"a": [NaN, Infinity, -Infinity, 9007199254740993], "NaN": "NaN"}')
    assert math.isnan(found["a"][0]) and found["a"][1:] == [math.inf, -math.inf, 2**53 + 1]
    assert found["NaN"] == "NaN"


def test_what_json_lacks_is_null_or_text() -> None:
    values = {
        "f": np.array([math.nan, math.inf, 1.5]),
        "g": np.array([0.1, math.nan], dtype="float32"),
        "h": np.array([[0.1, math.inf]], dtype="float16"),
        "q": np.array([0.5], dtype=np.longdouble),
        "t": np.array(["2013-01-01T00:00", "NaT"], dtype="datetime64[ns]"),
        "u": np.array([["2013-01-01T10:20:30.120"]], dtype="datetime64[us]"),
        "d": np.array([1500], dtype="timedelta64[ms]"),
        "b": [b"ab", np.bytes_(b"ab")],
        "i": np.array([2**63 - 1]),
        "j": np.array([2**64 - 1], dtype="uint64"),
        "s": np.array(["a", None, "\U0001f600"], dtype=object),
        "o": np.array([pd.NA, pd.NaT, pd.Timestamp("2013-01-01"), np.float32(0.1)], dtype=object),
    }
    assert standard.loads(json.dumps(values)) == {
        "f": [None, None, 1.5], "g": [0.1, None], "h": [[0.1, None]], "q": [0.5],
        "t": ["2013-01-01T00:00:00", None], "u": [["2013-01-01T10:20:30.12"]], "d": ["PT1.5S"],
        "b": ["YWI=", "YWI="], "i": [2**63 - 1], "j": [2**64 - 1], "s": ["a", None, "\U0001f600"],
        "o": [None, None, "2013-01-01T00:00:00", 0.1],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["float16", "float32"])
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_small_floats_have_the_shortest_text_that_gives_them_back(
    kind: str, data: st.DataObject
) -> None:
    width = 16 if kind == "float16" else 32
    numbers = data.draw(st.lists(st.floats(width=width), min_size=1, max_size=100))
    array = np.array((numbers * 65)[:65] + numbers, dtype=kind)  # long enough for the vectors
    found = json.values(array)
    assert np.array_equal(np.array(found).astype(kind), array, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(array)) or np.isnan(array).any()
    few = json.values(array[:8])
    assert repr(few) == repr([float(str(number)) for number in array[:8]])
    if kind == "float32":
        assert repr(found[:8]) == repr(few)


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), max_size=5))
@settings(max_examples=50, deadline=None)
def test_an_array_keeps_its_shape(rows: list[list[float]]) -> None:
    array = np.array(rows, dtype="float32").reshape(len(rows), 3, 1)
    found = json.values(array)
    assert np.array_equal(np.array(found, dtype="float32").reshape(array.shape), array,
                          equal_nan=True)  # fmt: skip
    assert json.flatten(found, 3) == json.flat(array) or np.isnan(array).any()
