"""Workers that die or fall silent are replaced, and clients lose what was in flight at most."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from tests.operate.serving import Served, load, wait_for

from treadle.base import supervision


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_a_killed_worker_loses_its_own_requests_alone_and_is_replaced(
    serve: Callable[..., Served], rounds: int
) -> None:
    served = serve("--workers", "2")
    for number in range(rounds):
        before = served.until(2 + number)
        victim = list(before)[-1]
        asking = load(served.port, 6, 250, lambda: os.kill(before[victim], signal.SIGKILL))  # noqa: B023
        for client in asking:
            # A connection fails once at most: what was in flight; its next one finds somebody.
            assert client.failures <= 1
            assert len(client.answers) + client.failures == 250
            assert all(a[:2] == (200, {"predictions": [1.0]}) for a in client.answers)
        after = served.until(3 + number)
        assert list(after)[: len(before)] == list(before)
    assert len(served.logged("died by signal 9")) == rounds
    assert served.end() == 0


def test_a_stopped_worker_is_killed_and_replaced(serve: Callable[..., Served]) -> None:
    served = serve("--workers", "2", TREADLE_STUCK_AFTER="5")
    first = served.until(2)
    stopped = next(iter(first.values()))
    os.kill(stopped, signal.SIGSTOP)
    after = served.until(3)
    assert served.logged(rf"killing pid {stopped}, stuck: no sign of life for \d+ s")
    assert supervision.start_of(stopped) == ""
    asking = load(served.port, 4, 10, lambda: None)
    assert [c.failures for c in asking] == [0] * 4
    assert stopped not in list(after.values())[1:]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_after_any_accidents_all_workers_serve_and_none_is_left_over(
    serve: Callable[..., Served], seed: int
) -> None:
    chance = random.Random(seed)
    served = serve("--workers", "3", "--stuck-after", "4", "--linger", "0.5")
    served.until(3)
    wait_for(lambda: served.ready() == 200)
    for _ in range(12):
        pids = [pid for pid in served.pids.values() if supervision.start_of(pid)]
        accident = chance.choice(("kill", "stop", "reload", "end", "wait"))
        if accident == "reload":
            served.process.send_signal(signal.SIGHUP)
        elif accident == "wait":
            time.sleep(chance.random())
        elif pids:
            number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), number[accident])
        time.sleep(chance.random() / 2)

    def processes() -> list[int]:
        """Workers of this supervisor, however they are."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(served.process.pid)],
            capture_output=True, text=True, check=False,
        ).stdout.split()  # fmt: skip
        return [int(pid) for pid in listed]

    wait_for(lambda: len(processes()) == 3 and served.metrics()["treadle_workers_ready",] == 3, 120)
    asking = load(served.port, 6, 20, lambda: None)
    assert [c.failures for c in asking] == [0] * 6
    assert all(a[:2] == (200, {"predictions": [1.0]}) for c in asking for a in c.answers)
    last = processes()
    assert served.end() == 0
    assert not any(supervision.start_of(pid) for pid in last)
