"""clients/cache.py: layers by what they are made of; whatever is wrong with one, it is made anew."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from treadle.base.errors import StateCorrupt
from treadle.base.image import LAYER_TAR, Blob
from treadle.clients.cache import Cache

DATA = b"a layer" * 1000


def written(out: BinaryIO) -> tuple[str, str, int]:
    out.write(DATA)
    digest = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    return digest, digest, len(DATA)


def keep(cache: Cache) -> Blob:
    return cache.keep_layer("sha256:key", "wheel a", LAYER_TAR, written)


def blobs(cache: Cache) -> list[Path]:
    return sorted((cache.folder / "layers" / "blobs").iterdir())


def test_kept_layer_is_found_and_read(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.layer("sha256:key", "wheel a") is None
    made = keep(cache)
    found = Cache(tmp_path).layer("sha256:key", "wheel a")
    assert found is not None
    assert (found.descriptor, found.diff_id) == (made.descriptor, made.diff_id)
    with found.open() as stream:
        assert stream.read() == DATA
    with found.open() as stream:
        stream.seek(7000 - 7)
        assert stream.read() == b"a layer"


def test_finding_a_layer_reads_nothing_of_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    keep(cache)
    (blob,) = blobs(cache)
    blob.chmod(0)
    before = blob.stat().st_atime_ns
    assert cache.layer("sha256:key", "wheel a") is not None
    assert blob.stat().st_atime_ns == before


def test_layer_of_another_size_is_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    keep(cache)
    (blob,) = blobs(cache)
    blob.write_bytes(DATA[:-1])
    assert cache.layer("sha256:key", "wheel a") is None


def test_damaged_layer_is_never_given_whole_and_made_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    found = keep(cache)
    (blob,) = blobs(cache)
    blob.write_bytes(DATA[:-1] + b"R")
    got = b""
    with pytest.raises(StateCorrupt, match="wheel a is not what was described"):
        with found.open() as stream:
            while piece := stream.read(1024):
                got += piece
    assert len(got) < len(DATA)
    assert cache.layer("sha256:key", "wheel a") is None
    with keep(cache).open() as stream:
        assert stream.read() == DATA


@pytest.mark.parametrize("record", [b"", b"null", b"[]", b"{}", b'{"digest": 1}', b"\xff"])
def test_record_that_is_none_is_a_miss(tmp_path: Path, record: bytes) -> None:
    cache = Cache(tmp_path)
    keep(cache)
    (tmp_path / "layers" / "key.json").write_bytes(record)
    assert cache.layer("sha256:key", "wheel a") is None


def test_layer_whose_making_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fails(out: BinaryIO) -> tuple[str, str, int]:
        out.write(DATA)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.keep_layer("sha256:key", "wheel a", LAYER_TAR, fails)
    assert blobs(cache) == []


def test_what_a_killed_writer_left_goes_after_a_day(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    keep(cache)
    folder = tmp_path / "layers" / "blobs"
    for name, age_s in ((".incoming-old.1.ab", 90_000), (".incoming-new.2.cd", 60)):
        (folder / name).write_bytes(b"half")
        moment = (folder / name).stat().st_mtime - age_s
        os.utime(folder / name, (moment, moment))
    keep(cache)
    assert [path.name for path in blobs(cache) if path.name.startswith(".")] == [
        ".incoming-new.2.cd"
    ]


def test_processes_that_make_the_same_layer_at_once_leave_one(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from treadle.clients.cache import Cache\n"
        "import hashlib\n"
        "def write(out):\n"
        "    data = b'x' * 3_000_000; out.write(data)\n"
        "    d = 'sha256:' + hashlib.sha256(data).hexdigest(); return d, d, len(data)\n"
        "for _ in range(20): Cache(Path(sys.argv[1])).keep_layer('k', 't', 'tar', write).open().read()\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), sys.path[0]])
        for _ in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(blobs(Cache(tmp_path))) == 1
