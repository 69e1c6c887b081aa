"""Parts of a snapshot as tables: logical types, how a file is read, and its own columns.

(`data/types.py` names the logical types.)
"""

from __future__ import annotations

import contextlib
import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from treadle.base.records import Column, Part, Snapshot
from treadle.clients.objects import Objects
from treadle.data.source import Format, format_of
from treadle.data.types import DECIMAL, Unreadable, first_line

NULLS = ["NA", "N/A", "n/a", "#N/A", "NULL", "null", "NaN", "nan", "None"]
"""Texts that stand for a missing value in CSV, beside the empty one (as pandas reads them)."""
TRUTHS = frozenset(("True", "False", "TRUE", "FALSE", "true", "false"))
SAMPLE_ROWS = 10_000
_SIMPLE: dict[str, Any] = {
    "integer": pl.Int64,
    "unsigned": pl.UInt64,
    "float": pl.Float64,
    "boolean": pl.Boolean,
    "string": pl.String,
    "date": pl.Date,
    "timestamp": pl.Datetime("us"),
    "timestamp_utc": pl.Datetime("us", "UTC"),
    "time": pl.Time,
    "duration": pl.Duration("us"),
    "binary": pl.Binary,
    "null": pl.Null,
}


def logical(dtype: pl.DataType) -> str:
    """The logical type of a polars data type."""
    if dtype == pl.UInt64:
        return "unsigned"
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "float"
    if isinstance(dtype, pl.Decimal):
        return f"decimal({dtype.precision or 38},{dtype.scale})"
    if isinstance(dtype, pl.Datetime):
        return "timestamp" if dtype.time_zone is None else "timestamp_utc"
    for name in ("boolean", "string", "date", "time", "binary", "null"):
        if dtype == _SIMPLE[name]:
            return name
    if isinstance(dtype, pl.Duration):
        return "duration"
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return "string"
    return "nested"


def physical(kind: str) -> pl.DataType | None:
    """The polars type of a logical type; None for `nested`, which stays as it is."""
    match = DECIMAL.fullmatch(kind)
    if match:
        return pl.Decimal(int(match[1]), int(match[2]))
    found = _SIMPLE.get(kind)
    return found() if isinstance(found, type) else found


def inspect_text(path: Path, name: str) -> tuple[int, tuple[Column, ...]]:
    """Rows and columns of a CSV, TSV or JSON-lines file by one pass over it. Unreadable says why not."""
    form = format_of(name)
    try:
        return _inspect_jsonl(path) if form == "jsonl" else _inspect_text(path, form)
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        raise Unreadable("unreadable", first_line(error)) from error


def _separator(form: Format) -> str:
    return "\t" if form == "tsv" else ","


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _inspect_text(path: Path, form: Format) -> tuple[int, tuple[Column, ...]]:
    """CSV: types from the first rows, then proved on every row; what does not hold gives way."""
    separator = _separator(form)
    with _open(path) as file:
        header = file.readline(1 << 20).decode("utf-8-sig", "replace").rstrip("\r\n")
    if not header.strip():
        raise Unreadable("empty", "its first line, which should name the columns, is empty")
    other = next(
        (mark for mark in ("\t", ";", "|", ",") if mark != separator and mark in header), None
    )
    if separator not in header and other is not None:
        named = {"\t": "a tab", ";": "a semicolon", "|": "a bar", ",": "a comma"}
        raise Unreadable(
            "delimiter",
            f"its first line holds {named[other]} and no {'tab' if form == 'tsv' else 'comma'}: "
            f"{header[:60]!r}; write it with {'tabs' if form == 'tsv' else 'commas'}"
            + (", or call it .tsv" if other == "\t" else ""),
        )
    options: dict[str, Any] = {"separator": separator, "null_values": NULLS}
    sample = pl.scan_csv(
        path, infer_schema_length=SAMPLE_ROWS, try_parse_dates=True, **options
    ).head(SAMPLE_ROWS)
    schema = dict(sample.collect_schema())
    doubled = [name for name in schema if name.endswith("_duplicated_0")]
    if doubled:
        raise Unreadable(
            "unreadable", f"two columns are called {doubled[0].removesuffix('_duplicated_0')!r}"
        )
    texts = [name for name, dtype in schema.items() if dtype == pl.String]
    rows = pl.DataFrame(schema=dict.fromkeys(texts, pl.String))
    if texts:
        with contextlib.suppress(pl.exceptions.ComputeError):
            rows = sample.select(texts).collect(engine="streaming")
    # What the first rows leave open is read as text and tried as each of these.
    open_: dict[str, list[str]] = {}
    for name, dtype in schema.items():
        if dtype == pl.String:
            seen = rows[name].drop_nulls()
            if seen.is_empty():
                open_[name] = ["boolean", "integer", "float", "date", "timestamp"]
            elif set(seen.unique().head(7).to_list()) <= TRUTHS:
                open_[name] = ["boolean"]
        elif dtype == pl.Boolean:
            schema[name], open_[name] = pl.String(), ["boolean"]
    while True:
        lazy = pl.scan_csv(path, schema=schema, **options)
        wanted = [pl.len().alias("\0rows")]
        for name in schema:
            wanted.append(pl.col(name).null_count().alias(f"\0nulls {name}"))
            wanted += [
                (_parsed(name, kind).is_null() & pl.col(name).is_not_null())
                .sum()
                .alias(f"\0{kind} {name}")
                for kind in open_.get(name, ())
            ]
        try:
            found = lazy.select(wanted).collect(engine="streaming").row(0, named=True)
            break
        except pl.exceptions.ComputeError as error:
            _give_way(schema, error)
    total = int(found["\0rows"])
    columns = []
    for name, dtype in schema.items():
        nulls = int(found[f"\0nulls {name}"])
        kind = logical(dtype)
        if total == nulls and kind == "string":
            kind = "null"
        elif name in open_:
            kind = next((k for k in open_[name] if found[f"\0{k} {name}"] == 0), "string")
        columns.append(Column(name, kind, nulls > 0))
    return total, tuple(columns)


_COLUMN = re.compile(r"as dtype `([^`]+)` at column '(.*)' \(column number (\d+)\)", re.DOTALL)


def _give_way(schema: dict[str, Any], error: pl.exceptions.ComputeError) -> None:
    """Widen the type of the column that a parse error names; re-raise what types cannot mend."""
    match = _COLUMN.search(str(error))
    if match is None or match[2] not in schema or schema[match[2]] == pl.String:
        raise error
    dtype = schema[match[2]]
    wider: pl.DataType = pl.String()
    if dtype.is_integer():
        wider = pl.Float64()
    elif dtype == pl.Date:
        wider = pl.Datetime("us")
    schema[match[2]] = wider


def _parsed(name: str, kind: str) -> pl.Expr:
    """A text column as `kind`; null where the text is none."""
    column = pl.col(name)
    if kind == "boolean":
        lower = column.str.to_lowercase()
        return (
            pl.when(lower == "true").then(True).when(lower == "false").then(False).otherwise(None)
        )
    if kind in ("timestamp", "timestamp_utc"):
        zone = "UTC" if kind == "timestamp_utc" else None
        return column.str.to_datetime(time_unit="us", time_zone=zone, strict=False)
    if kind == "date":
        return column.str.to_date("%Y-%m-%d", strict=False)
    wanted = physical(kind)
    assert wanted is not None
    return column.cast(wanted, strict=False)


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?")


def _inspect_jsonl(path: Path) -> tuple[int, tuple[Column, ...]]:
    lazy = pl.scan_ndjson(path, infer_schema_length=None)
    schema = lazy.collect_schema()
    texts = [name for name, dtype in schema.items() if dtype == pl.String]
    moments: dict[str, str] = {}
    if texts:
        first = lazy.select(pl.col(texts).drop_nulls().first()).collect().row(0, named=True)
        for name, value in first.items():
            match = _MOMENT.fullmatch(value) if value else None
            if match:
                moments[name] = (
                    "date" if not match[1] else "timestamp_utc" if match[4] else "timestamp"
                )
    found = (
        lazy.select(
            pl.len().alias("\0rows"),
            *(pl.col(name).null_count().alias(f"\0nulls {name}") for name in schema),
            *(
                (_parsed(name, kind).is_null() & pl.col(name).is_not_null())
                .sum()
                .alias(f"\0kind {name}")
                for name, kind in moments.items()
            ),
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    columns = tuple(
        Column(
            name,
            moments[name] if name in moments and found[f"\0kind {name}"] == 0 else logical(dtype),
            found[f"\0nulls {name}"] > 0,
        )
        for name, dtype in schema.items()
    )
    return int(found["\0rows"]), columns


def read_part(
    path: Path, name: str, own: Sequence[Column], wanted: Sequence[Column]
) -> pl.LazyFrame:
    """A part as a lazy frame with the snapshot's columns, order and types.

    `own` are the file's columns, `wanted` the snapshot's; a column that the file lacks is null.
    """
    form = format_of(name)
    kinds = {column.name: column.type for column in own}
    have: dict[str, Any]
    if form == "parquet":
        lazy = pl.scan_parquet(path)
        have = dict(lazy.collect_schema())
    elif form == "jsonl":
        lazy = pl.scan_ndjson(path, infer_schema_length=None)
        have = dict(lazy.collect_schema())
    else:
        have = {
            column.name: pl.String()
            if column.type in ("boolean", "null") or physical(column.type) is None
            else physical(column.type)
            for column in own
        }
        lazy = pl.scan_csv(path, schema=have, separator=_separator(form), null_values=NULLS)
    chosen = []
    for column in wanted:
        target = physical(column.type)
        if column.name not in have:
            chosen.append(pl.lit(None, dtype=target or pl.Null()).alias(column.name))
            continue
        kind, expression = kinds.get(column.name, column.type), pl.col(column.name)
        if have[column.name] == pl.String and kind not in ("string", "null", "nested"):
            expression = _parsed(column.name, kind)
            have[column.name] = physical(kind)
        if target is not None and have[column.name] != target:
            expression = _cast(expression, have[column.name], target)
        chosen.append(expression.alias(column.name))
    return lazy.select(chosen)


def _cast(expression: pl.Expr, have: pl.DataType, target: pl.DataType) -> pl.Expr:
    if isinstance(have, pl.Datetime) and isinstance(target, pl.Datetime) and have.time_zone:
        return expression.dt.convert_time_zone("UTC").cast(target)
    if target == pl.String and not isinstance(have, pl.Categorical | pl.Enum | pl.String):
        return expression.cast(pl.String, strict=False)
    return expression.cast(target)


def columns_of(snapshot: Snapshot, part: Part) -> tuple[Column, ...]:
    """The columns that a part's file itself has."""
    return snapshot.columns if part.columns is None else part.columns


def lazy_frame(snapshot: Snapshot, objects: Objects) -> pl.LazyFrame:
    """All rows of a snapshot, in part order, read as they are needed."""
    frames = []
    same = [
        part
        for part in snapshot.parts
        if format_of(part.path) == "parquet" and part.columns is None
    ]
    if same and len(same) == len(snapshot.parts):
        return _many_parquet([objects.path(part.content) for part in same], snapshot.columns)
    for part in snapshot.parts:
        own = columns_of(snapshot, part)
        frames.append(read_part(objects.path(part.content), part.path, own, snapshot.columns))
    if not frames:
        return pl.LazyFrame(
            schema={c.name: physical(c.type) or pl.Null() for c in snapshot.columns}
        )
    return frames[0] if len(frames) == 1 else pl.concat(frames)


def _many_parquet(paths: list[Path], wanted: Sequence[Column]) -> pl.LazyFrame:
    """Equal files as one scan, which is faster than a union; files that differ in width, as one."""
    schemas = [pl.read_parquet_schema(path) for path in paths[:1] + paths[1:]]
    if all(schema == schemas[0] for schema in schemas[1:]):
        lazy = pl.scan_parquet(paths)
        return lazy.select(_columns(schemas[0], wanted))
    frames = [
        pl.scan_parquet(path).select(_columns(schema, wanted))
        for path, schema in zip(paths, schemas, strict=True)
    ]
    return pl.concat(frames)


def _columns(schema: Any, wanted: Sequence[Column]) -> list[pl.Expr]:
    chosen = []
    for column in wanted:
        target, have = physical(column.type), schema[column.name]
        expression = pl.col(column.name)
        chosen.append(
            expression if target is None or have == target else _cast(expression, have, target)
        )
    return chosen
