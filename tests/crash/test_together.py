"""Many commands at once: each waits its turn, none spoils anything."""

from __future__ import annotations

import sys
import time

import pytest
from tests.crash.test_kill import equal
from tests.crash.world import World

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc"),
]

SLOW = """\
import pandas as pd
import pathlib
import time
from sklearn.linear_model import LinearRegression

def train(houses: pd.DataFrame) -> pd.DataFrame:
    pathlib.Path(__file__).with_name("began").touch()
    for _ in range(1200):
        if pathlib.Path(__file__).with_name("go").exists():
            break
        time.sleep(0.05)
    return houses[houses["year"] < 2020]

def holdout(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] >= 2020]

def model(train: pd.DataFrame, intercept: bool = True) -> LinearRegression:
    return LinearRegression(fit_intercept=intercept).fit(train[["area", "rooms"]], train["price"])
"""


def until(condition, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_eight_first_turns_at_once_make_one_release_and_one_server(world, reference):
    running = [world.start("up") for _ in range(8)]
    ended = [(process.communicate(timeout=240), process.returncode) for process in running]
    assert [code for _, code in ended] == [0] * 8, ended
    assert not any("Traceback" in err for (_, err), _ in ended)
    world.verify()
    equal(world, reference)
    assert len(world.photo().kind("run")) == 1
    assert sum("nothing to do" in out for (out, _), _ in ended) == 7


@pytest.fixture
def busy(worlds):
    """A project that is being turned by a process that is in train()."""
    world: World = worlds(pipeline=SLOW)
    process = world.start("up")
    until((world.folder / "began").exists)
    yield world, process
    (world.folder / "go").touch()
    process.communicate(timeout=120)


def test_a_second_turn_waits_for_the_first_and_names_it(busy):
    world, first = busy
    second = world.start("up")
    assert second.stderr is not None
    line = second.stderr.readline()
    assert f"waiting for process {first.pid} (`treadle up" in line
    assert second.poll() is None
    (world.folder / "go").touch()
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "nothing to do" in out
    assert "runs" not in err
    assert len(world.photo().kind("run")) == 1


def test_with_no_wait_it_ends_and_names_it_and_readers_are_not_held_up(busy):
    world, first = busy
    ran = world("up", "--no-wait", code=1)
    assert f"process {first.pid} (`treadle up" in ran.err
    status = world("status")
    assert f"process {first.pid}" in status.out
    world("plan")
    world("ledger")


@pytest.mark.parametrize("last_word", ["os.kill(os.getpid(), 9)", "ctypes.string_at(0)"])
def test_a_step_that_dies_by_a_signal_is_named_by_the_next_command(worlds, last_word):
    world: World = worlds(pipeline=SLOW.replace(
        'pathlib.Path(__file__).with_name("began").touch()',
        f"import ctypes, os; {last_word}",
    ))  # fmt: skip
    ran = world("up", code=None)
    assert ran.code in (-9, -11), ran
    status = world("status")
    (run,) = world.photo().kind("run").values()
    assert f"run {run['id']} died in train()" in status.out
    (world.folder / "pipeline.py").write_text(SLOW)
    (world.folder / "go").touch()
    ran = world("up")
    assert f"run {run['id']} died in train()" in ran.err
    dead = world.verify().kind("run")[run["id"]]
    assert dead["status"] == "KILLED"
    assert "in train()" in dead["error"]
    assert "died" not in world("status").out
