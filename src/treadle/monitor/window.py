"""Captured records → windows: spans of traffic of equal length, each one Parquet blob.

Windows are aligned to Monday 1970-01-05T00:00Z, so a window of 7d begins on a Monday and one of 1h
on the hour, whoever asks. A row belongs to the window of its event time where it carries one, else
to that of its capture. A window closes when now ≥ end + grace (window / 168, one hour of a week, at
least 2 s) and never opens again: a row that comes for a closed window goes to the first open one,
marked `late_arrival` and counted. Nothing is dropped but a prediction id that is there already.

Exactly once: `advance` is pure. Its caller reads the records after `cursor["segments"]`, calls it,
and stores the windows, the new cursor and the digest of the open rows' blob in one commit. A crash
before the commit repeats the same work on the same rows; after it, nothing is read twice.

Columns of a window, sorted by `when`, then `prediction_id`: inputs and what came along under their
own names, the outputs (`prediction`, or `prediction_0`, `prediction_1` …), and RESERVED. An input
that has a reserved name is stored as `input.NAME`.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from treadle.base import clock
from treadle.base.clock import UTC, duration_s
from treadle.base.digest import digest_bytes, short
from treadle.base.records import Window
from treadle.base.segments import Record
from treadle.base.spec import MonitorSection

ANCHOR = datetime.datetime(1970, 1, 5, tzinfo=UTC)
RESERVED = ("prediction_id", "release", "instance", "at", "when", "late_arrival")
"""`at`: when it was captured; `when`: the time that decides the window (both UTC)."""
AHEAD_S = 366 * 86400.0
"""An event time further ahead of its capture than this is taken for a mistake (capture counts)."""

_OUTPUT = re.compile(r"prediction(_\d+)?")
_TIME = pa.timestamp("us", tz="UTC")
_MICROSECOND = datetime.timedelta(microseconds=1)


class Closed(NamedTuple):
    """A closed window, its rows, and the Parquet bytes that `window.content` is the digest of."""

    window: Window
    table: pa.Table
    blob: bytes


class Advanced(NamedTuple):
    """What `advance` found: windows to keep, the cursor to continue from, the rows still open."""

    windows: list[Closed]
    cursor: dict[str, Any]
    open_rows: pa.Table


def advance(
    records: Iterable[Record | Mapping[str, Any]],
    environment: str,
    section: MonitorSection,
    event_time: str | None,
    key: Sequence[str],
    cursor: Mapping[str, Any] | None,
    now: datetime.datetime,
    *,
    open_rows: pa.Table | None = None,
    segments: Mapping[str, int] | None = None,
    since: datetime.datetime | None = None,
    grace_s: float | None = None,
) -> Advanced:
    """Sorts new records into windows and closes those that are over.

    `open_rows` is the table that the last call gave back; `segments` the reader's new cursor
    (`read_new`), kept as `cursor["segments"]`. `since` (the first deployment) is where windows
    begin, so that no traffic at all is seen too; without it they begin with the first record.
    Spans without a row become one window of 0 rows. The memory is that of the open window's rows;
    `monitor.capture` bounds it.

    The cursor is plain JSON: `segments`, `begins` (start of the first open window, ISO 8601 or
    None) and `counts` since the beginning: `rows`, `late` (came after their window had closed),
    `duplicates` (prediction id seen already, dropped), `implausible` (event time missing,
    unreadable or over a year ahead: the capture time counted), `without_key`.
    """
    before = dict(cursor or {})
    length = datetime.timedelta(seconds=duration_s(section.window))
    grace = datetime.timedelta(
        seconds=max(2.0, length.total_seconds() / 168) if grace_s is None else grace_s
    )
    counts = dict.fromkeys(("rows", "late", "duplicates", "implausible", "without_key"), 0)
    counts |= before.get("counts", {})

    fresh, implausible = _rows(records, event_time)
    counts["implausible"] += implausible
    if fresh.num_rows:
        counts["without_key"] += fresh.num_rows if set(key) - set(fresh.column_names) else 0
    table = fresh if open_rows is None else _concat(open_rows, fresh)
    table, duplicates = _distinct(table)
    counts["duplicates"] += duplicates
    counts["rows"] += fresh.num_rows - duplicates

    begins = clock.parse(before["begins"]) if before.get("begins") else None
    if begins is None and since is not None:
        begins = floor(since, length)
    if begins is None and table.num_rows:
        begins = floor(pc.min(table["at"]).as_py(), length)
    closed: list[Closed] = []
    if begins is not None:
        table, late = _mark_late(table, begins)
        counts["late"] += late
        closed, table, begins = _close(table, environment, begins, length, grace, now)
    after = {
        "segments": dict(before.get("segments", {}) if segments is None else segments),
        "begins": None if begins is None else clock.text(begins),
        "counts": counts,
    }
    return Advanced(closed, after, table)


def floor(moment: datetime.datetime, length: datetime.timedelta) -> datetime.datetime:
    """The start of the window that `moment` lies in."""
    return moment - (moment - ANCHOR) % length


def encode(table: pa.Table) -> bytes:
    """Parquet bytes; equal tables give equal bytes (with one version of pyarrow)."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd")
    return sink.getvalue()


def decode(blob: bytes) -> pa.Table:
    """The inverse of `encode`."""
    return pq.read_table(io.BytesIO(blob))


# ---- rows ----------------------------------------------------------------------------------------


def _rows(
    records: Iterable[Record | Mapping[str, Any]], event_time: str | None
) -> tuple[pa.Table, int]:
    """All rows of all records, and for how many the capture time stood in for the event time."""
    columns: dict[str, list[Any]] = {}
    total, implausible = 0, 0
    ids: list[str] = []
    releases: list[int] = []
    instances: list[str] = []
    at: list[int] = []
    when: list[int] = []
    times: dict[Any, int | None] = {}
    for given in records:
        record = _field_reader(given)
        rows = int(record("rows"))
        captured = _microseconds(clock.parse(record("time")))
        extra, inputs = record("extra") or {}, record("inputs")
        for name, values in itertools.chain(
            ((_stored_name(n), v) for n, v in extra.items() if n not in inputs),
            ((_stored_name(n), v) for n, v in inputs.items()),
            record("outputs").items(),
        ):
            column = columns.setdefault(name, [])
            column.extend(itertools.repeat(None, total - len(column)))
            column.extend(values)
        total += rows
        ids.extend(f"{record('id')}.{row}" for row in range(rows))
        releases.extend(itertools.repeat(int(record("release")), rows))
        instances.extend(itertools.repeat(str(record("instance")), rows))
        at.extend(itertools.repeat(captured, rows))
        if event_time is None:
            when.extend(itertools.repeat(captured, rows))
            continue
        events = inputs.get(event_time) or extra.get(event_time) or [None] * rows
        for value in events:
            moment = times.get(value)
            if value not in times:
                moment = times[value] = _moment(value)
            if moment is None or moment > captured + AHEAD_S * 1e6:
                moment, implausible = captured, implausible + 1
            when.append(moment)
    for column in columns.values():
        column.extend(itertools.repeat(None, total - len(column)))
    arrays = {name: _array(values) for name, values in columns.items()}
    arrays |= {
        "prediction_id": pa.array(ids, pa.string()),
        "release": pa.array(releases, pa.int64()),
        "instance": pa.array(instances, pa.string()),
        "at": pa.array(at, _TIME),
        "when": pa.array(when, _TIME),
        "late_arrival": pa.array(np.zeros(total, dtype=bool)),
    }
    return pa.table(arrays), implausible


def _field_reader(record: Record | Mapping[str, Any]) -> Any:
    if isinstance(record, Record):
        return lambda name: getattr(record, name)
    return lambda name: record.get(name) if name == "extra" else record[name]


def _stored_name(name: str) -> str:
    return f"input.{name}" if name in RESERVED or _OUTPUT.fullmatch(name) else name


def _microseconds(moment: datetime.datetime) -> int:
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


def _moment(value: Any) -> int | None:
    """Microseconds since 1970 of a time as JSON carries it; None if it is none."""
    try:
        if isinstance(value, str):
            return _microseconds(clock.parse(value))
        if isinstance(value, datetime.datetime):
            return _microseconds(value if value.tzinfo else value.replace(tzinfo=UTC))
        if isinstance(value, int | float) and not isinstance(value, bool):
            # Seconds, milliseconds and microseconds since 1970 are told apart by their size.
            scale = 1e6 if abs(value) < 1e11 else 1e3 if abs(value) < 1e14 else 1.0
            return int(value * scale)
    except (ValueError, OverflowError):
        pass
    return None


def _array(values: list[Any]) -> pa.Array:
    """An Arrow array; values of several types that no one type holds become text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        if all(value is None or type(value) in (int, float) for value in values):
            return pa.array([None if value is None else float(value) for value in values])
        return pa.array([None if value is None else str(value) for value in values])


def _concat(first: pa.Table, second: pa.Table) -> pa.Table:
    """Both tables' rows; a column that changed its type between them keeps both as one type."""
    try:
        return pa.concat_tables([first, second], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.concat_tables(
            [_loosened(first, second), _loosened(second, first)], promote_options="permissive"
        )


def _loosened(table: pa.Table, other: pa.Table) -> pa.Table:
    """`table` with the columns as text whose type does not go together with that in `other`."""
    for position, field in enumerate(table.schema):
        if field.name not in other.column_names:
            continue
        try:
            pa.unify_schemas(
                [pa.schema([field]), pa.schema([other.schema.field(field.name)])],
                promote_options="permissive",
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            text = [None if v is None else str(v) for v in table[field.name].to_pylist()]
            table = table.set_column(position, field.name, pa.array(text, pa.string()))
    return table


def _distinct(table: pa.Table) -> tuple[pa.Table, int]:
    """The first row of each prediction id, and how many others there were."""
    ids = table["prediction_id"].to_numpy()
    if len(ids) == 0:
        return table, 0
    first = np.unique(ids.astype(str), return_index=True)[1]
    if len(first) == len(ids):
        return table, 0
    return table.take(np.sort(first)), len(ids) - len(first)


def _mark_late(table: pa.Table, begins: datetime.datetime) -> tuple[pa.Table, int]:
    """Rows whose window has closed already, marked so that the first open window takes them."""
    if not table.num_rows:
        return table, 0
    early = pc.less(table["when"], pa.scalar(begins, _TIME)).to_numpy(zero_copy_only=False)
    marked = table["late_arrival"].to_numpy(zero_copy_only=False)
    fresh = int(np.count_nonzero(early & ~marked))
    position = table.column_names.index("late_arrival")
    return table.set_column(position, "late_arrival", pa.array(marked | early)), fresh


def _close(
    table: pa.Table,
    environment: str,
    begins: datetime.datetime,
    length: datetime.timedelta,
    grace: datetime.timedelta,
    now: datetime.datetime,
) -> tuple[list[Closed], pa.Table, datetime.datetime]:
    closed: list[Closed] = []
    over = (now - grace - begins) // length  # how many windows have ended
    if over <= 0:
        return closed, table, begins
    start = _microseconds(begins)
    step = length // _MICROSECOND
    when = cast("Any", table["when"].cast(pa.int64()).to_numpy())
    number = np.maximum((when - start) // step, 0)  # late arrivals go to the first open window
    counted = np.unique(number[number < over]).astype(int).tolist()
    position = 0
    for index in [*counted, None]:
        until = over if index is None else index
        if until > position:  # an empty span, however long, is one window of no rows
            closed.append(
                _window(
                    table.slice(0, 0),
                    environment,
                    begins + position * length,
                    begins + until * length,
                )
            )
        if index is None:
            break
        rows = table.filter(pa.array(number == index))
        closed.append(
            _window(rows, environment, begins + index * length, begins + (index + 1) * length)
        )
        position = index + 1
    return closed, table.filter(pa.array(number >= over)), begins + over * length


def _window(
    table: pa.Table, environment: str, start: datetime.datetime, end: datetime.datetime
) -> Closed:
    table = table.sort_by([("when", "ascending"), ("prediction_id", "ascending")]).combine_chunks()
    blob = encode(table)
    content = digest_bytes(blob)
    window = Window(
        id=f"{start:%Y%m%dT%H%M%SZ}-{short(content, 8)}",
        environment=environment,
        start=clock.text(start),
        end=clock.text(end),
        releases=tuple(sorted(set(table["release"].to_pylist()))),
        rows=table.num_rows,
        content=content,
    )
    return Closed(window, table, blob)


def with_quality(
    window: Window,
    *,
    coverage: float | None = None,
    estimated: Mapping[str, float] | None = None,
    realised: Mapping[str, float] | None = None,
) -> Window:
    """The window with what became known later; its id, span and content stay."""
    return dataclasses.replace(
        window,
        coverage=window.coverage if coverage is None else coverage,
        estimated=dict(window.estimated if estimated is None else estimated),
        realised=dict(window.realised if realised is None else realised),
    )
