"""The scan of `data/scan.py` (polars, streaming) beside the same questions asked of DuckDB.

    python benchmarks/scan.py [--rows 1000000 20000000] [--folder DIR] [--runs 3]

Each row of the table is a whole process (start, imports, reading, answer): median wall and CPU
seconds and peak memory. 25 columns: a key, a time, 18 floats (1 % missing), 4 texts of 10 to 40
values, one free text. Asked of both: missing and non-finite values, extremes, 20-bin histograms,
counts of categories, distinct texts, rows by day, missing times and keys, duplicate keys.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHUNK = 1_000_000


def make(path: Path, rows: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    writer = None
    for begin in range(0, rows, CHUNK):
        size = min(CHUNK, rows - begin)
        number = np.arange(begin, begin + size)
        columns = {
            "id": number,
            "at": np.datetime64("2020-01-01", "us")
            + (number * 1_000_000).astype("timedelta64[us]"),
        }
        for index in range(18):
            columns[f"n{index}"] = pa.array(
                random.normal(size=size), mask=random.random(size) < 0.01
            )
        for index in range(4):
            values = np.array([f"value {k}" for k in range(10 * (index + 1))])
            columns[f"c{index}"] = values[random.integers(0, len(values), size)]
        columns["free"] = np.char.add("user ", random.integers(0, 10**7, size).astype(str))
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=131_072)
    assert writer is not None
    writer.close()


def treadle(path: Path) -> None:
    """The product, on a snapshot that is this one file."""
    from treadle.base.records import Part, Snapshot
    from treadle.base.spec import DataSection
    from treadle.data.inspect import inspect
    from treadle.data.scan import scan

    class Here:
        def path(self, *_: object, **__: object) -> Path:
            return path

    rows, columns = inspect(path, path.name)
    part = Part("rows.parquet", "sha256:", path.stat().st_size, rows)
    snapshot = Snapshot("rows", "files", (part,), columns, ("id",), "at")
    section = DataSection(files="rows.parquet", key=("id",), event_time="at")
    report = scan(snapshot, Here(), section, None)  # type: ignore[arg-type]
    assert not report.violations, report.violations
    assert sum(report.profile["days"].values()) == rows


def duckdb(path: Path, *, limit: str | None = None) -> None:
    """The same questions in the forms in which DuckDB is fastest and keeps least."""
    import duckdb as library

    connection = library.connect()
    if limit:
        connection.execute(f"SET memory_limit = '{limit}'")
    connection.execute(f"CREATE VIEW t AS SELECT * FROM '{path}'")
    numbers = [f"n{index}" for index in range(18)]
    sample = connection.execute(
        "SELECT "
        + ", ".join(f"quantile_disc({name}, {[k / 20 for k in range(1, 20)]})" for name in numbers)
        + " FROM (SELECT * FROM t LIMIT 131072)"
    ).fetchone()
    asked = [
        "count(*)",
        'min("at")',
        'max("at")',
        'count("at")',
        "count(id)",
        "approx_count_distinct(free)",
        "count(free)",
    ]
    for name, edges in zip(numbers, sample, strict=True):
        asked += [
            f"count({name})",
            f"min({name})",
            f"max({name})",
            f"sum((isnan({name}) OR isinf({name}))::INT)",
            f"histogram({name}, {list(edges)}::DOUBLE[])",
        ]
    rows = connection.execute("SELECT " + ", ".join(asked) + " FROM t").fetchone()[0]
    for index in range(4):
        connection.execute(f"SELECT c{index}, count(*) FROM t GROUP BY 1").fetchall()
    days = connection.execute('SELECT "at"::DATE, count(*) FROM t GROUP BY 1').fetchall()
    assert sum(count for _, count in days) == rows
    twice = connection.execute(
        "SELECT id, count(*) FROM t GROUP BY 1 HAVING count(*) > 1 LIMIT 10"
    ).fetchall()
    assert not twice


def nothing(_: Path) -> None:
    """What a process with polars costs before it does anything."""
    import polars  # noqa: F401


WAYS = {
    "treadle (polars, streaming)": "treadle",
    "DuckDB": "duckdb",
    "DuckDB, memory_limit 1GB": "duckdb-1GB",
    "import polars, nothing else": "nothing",
}


def measure(way: str, path: Path, runs: int) -> tuple[float, float, float, str]:
    walls, cpus, peaks = [], [], []
    for _ in range(runs):
        began = time.perf_counter()
        with tempfile.TemporaryFile() as errors:
            child = subprocess.Popen(
                [sys.executable, __file__, "--way", way, str(path)], stderr=errors
            )
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            walls.append(time.perf_counter() - began)
            if child.returncode:
                errors.seek(0)
                text = errors.read().decode().strip().splitlines()
                return 0.0, 0.0, 0.0, (text or ["died"])[-1][:80]
        cpus.append(usage.ru_utime + usage.ru_stime)
        peaks.append(usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2))
    return statistics.median(walls), statistics.median(cpus), max(peaks), ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 20_000_000])
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the files are made, and kept"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", choices=list(WAYS.values()))
    parser.add_argument("--make", type=int)
    parser.add_argument("file", type=Path, nargs="?")
    asked = parser.parse_args()
    if asked.make:
        make(asked.file, asked.make)
        return
    if asked.way:
        {
            "treadle": treadle,
            "duckdb": duckdb,
            "nothing": nothing,
            "duckdb-1GB": lambda path: duckdb(path, limit="1GB"),
        }[asked.way](asked.file)
        return
    with tempfile.TemporaryDirectory(prefix="treadle-bench-") as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        print("| rows | way | wall s | CPU s | peak MB |\n| --- | --- | --- | --- | --- |")
        for rows in asked.rows:
            path = folder / f"rows-{rows}.parquet"
            if not path.exists():  # in a process of its own: a child starts with its parent's peak
                subprocess.run(
                    [sys.executable, __file__, "--make", str(rows), str(path)], check=True
                )
            for words, way in WAYS.items():
                wall, cpu, peak, error = measure(way, path, asked.runs)
                answer = error or f"{wall:.2f} | {cpu:.2f} | {peak:.0f}"
                print(f"| {rows:,} | {words} | {answer} |", flush=True)


if __name__ == "__main__":
    main()
