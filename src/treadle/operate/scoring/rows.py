"""Reading Parquet, CSV and JSON lines in chunks: never more rows in memory than one chunk has."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from treadle.base.errors import DataRefused, UsageError
from treadle.operate.scoring import places
from treadle.operate.scoring.places import Source

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

LINEAGE = (
    "treadle_release", "treadle_model", "treadle_run", "treadle_snapshot", "treadle_scored_at",
)  # fmt: skip
"""Names of the lineage columns."""


def chunks(
    inputs: Sequence[Path | Source] | Iterable[pd.DataFrame], size: int, features: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """(name of the input, rows) in order; every file's columns are looked at first."""
    import pyarrow as pa

    items = list(inputs) if isinstance(inputs, Sequence) else inputs
    if isinstance(items, list) and all(isinstance(item, str | Path | Source) for item in items):
        sources = [one if isinstance(one, Source) else places.local(str(one)) for one in items]
        for source in sources:
            _check(source.shown, _names(source), features)
        for source in sources:
            with places.away(source.shown):
                try:
                    for batch in _read(source, size):
                        if batch.num_rows:
                            yield source.shown, pa.Table.from_batches([batch])
                except pa.ArrowInvalid as error:
                    raise _unreadable(source, error) from None
        return
    for number, frame in enumerate(cast("Iterable[pd.DataFrame]", items)):
        _check(f"chunk {number}", list(map(str, frame.columns)), features)
        for start in range(0, len(frame), size):
            part = frame.iloc[start : start + size]
            yield "rows", pa.Table.from_pandas(part, preserve_index=False)


def same(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """A later file's rows with the first one's columns; DataRefused where they do not fit."""
    import pyarrow as pa

    extra = [column for column in table.column_names if column not in schema.names]
    missing = [column for column in schema.names if column not in table.column_names]
    if extra or missing:
        raise DataRefused(
            f"{name} has other columns than the first input"
            + (f"; more: {', '.join(extra)}" if extra else "")
            + (f"; missing: {', '.join(missing)}" if missing else "")
        )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataRefused(f"{name}: {str(error).splitlines()[0]}") from None


def _check(where: str, names: Sequence[str], features: Sequence[str]) -> None:
    missing = [name for name in features if name not in names]
    if missing:
        raise DataRefused(
            f"{where} lacks {', '.join(missing)}: the model needs "
            + ("these columns" if len(missing) > 1 else "this column"),
            hint=f"it has {', '.join(names)}",
        )
    ours = {*LINEAGE, "prediction", "prediction_id"}
    taken = [name for name in names if name in ours or re.fullmatch(r"prediction_\d+", name)]
    if taken:
        raise DataRefused(
            f"{where} has {', '.join(taken)} already: scoring would write these columns",
            hint="is it the output of another scoring? rename the columns",
        )


def _kind(source: Source) -> str:
    names = source.path.rpartition("/")[2].lower().split(".")
    for suffix, kind in (("parquet", "parquet"), ("csv", "csv"), ("jsonl", "json"),
                         ("ndjson", "json"), ("json", "json")):  # fmt: skip
        if suffix in names[1:]:
            return kind
    raise UsageError(f"{source.shown}: neither Parquet, CSV nor JSON lines, by its name")


def _names(source: Source) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with places.away(source.shown):
        try:
            if _kind(source) == "parquet":
                with source.open() as file:
                    return list(pq.read_schema(file).names)
            if _kind(source) == "csv":
                return list(_open_csv(source).schema.names)
            for batch in _read(source, 1):
                return list(batch.schema.names)
        except pa.ArrowInvalid as error:
            raise _unreadable(source, error) from None
    raise DataRefused(f"{source.shown} is empty")


def _unreadable(source: Source, error: Exception) -> DataRefused:
    return DataRefused(f"{source.shown} cannot be read: {str(error).splitlines()[0]}")


def _open_csv(source: Source) -> Any:
    """The types come from the first block; a later cell that breaks them is an error that names the
    column and the value's kind, not a silent change of type in the middle of the output.
    """
    import pyarrow.csv as pc

    if source.size_bytes == 0:
        raise DataRefused(f"{source.shown} is empty")
    return pc.open_csv(source.stream(), read_options=pc.ReadOptions(block_size=1 << 24))


def _read(source: Source, size: int) -> Iterator[pa.RecordBatch]:
    """Record batches of a file, never more than `size` rows of it at once."""
    import pyarrow.parquet as pq

    kind = _kind(source)
    if kind == "parquet":
        with source.open() as opened, pq.ParquetFile(opened) as file:
            yield from file.iter_batches(batch_size=size)
    elif kind == "csv":
        for batch in _open_csv(source):
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size)
    else:
        yield from _read_json(source, size)


def _read_json(source: Source, size: int) -> Iterator[pa.RecordBatch]:
    import pyarrow.json as pj

    schema: Any = None
    with io.BufferedReader(source.stream()) as file:
        while True:
            lines = [line for _, line in zip(range(size), file, strict=False)]
            if not lines:
                return
            options = pj.ParseOptions(explicit_schema=schema) if schema is not None else None
            table = pj.read_json(
                io.BytesIO(b"".join(lines)), parse_options=options,
                read_options=pj.ReadOptions(block_size=max(1 << 20, sum(map(len, lines)) + 1)),
            )  # fmt: skip
            schema = table.schema
            yield from table.combine_chunks().to_batches()
