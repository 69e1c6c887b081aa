"""The target `docker`: the same life as in a process, in containers without a network of their own."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from tests.e2e.conftest import Project
from tests.support import base_image, images
from tests.support.projects import SPEC, houses, houses_csv, treadle

pytestmark = [pytest.mark.images, pytest.mark.timeout(600)]

BODY = json.dumps({"dataframe_records": [{"area": 100.0, "rooms": 3}]})


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def containers(project: Project, role: str = "server") -> list[str]:
    known = json.loads((project.folder / ".treadle/environments/local/docker.json").read_text())
    return docker(
        "ps", "--quiet", "--filter", f"label=dev.treadle.id={known['id']}",
        "--filter", f"label=dev.treadle.role={role}",
    ).split()  # fmt: skip


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers are made once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    images.require("engine", "base")
    made: list[Project] = []

    class Cached(Project):
        def __call__(self, *arguments: str, code: int | None = 0, **options):
            env = {"TREADLE_CACHE": str(cache), **options.pop("env", {})}
            ran = treadle(self.folder, *arguments, env=env, **options)
            assert code is None or ran.code == code, (arguments, ran)
            return ran

    def one(target: str, name: str = "houses") -> Project:
        base = f'build: {{base: "oci:{base_image.layout()}"}}\n'
        spec = SPEC.replace("{target: process, port: 0}", target) + base
        project = Cached(houses(tmp_path / name, spec=spec))
        made.append(project)
        return project

    yield one
    for project in made:
        project("down", code=None)


@pytest.fixture
def project(make: Callable[[str], Project]) -> Project:
    found = make("{target: docker, port: 0}")
    found("up")
    return found


class Clients:
    """Keep-alive clients without retries."""

    def __init__(self, port: int, number: int = 4) -> None:
        self.port, self.answered, self.failures = port, 0, []
        self.versions: set[str] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(number)]

    def _run(self) -> None:
        connection = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.request(
                    "POST", "/invocations", BODY, {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                told = json.loads(answer.read())
                assert answer.status == 200, told
                self.answered += 1
                self.versions.add(answer.headers["X-Model-Version"])
                if answer.headers.get("Connection", "").lower() == "close":
                    connection.close()
                    connection = None
            except Exception as error:
                self.failures.append(repr(error))
                connection = None
            time.sleep(0.004)
        if connection is not None:
            connection.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def port_of(project: Project) -> int:
    return int(project.status()["address"].rpartition(":")[2])


def more_data(project: Project, seed: int) -> None:
    (project.folder / f"houses-{seed}.csv").write_text(houses_csv(200, seed))


# ---- what runs -----------------------------------------------------------------------------------


def test_answers_come_from_a_hardened_container_and_lead_back_to_the_data(project: Project) -> None:
    answer = project("predict", "houses.csv", "-n", "2", "--json").json
    (server,) = containers(project)
    told = json.loads(docker("inspect", server))[0]
    host = told["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert told["Config"]["User"] == "65532:65532"
    assert told["Config"]["Entrypoint"] == ["python", "-m", "treadle.operate"]
    links = project("lineage", answer["ids"][1], "--json").json["links"]
    found = {link["kind"]: link for link in links}
    assert found["prediction"]["facts"]["inputs"]["area"]
    assert found["image"]["id"].startswith("sha256:")
    assert "scikit-learn" in found["image"]["facts"]["wheels"]
    assert "houses" in found["data"]["id"]
    served = json.loads(docker("exec", server, "python", "-c", "import os, json; print(json.dumps(dict(os.environ)))"))  # fmt: skip
    assert served["TREADLE_IMAGE"] == found["image"]["id"]


def test_nothing_is_built_or_started_when_nothing_changed(project: Project) -> None:
    before = containers(project)
    ran = project("up")
    assert "nothing to do" in ran.out
    assert containers(project) == before
    assert project("plan", "--exit-code").code == 0


def test_swap_under_load_loses_no_request(project: Project) -> None:
    with Clients(port_of(project)) as clients:
        for seed in (11, 12):
            more_data(project, seed)
            project("up")
        time.sleep(0.5)
    assert clients.failures == []
    assert clients.versions == {"1", "2", "3"}
    assert clients.answered > 500
    assert len(containers(project)) == 1


def test_two_workers_swap_under_load_and_the_old_ones_leave(make: Callable[..., Project]) -> None:
    project = make("{target: docker, port: 0, workers: 2}")
    project("up")
    with Clients(port_of(project)) as clients:
        more_data(project, 13)
        project("up")
        time.sleep(0.5)
    assert clients.failures == []
    assert clients.versions == {"1", "2"}
    assert len(containers(project)) == 1


def test_server_that_does_not_get_ready_is_refused_and_the_old_one_goes_on(
    project: Project,
) -> None:
    more_data(project, 21)
    project.edit("treadle.yaml", ("{target: docker, port: 0}", "{target: docker, port: 0, memory: 12m}"))  # fmt: skip
    ran = project("up", code=3)
    assert "did not get ready" in ran.err
    assert "the release before goes on" in ran.err
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "1"
    assert len(containers(project)) == 1
    project.edit("treadle.yaml", (", memory: 12m", ""))
    project("up")
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "2"


@pytest.mark.parametrize("role", ["server", "port"])
def test_killed_container_comes_back_by_itself(project: Project, role: str) -> None:
    (container,) = containers(project, role)
    pid = docker("inspect", "--format", "{{.State.Pid}}", container)
    subprocess.run(["kill", "-9", pid], check=True)
    until = time.monotonic() + 60
    while project("predict", "houses.csv", "-n", "1", code=None).code != 0:
        assert time.monotonic() < until, docker("ps", "-a")
        time.sleep(0.5)


@pytest.mark.parametrize("role", ["server", "port"])
def test_removed_container_is_made_again_by_the_next_turn(project: Project, role: str) -> None:
    docker("rm", "--force", containers(project, role)[0])
    assert project.status()["service"] == "down"
    project("up")
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "1"
    assert len(containers(project)) == 1


def test_captured_requests_become_windows_as_with_a_process(project: Project) -> None:
    project("predict", "houses.csv", "-n", "5")
    project("down")
    folder = project.folder / ".treadle/environments/local/capture"
    assert [path.suffix for path in folder.iterdir()] == [".msgpack"]
    links = project("up").out
    assert "release 1" in links


def test_down_leaves_no_container_and_up_starts_again(project: Project) -> None:
    address = project.status()["address"]
    assert "is down" in project("down").out
    assert containers(project) == containers(project, "port") == []
    assert project.status()["service"] == "absent"
    assert project("down").out.startswith("local is not running")
    project("up")
    assert project.status()["service"] == "serving"
    assert address.startswith("http://127.0.0.1:")


def test_log_is_that_of_the_server(project: Project) -> None:
    assert any("serves on" in line for line in project("logs", "--json").json["lines"])


@pytest.mark.parametrize(
    ("target", "said", "code"),
    [
        ("{target: docker, port: 0, context: nowhere}", "no Docker context nowhere", 2),
        ("{target: docker, port: 0, network: nowhere}", "nowhere", 1),
        ("{target: docker, port: 0, image: localhost:1/x}", "cannot be reached", 4),
    ],
)
def test_what_cannot_be_is_said_before_anything_serves(
    make: Callable[[str], Project], target: str, said: str, code: int
) -> None:
    ran = make(target)("up", code=code)
    assert said in ran.err


def test_engine_that_is_not_there_is_unreachable(make: Callable[[str], Project]) -> None:
    ran = make("{target: docker, port: 0}")(
        "up", code=4, env={"DOCKER_HOST": "tcp://127.0.0.1:1"}
    )  # fmt: skip
    assert "no Docker engine answers at tcp://127.0.0.1:1" in ran.err


def test_port_in_use_is_named(project: Project, make: Callable[..., Project]) -> None:
    other = make(f"{{target: docker, port: {port_of(project)}}}", "other")
    ran = other("up", code=2)
    assert "the port is in use" in ran.err


# ---- promise 2: one scenario, equal ledgers ------------------------------------------------------


def scenario(project: Project) -> list[tuple[str, ...]]:
    """A life: first release, a second, a rollback, a held model, down and up; and what monitoring
    sees of it."""
    project.add_spec("monitor: {window: 30s}\n")
    project("up")
    project("predict", "houses.csv", "-n", "3")
    more_data(project, 31)
    project("up")
    project("predict", "houses.csv", "-n", "4")
    project("rollback", "--yes", "--reason", "worse at noon")
    project("up")
    project("down")
    project("up")
    project("predict", "houses.csv", "-n", "5")
    project.edit("treadle.yaml", ("at_most: 30", "at_most: 0.001"))
    more_data(project, 32)
    project("up", code=3)
    assert _monitored(project, 12) == 12, "every row was captured, of releases that are gone too"
    entries = project("ledger", "--json").json["decisions"]
    found = [
        tuple(
            _masked(str(entry[key]))
            for key in ("kind", "subject", "outcome", "rule", "words", "by")
        )
        for entry in reversed(entries)
    ]
    # How often monitoring had something new to look at is a matter of when it was asked.
    return [one for at, one in enumerate(found) if one[0] != "retrain" or one not in found[:at]]


def _monitored(project: Project, rows: int) -> int:
    """Rows of all closed windows, once there are so many or it takes too long."""
    until = time.monotonic() + 100
    while True:
        windows = project("monitor", "-n", "100", "--json").json["windows"]
        seen = sum(one["rows"] for one in windows)
        if seen >= rows or time.monotonic() > until:
            return seen
        time.sleep(3)


def _masked(text: str) -> str:
    text = re.sub(r"http://[0-9.]+:\d+", "ADDRESS", text)
    return re.sub(r"instance [0-9a-f]{8}", "instance X", text)


def test_one_scenario_leaves_equal_ledgers_in_a_process_and_in_docker(
    make: Callable[..., Project],
) -> None:
    by_process = scenario(make("{target: process, port: 0}", "by-process"))
    by_docker = scenario(make("{target: docker, port: 0}", "by-docker"))
    assert by_docker == by_process
    assert len(by_process) > 8


# ---- turns that are cut off, addresses, other targets --------------------------------------------


@pytest.mark.parametrize(
    "point",
    ["deploy.begin", "deploy.wanted", "deploy.spawned", "deploy.swapped", "deploy.answered"],
)
def test_turn_that_is_killed_is_made_good_by_the_next(project: Project, point: str) -> None:
    more_data(project, 41)
    project("up", code=-9, env={"TREADLE_CRASH": point})
    project("up")
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "2"
    assert len(containers(project)) == 1
    assert "nothing to do" in project("up").out


def test_port_that_cannot_be_had_leaves_the_service_where_it_is(
    project: Project, make: Callable[..., Project]
) -> None:
    other = make("{target: docker, port: 0}", "other")
    other("up")
    before = project.status()["address"]
    wanted = "{target: docker, port: %d}" % port_of(other)
    project.edit("treadle.yaml", ("{target: docker, port: 0}", wanted))
    ran = project("up", code=2)
    assert "the port is in use by the container treadle-" in ran.err
    project.edit("treadle.yaml", (wanted, "{target: docker, port: 0}"))
    assert project.status()["address"] == before
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "1"


def test_environment_moves_from_a_process_to_a_container_and_back(
    make: Callable[..., Project],
) -> None:
    project = make("{target: process, port: 0}")
    project("up")
    port = port_of(project)
    as_process, as_container = (
        "{target: process, port: 0}", "{target: docker, port: %d}" % port,
    )  # fmt: skip
    project.edit("treadle.yaml", (as_process, as_container))
    project("up")
    assert port_of(project) == port
    assert len(containers(project)) == 1
    project.edit("treadle.yaml", (as_container, as_process))
    project("up")
    assert containers(project) == containers(project, "port") == []
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "1"


def test_gpu_that_the_engine_has_not_is_said(make: Callable[..., Project]) -> None:
    ran = make("{target: docker, port: 0, gpus: 1}")("up", code=3)
    assert "has no such GPU" in ran.err


# ---- engines elsewhere ---------------------------------------------------------------------------


def test_engine_of_a_context_serves_as_the_default_one_does(
    make: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))
    docker("context", "create", "elsewhere", "--docker", "host=unix:///var/run/docker.sock")
    project = make("{target: docker, port: 0, context: elsewhere}")
    project("up")
    known = json.loads((project.folder / ".treadle/environments/local/docker.json").read_text())
    assert known["context"] == "elsewhere"
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "1"
    project("down")


def test_engine_behind_ssh_builds_serves_and_is_taken_down(
    make: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.require("sshd", "ssh", "ssh-keygen")
    with ssh_server(tmp_path / "ssh") as (address, program):
        monkeypatch.setenv("PATH", f"{program}:{os.environ['PATH']}")
        monkeypatch.setenv("DOCKER_HOST", address)
        project = make("{target: docker, port: 0}")
        project("up")
        # This server happens to be on the same machine, so that its loopback is ours.
        assert project("predict", "houses.csv", "-n", "3", "--json").json["release"] == "1"
        more_data(project, 51)
        project("up")
        monkeypatch.delenv("DOCKER_HOST")  # another shell: it is still that engine that is asked
        assert project.status()["service"] == "serving"
        assert any("serves on" in line for line in project("logs", "--json").json["lines"])
        project("down")
    folder = project.folder / ".treadle/environments/local/capture"
    assert list(folder.glob("*.msgpack"))


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """An sshd on a loopback port with keys of its own: its address, and a folder with an `ssh` that
    knows these keys and nothing of the user's."""
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nMaxStartups 64\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    (folder / "known").write_text(
        f"[127.0.0.1]:{port} " + (folder / "host.pub").read_text()
    )  # fmt: skip
    (folder / "config").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
    )
    program = folder / "bin"
    program.mkdir()
    (program / "ssh").write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n'
    )  # fmt: skip
    (program / "ssh").chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd separates its privileges
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(shutil.which("sshd")), "-D", "-e", "-f", str(folder / "sshd_config")],
            stderr=log, stdout=log,
        )  # fmt: skip
    try:
        user = getpass.getuser()
        until = time.monotonic() + 30
        while subprocess.run(
            [str(program / "ssh"), "-p", str(port), f"{user}@127.0.0.1", "true"],
            capture_output=True, check=False,
        ).returncode:  # fmt: skip
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"ssh://{user}@127.0.0.1:{port}", program
    finally:
        server.terminate()
        server.wait()
