"""clients/wheel_tags.py: the wheel that an installer would take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.clients.wheel_tags import best

ORDERED = [
    "a-1-2-cp311-cp311-manylinux_2_28_x86_64.whl",
    "a-1-1-cp311-cp311-manylinux_2_28_x86_64.whl",
    "a-1-cp311-cp311-manylinux_2_28_x86_64.whl",
    "a-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    "a-1-cp311-cp311-manylinux2010_x86_64.whl",
    "a-1-cp311-abi3-manylinux_2_17_x86_64.whl",
    "a-1-cp39-abi3-manylinux_2_28_x86_64.whl",
    "a-1-cp37-abi3-manylinux_2_28_x86_64.whl",
    "a-1-py3-none-manylinux_2_28_x86_64.whl",
    "a-1-py3-none-manylinux1_x86_64.whl",
    "a-1-py311-none-any.whl",
    "a-1-py3-none-any.whl",
]


@given(st.permutations(ORDERED), st.integers(1, len(ORDERED)))
def test_choice_does_not_depend_on_the_order(names: list[str], number: int) -> None:
    shown = names[:number]
    assert best(shown, "3.11") == min(shown, key=ORDERED.index)


@given(st.lists(st.text(), min_size=1))
def test_any_name_is_ranked(names: list[str]) -> None:
    assert best(names, "3.11") in names


@pytest.mark.parametrize("odd", ["a.whl", "a-1.whl", "not a wheel"])
def test_name_without_tags_comes_last(odd: str) -> None:
    assert best([odd, ORDERED[-1]], "3.11") == ORDERED[-1]
