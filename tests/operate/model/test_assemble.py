"""Queries share a call only if alone they would be the model's same input; a bad row fails alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.operate.model import engine
from treadle.operate.model.assemble import Assembler
from treadle.operate.model.signature import Field, Parameter, Signature, WrongInput, convert
from treadle.operate.query import Query

KINDS = ["integer", "long", "float", "double"]
NUMBERS = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.integers(-10, 10),
    st.sampled_from([2**31, -(2**31) - 1, 2**53 + 1, 2**63, -(2**63), 10**400]),
    st.floats(),
    st.sampled_from([2.0, 2.5, 1e300, -0.0, float(2**63), 3.4e38, 3.5e38]),
)


def signature(*kinds: str) -> Signature:
    return Signature(tuple(Field(f"c{i}", kind) for i, kind in enumerate(kinds)))


def both(kinds: list[str]) -> tuple[Assembler, Assembler]:
    told = signature(*kinds)
    return Assembler(told, engine.common_type(told)), Assembler(told)


def column_by_column(kinds: list[str], rows: list[list[Any]]) -> list[Any] | str:
    """The columns as `convert` makes them, which is what a frame gets; or the first mistake."""
    try:
        return [convert(f"c{i}", kind, [row[i] for row in rows]) for i, kind in enumerate(kinds)]
    except WrongInput as error:
        return error.message


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_matrix_holds_what_the_columns_would(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    row = st.lists(NUMBERS, min_size=len(kinds), max_size=len(kinds))
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    columns = column_by_column(kinds, rows)
    known = data.draw(st.booleans())
    quick, _ = both(kinds)
    try:
        made = quick.assemble([quick.admit(Query(len(rows), cells=rows, numbers=known))]).data
    except WrongInput as error:
        assert columns == error.message
        return
    assert not isinstance(columns, str)
    if isinstance(made, pd.DataFrame):
        pd.testing.assert_frame_equal(
            made, pd.DataFrame({f"c{i}": column for i, column in enumerate(columns)})
        )
        longs = [c for c, kind in zip(columns, kinds, strict=True) if kind == "long"]
        assert any((np.abs(column.astype(float)) >= 2**53).any() for column in longs)
        return
    dtype = np.result_type(*(column.dtype for column in columns))
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, np.column_stack([c.astype(dtype) for c in columns]))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_queries_of_one_key_are_together_what_each_is_alone(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([*KINDS, "boolean", "string"]), min_size=1,
                               max_size=3))  # fmt: skip
    values = {
        "string": st.one_of(st.none(), st.text(max_size=3)),
        "boolean": st.one_of(st.none(), st.booleans()),
    }
    small = st.one_of(st.none(), st.integers(-9, 9), st.sampled_from([1.0, math.nan]))
    row = st.tuples(*[values.get(kind, small) for kind in kinds]).map(list)
    queries = data.draw(st.lists(st.lists(row, min_size=1, max_size=3), min_size=1, max_size=6))
    for assembler in both(kinds):
        admitted = [assembler.admit(Query(len(rows), cells=rows)) for rows in queries]
        for key in {one.key for one in admitted}:
            group = [one for one in admitted if one.key == key]
            together = assembler.assemble(group)
            at = 0
            for one in group:
                alone = assembler.assemble([one]).data
                mine = together.data[at : at + one.rows]
                at += one.rows
                if isinstance(alone, np.ndarray):
                    assert alone.dtype == mine.dtype
                    np.testing.assert_array_equal(alone, mine)
                else:
                    pd.testing.assert_frame_equal(alone, mine.reset_index(drop=True))
            assert together.rows == at


def test_a_bad_row_fails_its_batch_and_then_only_itself() -> None:
    for assembler in both(["double", "integer"]):
        good = [assembler.admit(Query(1, cells=[[1.0, 2]])) for _ in range(3)]
        bad = assembler.admit(Query(3, cells=[[1.0, 2], [1.0, 2], [1.0, 2.5]]))
        assert bad.key == good[0].key
        with pytest.raises(WrongInput):
            assembler.assemble([*good, bad])
        assert assembler.assemble(good).rows == 3
        with pytest.raises(WrongInput, match="c1, row 2: expected a integer, got a number with a"):
            assembler.assemble([bad])


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([[1.0]], "row 0: expected 2 cells, got 1"),
        ([[1.0, 2], [1.0, 2, 3]], "row 1: expected 2 cells, got 3"),
        ([[1.0, 2], ["secret", 2]], "c0, row 1: expected a double, got a text"),
        ([[True, 2]], "c0, row 0: expected a double, got a boolean"),
        ([[1.0, [2]]], "c1, row 0: expected a integer, got a list"),
    ],
)
def test_what_is_no_row_is_refused_when_it_comes(cells: list[Any], words: str) -> None:
    for assembler in both(["double", "integer"]):
        with pytest.raises(WrongInput) as caught:
            assembler.admit(Query(len(cells), cells=cells))
        assert caught.value.message == words


def test_names_are_held_to_the_signature() -> None:
    for assembler in both(["double", "integer"]):
        with pytest.raises(WrongInput, match="c1: expected a column of this name, got none"):
            assembler.admit(Query(1, cells=[[1]], names=("c0",)))
        with pytest.raises(WrongInput, match="one name twice"):
            assembler.admit(Query(1, cells=[[1, 1, 2]], names=("c0", "c0", "c1")))
        with pytest.raises(WrongInput, match="c1: expected 1 values, got 2"):
            assembler.admit(Query(1, columns={"c0": [1], "c1": [1, 2]}))


def test_a_missing_whole_number_has_a_key_of_its_own_where_it_changes_the_column() -> None:
    quick, slow = both(["double", "integer"])
    full, holed = Query(1, cells=[[1.0, 2]]), Query(1, cells=[[1.0, None]])
    assert quick.admit(full).key == quick.admit(holed).key  # in a matrix of floats it does not
    assert slow.admit(full).key != slow.admit(holed).key
    nan = Query(1, cells=[[1.0, math.nan]])
    assert slow.admit(holed).key == slow.admit(nan).key
    assert slow.assemble([slow.admit(nan)]).data["c1"].dtype == np.float64
    whole, _ = both(["integer", "long"])
    assert whole.admit(Query(1, cells=[[1, 2]])).key != whole.admit(Query(1, cells=[[1, None]])).key
    lists = Query(1, columns={"c0": [1.0], "c1": [None]})
    assert slow.admit(lists).key != slow.admit(Query(1, columns={"c0": [1.0], "c1": [1]})).key


def test_parameters_have_types_and_part_the_queries() -> None:
    parameters = (Parameter("k", "long", 3), Parameter("t", "double", 0.5),
                  Parameter("words", "string", None, listed=True))  # fmt: skip
    told = Signature((Field("c0", "double"),), (), ("k", "t", "words"), parameters)
    assembler = Assembler(told, engine.common_type(told))

    def admit(**params: Any) -> Any:
        return assembler.admit(Query(1, cells=[[1.0]], params=params))

    assert admit(k=2.0).params == {"k": 2} and admit(t=1).params == {"t": 1.0}
    assert admit(k=2).key == admit(k=2.0).key != admit(k=3).key != admit().key
    assert (
        admit(words=["a"]).params == {"words": ["a"]} and admit(words=None).params["words"] is None
    )
    assert assembler.assemble([admit(k=2)]).params == {"k": 2}
    for wrong, words in [
        ({"k": 2.5}, "params.k: expected a long, got a number with a fraction"),
        ({"k": True}, "params.k: expected a long, got a boolean"),
        ({"k": 2**63}, "beyond its range"),
        ({"t": "secret"}, "params.t: expected a double, got a text"),
        ({"words": "a"}, "params.words: expected a list"),
        ({"other": 1}, "expected some of k, t, words, got another parameter"),
    ]:
        with pytest.raises(WrongInput, match=words):
            admit(**wrong)


def test_without_a_signature_columns_join_where_pandas_would_give_them_one_type() -> None:
    assembler = Assembler(Signature())

    def admit(*row: Any) -> Any:
        return assembler.admit(Query(1, cells=[list(row)], names=("x", "y")))

    assert admit(1, "a").key == admit(2, "b").key
    for other in (admit(1.0, "a"), admit(None, "a"), admit(2**64, "a"), admit(1, None)):
        assert other.key != admit(1, "a").key
    assert admit(None, "a").key != admit(None, "a").key  # pandas decides by all values: alone
    made = assembler.assemble([admit(1, "a"), admit(2, "b")]).data
    pd.testing.assert_frame_equal(made, pd.DataFrame({"x": [1, 2], "y": ["a", "b"]}))


def test_tensors_of_one_shape_share_a_call() -> None:
    told = Signature((Field("image", "tensor", True, "float32", (-1, -1, 2)),))
    assembler = Assembler(told)

    def admit(*shape: int) -> Any:
        return assembler.admit(Query(shape[0], tensors={"": np.ones(shape)}))

    assert admit(1, 3, 2).key == admit(4, 3, 2).key != admit(1, 5, 2).key
    made = assembler.assemble([admit(1, 3, 2), admit(4, 3, 2)]).data
    assert made.shape == (5, 3, 2) and made.dtype == np.float32
    with pytest.raises(WrongInput, match="shape"):
        admit(1, 3, 3)


def test_optional_columns_may_be_absent_and_then_no_matrix_is_made() -> None:
    told = Signature((Field("c0", "double"), Field("c1", "double", required=False)))
    assembler = Assembler(told, engine.common_type(told))
    full = assembler.admit(Query(1, cells=[[1.0, 2.0]]))
    part = assembler.admit(Query(1, cells=[[1.0]], names=("c0",)))
    assert full.key != part.key == assembler.admit(Query(1, columns={"c0": [1]})).key
    assert list(assembler.assemble([part]).data.columns) == ["c0"]
    assert assembler.assemble([full]).data.shape == (1, 2)


def test_memory_of_a_client_that_always_says_something_new_is_bounded() -> None:
    assembler = Assembler(signature("double", "any"))
    for number in range(1000):
        kind = type(f"Kind{number}", (), {})
        names = ("c0", "c1", f"more{number}")
        assembler.admit(Query(1, cells=[[1.0, kind(), 0]], names=names))
        assembler.admit(Query(1, cells=[[1.0, kind()]]))
        assembler.admit(Query(1, cells=[[1.0, kind()]]))
    assert len(assembler._layouts) <= 256
    assert all(len(layout.seen._known) <= 1024 for layout in assembler._layouts.values())


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_tensor_by_position_is_what_its_columns_would_be(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=4))
    dtype = data.draw(st.sampled_from(["float64", "float32", "int64", "int32", "uint64"]))
    told = np.dtype(dtype)
    number: st.SearchStrategy[Any] = (
        st.one_of(st.floats(width=8 * told.itemsize), st.integers(-9, 9).map(float))
        if told.kind == "f"
        else st.one_of(
            st.integers(int(np.iinfo(told).min), int(np.iinfo(told).max)), st.integers(0, 9)
        )
    )
    row = st.lists(number, min_size=len(kinds), max_size=len(kinds))
    tensor = np.array(data.draw(st.lists(row, min_size=1, max_size=3)), dtype=told)
    quick, _ = both(kinds)
    try:
        columns = [convert(f"c{i}", kind, tensor[:, i]) for i, kind in enumerate(kinds)]
    except WrongInput as error:
        with pytest.raises(WrongInput) as caught:
            quick.assemble([quick.admit(Query(len(tensor), tensors={"": tensor}))])
        assert (caught.value.field, caught.value.expected) == (error.field, error.expected)
        return
    made = quick.assemble([quick.admit(Query(len(tensor), tensors={"": tensor}))]).data
    if isinstance(made, pd.DataFrame):
        assert (np.abs(tensor.astype(float)) >= 2**53).any()
        made = np.column_stack([made[f"c{i}"] for i in range(len(kinds))])
    wanted = np.result_type(*(column.dtype for column in columns))
    assert made.dtype == wanted and not np.shares_memory(made, tensor)
    np.testing.assert_array_equal(made, np.column_stack([c.astype(wanted) for c in columns]))


def test_the_order_of_the_columns_that_came_does_not_hide_which_one_lacks_a_value() -> None:
    _, slow = both(["integer", "integer"])
    first = slow.admit(Query(1, cells=[[None, 1]], names=("c0", "c1")))
    other = slow.admit(Query(1, cells=[[None, 1]], names=("c1", "c0")))
    same = slow.admit(Query(2, cells=[["x", 1, None], ["x", 1, 2.0]], names=("more", "c1", "c0")))
    assert first.key != other.key
    assert first.key == same.key
    assert slow.assemble([first, same]).data.dtypes.map(str).tolist() == ["float64", "int32"]
    by_columns = slow.admit(Query(40, columns={"c0": [None] * 40, "c1": [1] * 40}))
    assert by_columns.rows == 40
