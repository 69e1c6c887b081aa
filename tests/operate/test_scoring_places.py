"""Where scorings read and write: claims, an object store (a real server), and the command itself."""

from __future__ import annotations

import glob
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import s3

from treadle.base.errors import DataRefused, Refused, Unreachable, UsageError
from treadle.operate.scoring.places import Places, Store, translated
from treadle.operate.scoring.scorer import score

WHO: dict[str, Any] = {"environment": "local", "release": 3, "model": "sha256:m"}


def rows(count: int, start: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"x": np.arange(start, start + count, dtype=float)})


def double(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    return frame["x"].to_numpy() * 2


# ---- the object store ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3.serving() as found:
        yield found


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Reached with keys, and with an empty bucket `data`."""
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    s3.reset(endpoint)
    return Store(endpoint)


def put(store: Store, key: str, data: bytes) -> None:
    with store.of("data").open_output_stream(f"data/{key}") as file:
        file.write(data)


def keys(store: Store) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    found = store.of("data").get_file_info(FileSelector("data", recursive=True))
    return sorted(one.path for one in found if one.type == FileType.File)


def test_objects_are_scored_into_an_object_that_is_there_whole(store: Store) -> None:
    buffer = io.BytesIO()
    rows(30).to_parquet(buffer)
    put(store, "in/a.parquet", buffer.getvalue())
    put(store, "in/b.csv", rows(20, 30).to_csv(index=False).encode())
    put(store, "in/deep/c.jsonl", rows(10, 50).to_json(orient="records", lines=True).encode())
    put(store, "in/.hidden.csv", b"x\n1\n")
    places = Places(store=store)
    inputs = places.find("s3://data/in/**/*.*")
    assert [one.shown for one in inputs] == ["s3://data/in/a.parquet", "s3://data/in/b.csv", "s3://data/in/deep/c.jsonl"]  # fmt: skip
    sink = places.sink("s3://data/out/", "nightly-1.parquet")
    done = score(inputs, double, sink, chunk_rows=7, **WHO)
    assert (done.rows, done.output) == (60, "s3://data/out/nightly-1.parquet")
    found = pd.read_parquet(io.BytesIO(store.of("data").open_input_file("data/out/nightly-1.parquet").readall()))  # fmt: skip
    assert found["prediction"].tolist() == [2.0 * i for i in range(60)]
    assert [key for key in keys(store) if key.startswith("data/out")] == ["data/out/nightly-1.parquet"]  # fmt: skip
    with pytest.raises(Refused, match="exists already"):
        score(inputs, double, sink, **WHO)
    assert score(inputs[:1], double, sink, force=True, **WHO).rows == 30


def test_failure_leaves_no_object(store: Store) -> None:
    put(store, "in/a.csv", rows(20).to_csv(index=False).encode())
    put(store, "in/b.csv", b"x\n" + b"1\n" * 5)
    places = Places(store=store)

    def fails(frame: pd.DataFrame) -> Any:
        if len(frame) == 5:
            raise ValueError("broken")
        return double(frame)

    with pytest.raises(ValueError, match="broken"):
        score(places.find("s3://data/in/*.csv"), fails, places.sink("s3://data/out/o.parquet", ""), **WHO)  # fmt: skip
    assert keys(store) == ["data/in/a.csv", "data/in/b.csv"]


def test_what_is_not_there_or_does_not_answer_is_said(store: Store) -> None:
    places = Places(store=store)
    with pytest.raises(UsageError, match=r"s3://data/in/\*.csv: no such file"):
        places.find("s3://data/in/*.csv")
    with pytest.raises(UsageError, match="s3://data/in/a.csv: no such file"):
        places.find("s3://data/in/a.csv")
    with pytest.raises(UsageError, match="no such bucket"):
        places.find("s3://nowhere/*.csv")
    with pytest.raises(UsageError, match="Parquet"):
        places.sink("s3://data/out/o.csv", "")
    with pytest.raises(Unreachable, match="s3://data"):
        Places(store=Store("http://127.0.0.1:9")).find("s3://data/in/*.csv")


def test_file_without_a_feature_is_named_as_the_user_names_it(store: Store) -> None:
    put(store, "in/a.csv", b"y\n1\n")
    places = Places(store=store)
    with pytest.raises(DataRefused, match="s3://data/in/a.csv lacks x"):
        score(places.find("s3://data/in/*.csv"), double, places.sink("s3://data/o.parquet", ""), features=["x"], **WHO)  # fmt: skip


# ---- patterns ------------------------------------------------------------------------------------


NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
PATTERNS = st.lists(
    st.sampled_from(["*", "a", "a*", "?", "[ab]", "[!a]*", "**", "b.a", "*.a"]), min_size=1, max_size=3
).filter(lambda parts: parts[-1] != "**")  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=8), PATTERNS)
def test_pattern_of_objects_matches_what_a_glob_of_files_does(
    names: set[str], parts: list[str]
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        made = set()
        for name in sorted(names):
            path = Path(root, name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError:  # a file where a folder should be
                continue
            if path.is_file():
                made.add(name)
        pattern = "/".join(parts)
        wanted = {n for n in glob.glob(pattern, root_dir=root, recursive=True) if Path(root, n).is_file()}  # fmt: skip
        rule = re.compile(translated(f"bucket/{pattern}"))
        assert {name for name in made if rule.fullmatch(f"bucket/{name}")} == wanted


# ---- claims and the command ------------------------------------------------------------------------


def test_claim_is_a_folder_below_the_mount_and_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "scores" / "in").mkdir(parents=True)
    rows(4).to_csv(tmp_path / "scores" / "in" / "a.csv", index=False)
    places = Places(tmp_path)
    (found,) = places.find("claim://scores/in/*.csv")
    assert found.shown == "claim://scores/in/a.csv"
    done = score([found], double, places.sink("claim://scores/out", "n.parquet"), **WHO)
    assert done.output == "claim://scores/out/n.parquet"
    assert [p.name for p in (tmp_path / "scores" / "out").iterdir()] == ["n.parquet"]
    with pytest.raises(UsageError, match="the claim other is not mounted"):
        places.find("claim://other/*.csv")


def test_what_a_killed_scoring_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".a.parquet.0123abcd.next", ".b.parquet.0123abcd.next", ".mine.next"))  # fmt: skip
    for one in (old, young, other):
        one.touch()
    for one in (old, other):
        os.utime(one, (1, 1))
    rows(4).to_csv(tmp_path / "a.csv", index=False)
    score([tmp_path / "a.csv"], double, tmp_path / "o.parquet", **WHO)
    assert not old.exists()
    assert young.exists()
    assert other.exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = 2 x + z."""
    pytest.importorskip("onnx")
    from tests.deploy.models import linear

    return linear(tmp_path_factory.mktemp("models") / "linear", 2.0, 1.0)


def command(tmp_path: Path, model: Path, **environ: str) -> dict[str, Any]:
    """How a pod starts it: everything by variables."""
    told = {
        "TREADLE_MODEL": str(model), "TREADLE_INPUT": "in/*.csv", "TREADLE_OUTPUT": "out/",
        "TREADLE_PREFIX": "nightly", "TREADLE_ENVIRONMENT": "production", "TREADLE_RELEASE": "7",
        "TREADLE_INSTANCE": "flights-nightly-abc", "TREADLE_FEATURES": '["x", "z"]',
        "TREADLE_RESULT": str(tmp_path / "result.json"), **environ,
    }  # fmt: skip
    return {
        "args": [sys.executable, "-P", "-m", "treadle.operate", "score"],
        "cwd": tmp_path, "env": {**os.environ, **told}, "text": True,
        "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    }  # fmt: skip


def run(tmp_path: Path, model: Path, **environ: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what it said, what it left."""
    done = subprocess.run(**command(tmp_path, model, **environ), check=False)
    left = tmp_path / "result.json"
    return done.returncode, done.stderr, json.loads(left.read_text()) if left.exists() else {}


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / "a.csv").write_text(text)


def test_command_scores_by_variables_alone_and_leaves_word(tmp_path: Path, model: Path) -> None:
    write(tmp_path, "x,z,name\n1,1,a\n2,1,b\n")
    code, said, left = run(tmp_path, model)
    assert code == 0, said
    (output,) = (tmp_path / "out").iterdir()
    assert re.fullmatch(r"nightly-\d{14}\.parquet", output.name)
    found = pd.read_parquet(output)
    assert found["prediction"].tolist() == [3.0, 5.0]
    assert left["rows"] == 2
    assert left["output"] == f"out/{output.name}"
    assert left["first_id"] == found["prediction_id"][0]
    assert left["first_id"].startswith("production.7.flights-nightly-abc.")
    assert found["treadle_snapshot"].str.startswith("sha256:").all()


def test_15_exit_code_says_whether_another_try_could_help(tmp_path: Path, model: Path) -> None:
    code, said, left = run(tmp_path, model)
    assert (code, left["code"]) == (2, 2)
    assert "in/*.csv: no such file" in said
    write(tmp_path, "x,y\n1,1\n")
    code, said, left = run(tmp_path, model)
    assert (code, left["code"], left["error"]) == (3, 3, "DataRefused")
    assert left["message"].startswith("in/a.csv lacks z")
    write(tmp_path, "x,z\n1,much\n")
    code, said, left = run(tmp_path, model)
    assert (code, left["error"]) == (3, "DataRefused")
    assert "in/a.csv: z, row 0: expected a double" in left["message"]
    away = {
        **s3.KEYS,
        "TREADLE_S3_ENDPOINT": "http://127.0.0.1:9",
        "TREADLE_INPUT": "s3://data/*.csv",
    }
    code, said, left = run(tmp_path, model, **away)
    assert (code, left["error"]) == (4, "Unreachable")
    assert run(tmp_path, model, TREADLE_INPUTS="x")[0] == 2
    assert run(tmp_path, model, TREADLE_MODEL="")[0] == 2
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_41_flipped_byte_in_the_model_stops_it(tmp_path: Path, model: Path) -> None:
    write(tmp_path, "x,z\n1,1\n")
    listed = {path.name: "sha256:" + "0" * 64 for path in model.iterdir()}
    (tmp_path / "model.json").write_text(json.dumps(listed))
    code, said, left = run(tmp_path, model, TREADLE_FILES=str(tmp_path / "model.json"))
    assert (code, left["error"]) == (1, "StateCorrupt"), said


def test_14_command_that_is_told_to_end_says_so_and_leaves_no_file(
    tmp_path: Path, model: Path
) -> None:
    write(tmp_path, "x,z\n" + "1,1\n" * 100_000)
    process = subprocess.Popen(**command(tmp_path, model, TREADLE_CHUNK_ROWS="1"))
    assert process.stderr is not None
    for line in process.stderr:
        if "rows scored" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert list((tmp_path / "out").iterdir()) == []
    assert json.loads((tmp_path / "result.json").read_text())["error"] == "Ended"


def test_what_is_left_is_no_longer_than_kubernetes_keeps(tmp_path: Path, model: Path) -> None:
    wide = ",".join(f"column_{number}" for number in range(2000))
    write(tmp_path, f"{wide}\n{wide}\n")
    code, _, left = run(tmp_path, model)
    assert (code, left["code"]) == (3, 3)
    assert len((tmp_path / "result.json").read_bytes()) <= 4096
