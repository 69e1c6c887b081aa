"""Snapshots of many files: cold, unchanged, and with one file new; and what `treadle up` pays.

    python benchmarks/snapshot.py [--files 1000] [--mb 1] [--folder DIR]

`--mb 10` makes the 10 GB of the specification. Every row is a whole process; beside it the floor:
a process that imports click and does nothing, and one that only stats the files.
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

TAKE = """
import sys, time
from pathlib import Path
from treadle.base.log import silent
from treadle.base.spec import DataSection
from treadle.clients.journal import Changes, SqliteJournal
from treadle.clients.objects import DiskObjects
from treadle.data.snapshot import take
folder = Path(sys.argv[1])
began = time.perf_counter()
journal, changes = SqliteJournal(folder / "state/journal.db"), Changes()
snapshot = take("rows", DataSection(files="data/*.parquet"), folder, journal,
                DiskObjects(folder / "state/objects"), changes, silent)
if changes:
    journal.commit(changes)
print(time.perf_counter() - began, "polars" in sys.modules)
"""
STAT = """
import glob, os, sys
for path in glob.iglob("data/*.parquet", root_dir=sys.argv[1]):
    os.stat(os.path.join(sys.argv[1], path))
"""


def make(path: Path, seed: int, mb: float) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(seed)
    rows = int(mb * 2**20 / 8 / 8)
    table = pa.table({f"x{index}": random.normal(size=rows) for index in range(8)})
    pq.write_table(table, path, compression="none", use_dictionary=False)


def run(code: str, folder: Path, runs: int = 5) -> tuple[float, str]:
    walls, said = [], ""
    for _ in range(runs):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
        )
        walls.append(time.perf_counter() - began)
        said = done.stdout
    return statistics.median(walls), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--mb", type=float, default=1)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="treadle-bench-", dir=asked.folder) as scratch:
        folder = Path(scratch)
        (folder / "data").mkdir()
        (folder / "state").mkdir()
        for number in range(asked.files):
            make(folder / f"data/{number:05}.parquet", number, asked.mb)
        os.sync()
        print(f"{asked.files} files of {asked.mb:g} MB\n\n| what | process s | take() s | polars |")
        print("| --- | --- | --- | --- |")

        def row(what: str, code: str, runs: int) -> None:
            wall, said = run(code, folder, runs)
            inner, _, heavy = said.strip().partition(" ")
            print(
                f"| {what} | {wall:.3f} | {float(inner):.4f} | {heavy} |"
                if inner
                else f"| {what} | {wall:.3f} | | |",
                flush=True,
            )

        row("import click, nothing else", "import click", 5)
        row("stat every file, nothing else", STAT, 5)
        row("cold: all files are new", TAKE, 1)
        row("unchanged", TAKE, 5)
        make(folder / "data/99999.parquet", -1 % 2**32, asked.mb)
        time.sleep(0.05)
        row("one file is new", TAKE, 1)
        row("unchanged", TAKE, 5)


if __name__ == "__main__":
    main()
