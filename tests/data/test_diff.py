from __future__ import annotations

import numpy as np
import polars as pl

from treadle.base.spec import DataSection
from treadle.data.diff import diff

SECTION = DataSection(files="*.parquet")


def test_a_difference_names_files_rows_columns_and_what_moved(room):
    rng = np.random.default_rng(0)
    size = 2000
    base = {
        "a": rng.normal(size=size),
        "same": rng.normal(size=size),
        "s": ["x", "y"] * (size // 2),
    }
    pl.DataFrame({**base, "gone": [1] * size}).write_parquet(room.folder / "1.parquet")
    before = room.take(SECTION)
    pl.DataFrame(
        {**base, "a": base["a"] + 1, "s": ["x", "z"] * (size // 2), "new": [True] * size}
    ).write_parquet(room.folder / "2.parquet")
    (room.folder / "1.parquet").unlink()
    after = room.take(SECTION)
    found = diff(before, after, room.objects)
    assert (found.parts_added, found.parts_removed) == (("2.parquet",), ("1.parquet",))
    columns = {column.name: column for column in found.columns}
    assert columns["a"].psi > 0.5 and columns["a"].ks > 0.3
    assert columns["same"].psi == 0 and columns["same"].ks == 0
    assert columns["s"].new_values == ("z",) and columns["s"].ks is None
    assert (columns["gone"].change, columns["new"].change) == ("removed", "added")
    assert "moved (PSI above .1): a, s" in found.words and "1 file added" in found.words


def test_a_snapshot_does_not_differ_from_itself(room):
    pl.DataFrame({"a": [1.0, 2.0], "s": ["x", None]}).write_parquet(room.folder / "1.parquet")
    snapshot = room.take(SECTION)
    found = diff(snapshot, snapshot, room.objects)
    assert found.words == "+0 rows" and all(column.psi == 0 for column in found.columns)
