"""New workers take the place of old ones, and no request is lost; or the old ones stay."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.operate.serving import Client, Served, wait_for

from treadle.base import supervision
from treadle.base.supervision import Supervised, Wanted
from treadle.deploy import process as target


def test_a_reload_loses_no_request(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2", "--linger", "5")
    first = served.until(2)

    def reload() -> None:
        served.process.send_signal(signal.SIGHUP)
        served.until(4)

    # Enough to last until the new ones serve, and some more.
    asking = [Client(served.port) for _ in range(4)]
    stop = threading.Event()

    def go(client: Client, pause: float) -> None:
        while not stop.is_set() and len(client.answers) < 2000:
            client.predict()
            time.sleep(pause)

    threads = [
        threading.Thread(target=go, args=(client, 0.005 * (number + 1)))
        for number, client in enumerate(asking)
    ]
    for thread in threads:
        thread.start()
    reload()
    counts = [len(client.answers) for client in asking]
    wait_for(lambda: all(len(c.answers) > n + 3 for c, n in zip(asking, counts, strict=True)))
    stop.set()
    for thread in threads:
        thread.join()
    for client in asking:
        client.close()
    old = set(first)
    for client in asking:
        assert client.failures == 0
        assert {a[:1] for a in client.answers} == {(200,)}
        generations = [a[2] in old for a in client.answers]
        assert generations == sorted(generations, reverse=True)  # never back to an old one
        assert not generations[-1]
    assert served.logged("on the input example: 2 rows, worst difference 0")


def test_a_reload_is_never_not_ready(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2", "--linger", "0.2")
    served.until(2)
    wait_for(lambda: served.ready() == 200)
    answers = []
    served.process.send_signal(signal.SIGHUP)
    while len(served.pids) < 4:
        answers.append(served.ready())
    answers += [served.ready() for _ in range(20)]
    assert set(answers) == {200}
    assert served.metrics()["treadle_workers_wanted",] == 2


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "local"
    home.mkdir()
    yield home
    target.stop(home, timeout_s=60)


def test_a_folder_of_two_workers_swaps_refuses_and_compares(
    folder: Path, folders: dict[str, Path]
) -> None:
    def want(number: int, model: str, workers: int) -> Wanted:
        wanted = Wanted(f"w{number}", str(folders[model]), number, "", ("--name", "demo"),
                        linger_s=1, workers=workers)  # fmt: skip
        supervision.write(folder / supervision.WANTED, wanted)
        return wanted

    def state() -> Supervised:
        found = supervision.read(folder / supervision.STATE, Supervised)
        assert found is not None
        return found

    wanted = want(1, "one", 2)
    with target._listen("127.0.0.1", 0, wanted_port=0, retry=False) as listener:
        port = listener.getsockname()[1]
        process = target._spawn(folder, listener, None)
    first = target._await(folder, wanted, process, 60)
    assert (first.status, first.workers, first.ready, first.error) == ("serving", 2, 2, None)
    assert first.instance == first.instances[0]
    assert first.server_pid == first.server_pids[0]
    assert first.compared is None

    wanted = want(2, "broken", 2)
    os.kill(first.pid, signal.SIGHUP)
    refused = target._await(folder, wanted, None, 60)
    assert refused.error and (refused.release, refused.ready) == (1, 2)
    assert refused.instances == first.instances

    # One of a new generation that is ready and waits for the others dies: all of them go.
    wanted = want(3, "two", 3)
    os.kill(first.pid, signal.SIGHUP)
    log = folder / supervision.LOG
    wait_for(lambda: "worker 2 of 3" in log.read_text())
    early = re.search(r"pid (\d+), worker 1 of 3", log.read_text())
    assert early
    os.kill(int(early[1]), signal.SIGKILL)
    refused = target._await(folder, wanted, None, 60)
    assert refused.error == "the server died by signal 9 before it was ready"
    assert (refused.release, refused.instances) == (1, first.instances)

    wanted = want(4, "two", 3)
    os.kill(first.pid, signal.SIGHUP)
    third = target._await(folder, wanted, None, 60)
    assert (third.release, third.ready, third.workers, third.error) == (4, 3, 3, None)
    assert third.compared == "2 rows, worst difference 1 in y"  # x=1, z=2 and x=3, z=4
    assert Client(port).once()[1] == b'{"predictions":[2.0]}'

    os.kill(third.server_pids[1], signal.SIGKILL)
    wait_for(lambda: state().restarts == 1 and state().ready == 3)
    assert set(third.instances) - set(state().instances) == {third.instances[1]}
