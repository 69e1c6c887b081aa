"""`kill -9` at random moments: of the command alone, or of everything it has started.

The seed is printed (and part of an assertion's text): CRASH_SEED=N repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys

import pytest
from tests.crash.test_kill import equal
from tests.crash.world import World, nothing_lost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")


def kill_somewhen(world: World, source: random.Random, longest: float) -> tuple[bool, str]:
    """Start `up` and kill it after a random time; whether it was in time, and what was done."""
    process = world.start("up")
    wait, whole = source.uniform(0.05, longest), source.random() < 0.5
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(wait)
    died = process.poll() is None
    words = f"{'all' if whole else 'the command'} killed after {wait:.3f} s"
    if whole:
        world.kill_all()
    elif died:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return died and process.returncode == -signal.SIGKILL, words


def scenario(world: World, seed: str, reference, kills: int) -> None:
    """Some kills one after another, then a turn that must equal an uninterrupted one."""
    source = random.Random(seed)
    done = []
    # A warm disk cache and an idle machine make later turns quicker than the reference.
    for _ in range(kills):
        died, words = kill_somewhen(world, source, reference.seconds * 1.1)
        done.append(words if died else "ended before it was killed")
    print(f"seed {seed}: {'; '.join(done)}")
    before = world.photo()
    # A first turn that was whole has a served release; a killed supervisor is started again.
    ran = world("up")
    after = world.verify()
    nothing_lost(before, after, ran)
    # It may have been deployed, and all have been killed afterwards: then it is deployed again.
    deploys = [d["outcome"] for d in after.ledger if d["kind"] == "deploy"]
    assert 1 <= len(deploys) <= kills + 1
    equal(world, reference, deploys=len(deploys))


def seeds(count: int) -> list[str]:
    base = os.environ.get("CRASH_SEED") or str(random.SystemRandom().randrange(10**6))
    return [f"{base}.{n}" for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_five_random_kills_each_end_like_an_uninterrupted_turn(part, worlds, reference):
    for seed in seeds(5):
        scenario(worlds(), f"{seed}.{part}", reference, kills=1)


@pytest.mark.soak
def test_500_random_kills_each_end_like_an_uninterrupted_turn(tmp_path, reference):
    """One to four kills in a row, until 500 are done."""
    import shutil

    base, kills, n = seeds(1)[0], 0, 0
    while kills < 500:
        count = random.Random(f"{base}.{n}").randint(1, 4)
        world = World(tmp_path / f"houses-{n}")
        try:
            scenario(world, f"{base}.{n}", reference, kills=count)
        finally:
            world.kill_all()
        shutil.rmtree(world.folder)
        kills, n = kills + count, n + 1
