"""Whole files, locks that die with their holder, errors in words."""

from __future__ import annotations

import errno
import stat
import threading

import pytest

from treadle.base.errors import DiskFull, StateError
from treadle.clients import files
from treadle.clients.files import disk_errors, flocked, write_file


def test_a_written_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    write_file(tmp_path / "f", b"one")
    write_file(tmp_path / "f", b"two", mode=0o600)
    assert (tmp_path / "f").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_file(tmp_path / "f", b"old")

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskFull, match=r"/f; everything written before is intact"):
        write_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EACCES, StateError),
        (errno.EROFS, StateError),
        (errno.ENOENT, FileNotFoundError),
    ],
)
def test_errors_of_the_disk_become_ours_and_others_pass(code, wanted):
    with pytest.raises(wanted) as error:
        with disk_errors("/x/y"):
            raise OSError(code, "words", "/x/y/z")
    assert "/x/y/z" in str(error.value)


def test_a_lock_is_held_by_one_and_waited_for(tmp_path):
    with flocked(tmp_path / "l") as held:
        assert held
        with flocked(tmp_path / "l", wait_s=0) as second:
            assert not second
        with flocked(tmp_path / "l", wait_s=0.05) as third:
            assert not third
    release = threading.Event()

    def hold():
        with flocked(tmp_path / "l"):
            release.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    threading.Timer(0.1, release.set).start()
    with flocked(tmp_path / "l", wait_s=5) as held:
        assert held
    thread.join()
