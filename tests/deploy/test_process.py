"""The process target with real servers: start, swap under load, crash, refuse, stop."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treadle.base import clock, segments, supervision
from treadle.base.digest import digest_tree
from treadle.base.errors import Refused, UsageError
from treadle.deploy import process

BODY = json.dumps({"dataframe_split": {"columns": ["x", "z"], "data": [[1.0, 2.0]]}})
JSON = {"Content-Type": "application/json"}


def connect(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)


def ask(connection: http.client.HTTPConnection, body: str = BODY) -> tuple[int, Any, Any]:
    connection.request("POST", "/invocations", body, JSON)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), answer.headers


def wait_for(what: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
    return found


def test_nothing_was_deployed(env_folder: Path) -> None:
    assert process.observe(env_folder).status == "absent"
    assert process.stop(env_folder) is False
    assert process.log_files(env_folder) == []


def test_a_release_serves_swaps_and_stops(
    env_folder: Path, roll_out: Callable[..., Any], model_folders: dict[str, Path]
) -> None:
    content, files = digest_tree(model_folders["one"])
    done = roll_out(1, files=files, content=content)
    seen = process.observe(env_folder)
    assert (seen.status, seen.release, seen.model) == ("serving", 1, content)
    assert seen.address == done.address and seen.instance == done.instance
    status, answer, headers = ask(connect(done.address))
    assert (status, answer) == (200, {"predictions": [1.0]})
    assert headers["X-Prediction-Id"].startswith(f"local.1.{done.instance}.")
    assert headers["X-Model-Version"] == "1"

    begun = time.perf_counter()
    for _ in range(10):
        process.observe(env_folder)
    assert (time.perf_counter() - begun) / 10 < 0.05  # ≤ 5 ms where nothing else runs

    second = roll_out(2, "two")
    assert second.address == done.address and second.instance != done.instance
    # At once, without waiting: the old one has stopped accepting.
    assert ask(connect(done.address))[1] == {"predictions": [2.0]}
    assert process.observe(env_folder).pid == seen.pid

    process.flush(env_folder)
    records, _ = segments.read_new(env_folder / "capture")
    assert [r.release for r in records] == [1, 2]
    assert records[0].inputs == {"x": [1.0], "z": [2.0]}
    assert process.stop(env_folder) is True
    assert process.observe(env_folder).status == "absent"
    assert process.log_files(env_folder) == [env_folder / "server.log"]
    assert not list((env_folder / "capture").glob("*.open"))


@pytest.mark.parametrize("swaps", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_a_swap_loses_no_request_of_keep_alive_clients(
    env_folder: Path, roll_out: Callable[..., Any], swaps: int
) -> None:
    address = roll_out(1).address
    stop, failures, versions = threading.Event(), [], [[] for _ in range(4)]

    def client(number: int) -> None:
        connection = connect(address)  # no retries: http.client raises on a lost answer
        while not stop.is_set():
            try:
                status, _, headers = ask(connection)
                versions[number].append(headers["X-Model-Version"])
                if status != 200:
                    failures.append(status)
                if headers["Connection"] == "close":
                    connection.close()
                    connection = connect(address)
            except Exception as error:
                failures.append(repr(error))
                connection = connect(address)
            time.sleep(0.003 * number)  # from back to back to nearly idle

    clients = [threading.Thread(target=client, args=(n,)) for n in range(4)]
    for thread in clients:
        thread.start()
    for release in range(2, 2 + swaps):
        roll_out(release, "two" if release % 2 else "one", linger_s=3)
    time.sleep(0.5)
    stop.set()
    for thread in clients:
        thread.join()
    assert failures == []
    for seen in versions:
        assert set(seen) == {str(n) for n in range(1, 2 + swaps)}
        assert seen == sorted(seen, key=int)  # never back to the old one


@pytest.mark.slow
def test_an_idle_keep_alive_connection_finds_the_old_server_still_there(
    env_folder: Path, roll_out: Callable[..., Any]
) -> None:
    address = roll_out(1).address
    connection = connect(address)
    ask(connection)
    roll_out(2, "two")
    status, _, headers = ask(connection)
    assert (status, headers["X-Model-Version"], headers["Connection"]) == (200, "1", "close")


def test_a_release_that_does_not_load_is_refused_and_the_old_one_goes_on(
    env_folder: Path, roll_out: Callable[..., Any], model_folders: dict[str, Path]
) -> None:
    first = roll_out(1)
    with pytest.raises(Refused, match="release 2 did not get ready.*the release before goes on"):
        roll_out(2, "broken")
    seen = process.observe(env_folder)
    assert (seen.status, seen.release, seen.instance) == ("serving", 1, first.instance)
    with pytest.raises(Refused, match=r"model.onnx of the model is not what was released"):
        files = digest_tree(model_folders["one"])[1] | {"model.onnx": "sha256:00"}
        roll_out(3, files=files)
    assert ask(connect(first.address))[0] == 200
    assert roll_out(4, "two").instance == process.observe(env_folder).instance


@pytest.mark.slow
def test_a_first_release_that_does_not_load_leaves_nothing_behind(
    env_folder: Path, roll_out: Callable[..., Any]
) -> None:
    with pytest.raises(Refused, match="did not get ready"):
        roll_out(1, "broken")
    seen = process.observe(env_folder)
    assert seen.status == "failed" and seen.error
    assert roll_out(2).release == 2


@pytest.mark.slow
def test_a_crashed_server_comes_back_on_its_port(
    env_folder: Path, roll_out: Callable[..., Any]
) -> None:
    done = roll_out(1)
    os.kill(process.observe(env_folder).server_pid, signal.SIGKILL)
    seen = wait_for(lambda: (o := process.observe(env_folder)).restarts == 1 and o.serves and o)
    assert seen.address == done.address and seen.instance != done.instance
    assert ask(connect(done.address))[1] == {"predictions": [1.0]}
    assert "died by signal 9" in (env_folder / "server.log").read_text()


@pytest.mark.slow
def test_a_dead_worker_of_several_makes_the_service_not_ready_until_it_is_replaced(
    env_folder: Path, roll_out: Callable[..., Any]
) -> None:
    done = roll_out(1, workers=2)
    state = served(env_folder)
    assert state.workers == state.ready == len(state.server_pids) == 2
    os.kill(state.server_pids[1], signal.SIGKILL)
    wait_for(lambda: process.observe(env_folder).restarts == 1)
    assert ask(connect(done.address))[0] == 200  # the other answers meanwhile
    wait_for(lambda: process.observe(env_folder).status == "serving", 60)
    wait_for(lambda: served(env_folder).ready == 2, 60)
    assert set(served(env_folder).server_pids) != set(state.server_pids)


def served(env_folder: Path) -> supervision.Supervised:
    state = supervision.read(env_folder / supervision.STATE, supervision.Supervised)
    assert state is not None
    return state


def test_when_the_supervisor_is_killed_the_server_ends_too(
    env_folder: Path, roll_out: Callable[..., Any]
) -> None:
    done = roll_out(1)
    seen = process.observe(env_folder)
    os.kill(seen.pid, signal.SIGKILL)
    assert wait_for(lambda: (o := process.observe(env_folder)).status == "down" and o).release == 1
    again = roll_out(2, "two")  # the same port, although the orphan is still draining
    assert again.address == done.address
    assert ask(connect(again.address))[1] == {"predictions": [2.0]}
    wait_for(lambda: not supervision.start_of(seen.server_pid))


def test_a_release_that_takes_too_long_is_refused(
    env_folder: Path, roll_out: Callable[..., Any]
) -> None:
    first = roll_out(1)
    with pytest.raises(Refused, match=r"not ready after 0.05 s; the release before goes on"):
        roll_out(2, "two", start_timeout_s=0.05)
    assert process.observe(env_folder).instance == first.instance
    assert ask(connect(first.address))[1] == {"predictions": [1.0]}


def test_a_command_killed_right_after_it_started_a_supervisor_is_no_obstacle(
    env_folder: Path, roll_out: Callable[..., Any], model_folders: dict[str, Path]
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from treadle.deploy import process;"
        "from treadle.base.spec import ProcessTarget;"
        "process._await = lambda *_: os.kill(os.getpid(), 9);"
        "process.roll_out(Path(sys.argv[1]), ProcessTarget(target='process', port=int(sys.argv[3])),"
        "1, Path(sys.argv[2]), environment='local', content='')"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [str(env_folder), str(model_folders["one"]), str(port)]
    killed = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert roll_out(2, "two", port=port).address.endswith(f":{port}")
    assert process.observe(env_folder).release == 2


@pytest.mark.slow
def test_repeated_crashes_wait_longer_and_lose_no_captured_record(
    env_folder: Path, roll_out: Callable[..., Any]
) -> None:
    done = roll_out(1)
    ids, waits = [], []
    for number in range(1, 5):
        ids.append(ask(connect(done.address))[2]["X-Prediction-Id"])
        time.sleep(0.4)  # a record is with the operating system at the latest 0.2 s later
        os.kill(process.observe(env_folder).server_pid, signal.SIGKILL)
        wait_for(lambda n=number: (o := process.observe(env_folder)).restarts == n and o.serves)
    log = (env_folder / "server.log").read_text()
    waits = [float(w) for w in re.findall(r"trying again in ([\d.]+) s", log)]
    assert waits == [0.2, 0.4, 0.8, 1.6]
    open_segments = sorted((env_folder / "capture").glob("*.open"))
    with open_segments[0].open("ab") as torn:
        torn.write(b"\x40\x00\x00\x00half a record")
    found = [c.record.id for c in segments.read_segments(env_folder / "capture")]
    assert found == ids


def test_a_port_in_use_is_an_error_that_names_the_process(
    env_folder: Path, roll_out: Callable[..., Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf":{port}: .*in use.*\(pid {os.getpid()}\)"):
            roll_out(1, port=port)
    assert process.observe(env_folder).status == "absent"
    assert roll_out(1, port=port).address.endswith(f":{port}")


def test_the_service_outlives_the_process_that_started_it_and_lives_in_replayed_time(
    env_folder: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    replay = tmp_path / "now"
    clock.set_replay(replay, clock.parse("2013-05-01T06:00:00Z"))
    code = (
        "import sys; from pathlib import Path; from treadle.deploy import process;"
        "from treadle.base.spec import ProcessTarget;"
        "process.roll_out(Path(sys.argv[1]), ProcessTarget(target='process', port=0), 1,"
        "Path(sys.argv[2]), environment='local', content='')"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(env_folder), str(model_folders["one"])],
        check=True,
        env={**os.environ, "TREADLE_CLOCK": str(replay)},
        start_new_session=True,
    )
    seen = process.observe(env_folder)
    assert seen.status == "serving"
    ask(connect(seen.address))
    clock.set_replay(replay, clock.parse("2013-05-02T06:00:00Z"))
    ask(connect(seen.address))
    process.flush(env_folder)
    records, _ = segments.read_new(env_folder / "capture")
    assert [r.time[:10] for r in records] == ["2013-05-01", "2013-05-02"]


def test_observe_imports_no_http_library() -> None:
    code = (
        "import sys, pathlib; from treadle.deploy import process;"
        "process.observe(pathlib.Path('/nowhere'));"
        "heavy = {'uvicorn', 'http.client', 'numpy', 'pandas', 'msgspec', 'asyncio'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
