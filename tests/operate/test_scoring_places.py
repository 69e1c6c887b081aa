"""Where scorings read and write: claims, an object store (a real server), and the command itself."""

from __future__ import annotations

import glob
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base.errors import DataRefused, Refused, Unreachable, UsageError
from treadle.operate.scoring.places import Places, Store, translated
from treadle.operate.scoring.scorer import score

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
WHO: dict[str, Any] = {"environment": "local", "release": 3, "model": "sha256:m"}


def rows(count: int, start: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"x": np.arange(start, start + count, dtype=float)})


def double(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    return frame["x"].to_numpy() * 2


# ---- the object store ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server of its own process."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    where = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{where}/moto-api/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield where
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Reached with keys, and with an empty bucket `data`."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
    urllib.request.urlopen(request).close()
    request = urllib.request.Request(f"{endpoint}/data", method="PUT")
    urllib.request.urlopen(request).close()
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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.linear_model import LinearRegression
    from tests.operate.conftest import SKOPS_MODEL  # noqa: F401

    raise NotImplementedError(LinearRegression, tmp_path_factory)


def run(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "treadle.operate", "score", *arguments],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "TREADLE_RESULT": str(tmp_path / "result.json"), **environ},
    )  # fmt: skip
