"""However rows come and whoever they share a call with, they get their own pyfunc's answers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.operate.model.model_zoo import KINDS, ROWS, Kind

from treadle.operate.model import loaded as model
from treadle.operate.query import Query

FORMS = ["cells", "cells by position", "cells and more", "lists", "arrays", "tensor"]


class Made:
    def __init__(self, name: str, folder: Path) -> None:
        import mlflow.pyfunc

        self.kind: Kind = KINDS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.kind.make(folder)
            self.table = self.kind.table()
            self.loaded = model.load(folder, trust_pickle=self.kind.trust)
            pyfunc = mlflow.pyfunc.load_model(str(folder))
            table: Any = self.table.to_numpy() if self.loaded.signature.tensors else self.table
            if self.loaded.flavor == "onnx":
                table = self.table.to_numpy(dtype=float)
            self.expected = [_array(pyfunc.predict(table, params=p)) for p in self.kind.params]
            self.alone = [
                np.concatenate([self.answer([self.query(i, i + 1, "cells", number)])
                                for i in range(ROWS)])
                for number in range(len(self.kind.params))
            ]  # fmt: skip

    def query(self, start: int, stop: int, form: str, number: int = 0) -> Query:
        params = self.kind.params[number]
        frame = self.table.iloc[start:stop]
        names = tuple(frame.columns)
        rows = [[_plain(v) for v in row] for row in frame.astype(object).to_numpy().tolist()]
        every = all(kind.kind in "if" for kind in self.table.dtypes)
        if self.loaded.signature.tensors and form in ("lists", "arrays", "cells and more"):
            form = "cells"
        if form == "cells":
            return Query(len(rows), cells=rows, names=names, numbers=every, params=params)
        if form == "cells by position":
            return Query(len(rows), cells=rows, params=params)
        if form == "cells and more":
            more = [["x", *row[::-1]] for row in rows]
            return Query(len(rows), cells=more, names=("other", *names[::-1]), params=params)
        if form == "lists":
            turned = {n: [row[i] for row in rows] for i, n in enumerate(names)}
            return Query(len(rows), columns=turned, params=params)
        if form == "arrays":
            arrays = {
                n: frame[n].to_numpy() if frame[n].dtype.kind in "if" else
                   [row[i] for row in rows] for i, n in enumerate(names)
            }  # fmt: skip
            return Query(len(rows), columns=arrays, params=params)
        tensor = np.empty((len(rows), len(names)), dtype=object)
        tensor[:] = rows
        return Query(len(rows), tensors={"": tensor.astype(float) if every else tensor},
                     params=params)  # fmt: skip

    def answer(self, queries: list[Query]) -> np.ndarray[Any, Any]:
        """Answers of queries of one key, from one call."""
        admitted = [self.loaded.admit(query) for query in queries]
        assert len({one.key for one in admitted}) == 1
        outputs = self.loaded.answer(self.loaded.assemble(admitted))
        assert len(outputs) == 1
        return next(iter(outputs.values()))

    def same(self, a: Any, b: Any) -> None:
        if self.kind.exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, dict):
        (value,) = value.values()
    array = np.asarray(value)
    return array.ravel() if array.ndim == 2 and array.shape[1] == 1 else array


def _plain(value: Any) -> Any:
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    return value


@pytest.fixture(scope="session", params=list(KINDS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp("zoo") / "m")


SPLIT = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(FORMS), st.integers(0, 2)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(SPLIT, st.integers(0, 9))
def test_any_split_into_queries_answers_as_the_pyfunc(
    made: Made, parts: list[tuple[int, str, int]], offset: int
) -> None:
    groups: dict[Any, list[tuple[int, int, int, Any]]] = {}
    start = offset
    for rows, form, number in parts:
        stop = min(start + rows, ROWS)
        number %= len(made.kind.params)
        if start < stop:
            one = made.loaded.admit(made.query(start, stop, form, number))
            assert one.rows == stop - start
            groups.setdefault(one.key, []).append((start, stop, number, one))
        start = stop
    for group in groups.values():
        prepared = made.loaded.assemble([one for *_, one in group])
        (answers,) = made.loaded.answer(prepared).values()
        at = 0
        for start, stop, number, _ in group:
            mine = answers[at : at + stop - start]
            at += stop - start
            made.same(mine, made.expected[number][start:stop])
            made.same(mine, made.alone[number][start:stop])
        assert at == len(answers)


def test_queries_of_whatever_form_share_a_call_where_a_matrix_is_made(made: Made) -> None:
    queries = [made.query(i, i + 2, FORMS[i % len(FORMS)]) for i in range(12)]
    keys = {made.loaded.admit(query).key for query in queries}
    assert (made.loaded.matrix is not None) == made.kind.matrix
    if made.kind.matrix or made.loaded.signature.tensors:
        assert len(keys) == 1
        assert isinstance(made.loaded.prepare(queries[0]).data, np.ndarray)


def test_what_is_captured_is_the_columns_that_the_model_saw(made: Made) -> None:
    prepared = made.loaded.prepare(made.query(0, 3, "cells and more"))
    if made.loaded.signature.tensors:
        return
    assert list(prepared.columns) == list(made.table.columns)
    for name, values in prepared.columns.items():
        shown = [_plain(v) for v in values.tolist()]
        given = [_plain(v) for v in made.table[name].iloc[:3].astype(object)]
        assert shown == given and list(map(type, shown)) == list(map(type, given))
    assert prepared.extra == {"other": ["x", "x", "x"]}


def test_frames_are_predicted_as_before(made: Made) -> None:
    table = made.table
    if made.loaded.signature.tensors or made.kind.params != ({},):
        return
    shuffled = table[table.columns[::-1]].assign(more=1)
    made.same(made.loaded.predict(shuffled), made.expected[0])
    made.same(made.loaded.predict(table.astype(object)), made.expected[0])
    assert isinstance(table, pd.DataFrame)
