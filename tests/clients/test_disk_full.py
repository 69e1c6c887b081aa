"""A full disk at any write: a clear error, everything written before intact."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from treadle.base.errors import DiskFull
from treadle.clients.journal import Changes
from treadle.clients.state import State

from .test_journal import decision

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path):
    """A tmpfs of 2 MB."""
    if sys.platform != "linux" or os.getuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounts a tmpfs: needs root on Linux")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder, leave):
    """Fill the file system but for `leave` bytes."""
    with open(folder / "filler", "wb") as file:
        free = os.statvfs(folder)
        file.write(b"\0" * max(0, free.f_bavail * free.f_frsize - leave))


def free(folder):
    (folder / "filler").unlink(missing_ok=True)


def work(state, number):
    """One step's writes: a blob, a tree, a materialised model, a commit; its number if kept."""
    blob = state.objects.put_bytes(os.urandom(3000))
    folder = state.folder.parent / f"model-{number}"
    folder.mkdir(exist_ok=True)
    try:
        (folder / "weights").write_bytes(os.urandom(5000))
    except OSError as error:
        raise DiskFull("the test's own file") from error
    tree, _ = state.objects.put_tree(folder)
    state.model_folder(tree)
    state.journal.commit(
        Changes().put("n", f"{number:06}", [blob, tree, "x" * 2000]).decide(decision(number))
    )
    return blob, tree


def check(state, kept):
    state.journal.verify()
    assert len(state.journal.list("n")) == len(state.journal.ledger()) == len(kept)
    for number, (blob, tree) in kept.items():
        assert state.journal.get("n", f"{number:06}")[:2] == [blob, tree]
        assert len(state.objects.read(blob)) == 3000
        assert (state.model_folder(tree) / "weights").stat().st_size == 5000
    for digest in state.objects.digests():
        state.objects.read(digest)
    assert list((state.objects.root / ".incoming").iterdir()) == []


def test_at_any_write_the_disk_may_be_full(small):
    kept, refused = {}, set()
    with State.open(small, create=True) as state:
        kept[1] = work(state, 1)
        # Every room between none and enough for all writes of a step: each write is hit in turn.
        for number, leave in enumerate(range(0, 60_000, 1500), 2):
            fill(small, leave)
            try:
                kept[number] = work(state, number)
            except DiskFull as error:
                refused.add(error.message.split(";")[0].split("/")[-1])
                assert error.hint or "own file" in error.message
            free(small)
            shutil.rmtree(small / f"model-{number}", ignore_errors=True)
            check(state, kept)
    assert kept.keys() > {1}, "with room enough it goes on"
    assert len(refused) >= 2, refused
    with State.open(small, create=False) as state:
        check(state, kept)


def test_a_state_that_cannot_be_begun_for_lack_of_room_leaves_no_half_journal(small):
    for leave in range(0, 60_000, 4096):
        fill(small, leave)
        # What is there afterwards is nothing, or a journal that is whole (opened below).
        with contextlib.suppress(DiskFull):
            State.open(small, create=True).close()
        free(small)
        with State.open(small, create=True) as state:
            state.journal.verify()
        shutil.rmtree(small / ".treadle")


def test_opening_and_reading_work_on_a_full_disk(small):
    with State.open(small, create=True) as state:
        kept = {1: work(state, 1)}
    fill(small, 0)
    with State.open(small, create=False, read_only=True) as state:
        assert state.journal.get("n", "000001")[0] == kept[1][0]
    free(small)
    with State.open(small, create=False) as state:
        check(state, kept)
