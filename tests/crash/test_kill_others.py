"""`kill -9` during a second release, a rollback, a cleaning and a look at the traffic."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.crash.world import World, nothing_lost
from tests.support.projects import SPEC

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc"),
]


def second(world: World) -> None:
    """Change the code so that the next turn makes another model."""
    pipeline = world.folder / "pipeline.py"
    pipeline.write_text(pipeline.read_text().replace("< 2020", "< 2019"))


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with releases 1 and 2 that nothing of runs."""
    world = World(tmp_path_factory.mktemp("twice") / "houses")
    world("up")
    second(world)
    world("up")
    world.kill_all()
    return world.folder


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Callable[[Path], World]]:
    made: list[World] = []

    def make(source: Path) -> World:
        folder = tmp_path / f"houses-{len(made)}"
        shutil.copytree(source, folder)
        made.append(World(folder, make=False))
        return made[-1]

    yield make
    for world in made:
        world.kill_all()


@pytest.mark.parametrize(
    "place",
    ["deploy.swapped", "deploy.answered"],
)
def test_a_killed_second_release_is_taken_up_while_the_service_answers(place, world):
    world("up")
    second(world)
    before = world.killed(place)
    assert world.answer()["predictions"]
    ran = world("up")
    after = world.verify()
    nothing_lost(before, after, ran, moving=("release_state", "served"))
    assert world.served()["release"] == 2
    assert [d["subject"] for d in after.ledger if d["kind"] == "promote"] == [
        "release 1",
        "release 2",
    ]
    assert sorted(after.kind("release")) == ["local/000001", "local/000002"]
    assert after.kind("release_state")["local"]["champion"] == 2


@pytest.mark.parametrize(
    "place",
    ["journal.commit.before", "journal.commit.after", "deploy.spawned"],
)
def test_a_killed_rollback_happened_whole_or_not_at_all(place, twice, copies):
    world = copies(twice)
    before = world.killed(place, "rollback", "--yes", "--reason", "worse")
    moved = [d for d in before.ledger if d["kind"] == "rollback"]
    state = before.kind("release_state")["local"]
    assert (state["champion"], list(state["held"])) == ((1, ["2"]) if moved else (2, []))
    assert len(moved) == (place != "journal.commit.before")
    world("up")  # serves whoever is champion; does not promote again what is held
    after = world.verify()
    nothing_lost(before, after)
    assert after.kind("release_state")["local"] == state
    assert world.served()["release"] == state["champion"]
    if not moved:
        world("rollback", "--yes", "--reason", "worse")
        assert world.served()["release"] == 1
    assert [d["subject"] for d in world.photo().ledger if d["kind"] == "rollback"] != []


@pytest.mark.parametrize(
    "place",
    ["gc.delete:2", "journal.commit.after"],
)
def test_a_killed_cleaning_leaves_nothing_that_is_half_there(place, twice, copies):
    world = copies(twice)
    # results, models, data and an experiment that nobody needs
    world("train", "--set", "model.intercept=false")
    (world.folder / "houses.csv").write_text(
        (world.folder / "houses.csv").read_text().replace(".1\n", ".2\n")
    )
    world("train")
    ran = world("gc", "--keep", "1", "--dry-run", "--json")
    assert ran.json["deleted"] >= 4, ran
    world.killed(place, "gc", "--keep", "1")
    assert world("up").code == 0
    world.verify()
    world("train", "--set", "model.intercept=false")
    world("gc", "--keep", "1")
    again = world("gc", "--keep", "1", "--dry-run", "--json")
    assert again.json["deleted"] == 0
    world("train", "--set", "model.intercept=false")
    world("up")
    world.verify()


MONITORED = SPEC + "monitor: {window: 2s}\n"


def test_a_killed_look_at_the_traffic_counts_nothing_twice_and_misses_nothing(worlds):
    world = worlds(spec=MONITORED)
    world("up")
    asked = 0
    for place in (
        "monitor.stored",
        "journal.commit.before",
        "journal.commit.after",
        "journal.commit.after:2",
        "objects.rename.after",
    ):
        for _ in range(7):
            world.answer()
        asked += 14
        time.sleep(2.1)
        before = world.photo()
        ran = world("monitor", code=None, env={"TREADLE_CRASH": place})
        assert ran.code in (0, -9)
        for _ in range(2):
            world.answer()
        asked += 4
        time.sleep(2.1)
        world("monitor")
        nothing_lost(before, world.photo(), moving=("monitor", "window", "retrain"))
    time.sleep(2.1)
    world("monitor")
    windows = world.photo().kind("window").values()
    assert sum(window["rows"] for window in windows) == asked
    spans = sorted((window["start"], window["end"]) for window in windows)
    assert all(one[1] <= other[0] for one, other in zip(spans, spans[1:], strict=False))
    world.verify()
