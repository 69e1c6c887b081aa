"""The benchmark measures the same work in every variant and compares within a round."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "loop.py"
spec = importlib.util.spec_from_file_location("benchmark_loop", SCRIPT)
loop = importlib.util.module_from_spec(spec)
sys.modules["benchmark_loop"] = loop
spec.loader.exec_module(loop)


def samples(*walls):
    return [loop.Sample(wall, wall, 10) for wall in walls]


def test_the_rows_are_the_same_bytes_everywhere(tmp_path):
    loop.write_rows(tmp_path / "rows.csv", 50)
    data = (tmp_path / "rows.csv").read_bytes()
    assert data.count(b"\n") == 51
    assert hashlib.sha256(data).hexdigest()[:16] == "449dd59aa8e0c28c"


def test_differences_are_taken_within_a_round():
    floor = loop.Row("floor", "cold", samples(1.0, 5.0, 2.0))
    row = loop.Row("row", "cold", samples(1.5, 5.6, 2.4), floor="floor", allowed=0.7)
    assert loop.differences(row, floor) == pytest.approx([0.5, 0.6, 0.4])
    often = loop.Row("floor", "cold", samples(1.0, 2.0, 3.0, 5.0))
    once = loop.Row("row", "cold", samples(2.0, 5.0), floor="floor")
    assert loop.differences(once, often) == pytest.approx([0.5, 1.0])


def test_a_missed_target_is_told_from_a_reached_one():
    rows = {
        "floor": loop.Row("floor", "cold", samples(1.0, 1.0, 1.0)),
        "good": loop.Row("good", "cold", samples(1.6, 1.7, 9.0), floor="floor", allowed=0.7),
        "bad": loop.Row("bad", "cold", samples(1.6, 1.8, 1.9), floor="floor", allowed=0.7),
    }
    text = {line.split(" | ")[0]: line for line in loop.report(rows).splitlines()}
    assert text["| good"].endswith("| ≤ + 0.7 | yes |")
    assert text["| bad"].endswith("| ≤ + 0.7 | **no** |")
    assert "1.70 [1.60–9.00]" in text["| good"]
    assert "0.70 [0.60–8.00]" in text["| good"]


def test_a_variant_that_does_something_else_ends_the_benchmark(tmp_path):
    bench = loop.Bench(tmp_path, 200, ["plain"], None)
    bench.agree("plain", 0.9)
    bench.agree("mlflow", 0.9)
    with pytest.raises(loop.Failed, match="do not do the same"):
        bench.agree("dvc", 0.91)


def test_a_process_that_fails_is_shown_with_what_it_said(tmp_path):
    with pytest.raises(loop.Failed, match="no such thing"):
        loop.run([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)


def test_unknown_variants_are_refused():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--only", "plain,luigi"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no variant luigi" in done.stderr


@pytest.mark.slow
def test_the_whole_benchmark_runs(tmp_path):
    """All variants but DVC, which would be installed from the network."""
    out = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--only", "plain,mlflow,treadle", "--rows", "2000", "--rounds", "1",
         "--json", out],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert len(set(found["accuracy"].values())) == 1
    assert set(found["accuracy"]) >= {"plain", "treadle train", "treadle up"}
    rows = found["measured"]
    for name in ("treadle train", "treadle plan", "treadle up", "treadle --help",
                 "treadle train, model() changed"):  # fmt: skip
        assert rows[name]["samples"], name
        assert f"| {name} |" in done.stdout
    assert all(sample["beside"] > 0 for sample in rows["treadle train"]["samples"])
