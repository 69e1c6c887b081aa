"""The target `batch`: score files with a model, streaming, into Parquet with lineage.

The output holds the rows of the input, in their order, and behind them `prediction` (or
`prediction_0` … for several values a row), `prediction_id`
(`ENV.RELEASE.INSTANCE.ULID.ROW`: one ULID a chunk, ROW counts within it) and the lineage columns
`treadle_release`, `treadle_model`, `treadle_run`, `treadle_snapshot`, `treadle_scored_at`.
Memory does not grow with the input: a chunk is read, predicted, written.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from treadle.base import clock
from treadle.base.errors import DataRefused, DiskFull, Refused, TreadleError, UsageError
from treadle.base.log import Report, silent

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

Predict = Callable[["pd.DataFrame"], "np.ndarray[Any, Any]"]
LINEAGE = (
    "treadle_release", "treadle_model", "treadle_run", "treadle_snapshot", "treadle_scored_at",
)  # fmt: skip
"""Names of the lineage columns."""


@dataclass(frozen=True)
class ScoreReport:
    """What was scored."""

    output: Path
    rows: int
    chunks: int
    inputs: tuple[str, ...]
    instance: str
    """This scoring's part of the prediction ids."""
    scored_at: str
    seconds: float
    size_bytes: int
    columns: tuple[str, ...]
    first_id: str = ""
    """The prediction id of the first row."""


def find(pattern: str | Path) -> list[Path]:
    """The files that a path or glob names, sorted. UsageError if there are none."""
    text = os.fspath(pattern)
    if os.path.isfile(text):  # a file whose name looks like a glob is a file
        return [Path(text)]
    found = sorted(Path(name) for name in glob.glob(text, recursive=True) if os.path.isfile(name))
    if not found:
        raise UsageError(f"{text}: no such file", hint="give a Parquet, CSV or JSON-lines file")
    return found


def score(
    inputs: Sequence[Path] | Iterable[pd.DataFrame],
    predict: Predict,
    output: Path,
    *,
    environment: str,
    release: int,
    model: str,
    run: str = "",
    snapshot: str = "",
    features: Sequence[str] = (),
    chunk_rows: int = 50_000,
    force: bool = False,
    report: Report = silent,
) -> ScoreReport:
    """Score files, or frames from an iterator (a query), into one Parquet file.

    The output appears at once and whole, or not at all; an existing one is replaced only with
    `force`. A file that lacks a feature raises DataRefused before anything is scored.

    Args:
        inputs: Parquet, CSV or JSON-lines files; or frames.
        predict: rows → one prediction (or a row of them) each; it picks its own columns.
        output: the Parquet file, or an existing folder (or a name ending in /): there it is named
            `scores-<time>.parquet`.
        environment: the environment whose champion this is.
        release: its number.
        model: digest of the model directory.
        run: id of the run that made it.
        snapshot: digest of the scored data, where it is a snapshot.
        features: columns that must be there.
        chunk_rows: rows in memory at once.
        force: whether an existing output is replaced.
        report: progress.
    """
    import pyarrow.parquet as pq

    begun, now = clock.elapsed(), clock.now()
    target = _target(output, now.strftime("%Y%m%dT%H%M%SZ"))
    if target.exists() and not force:
        raise Refused(
            f"{target} exists already", hint="--force replaces it; or name another output"
        )
    instance = "b" + secrets.token_hex(4)
    scored_at = clock.text(now)
    lineage = (release, model, run, snapshot, now)
    names: list[str] = []
    rows = chunks = 0
    first_id = ""
    temporary = target.with_name(f".{target.name}.{instance}.next")
    writer: Any = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for name, chunk in _chunks(inputs, chunk_rows, features):
            if not names or names[-1] != name:
                names.append(name)
            identity = f"{environment}.{release}.{instance}.{clock.ulid()}"
            first_id = first_id or f"{identity}.0"
            table = _scored(chunk, predict, identity, lineage, name)
            if writer is None:
                writer = pq.ParquetWriter(temporary, table.schema, compression="zstd")
            elif table.schema != writer.schema:
                table = _same(table, writer.schema, name)
            writer.write_table(table)
            rows += table.num_rows
            chunks += 1
            report(f"{rows} rows scored", rows=rows)
        if writer is None:
            raise DataRefused("there are no rows to score", hint="is the input what you meant?")
        schema = writer.schema
        writer.close()
        writer = None
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, target)
        else:
            _link(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for {target}; nothing was written") from None
        if isinstance(error, PermissionError):
            raise TreadleError(f"no permission to write {target}") from None
        raise
    finally:
        if writer is not None:
            writer.close()
        temporary.unlink(missing_ok=True)
    return ScoreReport(
        target, rows, chunks, tuple(names), instance, scored_at, clock.elapsed() - begun,
        target.stat().st_size, tuple(schema.names), first_id,
    )  # fmt: skip


def _link(temporary: Path, target: Path) -> None:
    """Give the finished file its name without ever replacing another that appeared meanwhile."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise Refused(f"{target} has appeared meanwhile", hint="--force replaces it") from None
    except OSError:  # a file system without hard links
        os.replace(temporary, target)


def _target(output: Path, moment: str) -> Path:
    if output.is_dir() or os.fspath(output).endswith("/") or not output.suffix:
        return output / f"scores-{moment}.parquet"
    if output.suffix != ".parquet":
        raise UsageError(f"{output}: scores are written as Parquet", hint="name it ….parquet")
    return output


def _chunks(
    inputs: Sequence[Path] | Iterable[pd.DataFrame], size: int, features: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """(name of the input, rows) in order; every file's columns are looked at first."""
    import pyarrow as pa

    items = list(inputs) if isinstance(inputs, Sequence) else inputs
    if isinstance(items, list) and all(isinstance(item, str | Path) for item in items):
        paths = [Path(str(item)) for item in items]
        for path in paths:
            _check(str(path), _names(path), features)
        for path in paths:
            try:
                for batch in _read(path, size):
                    if batch.num_rows:
                        yield str(path), pa.Table.from_batches([batch])
            except pa.ArrowInvalid as error:
                raise _unreadable(path, error) from None
        return
    for number, frame in enumerate(cast("Iterable[pd.DataFrame]", items)):
        _check(f"chunk {number}", list(map(str, frame.columns)), features)
        for start in range(0, len(frame), size):
            part = frame.iloc[start : start + size]
            yield "rows", pa.Table.from_pandas(part, preserve_index=False)


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


def _kind(path: Path) -> str:
    names = path.name.lower().split(".")
    for suffix, kind in (("parquet", "parquet"), ("csv", "csv"), ("jsonl", "json"),
                         ("ndjson", "json"), ("json", "json")):  # fmt: skip
        if suffix in names[1:]:
            return kind
    raise UsageError(f"{path}: neither Parquet, CSV nor JSON lines, by its name")


def _names(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if _kind(path) == "parquet":
            return list(pq.read_schema(path).names)
        if _kind(path) == "csv":
            return list(_open_csv(path).schema.names)
        for batch in _read(path, 1):
            return list(batch.schema.names)
    except pa.ArrowInvalid as error:
        raise _unreadable(path, error) from None
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    raise DataRefused(f"{path} is empty")


def _unreadable(path: Path, error: Exception) -> DataRefused:
    return DataRefused(f"{path} cannot be read: {str(error).splitlines()[0]}")


def _open_csv(path: Path) -> Any:
    """The types come from the first block; a later cell that breaks them is an error that names the
    column and the value's kind, not a silent change of type in the middle of the output.
    """
    import pyarrow.csv as pc

    if path.stat().st_size == 0:
        raise DataRefused(f"{path} is empty")
    return pc.open_csv(path, read_options=pc.ReadOptions(block_size=1 << 24))


def _read(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    """Record batches of a file, never more than `size` rows of it at once."""
    import pyarrow.parquet as pq

    kind = _kind(path)
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=size)
        return
    if kind == "csv":
        for batch in _open_csv(path):
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size)
    else:
        yield from _read_json(path, size)


def _read_json(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    import gzip
    import io

    import pyarrow.json as pj

    schema: Any = None
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
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


def _scored(
    table: pa.Table, predict: Predict, identity: str, lineage: tuple[Any, ...], name: str
) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    frame = table.to_pandas()
    predicted = np.asarray(predict(frame))
    rows = table.num_rows
    if predicted.shape[:1] != (rows,):
        raise TreadleError(f"{name}: {rows} rows gave {len(predicted)} predictions")
    columns = {column: table[column] for column in table.column_names}
    if predicted.ndim == 1:
        columns["prediction"] = pa.array(predicted)
    else:
        flat = predicted.reshape(rows, -1)
        for number in range(flat.shape[1]):
            columns[f"prediction_{number}"] = pa.array(np.ascontiguousarray(flat[:, number]))
    columns["prediction_id"] = pa.array([f"{identity}.{row}" for row in range(rows)])
    release, model, run, snapshot, now = lineage
    kinds = (pa.int64(), pa.string(), pa.string(), pa.string(), pa.timestamp("us", tz="UTC"))
    for column, kind, value in zip(
        LINEAGE, kinds, (release, model, run, snapshot, now), strict=True
    ):
        columns[column] = pa.repeat(pa.scalar(value, type=kind), rows)
    return pa.table(columns)


def _same(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
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
