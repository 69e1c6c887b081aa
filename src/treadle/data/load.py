"""A snapshot as the frame (or the paths) that a user's function gets.

All parts in part order, one row after the other, read from the store and verified against their
digests. Types, the same for every file format and independent of its integer and float widths:

    logical type         pandas                                    polars
    integer              int64; with missing values float64        Int64
    unsigned             uint64; with missing values UInt64        UInt64
    float                float64                                   Float64
    boolean              bool; with missing values boolean         Boolean
    string               str (missing: NaN)                        String
    date                 datetime64[us] at midnight                Date
    timestamp            datetime64[us]                            Datetime(us)
    timestamp_utc        datetime64[us, UTC]                       Datetime(us, UTC)
    duration             timedelta64[us]                           Duration(us)
    decimal, time, binary, nested    object (Decimal, time, bytes, list)    the same type

So an integer column with missing values is what `pandas.read_csv` gives, which every library takes;
where an integer beyond ±2⁵³ would lose digits that way, the column is `Int64`. Whether a column has
missing values is a property of the snapshot (`Column.nullable`), not of the rows asked for.
Times finer than a microsecond are cut to it. Texts that CSV writes for a missing value are
`tables.NULLS`; an empty field is missing in every type.
"""

from __future__ import annotations

import datetime
import decimal
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from treadle.base.digest import digest_file
from treadle.base.errors import DataRefused, UsageError
from treadle.base.records import Column, Part, Snapshot
from treadle.clients.objects import Objects
from treadle.data.source import format_of

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

_EXACT = 2**53


@overload
def frame(
    snapshot: Snapshot, objects: Objects, kind: Literal["pandas"], *, verify: bool = True
) -> pd.DataFrame: ...
@overload
def frame(
    snapshot: Snapshot, objects: Objects, kind: Literal["polars"], *, verify: bool = True
) -> pl.DataFrame: ...
def frame(
    snapshot: Snapshot,
    objects: Objects,
    kind: Literal["pandas", "polars"] = "pandas",
    *,
    verify: bool = True,
) -> pd.DataFrame | pl.DataFrame:
    """All rows as a frame. StateCorrupt if a stored part is not what its digest says."""
    if snapshot.kind == "paths":
        raise UsageError(
            f"data set {snapshot.dataset} is `paths:`: its files are handed over as paths"
        )
    table = arrow(snapshot, objects, verify=verify)
    if kind == "polars":
        return _polars(table)
    return _pandas(table, snapshot.columns)


def arrow(snapshot: Snapshot, objects: Objects, *, verify: bool = True) -> pa.Table:
    """All rows as an Arrow table with the snapshot's columns, order and types."""
    import pyarrow as pa

    schema = pa.schema([pa.field(c.name, _arrow_type(c.type)) for c in snapshot.columns])
    tables = [
        _part(objects.path(part.content, verify=verify), part, snapshot, schema)
        for part in snapshot.parts
    ]
    if not tables:
        return schema.empty_table()
    if any(c.type == "nested" for c in snapshot.columns):
        return pa.concat_tables(tables, promote_options="permissive")
    return pa.concat_tables(tables)


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    from treadle.data.types import DECIMAL

    match = DECIMAL.fullmatch(kind)
    if match:
        return pa.decimal128(int(match[1]), int(match[2]))
    return {
        "integer": pa.int64(),
        "unsigned": pa.uint64(),
        "float": pa.float64(),
        "boolean": pa.bool_(),
        "string": pa.large_string(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "timestamp_utc": pa.timestamp("us", "UTC"),
        "time": pa.time64("us"),
        "duration": pa.duration("us"),
        "binary": pa.large_binary(),
    }.get(kind, pa.null())


def _part(path: Path, part: Part, snapshot: Snapshot, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    if format_of(part.path) == "parquet":
        import pyarrow.parquet as pq

        # A file handle, for the blob's name says nothing; its columns are read by all cores.
        table = pq.ParquetFile(path).read(use_threads=True)
    else:
        from treadle.data.tables import columns_of, read_part

        own = columns_of(snapshot, part)
        lazy = read_part(path, part.path, own, snapshot.columns)
        table = lazy.collect(engine="streaming").to_arrow()
    arrays = []
    for field, column in zip(schema, snapshot.columns, strict=True):
        if column.name not in table.column_names:
            arrays.append(pa.nulls(len(table), field.type))
            continue
        arrays.append(_fitted(table[column.name], field.type, column, part))
    fields = [pa.field(field.name, array.type) for field, array in zip(schema, arrays, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _fitted(
    array: pa.ChunkedArray, kind: pa.DataType, column: Column, part: Part
) -> pa.ChunkedArray:
    """A part's column in the snapshot's type."""
    import pyarrow as pa

    if column.type == "nested" or array.type == kind:
        return array
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    try:
        # `safe=False` cuts times to microseconds; numbers only ever become wider.
        return array.cast(kind, safe=not pa.types.is_timestamp(array.type))
    except pa.ArrowException as error:
        raise DataRefused(
            f"{part.path}: column {column.name} is {array.type} and does not fit {column.type}: {error}"
        ) from error


def _polars(table: pa.Table) -> pl.DataFrame:
    import polars as pl

    made = pl.from_arrow(table, rechunk=False)
    assert isinstance(made, pl.DataFrame)
    return made


def _pandas(table: pa.Table, columns: tuple[Column, ...]) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    special: dict[str, Any] = {}
    for column in columns:
        values = table[column.name]
        index = table.column_names.index(column.name)
        if column.type == "date":
            table = table.set_column(index, column.name, values.cast(pa.timestamp("us")))
        elif not column.nullable:
            continue
        elif column.type == "boolean":
            special[column.name] = pd.BooleanDtype()
        elif column.type == "unsigned":
            special[column.name] = pd.UInt64Dtype()
        elif column.type == "integer":
            ends = pc.min_max(values).as_py()
            if ends["min"] is not None and max(-ends["min"], ends["max"]) > _EXACT:
                special[column.name] = pd.Int64Dtype()
            else:
                table = table.set_column(index, column.name, values.cast(pa.float64()))
        elif column.type == "null":
            table = table.set_column(index, column.name, values.cast(pa.float64()))
    plain = [name for name in table.column_names if name not in special]
    made: pd.DataFrame = table.select(plain).to_pandas(split_blocks=True, ignore_metadata=True)
    for name, dtype in special.items():
        made[name] = dtype.__from_arrow__(table[name])
    return made.reindex(columns=table.column_names) if special else made


def paths(
    snapshot: Snapshot, objects: Objects, folder: Path | None = None, target: Path | None = None
) -> list[Path]:
    """The files of a `paths:` data set, by name, with the snapshot's content.

    With `folder` (the project's) a user's own file is handed out where it still has the bytes of
    the snapshot (checked now, by digest). A file that changed since, or without `folder` every
    file, is placed under `target` from the store, read-only, under its own name and path. DataRefused
    where that is needed and `target` is None.
    """
    if snapshot.kind != "paths":
        raise UsageError(f"data set {snapshot.dataset} is a table, not `paths:`")
    found = []
    for part in snapshot.parts:
        own = None if folder is None else folder / part.path
        if own is not None and own.is_file() and digest_file(own) == part.content:
            found.append(own)
            continue
        if target is None:
            raise DataRefused(
                f"data set {snapshot.dataset}: {part.path} changed since the snapshot was taken",
                hint="run the command again",
            )
        found.append(_place(objects.path(part.content, verify=True), target / part.path))
    return found


def _place(blob: Path, place: Path) -> Path:
    """A read-only copy (a second name, where the file system allows it) of a blob, whole or absent."""
    import shutil

    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.parent / f".{place.name}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    try:
        os.link(blob, temporary)
    except OSError:
        shutil.copyfile(blob, temporary)
        temporary.chmod(0o444)
    os.replace(temporary, place)
    return place


def read_file(path: Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of one Parquet, CSV or JSON-lines file as JSON's plain values, to ask a service.

    Times are ISO 8601 texts, a decimal is a number, missing values, NaN and infinities are None.
    DataRefused if the file cannot be read, UsageError if there is none or its suffix names no format.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    format_of(path.name)  # refuses an unknown suffix
    from treadle.data.inspect import inspect
    from treadle.data.tables import read_part
    from treadle.data.types import Unreadable

    try:
        _, columns = inspect(path, path.name)
    except Unreadable as error:
        raise DataRefused(f"{path}: {error.text}") from error
    lazy = read_part(path, path.name, columns, columns)
    rows = (lazy if limit is None else lazy.head(limit)).collect(engine="streaming")
    return [{key: _json(value) for key, value in row.items()} for row in rows.iter_rows(named=True)]


def _json(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    return value
