"""Real servers for real clients: each client is a program run by a Python of its own.

The clients' requirements conflict with Treadle's, so they live in `.venv-clients`, made from a lock
with hashes by `tests/real_clients/setup`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.real_clients import models

HERE = Path(__file__).parent
VENV = HERE.parents[1] / ".venv-clients"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A running `python -m treadle.operate serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, grpc_port: int, log: Path):
        self.process, self.port, self._grpc_port, self.log = process, port, grpc_port, log

    @property
    def grpc_port(self) -> int:
        if not self._grpc_port:
            pytest.skip("the server has no gRPC here: pip install 'treadle[grpc]'")
        return self._grpc_port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


Serve = Callable[..., Served]


def start(
    folder: Path, home: Path, *arguments: str, grpc: bool = False, python: str = sys.executable,
    **environ: str,
) -> Served:  # fmt: skip
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    more = list(arguments)
    grpc_port = free_port() if grpc else 0
    if grpc:
        more += ["--grpc-port", str(grpc_port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-P", "-m", "treadle.operate", "serve", str(folder), "--port", "0",
             "--name", "demo", "--release", "7", "--instance", "abc", *more],
            stdout=output, stderr=output, env={**os.environ, **environ},
        )  # fmt: skip
    until = time.monotonic() + 60
    while not (found := re.search(rb"serves on https?://127\.0\.0\.1:(\d+)", log.read_bytes())):
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f"the server did not start:\n{log.read_text()}")
        time.sleep(0.02)
    return Served(process, int(found[1]), grpc_port, log)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {
        "linear": models.linear(home / "linear"),
        "slow": models.linear(home / "slow", work=700),
        "echo": models.echo(home / "echo"),
    }


@pytest.fixture(scope="session")
def pipeline() -> Any:
    return models.trained()


@pytest.fixture(scope="session")
def columns_folder(tmp_path_factory: pytest.TempPathFactory, pipeline: Any) -> Path:
    return models.columns(tmp_path_factory.mktemp("trained") / "columns", pipeline)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers; whatever still runs is stopped at the end."""
    started: list[Served] = []

    def go(folder: Path, *arguments: str, **more: Any) -> Served:
        served = start(folder, tmp_path / f"served-{len(started)}", *arguments, **more)
        started.append(served)
        return served

    yield go
    for served in started:
        served.stop()


def _shared(name: str) -> Any:
    @pytest.fixture(scope="session")
    def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
        running = start(folders[name], tmp_path_factory.mktemp(name), grpc=HAS_GRPC)
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text()

    return served


HAS_GRPC = importlib.util.find_spec("grpc") is not None
linear = _shared("linear")
echo = _shared("echo")


@pytest.fixture(scope="session")
def columns(columns_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = start(columns_folder, tmp_path_factory.mktemp("columns"), grpc=HAS_GRPC)
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


Client = Callable[..., Any]


class Program:
    """A program of `programs/`, run by the clients' Python: asked by lines, it answers by lines."""

    def __init__(self, name: str, log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [VENV / "bin" / "python", "-P", HERE / "programs" / f"{name}.py"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip

    def ask(self, arguments: dict[str, Any]) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        told = json.loads(line) if line else {"failed": self.log.read_text()}
        assert "told" in told, told["failed"]
        return told["told"]

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Asks a program and gives what it saw; those with another `name` have a process of their own."""
    if not (VENV / "bin" / "python").is_file():
        pytest.skip("the clients are not installed: tests/real_clients/setup brings them")
    home = tmp_path_factory.mktemp("clients")
    running: dict[tuple[str, str], Program] = {}

    def run(program: str, name: str = "", **arguments: Any) -> Any:
        if (program, name) not in running:
            running[program, name] = Program(program, home / f"{program}{len(running)}.log")
        return running[program, name].ask(arguments)

    yield run
    for program in running.values():
        program.close()


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program that the machine must have."""

    def find(name: str, package: str = "") -> str:
        found = shutil.which(name) or shutil.which(str(VENV / "bin" / name))
        if found is None:
            pytest.skip(f"there is no {name}: apt-get install -y {package or name}")
        return found

    return find
