"""MLflow stopped before, during and after a turn; a killed run is KILLED in MLflow too."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.world import World

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc"),
]


class Server:
    """A real `mlflow server` that is started and stopped."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                    "--port", str(self.port), "--workers", "1",
                    "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                    "--artifacts-destination", str(self.folder / "artifacts"),
                ],
                cwd=self.folder, stdin=subprocess.DEVNULL, start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
                return
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("mlflow")
    server = Server(tmp_path / "server")
    yield server
    server.stop()


def settled(world: World, env: dict[str, str]) -> dict:
    """Status once no recorder is at work."""
    until = time.monotonic() + 240
    while any("treadle.clients.recorder" in command for command in world.processes().values()):
        assert time.monotonic() < until
        time.sleep(0.2)
    found = world("status", "--json", env=env).json
    assert isinstance(found, dict)
    return found


def test_mlflow_may_stop_before_during_and_after_a_turn(world, server):
    from mlflow import MlflowClient

    env = {"TREADLE_RECORDER": "on", "MLFLOW_TRACKING_URI": server.uri}
    # before: a run dies, and a whole turn succeeds
    world("up", code=-9, env={**env, "TREADLE_CRASH": "build.packaged"})
    began = time.monotonic()
    world("up", env=env)
    assert time.monotonic() - began < 60, "the turn does not wait for MLflow"
    found = settled(world, env)
    assert found["pending"] == 4  # two runs, a release, an alias
    assert server.uri in str(found["attention"])
    # it is back: the next command delivers, also one that has nothing to do
    server.start()
    world("up", env=env)
    assert settled(world, env)["pending"] == 0
    client = MlflowClient(server.uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "houses"]
    runs = {
        run.data.tags["treadle.run_id"]: run.info.status
        for run in client.search_runs([experiment.experiment_id])
    }
    ours = {key: run["status"] for key, run in world.photo().kind("run").items()}
    assert runs == ours
    assert sorted(runs.values()) == ["FINISHED", "KILLED"]
    # during: it goes away while the recorder is at work
    pipeline = world.folder / "pipeline.py"
    pipeline.write_text(pipeline.read_text().replace("< 2020", "< 2019"))
    world("up", env=env)
    time.sleep(1)
    server.stop()
    settled(world, env)
    # after: stopped while nothing is to be told
    assert "nothing to do" in world("up", env=env).out
    settled(world, env)
    server.start()
    world("up", env=env)
    assert settled(world, env)["pending"] == 0
    (model,) = client.search_registered_models()
    assert len(client.search_model_versions(f"name = '{model.name}'")) == 2
    assert len(client.search_runs([experiment.experiment_id])) == 3
