"""The target `docker` on an engine in memory: what is asked of it, and what a killed turn leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from treadle.base import supervision
from treadle.base.errors import Refused, TreadleError, Unreachable, UsageError
from treadle.base.records import Rollout
from treadle.base.segments import Record, SegmentWriter, encode, read_new
from treadle.base.spec import Capture, DockerTarget
from treadle.clients.memory_docker import MemoryEngine, Program, Started
from treadle.deploy import docker
from treadle.deploy.docker import Deployed

TARGET = DockerTarget("docker", port=0)


def behaves(started: Started) -> Program:
    """A good image: the preparation ends, the holder ignores USR2, the server leaves at it."""
    if started.one("--entrypoint"):
        return Program(exit_code=0)
    if started.command[:1] == ("hold",):
        return Program()
    return Program(says=("serves on",), ends_at=frozenset({"TERM", "KILL", "USR2"}))


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine(behaves)


def roll(
    folder: Path, engine: MemoryEngine, release: int = 1, target: DockerTarget = TARGET, **more: Any
) -> Rollout:
    return docker.roll_out(
        folder, target, release, f"image-{release}", environment="local",
        content=f"sha256:{release}", project="houses", engine=engine, **more,
    )  # fmt: skip


def known(folder: Path) -> Deployed:
    found = supervision.read(folder / docker.STATE, Deployed)
    assert found is not None
    return found


def servers(engine: MemoryEngine) -> list[str]:
    return [one.image for one in engine.containers({"dev.treadle.role": "server"})]


# ---- what is asked for ---------------------------------------------------------------------------


def test_server_has_no_network_no_rights_and_the_limits_of_the_target(
    tmp_path: Path, engine: MemoryEngine
) -> None:
    target = DockerTarget("docker", port=0, memory="1g", cpus=1.5, gpus=2, workers=3)
    roll(tmp_path, engine, target=target, capture=Capture(rate=0.5, exclude=("name",)))
    server = next(one for one in engine.started if one.one("--network") == "none"
                  and not one.one("--entrypoint"))  # fmt: skip
    asked = dict(server.options)
    assert asked["--read-only"] == ""
    assert asked["--cap-drop"] == "ALL"
    assert asked["--security-opt"] == "no-new-privileges"
    assert asked["--restart"] == "unless-stopped"
    assert asked["--memory"] == asked["--memory-swap"] == "1g"
    assert asked["--cpus"] == "1.5"
    assert asked["--gpus"] == "2"
    assert not server.all("--publish")
    told = server.pairs("--env")
    assert told["TREADLE_RELEASE"] == "1"
    assert told["TREADLE_WORKERS"] == "3"
    assert told["TREADLE_CAPTURE_RATE"] == "0.5"
    assert told["TREADLE_CAPTURE_EXCLUDE"] == "name"


def test_everything_that_is_made_is_labelled(tmp_path: Path, engine: MemoryEngine) -> None:
    roll(tmp_path, engine)
    for one in engine.started:
        assert one.pairs("--label")["dev.treadle.id"] == known(tmp_path).id
        assert one.pairs("--label")["dev.treadle.project"] == "houses"


def test_nothing_depends_on_a_path_of_the_engines_machine(
    tmp_path: Path, engine: MemoryEngine
) -> None:
    roll(tmp_path, engine)
    for one in engine.started:
        assert all(not v.startswith(("/", ".")) for v in one.all("--volume"))
        assert not one.all("--mount")


# ---- a life --------------------------------------------------------------------------------------


def test_swap_keeps_the_port_and_ends_the_server_before(
    tmp_path: Path, engine: MemoryEngine
) -> None:
    first = roll(tmp_path, engine, 1)
    second = roll(tmp_path, engine, 2)
    assert first.address == second.address
    assert servers(engine) == ["image-2"]
    seen = docker.observe(tmp_path, engine=engine)
    assert (seen.status, seen.release, seen.address) == ("serving", 2, second.address)
    assert not seen.unfinished


def test_stop_removes_what_is_ours_and_nothing_else(tmp_path: Path, engine: MemoryEngine) -> None:
    engine.run(["--name", "stranger", "--label", "dev.treadle.id=other", "image"])
    roll(tmp_path, engine)
    assert docker.stop(tmp_path, engine=engine)
    assert [one.name for one in engine.containers({})] == ["stranger"]
    assert docker.observe(tmp_path, engine=engine).status == "absent"
    assert not docker.stop(tmp_path, engine=engine)


def test_server_that_ends_while_starting_is_refused_with_its_last_words(tmp_path: Path) -> None:
    def second_is_bad(started: Started) -> Program:
        if started.image == "image-2" and started.one("--network") == "none" \
                and not started.one("--entrypoint"):  # fmt: skip
            return Program(exit_code=1, says=("no such column: area",))
        return behaves(started)

    engine = MemoryEngine(second_is_bad)
    roll(tmp_path, engine, 1)
    with pytest.raises(Refused, match=r"no such column: area(.|\n)*the release before goes on"):
        roll(tmp_path, engine, 2)
    assert servers(engine) == ["image-1"]
    assert docker.observe(tmp_path, engine=engine).release == 1


def test_address_that_cannot_be_had_leaves_the_service_where_it_is(tmp_path: Path) -> None:
    engine = MemoryEngine(behaves, taken=[9000])
    before = roll(tmp_path, engine, 1).address
    with pytest.raises(UsageError, match="the port is in use"):
        roll(tmp_path, engine, 2, DockerTarget("docker", port=9000))
    seen = docker.observe(tmp_path, engine=engine)
    assert (seen.status, seen.address, seen.release) == ("serving", before, 1)
    assert {one.name for one in engine.containers({})} == {
        f"treadle-{known(tmp_path).id}-port", known(tmp_path).server,
    }  # fmt: skip


def test_another_address_is_moved_to(tmp_path: Path, engine: MemoryEngine) -> None:
    roll(tmp_path, engine, 1)
    assert roll(tmp_path, engine, 1, DockerTarget("docker", port=9001)).address.endswith(":9001")
    assert len(servers(engine)) == 1


# ---- what a killed turn leaves -------------------------------------------------------------------


class Cut(Exception):
    """Stands for the end of the process at this moment."""


class Dies(MemoryEngine):
    """An engine whose caller dies at its n-th call that changes something."""

    left = 10**9

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cut

    def run(self, arguments: Sequence[str]) -> str:
        self._count()
        return super().run(arguments)

    def signal(self, name: str, signal: str) -> None:
        self._count()
        super().signal(name, signal)

    def update_restart(self, name: str) -> None:
        self._count()
        super().update_restart(name)

    def remove(self, name: str) -> None:
        self._count()
        super().remove(name)

    def execute(self, name: str, command: Sequence[str]) -> str:
        self._count()
        return super().execute(name, command)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("at", range(12))
def test_turn_that_is_killed_anywhere_is_made_good_by_the_next(
    tmp_path: Path, at: int, before: bool
) -> None:
    engine = Dies(behaves)
    if before:
        roll(tmp_path, engine, 1)
    engine.left = at
    wanted = 2
    try:
        roll(tmp_path, engine, wanted)
    except Cut:
        engine.left = 10**9
        seen = docker.observe(tmp_path, engine=engine)
        # What the loop asks before it rolls out: it must see that something is to be done.
        assert seen.status != "serving" or seen.release != wanted or seen.unfinished
        roll(tmp_path, engine, wanted)
    engine.left = 10**9
    seen = docker.observe(tmp_path, engine=engine)
    assert (seen.status, seen.release, seen.unfinished) == ("serving", wanted, False)
    assert servers(engine) == ["image-2"]


# ---- what is not as it should be -----------------------------------------------------------------


def test_killed_server_comes_back_and_is_counted(tmp_path: Path, engine: MemoryEngine) -> None:
    roll(tmp_path, engine)
    engine.crash(known(tmp_path).server)
    assert docker.observe(tmp_path, engine=engine).restarts == 1


def test_server_that_is_up_and_not_ready_is_starting(tmp_path: Path) -> None:
    ready = [True]

    def execute(_: Sequence[str]) -> str:
        if not ready[0]:
            raise TreadleError("not ready")
        return ""

    engine = MemoryEngine(lambda started: replace(behaves(started), execute=execute))
    roll(tmp_path, engine)
    ready[0] = False
    assert docker.observe(tmp_path, engine=engine).status == "starting"


@pytest.mark.parametrize("role", ["server", "port"])
def test_removed_container_is_down(tmp_path: Path, engine: MemoryEngine, role: str) -> None:
    roll(tmp_path, engine)
    engine.remove(
        known(tmp_path).server if role == "server" else f"treadle-{known(tmp_path).id}-port"
    )
    seen = docker.observe(tmp_path, engine=engine)
    assert seen.status == "down"
    assert "gone" in str(seen.error)


def test_engine_is_remembered_as_it_was_named(
    tmp_path: Path, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@far")
    address = roll(
        tmp_path, engine, target=DockerTarget("docker", port=9002, host="0.0.0.0")
    ).address
    assert address == "http://far:9002"
    monkeypatch.delenv("DOCKER_HOST")
    assert known(tmp_path).engine == "ssh://me@far"
    assert docker.observe(tmp_path, engine=engine).address == address


def test_engine_that_is_away_is_down_with_its_words(tmp_path: Path, engine: MemoryEngine) -> None:
    roll(tmp_path, engine)

    class Away(MemoryEngine):
        def container(self, name: str) -> None:
            raise Unreachable("no Docker engine answers")

    seen = docker.observe(tmp_path, engine=Away())
    assert (seen.status, seen.error) == ("down", "no Docker engine answers")


# ---- what was captured ---------------------------------------------------------------------------


def segment(folder: Path, *ids: str, closed: bool = True) -> dict[str, bytes]:
    """Files of a server, as they lie in the volume."""
    writer = SegmentWriter(folder, "x")
    writer.append([
        encode(Record(id=i, time="2026-01-01T00:00:00Z", environment="local", release=1,
                      instance="x", latency_ms=1.0, rows=1, inputs={}, outputs={}))
        for i in ids
    ])  # fmt: skip
    if closed:
        writer.close()
    return {f"capture/{path.name}": path.read_bytes() for path in folder.iterdir()}


def test_captured_is_copied_once_and_finished_files_are_removed_there(tmp_path: Path) -> None:
    removed: list[str] = []

    def execute(command: Sequence[str]) -> str:
        if command[1] == "-c":
            removed.extend(command[4:])
        return ""

    engine = MemoryEngine(lambda started: replace(behaves(started), execute=execute))
    home = tmp_path / "environment"
    roll(home, engine)
    volume = engine.volumes[f"treadle-{known(home).id}"]
    files = segment(tmp_path / "segments", "a", "b")
    volume.update(files)
    docker.collect(home, engine=engine)
    docker.collect(home, engine=engine)  # it died before it removed: copied again, same name
    records, cursor = read_new(home / "capture")
    assert [record.id for record in records] == ["a", "b"]
    assert {f"capture/{name}" for name in removed} == set(files)
    docker.collect(home, engine=engine)
    assert read_new(home / "capture", cursor)[0] == []


def test_open_segment_is_copied_and_not_removed(tmp_path: Path, engine: MemoryEngine) -> None:
    home = tmp_path / "environment"
    roll(home, engine)
    volume = engine.volumes[f"treadle-{known(home).id}"]
    volume.update(segment(tmp_path / "segments", "a", closed=False))
    docker.collect(home, engine=engine)
    records, cursor = read_new(home / "capture")
    assert [record.id for record in records] == ["a"]
    name = next(iter(volume))
    volume[name.removesuffix(".open")] = volume.pop(name)  # finished meanwhile
    docker.collect(home, engine=engine)
    assert read_new(home / "capture", cursor)[0] == []
