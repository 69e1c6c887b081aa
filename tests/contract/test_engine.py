"""One contract for a Docker engine and its twin in memory: what the target `docker` relies on."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support import base_image, images

from treadle.base.errors import TreadleError, UsageError
from treadle.clients.docker import Container, DockerCommand, Engine
from treadle.clients.memory_docker import MemoryEngine, Program, Started

CODE = {
    "runs": "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); "
    "signal.signal(signal.SIGUSR2, lambda *_: exit(0)); print('begun', flush=True); time.sleep(600)",
    "fails": "print('no such column'); exit(3)",
}
"""What a container is asked to do, as a program of the real one; the twin knows the names."""


def twin(started: Started) -> Program:
    if started.command[-1] == CODE["fails"]:
        return Program(exit_code=3, says=("no such column",))

    def execute(command: object) -> str:
        if command == ["python3", "-c", "print(7)"]:
            return "7\n"
        raise TreadleError("docker exec failed")

    return Program(says=("begun",), execute=execute, ends_at=frozenset({"TERM", "KILL", "USR2"}))


@dataclass
class Place:
    """An engine, and what this test made on it."""

    engine: Engine
    image: str
    label: str = field(default_factory=lambda: secrets.token_hex(6))
    volumes: list[str] = field(default_factory=list)

    def start(self, what: str, *options: str) -> str:
        name = f"treadle-contract-{self.label}-{secrets.token_hex(3)}"
        self.engine.run([
            "--name", name, "--label", f"dev.treadle.id={self.label}", "--network", "bridge",
            *options, "--entrypoint", "python3", self.image, "-c", CODE[what],
        ])  # fmt: skip
        return name

    def volume(self) -> str:
        name = f"treadle-contract-{self.label}"
        self.volumes.append(name)
        self.engine.volume(name, {"dev.treadle.id": self.label})
        return name

    def until(self, name: str, holds: Callable[[Container], bool]) -> Container:
        end = time.monotonic() + 60
        while True:
            found = self.engine.container(name)
            assert found is not None
            if holds(found):
                return found
            assert time.monotonic() < end, found
            time.sleep(0.1)


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    images.require("engine", "base")
    images.require("skopeo")
    name = f"treadle/contract:{secrets.token_hex(4)}"
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci:{base_image.layout()}", f"docker-daemon:{name}"],
        check=True,
    )  # fmt: skip
    yield name
    subprocess.run(["docker", "image", "rm", name], capture_output=True, check=True)


@pytest.fixture(params=["memory", pytest.param("docker", marks=pytest.mark.images)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        found = Place(MemoryEngine(twin), "image")
    else:
        found = Place(DockerCommand(), request.getfixturevalue("image"))
    yield found
    for one in found.engine.containers({"dev.treadle.id": found.label}):
        found.engine.remove(one.name)
    for volume in found.volumes:
        found.engine.remove_volume(volume)


def test_container_is_found_by_name_and_by_labels(place: Place) -> None:
    name = place.start("runs", "--label", "dev.treadle.role=server")
    found = place.engine.container(name)
    assert found is not None
    assert (found.status, found.name, found.restarts) == ("running", name, 0)
    assert found.labels["dev.treadle.role"] == "server"
    labels = {"dev.treadle.id": place.label, "dev.treadle.role": "server"}
    assert [one.name for one in place.engine.containers(labels)] == [name]
    assert place.engine.containers({**labels, "dev.treadle.role": "port"}) == []


def test_what_is_not_there_is_none_and_its_removal_nothing(place: Place) -> None:
    assert place.engine.container("treadle-contract-absent") is None
    assert place.engine.image("treadle/contract:absent") is None
    place.engine.remove("treadle-contract-absent")
    place.engine.remove_volume("treadle-contract-absent")
    for call in (
        lambda: place.engine.signal("treadle-contract-absent", "USR1"),
        lambda: place.engine.execute("treadle-contract-absent", ["true"]),
        lambda: place.engine.logs("treadle-contract-absent", 1),
    ):
        with pytest.raises(TreadleError):
            call()


def test_name_is_had_once(place: Place) -> None:
    name = place.start("runs")
    with pytest.raises(TreadleError, match="in use"):
        place.engine.run(["--name", name, "--entrypoint", "python3", place.image, "-c", "0"])


def test_free_port_is_chosen_and_told(place: Place) -> None:
    name = place.start("runs", "--publish", "127.0.0.1::8080")
    found = place.until(name, lambda one: "8080/tcp" in one.ports)
    host, port = found.ports["8080/tcp"]
    assert host == "127.0.0.1"
    assert port > 1023


def test_port_is_had_once_and_the_one_in_its_way_is_left_created(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    place.start("runs", "--publish", f"127.0.0.1:{port}:8080")
    with pytest.raises(UsageError, match="the port is in use by the container treadle-contract-"):
        place.start("runs", "--publish", f"127.0.0.1:{port}:8080")
    found = place.engine.containers({"dev.treadle.id": place.label})
    assert sorted(one.status for one in found) == ["created", "running"]


def test_ended_container_tells_its_code_and_its_last_lines(place: Place) -> None:
    name = place.start("fails")
    assert place.until(name, lambda one: one.status == "exited").exit_code == 3
    assert place.engine.logs(name, 5) == ["no such column"]
    assert place.engine.logs(name, 0) == []
    assert list(place.engine.follow(name, 5)) == ["no such column"]


def test_container_that_fails_is_started_again_where_that_was_asked(place: Place) -> None:
    name = place.start("fails", "--restart", "unless-stopped")
    assert place.until(name, lambda one: one.restarts > 0).exit_code in (0, 3)


def test_leaving_server_is_not_started_again(place: Place) -> None:
    name = place.start("runs", "--restart", "unless-stopped")
    place.until(name, lambda _: place.engine.logs(name, 1) == ["begun"])
    place.engine.update_restart(name)
    place.engine.signal(name, "USR2")
    found = place.until(name, lambda one: one.status != "running")
    assert (found.status, found.exit_code, found.restarts) == ("exited", 0, 0)
    with pytest.raises(TreadleError):
        place.engine.signal(name, "USR2")


def test_stopped_container_stays_so(place: Place) -> None:
    name = place.start("runs", "--restart", "unless-stopped")
    place.until(name, lambda _: place.engine.logs(name, 1) == ["begun"])
    place.engine.stop(name, 10)
    found = place.engine.container(name)
    assert found is not None
    assert (found.status, found.exit_code) == ("exited", 0)


def test_command_inside_answers_or_fails(place: Place) -> None:
    name = place.start("runs")
    assert place.engine.execute(name, ["python3", "-c", "print(7)"]) == "7\n"
    with pytest.raises(TreadleError):
        place.engine.execute(name, ["python3", "-c", "exit(1)"])
    place.engine.stop(name, 10)
    with pytest.raises(TreadleError):
        place.engine.execute(name, ["python3", "-c", "print(7)"])


def test_volume_outlives_its_containers_and_is_read_from_a_stopped_one(
    place: Place, tmp_path: Path
) -> None:
    volume = place.volume()
    place.volume()  # there already: nothing happens
    first = place.start("runs", "--volume", f"{volume}:/data")
    with pytest.raises(TreadleError):
        place.engine.copy_out(first, "/data/absent", tmp_path / "absent")
    if isinstance(place.engine, MemoryEngine):
        place.engine.volumes[volume]["capture/one"] = b"1"
    else:
        written = "import os; os.mkdir('/data/capture'); open('/data/capture/one', 'w').write('1')"
        place.engine.execute(first, ["python3", "-c", written])
    place.engine.remove(first)
    second = place.start("fails", "--volume", f"{volume}:/data")
    place.until(second, lambda one: one.status == "exited")
    place.engine.copy_out(second, "/data/capture", tmp_path / "out")
    assert (tmp_path / "out" / "one").read_bytes() == b"1"


def test_platform_is_in_the_words_of_images(place: Place) -> None:
    system, _, machine = place.engine.platform().partition("/")
    assert (system, json.dumps(machine).isascii()) == ("linux", True)
