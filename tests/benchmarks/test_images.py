"""The benchmark of images says what was asked, found and reached, and keeps what has no figure."""

from __future__ import annotations

import pytest
from benchmarks.images import Row


@pytest.mark.parametrize(("found", "reached"), [(0.4, "yes"), (0.5, "yes"), (0.51, "**no**")])
def test_target_is_reached_up_to_and_with_it(found: float, reached: str) -> None:
    row = Row("a new model", 0.5, values=[found])
    assert row.text() == f"| a new model | {found:.2f} s | ≤ 0.5 s | {reached} |  |"


def test_several_rounds_are_their_median_with_the_range() -> None:
    row = Row("a new model", 2, values=[9.0, 1.0, 1.5])
    assert row.text() == "| a new model | 1.50 [1.00–9.00] s | ≤ 2 s | yes |  |"


def test_what_could_not_be_measured_stays_in_the_table_with_its_reason() -> None:
    row = Row("MLflow's image", 50, "%", note="docker build failed")
    assert row.text() == "| MLflow's image | – | ≤ 50 % | – | docker build failed |"


def test_what_nobody_asked_of_is_neither_reached_nor_missed() -> None:
    assert Row("the base", unit="MB", values=[78.0]).text() == "| the base | 78.00 MB | – | – |  |"
