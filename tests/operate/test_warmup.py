"""How two versions' answers to the same example are compared: news for a person, never an error."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.operate import warmup
from treadle.operate.warmup import compare_examples

_value = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.floats(), max_size=3),
)  # fmt: skip
_values = st.dictionaries(st.sampled_from("abc"), st.lists(_value, max_size=4), max_size=3)


@given(_values, _values)
def test_any_two_answers_are_compared_or_it_is_said_why_not(before: Any, after: Any) -> None:
    found = compare_examples(before, after)
    assert found.words
    assert found.worst is None or found.worst >= 0


@given(_values.filter(bool))
def test_an_answer_differs_from_itself_in_nothing(answer: Any) -> None:
    found = compare_examples(answer, answer)
    if "cannot" not in found.words:  # outputs of different lengths are no answer
        assert found.worst in (None, 0)
        assert "1 other" not in found.words


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), min_size=1, max_size=20))
def test_the_worst_difference_is_the_largest_of_all(pairs: list[tuple[float, float]]) -> None:
    old, new = zip(*pairs, strict=True)
    found = compare_examples({"y": list(old)}, {"y": list(new)})
    assert found.rows == len(pairs)
    assert found.worst == max(abs(a - b) for a, b in pairs)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"y": [1.0, 2.0]}, {"y": [1.0, 2.5]}, "2 rows, worst difference 0.5 in y"),
        ({"y": [[0.25, 0.75]]}, {"y": [[0.5, 0.5]]}, "1 rows, worst difference 0.25 in y"),
        ({"y": [1]}, {"z": [3]}, "1 rows, worst difference 2 in z"),
        ({"y": ["a", "b"]}, {"y": ["a", "c"]}, "2 rows, 1 other answers differ"),
        ({"y": [math.nan]}, {"y": [math.nan]}, "1 rows, worst difference 0 in y"),
        ({"y": [1.0]}, {"y": [math.nan]}, "1 rows, worst difference inf in y"),
        ({"y": [1.0], "w": [1]}, {"y": [1.0]}, "1 rows, worst difference 0 in y, w in one of them only"),
        ({"y": [1.0]}, {"y": [1.0, 2.0]}, "cannot be compared with the version before: y had 1 rows and has 2"),
        ({"y": [[1.0]]}, {"y": [[1.0, 2.0]]}, "cannot be compared with the version before: a row of y had 1 values and has 2"),
        ({"a": [1], "b": [2]}, {"c": [1]}, "cannot be compared with the version before: outputs a, b became c"),
        ({"y": [10**400]}, {"y": [1.0]}, "1 rows, worst difference inf in y"),
    ],
)  # fmt: skip
def test_what_is_said(before: Any, after: Any, words: str) -> None:
    assert compare_examples(before, after).words == words


def test_an_example_travels_and_a_failing_version_only_says_so() -> None:
    packed = warmup.pack(b'{"inputs": [1]}', {"y": [1.5, math.nan]})
    assert packed is not None
    asked = []

    def predict(body: bytes) -> Any:
        asked.append(body)
        return {"y": [1.0, math.nan]}

    words = warmup.take_over(warmup.hand_over(json.loads(json.dumps(packed))), predict)
    assert (words, asked) == ("2 rows, worst difference 0.5 in y", [b'{"inputs": [1]}'])

    def fail(body: bytes) -> Any:
        raise ValueError(body)

    words = warmup.take_over(warmup.hand_over(packed), fail)
    assert words == "cannot be compared with the version before: ValueError"  # no row of the input


def test_an_example_too_large_or_no_text_is_not_kept() -> None:
    assert warmup.pack(b"x" * (2 << 20), {"y": [1]}) is None
    assert warmup.pack(b"\xff", {"y": [1]}) is None
    assert warmup.pack(b"{}", {"y": [object()]}) is None
