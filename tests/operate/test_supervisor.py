"""Parts of the supervisor that need no server; the whole is tested by tests/deploy/test_process.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.base import supervision
from treadle.operate import supervisor, wanted


def test_the_log_is_rotated_by_size_and_three_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wanted, "LOG_BYTES", 100)
    log = wanted.Log(tmp_path / "server.log")
    for number in range(12):
        log.write(b"%02d" % number + b"x" * 47 + b"\n")
    texts = {path.name: path.read_bytes()[:2] for path in tmp_path.iterdir()}
    assert texts == {
        "server.log": b"10",
        "server.log.1": b"08",
        "server.log.2": b"06",
        "server.log.3": b"04",
    }


def test_a_process_is_known_by_its_pid_and_its_start() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = supervision.start_of(child.pid)
    state = supervision.Supervised(child.pid, start, "127.0.0.1", 1, "serving", "")
    assert start and supervision.alive(state)
    assert not supervision.alive(supervision.Supervised(child.pid, "1", "", 1, "serving", ""))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not supervision.alive(state)  # a zombie is not alive
    child.communicate()
    assert supervision.start_of(child.pid) == ""


def test_a_state_that_another_treadle_wrote_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.json"
    assert supervision.read(path, supervision.Supervised) is None
    for text in ("{", "[]", '{"pid": 1, "later": 2}', "{}"):
        path.write_text(text)
        assert supervision.read(path, supervision.Supervised) is None
    state = supervision.Supervised(1, "2", "::1", 80, "serving", "now", command=("a", "b"))
    supervision.write(path, state)
    assert supervision.read(path, supervision.Supervised) == state
    assert state.address == "http://[::1]:80"


def test_a_second_supervisor_of_a_folder_does_not_begin(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / supervision.LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert supervisor.run(tmp_path, 0) == 1
