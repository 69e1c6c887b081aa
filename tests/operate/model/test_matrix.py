"""Rows of Python's numbers as one matrix: each number is the one that came, to the bit."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.operate.model.matrix import number_matrix

WIDTH = 10
DOUBLES = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.lists(st.lists(DOUBLES, min_size=WIDTH, max_size=WIDTH), min_size=30, max_size=40),
    st.sampled_from([list, tuple]),
)
def test_many_floats_keep_every_bit(rows: list[list[float]], kind: Any) -> None:
    made = number_matrix([kind(row) for row in rows], np.dtype(np.float64), WIDTH)
    assert made is not None
    assert made.tobytes() == b"".join(struct.pack(f"={WIDTH}d", *row) for row in rows)


@given(st.integers(0, 29), st.integers(0, WIDTH - 1),
       st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1)))  # fmt: skip
def test_one_that_is_no_float_among_many(row: int, cell: int, value: int | None) -> None:
    rows: list[list[Any]] = [[0.5] * WIDTH for _ in range(30)]
    rows[row][cell] = value
    made = number_matrix(rows, np.dtype(np.float64), WIDTH)
    assert made is not None
    assert made.tobytes() == np.array(rows, dtype=np.float64).tobytes()


@pytest.mark.parametrize("value", ["abcdefgh", [0.5], [[0.5] * 3, 0.25], {}, "no", object()])
def test_what_is_no_number_goes_into_no_matrix(value: Any) -> None:
    rows: list[list[Any]] = [[0.5] * WIDTH for _ in range(40)]
    rows[3][4] = value
    assert number_matrix(rows, np.dtype(np.float64), WIDTH) is None


def test_rows_of_other_widths_do_not_make_up_for_one_another() -> None:
    rows = [[0.5] * WIDTH for _ in range(40)]
    rows[3], rows[4] = [0.5] * (WIDTH - 1), [0.5] * (WIDTH + 1)
    before = [list(row) for row in rows]
    found = number_matrix(rows, np.dtype(np.float64), WIDTH)
    assert rows == before
    assert found is None or found.shape == (40, WIDTH)  # widths are held to before: see `admit`
