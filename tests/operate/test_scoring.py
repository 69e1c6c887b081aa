"""Batch scoring: every row once, in order, with ids and lineage; whole or not at all; flat memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from treadle.base.errors import DataRefused, DiskFull, Refused, TreadleError, UsageError
from treadle.operate.scoring import scorer as batch
from treadle.operate.scoring.places import Places

WHO: dict[str, Any] = {
    "environment": "local",
    "release": 3,
    "model": "sha256:m",
    "run": "r1",
    "snapshot": "sha256:s",
    "features": ["x"],
}


def rows(count: int, start: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "x": np.arange(start, start + count, dtype=float),
            "name": [f"n{i}" for i in range(count)],
        }
    )


def double(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    return frame["x"].to_numpy() * 2


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "in"
    folder.mkdir()
    rows(25).to_parquet(folder / "a.parquet")
    rows(10, 25).to_csv(folder / "b.csv", index=False)
    rows(10, 35).to_json(folder / "c.jsonl", orient="records", lines=True)
    with gzip.open(folder / "d.jsonl.gz", "wt") as file:
        file.write(rows(5, 45).to_json(orient="records", lines=True))
    return [Path(one.path) for one in Places().find(str(folder / "*"))]


def test_each_row_of_each_kind_of_file_is_scored_once_and_in_order(
    tmp_path: Path, inputs: list[Path]
) -> None:
    done = batch.score(inputs, double, tmp_path / "out" / "scores.parquet", chunk_rows=10, **WHO)
    found = pd.read_parquet(done.output)
    assert (done.rows, done.chunks, len(found)) == (50, 6, 50)
    assert found["x"].tolist() == list(map(float, range(50)))
    assert found["prediction"].tolist() == [2.0 * i for i in range(50)]
    assert found["prediction_id"].is_unique
    assert found["prediction_id"].str.startswith(f"local.3.{done.instance}.").all()
    assert found["prediction_id"].str.rsplit(".", n=1).str[1].tolist()[:12] == [
        *map(str, range(10)),
        "0",
        "1",
    ]
    assert found["treadle_release"].unique().tolist() == [3]
    assert found["treadle_model"].unique().tolist() == ["sha256:m"]
    assert list(found.columns[-6:]) == ["prediction_id", *batch.LINEAGE]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scores.parquet"]


def test_frames_of_a_query_are_scored_too_and_probabilities_are_columns(tmp_path: Path) -> None:
    frames = (rows(3, start) for start in (0, 3))
    done = batch.score(
        frames, lambda f: np.stack([f["x"], -f["x"]], axis=1), tmp_path / "o.parquet", **WHO
    )
    found = pd.read_parquet(done.output)
    assert found["prediction_1"].tolist() == [-0.0, -1, -2, -3, -4, -5]


def test_an_output_is_replaced_only_when_asked(tmp_path: Path, inputs: list[Path]) -> None:
    target = tmp_path / "o.parquet"
    batch.score(inputs[:1], double, target, **WHO)
    before = target.read_bytes()
    with pytest.raises(Refused, match="exists already") as caught:
        batch.score(inputs[:1], double, target, **WHO)
    assert "--force" in str(caught.value.hint) and target.read_bytes() == before
    batch.score(inputs[:1], double, target, force=True, **WHO)
    assert target.read_bytes() != before
    into = batch.score(inputs[:1], double, tmp_path / "folder", **WHO)
    assert into.output.startswith(str(tmp_path / "folder" / "scores-"))


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, inputs: list[Path]) -> None:
    calls: list[int] = []

    def fails(frame: pd.DataFrame) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise DiskFull("full")
        return double(frame)

    with pytest.raises(DiskFull):
        batch.score(inputs, fails, tmp_path / "o" / "o.parquet", chunk_rows=10, **WHO)
    assert list((tmp_path / "o").iterdir()) == []


def test_wrong_inputs_are_refused_before_anything_is_scored(
    tmp_path: Path, inputs: list[Path]
) -> None:
    asked: list[int] = []
    bad = tmp_path / "bad.csv"
    bad.write_text("y\n1\n")
    with pytest.raises(DataRefused, match=r"bad.csv lacks x"):
        batch.score([*inputs, bad], lambda f: asked.append(1), tmp_path / "o.parquet", **WHO)
    assert asked == []
    for content, match in [("", "empty"), ("x,prediction\n1,2\n", "has prediction already")]:
        bad.write_text(content)
        with pytest.raises(DataRefused, match=match):
            batch.score([bad], double, tmp_path / "o.parquet", **WHO)
    late = tmp_path / "late.csv"
    late.write_text("x,name\n" + ("1," + "a" * 997 + "\n") * 20_000 + "soon,b\n")
    with pytest.raises(DataRefused, match="late.csv cannot be read: .*soon"):
        batch.score([late], double, tmp_path / "o.parquet", **WHO)
    bad.write_text("x\n")
    with pytest.raises(DataRefused, match="no rows to score"):
        batch.score([bad], double, tmp_path / "o.parquet", **WHO)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(DataRefused, match="cannot be read"):
        batch.score([broken], double, tmp_path / "o.parquet", **WHO)
    other = tmp_path / "other.parquet"
    rows(3).rename(columns={"name": "more"}).to_parquet(other)
    with pytest.raises(DataRefused, match="more: more; missing: name"):
        batch.score([inputs[0], other], double, tmp_path / "o.parquet", **WHO)
    with pytest.raises(UsageError, match="no such file"):
        Places().find(str(tmp_path / "none-*.csv"))
    with pytest.raises(UsageError, match="written as Parquet"):
        batch.score(inputs, double, tmp_path / "o.csv", **WHO)
    with pytest.raises(TreadleError, match="25 rows gave 1 predictions"):
        batch.score(inputs[:1], lambda f: np.zeros(1), tmp_path / "o.parquet", **WHO)
    assert not list(tmp_path.glob("*o.parquet*"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    code = (
        "import sys, resource, json, numpy as np, pathlib; from treadle.operate.scoring import scorer as batch;"
        "done = batch.score([pathlib.Path(sys.argv[1])], lambda f: f['x'].to_numpy(),"
        "pathlib.Path(sys.argv[2]), environment='e', release=1, model='m', chunk_rows=20000);"
        "print(json.dumps([done.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))"
    )
    peaks = []
    for count in (200_000, 2_000_000):
        source = tmp_path / f"{count}.parquet"
        pd.DataFrame({"x": np.random.default_rng(0).random(count)}).to_parquet(
            source, row_group_size=50_000
        )
        out = subprocess.run(
            [sys.executable, "-c", code, str(source), str(tmp_path / f"o{count}.parquet")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        done, peak = json.loads(out)
        assert done == count == pq.read_metadata(tmp_path / f"o{count}.parquet").num_rows
        peaks.append(peak * (1 if sys.platform == "linux" else 1 / 1024))
    assert peaks[1] < peaks[0] + 100_000, peaks  # KiB: ten times the rows, at most 100 MiB more
