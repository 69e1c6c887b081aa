"""The snapshot of a query: its rows as Parquet parts `rows/000001`, `rows/000002`, ….

Where rows have an order (the `by` of `incremental`, then event_time, then the key) they are read in
it, and every PART_ROWS rows make a part. So the parts follow from the rows alone: equal rows have
equal digests, however they came to be read, and new rows at the end leave earlier parts as they are.

With `incremental` a turn reads the rows above `highest stored - restated`; what was stored above
that line is replaced by what is read now. A row that arrives later with a value at or below the line
is not seen: `restated` says how late rows may come. A query without `by`, `event_time`, `key` and
ORDER BY is taken in the order in which the database gives it, which some databases do not promise.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from treadle.base.clock import duration_s
from treadle.base.digest import digest as digest_of
from treadle.base.environment import expand
from treadle.base.errors import DataRefused, UsageError
from treadle.base.log import Report
from treadle.base.records import Column, Part, Snapshot, Violation
from treadle.base.spec import DataSection
from treadle.clients.database import connect
from treadle.clients.journal import Changes, Journal
from treadle.clients.objects import Objects
from treadle.data.inspect import arrow_logical
from treadle.data.stored import record
from treadle.data.types import refuse_text

PART_ROWS = 250_000


def take(
    name: str,
    section: DataSection,
    folder: Path,
    journal: Journal,
    objects: Objects,
    changes: Changes,
    report: Report,
    *,
    previous: Snapshot | None,
    environ: Mapping[str, str],
) -> Snapshot:
    """Read the query (or what is new of it) and store its parts; see `snapshot.take`."""
    assert section.query is not None
    assert section.database is not None
    database = connect(expand(section.database, environ), folder)
    try:
        order = _order(section, database.names(section.query), name, section.query)
        # What was read by another query, in another order or from elsewhere is no beginning of this.
        meaning = digest_of([section.query, section.database, order, section.incremental])
        kept: list[Part] = []
        head: list[pa.Table] = []
        low, schema = None, None
        if section.incremental is not None and previous is not None and previous.parts:
            memo = journal.get("memo_query", name)
            if memo == meaning and all(objects.has(part.content) for part in previous.parts):
                kept, head, low, schema = _line(section, previous, objects)
        report(f"data {name}: reading the query at {database.address}", database=database.address)
        newer = (
            None if low is None or section.incremental is None else (section.incremental.by, low)
        )
        try:
            schema, batches = database.read(section.query, order=order, newer=newer, schema=schema)
            with tempfile.TemporaryDirectory(prefix="treadle-query-") as scratch:
                parts, nulls = _write(
                    _checked(batches, section, name, newer),
                    head,
                    schema,
                    kept,
                    objects,
                    Path(scratch),
                )
        except DataRefused as error:
            if error.violations:
                raise
            violation = Violation(name, "unreadable", None, error.message)
            raise DataRefused(error.message, [violation], hint=error.hint) from error
    finally:
        database.close()
    columns = _columns(schema, nulls if not kept else _with_earlier(nulls, previous))
    snapshot = Snapshot(name, "query", tuple(parts), columns, section.key, section.event_time)
    if previous != snapshot:
        record(snapshot, changes)
    if journal.get("memo_query", name) != meaning:
        changes.put("memo_query", name, meaning)
    return snapshot


def _order(section: DataSection, names: list[str], dataset: str, query: str) -> list[str]:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataRefused(
            f"the query gives two columns called {doubled[0]}", hint=f"name one: AS {doubled[0]}_2"
        )
    by = [] if section.incremental is None else [section.incremental.by]
    time = [] if section.event_time is None else [section.event_time]
    wanted = list(dict.fromkeys([*by, *time, *section.key]))
    bad = [
        Violation(
            dataset,
            "missing_column",
            name,
            f"the query gives no column {name}; it gives {', '.join(names)}",
        )
        for name in wanted
        if name not in names
    ]
    if bad:
        raise DataRefused(refuse_text(dataset, bad), bad, hint="select it, or correct treadle.yaml")
    if not by and "order by" in query.lower():
        return []  # the person's own order stands (one within a subquery sorts nothing, and is kept)
    return wanted


def _line(
    section: DataSection, previous: Snapshot, objects: Objects
) -> tuple[list[Part], list[pa.Table], Any, pa.Schema]:
    """Parts that stay, rows to put before the new ones, the line above which is read, the schema."""
    assert section.incremental is not None
    by = section.incremental.by
    last = pq.read_table(objects.path(previous.parts[-1].content, verify=True))
    highest = pc.max(last[by]).as_py()
    if highest is None or any(pa.types.is_null(field.type) for field in last.schema):
        return [], [], None, None  # no row yet, or a column whose type is still unknown: all anew
    low = _minus(highest, section.incremental.restated)
    parts = list(previous.parts)
    head: list[pa.Table] = []
    # A part that is not full is filled up, one that reaches above the line is cut there.
    while parts:
        table = (
            last
            if parts[-1] is previous.parts[-1]
            else pq.read_table(objects.path(parts[-1].content, verify=True))
        )
        below = table.filter(pc.less_equal(table[by], pa.scalar(low, table[by].type)))
        if len(below) == len(table) == PART_ROWS:
            break
        head.insert(0, below)
        parts.pop()
        if len(below):  # rows are in the order of `by`: all earlier parts are below the line too
            break
    return parts, head, low, last.schema


def _minus(value: Any, restated: str) -> Any:
    seconds = duration_s(restated)
    if seconds == 0:
        return value
    if isinstance(value, datetime.datetime):
        return value - datetime.timedelta(seconds=seconds)
    if isinstance(value, datetime.date):
        # A day of restatement reads whole days again.
        return value - datetime.timedelta(days=-(-seconds // 86400))
    raise UsageError(
        f"`restated: {restated}` needs a time in `incremental: by`, not {type(value).__name__} values",
        hint="leave restated out, or follow a column of times",
    )


def _checked(
    batches: Iterator[pa.RecordBatch],
    section: DataSection,
    dataset: str,
    newer: tuple[str, Any] | None,
) -> Iterator[pa.RecordBatch]:
    if section.incremental is None:
        yield from batches
        return
    by = section.incremental.by
    for read in batches:
        batch, column = read, read.column(by)
        if column.null_count:
            text = (
                f"{by} is null in {column.null_count:,} rows: they can never be told new from old"
            )
            bad = [Violation(dataset, "missing", by, text, rows=column.null_count)]
            raise DataRefused(
                refuse_text(dataset, bad), bad, hint=f"add to the query: WHERE {by} IS NOT NULL"
            )
        if newer is not None:
            # SQLite compares texts; whatever the text's form, no row may come twice.
            batch = batch.filter(pc.greater(column, pa.scalar(newer[1], column.type)))
        if batch.num_rows:
            yield batch


def _write(
    batches: Iterator[pa.RecordBatch],
    head: list[pa.Table],
    schema: pa.Schema,
    kept: list[Part],
    objects: Objects,
    scratch: Path,
) -> tuple[list[Part], dict[str, bool]]:
    """Write `head` and the batches as parts of PART_ROWS rows after `kept`; which columns have nulls."""
    parts = list(kept)
    nulls = dict.fromkeys(schema.names, False)
    pending: list[pa.RecordBatch] = []
    rows = 0

    def flush(count: int) -> None:
        nonlocal pending, rows
        table = pa.Table.from_batches(pending, schema=schema)
        path = scratch / "part.parquet"
        pq.write_table(
            table.slice(0, count).combine_chunks(), path, compression="zstd", row_group_size=131_072
        )
        content, size = objects.put_file(path)
        parts.append(Part(f"rows/{len(parts) + 1:06}", content, size, count))
        rest = table.slice(count)
        pending, rows = rest.to_batches(), len(rest)
        if rest.nbytes and pending:
            pending = rest.combine_chunks().to_batches()  # let go of the rows that are written

    def source() -> Iterator[pa.RecordBatch]:
        for table in head:
            yield from table.to_batches()
        yield from batches

    for batch in source():
        for field, array in zip(schema, batch.columns, strict=True):
            if array.null_count:
                nulls[field.name] = True
        pending.append(batch)
        rows += batch.num_rows
        while rows >= PART_ROWS:
            flush(PART_ROWS)
    if rows or not parts:
        flush(rows)
    return parts, nulls


def _with_earlier(nulls: dict[str, bool], previous: Snapshot | None) -> dict[str, bool]:
    earlier = (
        {} if previous is None else {column.name: column.nullable for column in previous.columns}
    )
    return {name: found or earlier.get(name, False) for name, found in nulls.items()}


def _columns(schema: pa.Schema, nulls: dict[str, bool]) -> tuple[Column, ...]:
    return tuple(
        Column(field.name, arrow_logical(field.type), nulls[field.name]) for field in schema
    )
