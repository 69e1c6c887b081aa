"""Score files with a model, streaming, into Parquet with lineage.

The output holds the rows of the input, in their order, and behind them `prediction` (or
`prediction_0` … for several values a row), `prediction_id`
(`ENV.RELEASE.INSTANCE.ULID.ROW`: one ULID a chunk, ROW counts within it) and the lineage columns
`treadle_release`, `treadle_model`, `treadle_run`, `treadle_snapshot`, `treadle_scored_at`.
Memory does not grow with the input: a chunk is read, predicted, written.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.base import clock
from treadle.base.errors import DataRefused, Refused, TreadleError
from treadle.base.log import Report, silent
from treadle.operate.model.signature import WrongInput
from treadle.operate.scoring.places import Places, Sink, Source
from treadle.operate.scoring.rows import LINEAGE, chunks, same

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

Predict = Callable[["pd.DataFrame"], "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class ScoreReport:
    """What was scored."""

    output: str
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


def score(
    inputs: Sequence[Path | Source] | Iterable[pd.DataFrame],
    predict: Predict,
    output: Path | Sink,
    *,
    environment: str,
    release: int,
    model: str,
    run: str = "",
    snapshot: str = "",
    instance: str | None = None,
    features: Sequence[str] = (),
    chunk_rows: int = 50_000,
    force: bool = False,
    report: Report = silent,
) -> ScoreReport:
    """Score files, or frames from an iterator (a query), into one Parquet file.

    The output appears at once and whole, or not at all; an existing one is replaced only with
    `force`. A file that lacks a feature raises DataRefused before anything is scored, and so does a
    value that the model cannot take.

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
        instance: this scoring's part of the prediction ids; by default a random one.
        features: columns that must be there.
        chunk_rows: rows in memory at once.
        force: whether an existing output is replaced.
        report: progress.
    """
    import pyarrow.parquet as pq

    begun, now = clock.elapsed(), clock.now()
    if isinstance(output, Path):
        sink = Places().sink(os.fspath(output), f"scores-{now.strftime('%Y%m%dT%H%M%SZ')}.parquet")
    else:
        sink = output
    if sink.exists() and not force:
        raise Refused(
            f"{sink.shown} exists already", hint="--force replaces it; or name another output"
        )
    instance = instance or "b" + secrets.token_hex(4)
    scored_at = clock.text(now)
    lineage = (release, model, run, snapshot, now)
    names: list[str] = []
    rows = number = 0
    first_id = ""
    writer: Any = None
    try:
        sink.begin()
        for name, chunk in chunks(inputs, chunk_rows, features):
            if not names or names[-1] != name:
                names.append(name)
            identity = f"{environment}.{release}.{instance}.{clock.ulid()}"
            first_id = first_id or f"{identity}.0"
            table = _scored(chunk, predict, identity, lineage, name)
            if writer is None:
                writer = pq.ParquetWriter(
                    sink.temporary, table.schema, compression="zstd", filesystem=sink.filesystem
                )
            elif table.schema != writer.schema:
                table = same(table, writer.schema, name)
            writer.write_table(table)
            rows += table.num_rows
            number += 1
            report(f"{rows} rows scored", rows=rows)
        if writer is None:
            raise DataRefused("there are no rows to score", hint="is the input what you meant?")
        schema = writer.schema
        writer.close()
        writer = None
        size_bytes = sink.commit(force=force)
    except OSError as error:
        raise sink.failed(error) from None
    finally:
        with contextlib.suppress(OSError, TreadleError):  # what went wrong first is what is told
            if writer is not None:
                writer.close()
            sink.discard()
    return ScoreReport(
        sink.shown, rows, number, tuple(names), instance, scored_at, clock.elapsed() - begun,
        size_bytes, tuple(schema.names), first_id,
    )  # fmt: skip


def _scored(
    table: pa.Table, predict: Predict, identity: str, lineage: tuple[Any, ...], name: str
) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    frame = table.to_pandas()
    try:
        predicted = np.asarray(predict(frame))
    except WrongInput as error:
        raise DataRefused(f"{name}: {error.message}") from None
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
