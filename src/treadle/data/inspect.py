"""What a file that was not seen before holds: its rows and columns.

Parquet by its footer, with pyarrow alone; text by one pass with polars (`data/tables.py`).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from treadle.base.records import Column
from treadle.data.source import format_of
from treadle.data.types import Unreadable, first_line


def inspect(path: Path, name: str) -> tuple[int, tuple[Column, ...]]:
    """Rows and columns of the file; `name` tells its format. Unreadable says what is wrong."""
    if path.stat().st_size == 0:
        raise Unreadable("empty", "the file has no bytes at all")
    if format_of(name) == "parquet":
        return inspect_parquet(path)
    from treadle.data.tables import inspect_text

    return inspect_text(path, name)


def inspect_parquet(path: Path) -> tuple[int, tuple[Column, ...]]:
    """Rows and columns by the footer, which stands at the end: a file that was cut has none."""
    try:
        with pq.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
            flat = metadata.num_columns == len(schema)  # else a nested column has several leaves
            nulls = [not flat] * len(schema)
            for group in range(metadata.num_row_groups if flat else 0):
                for index in range(len(schema)):
                    found = metadata.row_group(group).column(index).statistics
                    nulls[index] |= (
                        found is None or not found.has_null_count or found.null_count > 0
                    )
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(
            "unreadable",
            f"it is no whole Parquet file (cut off, or of another format): {first_line(error)}",
        ) from error
    columns = tuple(
        Column(field.name, arrow_logical(field.type), null)
        for field, null in zip(schema, nulls, strict=True)
    )
    return metadata.num_rows, columns


def arrow_logical(kind: pa.DataType) -> str:
    """The logical type of an Arrow type (see `data/types.py`)."""
    types = pa.types
    if types.is_dictionary(kind):
        return arrow_logical(kind.value_type)
    if kind == pa.uint64():
        return "unsigned"
    tests = (
        (types.is_integer, "integer"), (types.is_floating, "float"), (types.is_boolean, "boolean"),
        (types.is_string, "string"), (types.is_large_string, "string"),
        (types.is_string_view, "string"), (types.is_date, "date"), (types.is_time, "time"),
        (types.is_duration, "duration"), (types.is_binary, "binary"),
        (types.is_large_binary, "binary"), (types.is_fixed_size_binary, "binary"),
        (types.is_null, "null"),
    )  # fmt: skip
    for test, name in tests:
        if test(kind):
            return name
    if types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamp_utc"
    if types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return "nested"
