"""MLflow stopped and started again, the recorder killed, and MLflow loading what we registered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from treadle.clients.journal import Changes
from treadle.clients.state import State
from treadle.clients.tracking import (
    alias_message,
    delivery,
    release_message,
    run_message,
    spawn_recorder,
    wait_recorder,
)

from .tracking_help import SNAPSHOT, SPEC, a_model, a_release, a_run, a_verdict

pytestmark = pytest.mark.slow
pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def turn(state, folder, number: int):
    """One turn's messages: run R<number> with a model of its own, released as <number>."""
    model = a_model(state, folder, f"m{number}")
    release = a_release(model, number, f"R{number}")
    run = a_run(f"R{number}", model=model.digest)
    state.journal.commit(
        Changes()
        .put("run", run.id, run)
        .put("model", model.digest, model)
        .put("release", f"local/{number:06}", release)
        .tell(run_message(run, [SNAPSHOT], model, a_verdict(model)))
        .tell(release_message(release, model, a_verdict(model)))
        .tell(alias_message(SPEC, "local", number, model.digest))
    )


def counts(uri):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("flights").experiment_id
    return (
        sorted(r.info.run_name for r in client.search_runs([experiment])),
        len(client.search_logged_models([experiment])),
        len(client.search_model_versions("name = 'flights'")),
        str(client.get_model_version_by_alias("flights", "champion").version),
    )


class Server:
    """`mlflow server` as a person runs it."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "mlflow",
                    "server",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(self.port),
                    "--workers",
                    "1",
                    "--backend-store-uri",
                    f"sqlite:///{self.folder / 'server.db'}",
                    "--artifacts-destination",
                    str(self.folder / "artifacts"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def stop(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def test_an_mlflow_that_stops_and_starts_again_is_told_everything_once(tmp_path, monkeypatch):
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flights")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        with State.open(tmp_path, create=True) as state:
            turn(state, tmp_path, 1)
            start = time.perf_counter()
            assert spawn_recorder(state) is not None  # before it ever ran
            assert time.perf_counter() - start < 1
            assert wait_recorder(state, 120) is False
            assert delivery(state.journal).pending == 3
            assert "127.0.0.1" in delivery(state.journal).error
            server.start()
            assert spawn_recorder(state.folder) is not None
            assert wait_recorder(state, 120) is True
            assert delivery(state.journal).error is None
            assert counts(server.uri) == (["R1"], 1, 1, "1")
            for number in (2, 3, 4):
                turn(state, tmp_path, number)
            spawn_recorder(state)  # killed in the middle of its delivery
            while delivery(state.journal).pending == 9:
                time.sleep(0.02)
            server.stop()
            assert wait_recorder(state, 180) is False
            assert 0 < delivery(state.journal).pending < 9
            server.start()
            spawn_recorder(state)
            assert wait_recorder(state, 180) is True, delivery(state.journal)
            assert counts(server.uri) == (["R1", "R2", "R3", "R4"], 4, 4, "4")
            assert delivery(state.journal).conflicts == ()
            assert not (state.folder / "mlflow.db").exists()
    finally:
        server.stop()


@pytest.mark.parametrize(
    "crash",
    [
        "recorder.deliver.after:2",
        "journal.commit.after:2",
        "journal.commit.before:3",
        "journal.commit.after:6",
        "journal.delivered.before",
    ],
)
def test_a_recorder_that_is_killed_is_resumed_and_nothing_is_told_twice(tmp_path, crash):
    with State.open(tmp_path, create=True) as state:
        turn(state, tmp_path, 1)
        environment = {**os.environ, "TREADLE_CRASH": crash}
        dead = subprocess.run(
            [sys.executable, "-P", "-m", "treadle.clients.recorder", str(state.folder)],
            env=environment,
            capture_output=True,
            check=False,
        )
        assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
        assert spawn_recorder(state) is not None
        assert wait_recorder(state, 120) is True, delivery(state.journal)
        uri = f"sqlite:///{state.folder / 'mlflow.db'}"
        assert counts(uri) == (["R1"], 1, 1, "1")
        assert delivery(state.journal).conflicts == ()


def test_a_message_committed_while_the_recorder_ends_is_not_left_behind(tmp_path):
    """Many small turns, each starting the recorder if none runs: all is delivered, none started last."""
    with State.open(tmp_path, create=True) as state:
        for number in range(40):
            state.journal.commit(Changes().tell(run_message(a_run(f"R{number}"), (), None, None)))
            spawn_recorder(state)
            time.sleep(0.15)
        assert wait_recorder(state, 120) is True, delivery(state.journal)
        import mlflow

        uri = f"sqlite:///{state.folder / 'mlflow.db'}"
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = client.get_experiment_by_name("flights").experiment_id
        assert len(client.search_runs([experiment])) == 40


def test_mlflow_loads_the_champion_that_was_registered(tmp_path, monkeypatch):
    pandas, numpy = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    pytest.importorskip("skops")
    from sklearn.linear_model import LogisticRegression

    from treadle.base.spec import ModelSection
    from treadle.build.package import package

    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame({"a": rng.normal(size=200), "b": rng.normal(size=200)})
    fitted = LogisticRegression().fit(frame, frame.a + frame.b > 0)
    with State.open(tmp_path, create=True) as state:
        section = ModelSection(result="model", task="binary", label="late", features=("a", "b"))
        folder = tmp_path / "packaged"
        model = package(fitted, section, frame.head(5), folder)
        content, _ = state.objects.put_tree(folder)
        assert content == model.content
        release = a_release(model)
        run = a_run(model=model.digest)
        state.journal.commit(
            Changes()
            .put("run", run.id, run)
            .put("model", model.digest, model)
            .put("release", "local/000001", release)
            .tell(run_message(run, [SNAPSHOT], model, None))
            .tell(release_message(release, model, None))
            .tell(alias_message(SPEC, "local", 1, model.digest))
        )
        spawn_recorder(state)
        assert wait_recorder(state, 120), delivery(state.journal)
        uri = f"sqlite:///{state.folder / 'mlflow.db'}"
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    loaded = mlflow.pyfunc.load_model("models:/flights@champion")
    wanted = fitted.predict_proba(frame)
    found = numpy.asarray(loaded.predict(frame))
    assert found.shape in (wanted.shape, wanted[:, 1].shape)
    assert numpy.allclose(found, wanted if found.ndim == 2 else wanted[:, 1])
