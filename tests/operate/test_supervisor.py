"""Parts of the supervisor that need no server; the whole is tested by tests/deploy/test_process.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.base import supervision
from treadle.operate import counters, supervisor, wanted, worker


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


# ---- who is stuck --------------------------------------------------------------------------------


class _Quiet:
    """A source that wants nothing and says nothing."""

    folder, captured = None, False

    def __init__(self) -> None:
        self.said: list[str] = []

    def wanted(self) -> None:
        return None

    def tell(self, state: supervision.Supervised) -> None:
        raise OSError(28, "No space left on device")

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def supervised() -> Iterator[Any]:
    """A supervisor whose one worker is a process that does nothing, and the moment it served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = supervisor.Supervisor(_Quiet(), listener)  # type: ignore[arg-type]
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        reader, writer = os.pipe()
        told = worker.Told(silence_s=30, call_s=90)
        man = worker.Worker(child, [], "abc", 0, reader, writer, None, 0.0, "serving", told=told)
        wanted = supervision.Wanted("1", "/m", 1, "", ())
        one._current = supervisor.Generation(wanted)
        one._current.seats[0].worker = man
        yield one, man, man.began
        child.kill()
        child.communicate()
        man.close()


def _look(one: Any, at: float, *, beat: float = 0.0, calling: float = 0.0) -> str:
    row = one._shared.row(0)
    row[counters.BEAT], row[counters.CALLING] = beat, calling
    one._looked = at - 1  # it looked a second ago, as always
    one._look(at)
    return one._current.seats[0].worker.why


def test_a_silent_worker_is_stuck_after_its_time(supervised: Any) -> None:
    one, man, began = supervised
    assert _look(one, began + 29) == ""
    assert _look(one, began + 60, beat=began + 31) == ""
    assert "no sign of life for 31 s" in _look(one, began + 62, beat=began + 31)
    assert man.process.wait(timeout=30) == -9


def test_a_worker_that_calls_its_model_may_be_silent_until_nobody_waits_for_the_answer(
    supervised: Any,
) -> None:
    one, _, began = supervised
    assert _look(one, began + 95, beat=began + 5, calling=began + 6) == ""
    assert "a call of the model has run for 91 s" in _look(one, began + 97, calling=began + 6)


def test_a_call_that_never_ends_is_found_though_the_loop_goes_on(supervised: Any) -> None:
    one, _, began = supervised
    assert "call of the model" in _look(one, began + 100, beat=began + 100, calling=began + 1)


def test_workers_are_given_time_after_the_supervisor_itself_was_stopped(supervised: Any) -> None:
    one, _, began = supervised
    one._looked = began
    one._look(began + 1000)  # the machine, or the whole container, stood still
    assert one._current.seats[0].worker.why == ""
    assert _look(one, began + 1029) == ""
    assert "no sign of life for 31 s" in _look(one, began + 1031)


def test_a_full_disk_stops_no_supervisor_and_is_said_once(supervised: Any) -> None:
    one, _, began = supervised
    for second in range(3):
        one._publish()
        _look(one, began + second, beat=began)
    assert one._source.said == ["cannot tell what is served: No space left on device"]
