"""The state folder, its lock, and where it may not be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from treadle.base.errors import StateBusy, StateCorrupt, StateError, UsageError
from treadle.clients import state as module
from treadle.clients.state import State, mounted


def test_a_state_is_begun_once_and_ignored_by_git(tmp_path):
    with State.open(tmp_path, create=True) as state:
        assert state.folder == tmp_path / ".treadle"
        assert (state.folder / ".gitignore").read_text() == "*\n"
        state.journal.verify()
    State.open(tmp_path, create=False).close()


def test_without_create_an_absent_state_is_an_error_and_nothing_is_made(tmp_path):
    with pytest.raises(StateError, match="no state"):
        State.open(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_may_move_the_state(tmp_path, monkeypatch):
    monkeypatch.setenv("TREADLE_STATE", str(tmp_path / "elsewhere"))
    with State.open(tmp_path / "project", create=True) as state:
        assert state.folder == tmp_path / "elsewhere"
    assert not (tmp_path / "project").exists()


def test_results_without_a_journal_are_not_taken_for_a_new_state(tmp_path):
    with State.open(tmp_path, create=True) as state:
        state.objects.put_bytes(b"x")
    for file in (tmp_path / ".treadle").glob("journal.db*"):
        file.unlink()
    for create in (True, False):
        with pytest.raises(StateCorrupt, match=r"journal\.db is gone"):
            State.open(tmp_path, create=create)


def test_a_network_file_system_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "file_system", lambda folder, ask=True: "nfs4")
    with pytest.raises(StateError, match=r"network file system \(nfs4\)") as error:
        State.open(tmp_path, create=True)
    assert "TREADLE_STATE=" in error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_mount_that_holds_a_path_is_the_longest_and_the_last():
    table = (
        "/dev/vda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\n/dev/vdb /home/me\\040too xfs rw 0 0\n"
        "tmpfs /home/me\\040too tmpfs rw 0 0\ncorrupt\n"
    )
    assert mounted(table, "/home/you/p") == "nfs4"
    assert mounted(table, "/home") == "nfs4"
    assert mounted(table, "/homework") == "ext4"
    assert mounted(table, "/home/me too/p") == "tmpfs"
    assert mounted("", "/x") is None


def test_this_machines_file_system_is_known_and_local(tmp_path):
    kind = module.file_system(tmp_path)
    assert kind is not None
    assert kind not in module.NETWORK


def test_environment_folders_take_plain_names_only(tmp_path):
    with State.open(tmp_path, create=True) as state:
        assert state.environment_folder("local").is_dir()
        for name in ("", "../x", "a/b", ".hidden"):
            with pytest.raises(UsageError):
                state.environment_folder(name)


def test_sweep_keeps_the_models_that_are_needed(tmp_path):
    with State.open(tmp_path, create=True) as state:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "MLmodel").write_text(name)
        one, two = (state.objects.put_tree(tmp_path / name)[0] for name in ("one", "two"))
        kept, gone = state.model_folder(one), state.model_folder(two)
        old, young = kept.parent / ".x.building", kept.parent / ".y.building"
        old.mkdir()
        young.mkdir()
        os.utime(old, (1, 1))
        assert state.sweep({one}) == 2
        assert sorted(kept.parent.iterdir()) == sorted([kept, young])
        assert not gone.exists()
        assert state.model_folder(two).is_dir(), "it can be made again"


def test_tracebacks_are_kept_in_files_the_newest_fifty(tmp_path):
    with State.open(tmp_path, create=True) as state:
        folder = state.folder / "errors"
        folder.mkdir()
        for number in range(60):
            (folder / f"20200101T0000{number:02}Z-1.txt").write_text("old")
        path = state.error_file("Traceback: \udcff boom")
        assert "boom" in path.read_text()
        assert len(list(folder.iterdir())) == 50


HOLD = """
import sys, time
from pathlib import Path
from treadle.clients.state import State
with State.open(Path(sys.argv[1]), create=True) as state:
    with state.turn_lock("treadle up", wait=True):
        print("holding", flush=True)
        time.sleep(float(sys.argv[2]))
"""


def holder(folder, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


def test_a_second_turn_exits_naming_the_process(tmp_path):
    process = holder(tmp_path, 60)
    try:
        with State.open(tmp_path, create=True) as state:
            found = state.turn_holder()
            assert (found.pid, found.command) == (process.pid, "treadle up")
            with pytest.raises(StateBusy, match=f"process {process.pid} .*treadle up"):
                with state.turn_lock("treadle up", wait=False):
                    pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_turn_waits_and_says_for_whom_and_the_dead_hold_nothing(tmp_path):
    process = holder(tmp_path, 60)
    lines = []
    with State.open(tmp_path, create=True) as state:
        killer = threading.Timer(1.0, process.send_signal, [signal.SIGKILL])
        killer.start()
        with state.turn_lock(
            "treadle up", wait=True, report=lambda line, **facts: lines.append((line, facts))
        ):
            assert state.turn_holder().pid == os.getpid()
        assert state.turn_holder() is None
    process.wait()
    process.stdout.close()
    assert lines == [(lines[0][0], {"waiting_for": process.pid})]
    assert f"waiting for process {process.pid}" in lines[0][0]


def test_looking_who_holds_the_lock_refuses_nobody(tmp_path):
    with State.open(tmp_path, create=True) as state:
        stop = threading.Event()

        def look():
            while not stop.is_set():
                state.turn_holder()
                time.sleep(0.001)

        looker = threading.Thread(target=look)
        looker.start()
        try:
            for _ in range(50):
                with state.turn_lock("t", wait=False):
                    pass
        finally:
            stop.set()
            looker.join()


def test_who_deletes_waits_for_the_small_writers_and_they_for_it(tmp_path):
    with State.open(tmp_path, create=True) as state:
        events = []

        def delete():
            with state.no_writers():
                events.append("deleting")
                time.sleep(0.1)
                events.append("deleted")

        with state.small_writer(), state.small_writer():  # they do not exclude one another
            deleting = threading.Thread(target=delete)
            deleting.start()
            time.sleep(0.2)
            assert events == []
            events.append("written")
        while len(events) < 2:
            time.sleep(0.005)
        with state.small_writer():
            events.append("written again")
        deleting.join()
    assert events == ["written", "deleting", "deleted", "written again"]


def test_turns_never_overlap(tmp_path):
    code = HOLD.replace(
        "time.sleep(float(sys.argv[2]))",
        """
        mark = Path(sys.argv[1]) / "mark"
        assert not mark.exists()
        mark.touch(); time.sleep(0.02); mark.unlink()""",
    ).replace("with state.turn_lock", "for _ in range(5):\n      with state.turn_lock")
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL)
        for _ in range(4)
    ]
    assert [process.wait(60) for process in started] == [0] * 4
