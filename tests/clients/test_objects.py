"""What the object store on a disk must withstand."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from treadle.base.digest import digest_bytes, digest_tree
from treadle.base.errors import DiskFull, StateCorrupt, StateError
from treadle.clients import objects as module
from treadle.clients.objects import DiskObjects


@pytest.fixture
def objects(tmp_path):
    return DiskObjects(tmp_path / "objects")


def rot(path, data=b"rotten"):
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_blob_is_a_read_only_file_named_by_its_digest(objects):
    digest = objects.put_bytes(b"hello")
    hexes = digest.removeprefix("sha256:")
    place = objects.root / hexes[:2] / hexes[2:]
    assert objects.path(digest) == place
    assert stat.S_IMODE(place.stat().st_mode) == 0o444


def test_a_damaged_blob_is_named_with_what_was_seen(objects):
    digest = objects.put_bytes(b"hello")
    rot(objects.path(digest))
    for use in (objects.read, lambda d: objects.path(d, verify=True)):
        with pytest.raises(StateCorrupt, match=digest) as error:
            use(digest)
        assert digest_bytes(b"rotten") in error.value.message


def test_a_truncated_blob_is_healed_by_putting_it_again(objects, tmp_path):
    digest = objects.put_bytes(b"hello")
    rot(objects.path(digest), b"hel")
    assert objects.put_bytes(b"hello") == digest
    assert objects.read(digest) == b"hello"
    rot(objects.path(digest), b"")
    (tmp_path / "f").write_bytes(b"hello")
    objects.put_file(tmp_path / "f")
    assert objects.read(digest) == b"hello"


def test_a_tree_of_a_damaged_blob_is_not_made(objects, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_bytes(b"aaaa")
    (folder / "b").write_bytes(b"bbbb")
    digest, files = objects.put_tree(folder)
    rot(objects.path(files["b"]), b"xxxx")
    with pytest.raises(StateCorrupt, match=files["b"]):
        objects.tree(digest, tmp_path / "made")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "objects"]


@pytest.mark.parametrize("change", ["append", "replace", "touch"])
def test_a_file_that_changes_while_it_is_read_is_noticed(objects, tmp_path, monkeypatch, change):
    path = tmp_path / "f.csv"
    path.write_bytes(b"a,b\n" * 100)
    copy = module._copy

    def slow(source, out):
        found = copy(source, out)
        if change == "append":
            with open(path, "ab") as file:
                file.write(b"more")
        elif change == "replace":
            (tmp_path / "g").write_bytes(b"x,y\n" * 100)
            os.utime(tmp_path / "g", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
            os.rename(tmp_path / "g", path)
        else:
            os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr(module, "_copy", slow)
    with pytest.raises(StateError, match=r"f\.csv changed while it was read") as error:
        objects.put_file(path)
    assert error.value.hint
    assert list(objects.digests()) == []
    assert list((objects.root / ".incoming").iterdir()) == []


def test_a_full_disk_leaves_everything_before_and_no_temporary_file(objects, monkeypatch, tmp_path):
    before = objects.put_bytes(b"before")
    (tmp_path / "f").write_bytes(b"y" * 100)

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    for put in (lambda: objects.put_bytes(b"x"), lambda: objects.put_file(tmp_path / "f")):
        with pytest.raises(DiskFull, match="intact"):
            put()
    assert list(objects.digests()) == [before]
    assert list((objects.root / ".incoming").iterdir()) == []


def test_eight_threads_put_the_same_blobs(objects):
    errors = []

    def put():
        try:
            for number in range(30):
                objects.put_bytes(b"%d" % number * 999)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(objects.digests())) == 30
    for digest in objects.digests():
        objects.read(digest)


def test_threads_that_make_the_same_tree_all_get_it(objects, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for number in range(20):
        (folder / str(number)).write_bytes(b"x" * number)
    digest, _ = objects.put_tree(folder)
    errors = []

    def make():
        try:
            assert digest_tree(objects.tree(digest, tmp_path / "made"))[0] == digest
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "model", "objects"]


HOLD = """
import sys, time
from pathlib import Path
from treadle.clients.objects import DiskObjects
with DiskObjects(Path(sys.argv[1]))._incoming() as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_sweep_takes_what_the_dead_left_and_nothing_of_the_living(objects):
    objects.put_bytes(b"x")
    writer = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(objects.root)], stdout=subprocess.PIPE
    )
    try:
        writer.stdout.readline()
        assert objects.sweep(older_s=0) == 0
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert objects.sweep() == 0, "too young to tell"
    assert objects.sweep(older_s=0) == 1
    assert len(list(objects.digests())) == 1


def test_a_name_that_is_no_digest_is_refused(objects):
    for name in ("sha256:../../etc/passwd", "md5:abc", ""):
        with pytest.raises(StateCorrupt, match="is no digest"):
            objects.read(name)


def test_a_large_file_is_copied_with_flat_memory(objects, tmp_path):
    import tracemalloc

    with open(tmp_path / "big", "wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    start = time.perf_counter()
    _, size = objects.put_file(tmp_path / "big")
    assert time.perf_counter() - start < 30
    assert size == 64 << 20
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
