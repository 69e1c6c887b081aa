"""Truth that arrives later: joined to the captured predictions by key or by prediction id.

Which prediction is judged: by prediction id, each. By key, one a release: the last answer that was
given before its event (before its truth was known, where rows carry no event time; the first
answer if all came after): a client that asks a hundred times about one flight does not weigh a
hundred flights. The others are counted as superseded.

Which truth counts: of several rows with one key the one known last (`known_at`, else the last row);
keys whose rows disagree are counted as conflicts. A null label is an answer too ("no truth": the
flight was cancelled): the row is not covered and never judged. Truth known only after `known_by` is
not looked at: what a decision knew can be said again later.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from treadle.base import clock, segments
from treadle.base.errors import UsageError

_TIME = pa.timestamp("us", tz="UTC")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class Coverage:
    """How much of a window can be judged. All figures are rows."""

    rows: int
    """In the window."""
    young: int
    """Too young for their truth to be complete (`matures`)."""
    matured: int
    """To be judged: rows - young - superseded."""
    covered: int
    """Matured, with a truth."""
    no_truth: int
    """Matured, and the truth says there is none (null label: cancelled)."""
    absent: int
    """Matured, and no truth has arrived."""
    superseded: int
    """Earlier answers about the same key by the same release."""
    conflicts: int = 0
    """Keys of this window whose truth rows disagree; the last known was taken."""

    @property
    def share(self) -> float:
        """Covered share of the matured rows, 0 to 1; 0 where nothing has matured."""
        return self.covered / self.matured if self.matured else 0.0

    @property
    def words(self) -> str:
        """One sentence."""
        parts = [f"truth is known for {self.covered} of {self.matured} matured rows"]
        if self.no_truth:
            parts.append(f"{self.no_truth} have none (null label, such as a cancelled flight)")
        if self.absent:
            parts.append(f"for {self.absent} it has not arrived")
        if self.young:
            parts.append(f"{self.young} rows are too young to judge")
        if self.superseded:
            parts.append(f"{self.superseded} answers were replaced by a later one on the same key")
        if self.conflicts:
            parts.append(f"{self.conflicts} keys had truths that disagree (the latest was taken)")
        return "; ".join(parts)


def normalise(
    frame: Any, key: Sequence[str], label: str, known_at: str | None = None
) -> tuple[pa.Table, tuple[str, ...]]:
    """The truth as a table of its key columns, `truth` and `known_at`, and the key to join by.

    `frame` is a pandas or polars frame or an Arrow table. It is joined by `prediction_id` where the
    frame has that column and lacks the key. UsageError names the columns that are missing.
    """
    table = frame if isinstance(frame, pa.Table) else _to_arrow(frame)
    names = set(table.column_names)
    by = tuple(key)
    if (not by or not set(by) <= names) and "prediction_id" in names:
        by = ("prediction_id",)
    missing = [
        name for name in (*by, label, *([known_at] if known_at else [])) if name not in names
    ]
    if missing or not by:
        wanted = ", ".join(missing) or "a key, or prediction_id"
        raise UsageError(
            f"the truth lacks {wanted}; it has {', '.join(table.column_names)}",
            hint="monitor.truth needs the label and either the data set's key or prediction_id",
        )
    known = _times(table[known_at]) if known_at else pa.nulls(table.num_rows, _TIME)
    columns = {name: table[name] for name in by} | {"truth": table[label], "known_at": known}
    return pa.table(columns), by


def hash_key(truth: pa.Table, names: Collection[str]) -> pa.Table:
    """The truth with those columns hashed of which the capture kept hashes alone."""
    for position, name in enumerate(truth.column_names):
        if name in names:
            distinct = _decoded(truth[name]).dictionary_encode()
            values = [segments.hash_value(value) for value in distinct.dictionary.to_pylist()]
            column = pa.array(values, pa.string()).take(distinct.indices)
            truth = truth.set_column(position, name, column)
    return truth


def join(
    window: pa.Table,
    truth: pa.Table,
    key: Sequence[str],
    matured_before: datetime.datetime,
    *,
    known_by: datetime.datetime | None = None,
    by_event_time: bool = True,
) -> tuple[pa.Table, Coverage]:
    """The window's rows with `truth`, `known_at`, `matured` and `judged`, and the coverage.

    `truth` comes from `normalise`. Rows whose `when` is before `matured_before` (now - matures) are
    matured; `judged` are the matured, not superseded rows with a truth. `by_event_time` says that
    `when` is the event's time and not the capture's.
    """
    rows = window.num_rows
    if known_by is not None and truth.num_rows:
        known = pc.less_equal(truth["known_at"], pa.scalar(known_by, _TIME))
        truth = truth.filter(pc.fill_null(known, fill_value=True))
    absent_key = [name for name in key if name not in window.column_names]
    if rows and not absent_key:
        truth = _of_these_keys(truth, window, key)
    if absent_key or not rows or not truth.num_rows:
        chosen = np.full(rows, -1, dtype=np.int64)
        keys: npt.NDArray[np.int64] = np.arange(rows, dtype=np.int64)
        conflicts = 0
        if rows and not absent_key:
            keys, _ = _key_numbers(window, window.slice(0, 0), key)
    else:
        keys, other = _key_numbers(window, truth, key)
        chosen, conflicts = _choose(keys, other, truth)
    value = truth["truth"].take(pa.array(chosen, mask=chosen < 0)) if rows else window_nulls(truth)
    known_at = (
        truth["known_at"].take(pa.array(chosen, mask=chosen < 0)) if rows else pa.nulls(0, _TIME)
    )
    has_truth = _valid(value)
    matured = _flags(pc.less(window["when"], pa.scalar(matured_before, _TIME)))
    superseded = np.zeros(rows, dtype=bool)
    if tuple(key) != ("prediction_id",) and not absent_key:
        superseded = _superseded(window, keys, known_at, by_event_time=by_event_time)
    old = matured & ~superseded
    coverage = Coverage(
        rows=rows,
        young=int(np.count_nonzero(~matured)),
        matured=int(np.count_nonzero(old)),
        covered=int(np.count_nonzero(old & has_truth)),
        no_truth=int(np.count_nonzero(old & ~has_truth & (chosen >= 0))),
        absent=int(np.count_nonzero(old & (chosen < 0))),
        superseded=int(np.count_nonzero(matured & superseded)),
        conflicts=conflicts,
    )
    joined = window
    for name, column in (
        ("truth", value),
        ("known_at", known_at),
        ("matured", pa.array(matured)),
        ("judged", pa.array(old & has_truth)),
    ):
        if name in joined.column_names:
            joined = joined.rename_columns(
                [f"input.{n}" if n == name else n for n in joined.column_names]
            )
        joined = joined.append_column(name, column)
    return joined, coverage


def _of_these_keys(truth: pa.Table, window: pa.Table, key: Sequence[str]) -> pa.Table:
    """The truth rows that may belong to the window: a year of truth is not sorted for each week."""
    for name in key:
        if truth.num_rows > 2 * window.num_rows:
            own, known = _alike(window[name], truth[name])
            truth = truth.filter(pc.is_in(known, value_set=own.unique()))
    return truth


def window_nulls(truth: pa.Table) -> pa.Array:
    """An empty column of the truth's type."""
    return pa.nulls(0, truth.schema.field("truth").type)


def _to_arrow(frame: Any) -> pa.Table:
    if hasattr(frame, "to_arrow"):  # polars
        return frame.to_arrow()
    return pa.Table.from_pandas(frame, preserve_index=False)


def _valid(column: Any) -> npt.NDArray[np.bool_]:
    """True where there is a value (NaN, pandas' missing float, is none)."""
    valid = _flags(pc.is_valid(column))
    if pa.types.is_floating(column.type):
        valid &= ~_flags(pc.fill_null(pc.is_nan(column), fill_value=True))
    return valid


def _flags(column: Any) -> npt.NDArray[np.bool_]:
    return (
        np.array(column.to_numpy(zero_copy_only=False), dtype=bool)
        if isinstance(column, pa.Array)
        else np.array(column.to_numpy(), dtype=bool)
    )


def _choose(
    keys: npt.NDArray[np.int64], other: npt.NDArray[np.int64], truth: pa.Table
) -> tuple[npt.NDArray[np.int64], int]:
    """For each row the number of its truth row or -1, and how many of its keys had conflicts."""
    known = truth["known_at"].cast(pa.int64())
    moment = np.asarray(pc.fill_null(known, np.iinfo(np.int64).min).to_numpy())
    order = np.lexsort((np.arange(len(other)), moment, other))
    sorted_keys = other[order]
    wanted = np.isin(sorted_keys, keys) & (sorted_keys >= 0)
    order, sorted_keys = order[wanted], sorted_keys[wanted]
    if not len(order):
        return np.full(len(keys), -1, dtype=np.int64), 0
    last = np.append(sorted_keys[1:] != sorted_keys[:-1], True)
    winners = sorted_keys[last]
    position = np.minimum(np.searchsorted(winners, keys), len(winners) - 1)
    found = winners[position] == keys
    chosen = np.where(found, order[last][position], -1)
    values = truth["truth"].combine_chunks().dictionary_encode(null_encoding="encode")
    codes = np.asarray(values.indices.to_numpy(zero_copy_only=False))[order]
    differs = (sorted_keys[1:] == sorted_keys[:-1]) & (codes[1:] != codes[:-1])
    return chosen, len(np.unique(sorted_keys[1:][differs]))


def _superseded(
    window: pa.Table, keys: npt.NDArray[np.int64], known_at: Any, *, by_event_time: bool
) -> npt.NDArray[np.bool_]:
    """Rows that another answer of the same release on the same key stands for."""
    rows = window.num_rows
    if not rows:
        return np.zeros(0, dtype=bool)
    at = np.asarray(window["at"].cast(pa.int64()).to_numpy())
    if by_event_time:
        limit = np.asarray(window["when"].cast(pa.int64()).to_numpy())
    else:
        limit = np.asarray(
            pc.fill_null(known_at.cast(pa.int64()), np.iinfo(np.int64).max).to_numpy()
        )
    in_time = at <= limit
    release = np.asarray(window["release"].to_numpy())
    # Best last: in time before too late; the latest of those in time, the first of the others.
    rank = np.where(in_time, at, -at)
    order = np.lexsort((np.arange(rows), rank, in_time, release, keys))
    same = (keys[order][1:] == keys[order][:-1]) & (release[order][1:] == release[order][:-1])
    superseded = np.zeros(rows, dtype=bool)
    superseded[order[:-1]] = same & (keys[order][:-1] >= 0)  # a row without a key stands alone
    return superseded


def _key_numbers(
    left: pa.Table, right: pa.Table, key: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """One number for each distinct key in both tables; -1 where a part of the key is missing."""
    total = left.num_rows + right.num_rows
    numbers: npt.NDArray[np.int64] = np.zeros(total, dtype=np.int64)
    missing = np.zeros(total, dtype=bool)
    for name in key:
        first, second = _alike(left[name], right[name])
        column = pa.concat_arrays([first, second]).dictionary_encode()
        missing |= ~_flags(pc.is_valid(column))
        codes = np.asarray(column.indices.fill_null(0).to_numpy(zero_copy_only=False))
        # Renumbered after each column, so the product never leaves 64 bits.
        numbers = np.unique(numbers * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[
            1
        ].astype(np.int64)
    numbers[missing] = -1
    return numbers[: left.num_rows], numbers[left.num_rows :]


def _alike(left: Any, right: Any) -> tuple[pa.Array, pa.Array]:
    """Two key columns as one type: requests are JSON, where 1545 may be 1545.0 and a time text."""
    left, right = _decoded(left), _decoded(right)
    types = left.type, right.type
    if any(pa.types.is_temporal(kind) for kind in types) or (
        all(pa.types.is_string(kind) or pa.types.is_null(kind) for kind in types)
        and _look_like_times(left)
        and _look_like_times(right)
    ):
        return _times(left), _times(right)
    if any(_is_number(kind) for kind in types) and not all(kind == types[0] for kind in types):
        return _numbers(left), _numbers(right)
    if types[0] == types[1]:
        return left, right
    return _texts(left), _texts(right)


def _is_number(kind: Any) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _decoded(column: Any) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # no chunk at all
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return column


def _look_like_times(column: pa.Array) -> bool:
    valid = column.drop_null()
    return len(valid) == 0 or bool(_DATE.match(str(valid[0].as_py())))


def _times(column: Any) -> pa.Array:
    """Timestamps in UTC; a time without zone is UTC, a text that is no time is missing."""
    column = _decoded(column)
    if pa.types.is_timestamp(column.type):
        # A naive timestamp is a wall clock that we read as UTC: the same number.
        naive = column if column.type.tz is None else column.cast(pa.timestamp("us", tz="UTC"))
        return naive.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(_TIME)
    if pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us")).cast(pa.int64()).cast(_TIME)
    distinct = column.dictionary_encode()
    values = pa.array([_parsed(value) for value in distinct.dictionary.to_pylist()], _TIME)
    return values.take(distinct.indices)


def _parsed(value: Any) -> datetime.datetime | None:
    try:
        return clock.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _numbers(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        distinct = column.dictionary_encode()
        values = [_number(value) for value in distinct.dictionary.to_pylist()]
        return pa.array(values, pa.float64()).take(distinct.indices)
    return column.cast(pa.float64(), safe=False)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _texts(column: pa.Array) -> pa.Array:
    return pa.array(
        [None if value is None else str(value) for value in cast("Any", column).to_pylist()],
        pa.string(),
    )
