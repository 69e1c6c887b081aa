"""`kill -9` at every commit point and every other crash point: the next turn is as if nothing was.

Each test kills a first `treadle up` at one place, takes a photo of the disk, turns again and compares
with a turn that nobody interrupted: same steps, model, verdict, one release, one promotion, one
server; nothing that was written is lost or done again; nothing has to be unlocked.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.crash.world import World, nothing_lost

from treadle.base import crash

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc"),
]

COMMITS = 17
"""How often a first `up` commits; a test below counts them."""
NOT_IN_FIRST_UP = {
    "deploy.swapped",  # a second release
    "kubernetes.applied",  # on a cluster: tests/e2e/test_kubernetes.py
    "batch.wanted",  # and tests/e2e/test_kubernetes_batch.py
    "batch.applied",
    "batch.ended",
    "capture.stored",  # and tests/e2e/test_kubernetes_capture.py
    "gc.delete",
    "monitor.stored",
    "recorder.spawn.before",
    "recorder.spawn.after",
    "recorder.deliver.before",
    "recorder.deliver.after",
    "journal.delivered.before",
    "journal.delivered.after",
}
PLACES = [
    *(f"journal.commit.after:{n}" for n in range(1, COMMITS + 1)),
    *(
        name
        for name in crash.POINTS
        if name not in NOT_IN_FIRST_UP and name != "journal.commit.after"
    ),
    # later passages: inside a model's tree, the second tree, after the first step
    "journal.commit.before:14",
    "objects.rename.before:3",
    "objects.rename.before:10",
    "objects.write.before:13",
    "objects.tree.before:2",
    "files.write.before:3",
]


@pytest.mark.parametrize("place", PLACES)
def test_the_turn_after_a_kill_equals_an_uninterrupted_one(place, world, reference):
    before = world.killed(place)
    ran = world("up")
    after = world.verify()
    nothing_lost(before, after, ran)
    equal(world, reference)
    dead = [run for run in before.kind("run").values() if run["status"] == "RUNNING"]
    for run in dead:
        assert run["id"] in ran.err
        assert "died" in ran.err
    again = world("up")
    assert "nothing to do" in again.out
    assert world.photo().ledger == after.ledger


def equal(world: World, reference: Any, *, deploys: int = 1) -> None:
    found = world.essence()
    wanted = dict(reference.essence)
    wanted["ledger"] = wanted["ledger"] + wanted["ledger"][-1:] * (deploys - 1)
    for key, value in wanted.items():
        assert found[key] == value, key
    photo = world.photo()
    assert sorted(photo.kind("release")) == ["local/000001"]
    assert [d["subject"] for d in photo.ledger if d["kind"] == "promote"] == ["release 1"]
    release = photo.kind("release")["local/000001"]
    run = photo.kind("run")[release["run"]]
    assert run["status"] == "FINISHED"
    assert run["model"] == release["model"]
    assert world.served() == reference.answer


def test_each_commit_of_a_first_turn_is_among_the_places(worlds, tmp_path):
    world = worlds()
    script = tmp_path / "count.py"
    script.write_text(
        "import sys\n"
        "from treadle.base import crash\n"
        "crash.point = lambda name: print('POINT', name, file=sys.stderr)\n"
        "from treadle.cli.group import command_line\n"
        "sys.exit(command_line(['up']))\n"
    )
    import subprocess

    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=world.folder,
        env=world.environ(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    passed = [line[6:] for line in done.stderr.splitlines() if line.startswith("POINT ")]
    assert passed.count("journal.commit.after") == COMMITS
    assert set(passed) == set(crash.POINTS) - NOT_IN_FIRST_UP
