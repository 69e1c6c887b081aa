"""The projection to MLflow, on a real MLflow with SQLite."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys

import pytest

from treadle.base.records import Window
from treadle.clients.journal import Changes
from treadle.clients.recorder import Recorder
from treadle.clients.state import State
from treadle.clients.tracking import (
    alias_message,
    delivery,
    killed_message,
    model_message,
    release_message,
    run_message,
    spawn_recorder,
    wait_recorder,
    windows_message,
)

from .tracking_help import SNAPSHOT, SPEC, a_model, a_release, a_run, a_verdict

pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A whole turn's messages, delivered by a spawned recorder into a fresh database."""
    folder = tmp_path_factory.mktemp("project")
    with State.open(folder, create=True) as state:
        model = a_model(state, folder)
        verdict, release = a_verdict(model), a_release(model)
        state.journal.commit(
            Changes()
            .tell(run_message(a_run(status="RUNNING", ended=None, metrics={}), (), None, None))
            .tell(run_message(a_run(model=model.digest), [SNAPSHOT], model, verdict))
            .tell(killed_message(a_run("R2"), "2026-01-02T00:00:00Z"))
            .put("run", "R1", a_run())
            .tell(release_message(release, model, verdict))
            .add(alias(release, model))
        )
        assert delivery(state.journal).pending == 5
        assert spawn_recorder(state) is not None
        assert spawn_recorder(state) is None, "a second one while the first is running"
        done = wait_recorder(state, 120)
        assert done, (
            state.journal.get("recorder", "last"),
            (state.folder / "recorder.log").read_text(),
        )
    return folder, model, verdict


@pytest.fixture
def state(told, tmp_path, monkeypatch):
    """A fresh copy of the told project."""
    shutil.copytree(told[0] / ".treadle", tmp_path / ".treadle")
    with State.open(tmp_path, create=False) as opened:
        # The copy lies elsewhere: another target. Carry over what MLflow called our things.
        from treadle.base.digest import digest, short

        def target(folder):
            uri = f"sqlite:///{(folder / '.treadle').resolve() / 'mlflow.db'}"
            return short(digest([uri, uri]))

        changes = Changes()
        for key, value in opened.journal.list("mlflow"):
            changes.put("mlflow", key.replace(target(told[0]), target(tmp_path)), value)
        opened.journal.commit(changes)
        yield opened


def alias(release, model) -> Changes:
    """The records of a release and its model, and the message that it is champion."""
    return (
        Changes()
        .put("release", f"{release.environment}/{release.number:06}", release)
        .put("model", model.digest, model)
        .tell(alias_message(SPEC, release.environment, release.number, model.digest))
    )


def client_of(state):
    import mlflow

    uri = f"sqlite:///{state.folder / 'mlflow.db'}"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def drain(state):
    recorder = Recorder(state.folder, state.journal)
    assert recorder.drain(), state.journal.get("recorder", "last")
    return recorder


def test_a_run_is_in_mlflow_with_parameters_metrics_data_times_and_tags(told):
    with State.open(told[0], create=False) as state:
        client = client_of(state)
        (experiment,) = [e for e in client.search_experiments() if e.name == "flights"]
        runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"R1", "R2"}
    run = runs["R1"]
    assert run.info.status == "FINISHED"
    assert run.info.start_time == 1767225600000
    assert run.info.end_time == 1767225660000
    assert run.data.params == {
        "model.learning_rate": "0.1",
        "split.days": "14",
        "model.names": '["a", "b"]',
    }
    assert run.data.metrics["roc_auc"] == 0.7
    assert run.data.metrics["champion.roc_auc"] == 0.65
    assert run.data.metrics["rows"] == 12
    assert run.data.tags["treadle.run_id"] == "R1"
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert run.data.tags["treadle.commit"] == "abc123+"
    assert run.data.tags["treadle.outcome"] == "pass"
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "flights"
    assert SNAPSHOT.digest.removeprefix("sha256:").startswith(data.dataset.digest)
    assert json.loads(data.dataset.source)["path"] == "data/f-0*"
    assert json.loads(data.dataset.profile)["num_rows"] == 12
    assert len(json.loads(data.dataset.schema)["mlflow_colspec"]) == 2
    assert [m.model_id for m in run.outputs.model_outputs]
    assert runs["R2"].info.status == "KILLED"


def test_the_model_is_registered_with_its_files_alias_and_digests(told):
    folder, model, verdict = told
    with State.open(folder, create=False) as state:
        client = client_of(state)
        version = client.get_model_version_by_alias("flights", "champion")
        assert version.version in (1, "1")
        assert version.tags["treadle.release.local"] == "1"
        assert version.tags["treadle.content"] == model.content
        assert version.tags["treadle.verdict"] == verdict.digest
        logged = client.get_logged_model(version.source.removeprefix("models:/"))
        assert str(logged.status).endswith("READY")
        assert {a.path for a in client.list_logged_model_artifacts(logged.model_id)} == {"MLmodel"}
        assert logged.artifact_location.startswith((state.folder / "mlartifacts").as_uri())
        assert delivery(state.journal) == type(delivery(state.journal))(0, None, ())


def test_the_database_is_in_wal_mode(told):
    connection = sqlite3.connect(told[0] / ".treadle" / "mlflow.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert not list((told[0] / ".treadle").glob(".mlflow.db*"))


def test_delivered_twice_is_delivered_once(state, told):
    _, model, verdict = told
    client = client_of(state)
    experiment = client.get_experiment_by_name("flights").experiment_id

    def counts():
        return (
            len(client.search_runs([experiment])),
            len(client.search_logged_models([experiment])),
            len(client.search_model_versions("name = 'flights'")),
        )

    before = counts()
    release = a_release(model)
    again = (
        Changes()
        .tell(run_message(a_run(model=model.digest), [SNAPSHOT], model, verdict))
        .tell(release_message(release, model, verdict, project="flights"))
        .add(alias(release, model))
    )
    state.journal.commit(again)
    drain(state)
    assert counts() == before == (2, 1, 1)
    # Killed between making and keeping the id: the intent alone is left, the things are found.
    forgotten = Changes()
    for key, value in state.journal.list("mlflow"):
        if "id" in value and "born" not in value:
            forgotten.put("mlflow", key, {"id": None})
    state.journal.commit(forgotten)
    state.journal.commit(again)
    drain(state)
    assert counts() == before
    assert state.journal.list("conflict") == []


def test_an_alias_that_a_person_moved_is_a_conflict_and_stays_where_it_is(state, told, tmp_path):
    _, model, _ = told
    client = client_of(state)
    second = a_model(state, tmp_path, "two")
    one, two = (a_release(model), model), (a_release(second, 2), second)

    def promote(champion):
        state.journal.commit(alias(*champion))
        drain(state)
        return str(client.get_model_version_by_alias("flights", "champion").version)

    assert promote(two) == "2"
    client.set_registered_model_alias("flights", "champion", "1")  # a person, in the UI
    drain(state)
    (conflict,) = delivery(state.journal).conflicts
    assert (conflict["ours_release"], conflict["theirs_release"]) == (2, 1)
    assert "by hand" in conflict["words"]
    assert "back to version 2" in conflict["ways_out"][0]
    assert "treadle rollback --to 1" in conflict["ways_out"][1]
    # A later promotion does not overwrite it either.
    third = a_model(state, tmp_path, "three")
    assert promote((a_release(third, 3), third)) == "1"
    assert delivery(state.journal).conflicts[0]["ours_release"] == 3
    # Way out: the person puts it back.
    client.set_registered_model_alias("flights", "champion", "3")
    drain(state)
    assert delivery(state.journal).conflicts == ()
    # Other way out: the journal follows.
    client.set_registered_model_alias("flights", "champion", "1")
    drain(state)
    assert len(delivery(state.journal).conflicts) == 1
    assert promote(one) == "1"
    assert delivery(state.journal).conflicts == ()
    assert promote(two) == "2"
    # Removing an alias is moving it, too.
    client.delete_registered_model_alias("flights", "champion")
    drain(state)
    assert "removed" in delivery(state.journal).conflicts[0]["words"]


def test_another_environment_has_aliases_of_its_own(state, told):
    _, model, _ = told
    release = a_release(model, 1, environment="production")
    both = (1, model.digest)
    state.journal.commit(
        alias(release, model).tell(alias_message(SPEC, "production", *both, challenger=both))
    )
    drain(state)
    aliases = client_of(state).get_registered_model("flights").aliases
    assert {k: str(v) for k, v in aliases.items()} == {
        "champion": "1",
        "champion-production": "1",
        "challenger-production": "1",
    }
    state.journal.commit(Changes().tell(alias_message(SPEC, "production", *both)))
    drain(state)
    assert "challenger-production" not in client_of(state).get_registered_model("flights").aliases


def test_windows_are_points_of_one_run_at_their_end(state):
    windows = [
        Window(
            f"w{n}",
            "local",
            f"2026-02-0{n}T00:00:00Z",
            f"2026-02-0{n + 1}T00:00:00Z",
            (1,),
            100 * n,
            "sha256:w",
            0.5,
            {},
            {"log_loss": 0.5 + n / 10},
        )
        for n in (1, 2)
    ]
    for _ in range(2):
        state.journal.commit(Changes().tell(windows_message("flights", "local", windows)))
    drain(state)
    client = client_of(state)
    experiment = client.get_experiment_by_name("flights").experiment_id
    (run,) = [r for r in client.search_runs([experiment]) if r.info.run_name == "monitor local"]
    history = client.get_metric_history(run.info.run_id, "realised.log_loss")
    assert sorted((m.timestamp, m.value) for m in history) == [
        (1769990400000, 0.6),
        (1770076800000, 0.7),
    ]


def test_a_message_that_mlflow_refuses_stays_pending_and_holds_up_no_other(state, told):
    _, model, _ = told
    state.journal.commit(
        Changes()
        .tell(run_message(a_run("R3", parameters={"bad\nname": 1}), (), None, None))
        .tell(model_message("flights", model, "R1"))
        .tell(run_message(a_run("R4"), (), None, None))
    )
    recorder = drain(state)
    assert len(recorder.failed) == 1
    ((_, message),) = state.journal.pending()
    assert message.payload["run"]["id"] == "R3"
    assert "bad" in delivery(state.journal).error


def test_a_run_that_a_person_deleted_in_mlflow_is_not_brought_back(state):
    client = client_of(state)
    experiment = client.get_experiment_by_name("flights").experiment_id
    for run in client.search_runs([experiment]):
        client.delete_run(run.info.run_id)
    state.journal.commit(Changes().tell(run_message(a_run(), (), None, None)))
    drain(state)
    assert client.search_runs([experiment]) == []
    assert delivery(state.journal).pending == 0


def test_a_replaced_database_is_filled_anew_and_is_no_conflict(state, told):
    _, model, verdict = told
    for file in state.folder.glob("mlflow.db*"):
        file.unlink()
    template = told[0] / ".treadle"
    shutil.copy(template / "mlflow.db", state.folder / "mlflow.db")
    connection = sqlite3.connect(state.folder / "mlflow.db")
    connection.executescript(
        "DELETE FROM registered_model_aliases; DELETE FROM model_version_tags; DELETE FROM "
        "model_versions; DELETE FROM registered_model_tags; DELETE FROM registered_models; UPDATE "
        "experiments SET creation_time = creation_time + 1;"
    )
    connection.close()
    release = a_release(model)
    state.journal.commit(
        Changes()
        .tell(release_message(release, model, verdict, project="flights"))
        .add(alias(release, model))
    )
    drain(state)
    assert str(client_of(state).get_model_version_by_alias("flights", "champion").version) == "1"
    assert delivery(state.journal).conflicts == ()


def test_mlflow_that_is_down_leaves_the_message_pending_and_says_why(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:secret@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with State.open(tmp_path, create=True) as state:
        state.journal.commit(Changes().tell(run_message(a_run(), (), None, None)))
        assert Recorder(state.folder, state.journal).drain() is False
        found = delivery(state.journal)
        assert found.pending == 1
        assert f"127.0.0.1:{port}" in found.error
        assert "secret" not in json.dumps(state.journal.get("recorder", "last"))


def test_without_mlflow_nothing_is_started_and_the_pip_command_is_named(tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "mlflow" else find(name, *a)
    )
    with State.open(tmp_path, create=True) as state:
        state.journal.commit(Changes().tell(run_message(a_run(), (), None, None)))
        assert spawn_recorder(state) is None
        assert "pip install 'treadle[mlflow]'" in delivery(state.journal).error


def test_no_recorder_starts_when_nothing_waits_or_it_is_switched_off(tmp_path, monkeypatch):
    with State.open(tmp_path, create=True) as state:
        assert spawn_recorder(state) is None
        state.journal.commit(Changes().tell(run_message(a_run(), (), None, None)))
        monkeypatch.setenv("TREADLE_RECORDER", "off")
        assert spawn_recorder(state) is None
        assert not wait_recorder(state, 1)


def test_a_recorder_that_cannot_start_fails_no_turn(tmp_path):
    with State.open(tmp_path, create=True) as state:
        state.journal.commit(Changes().tell(run_message(a_run(), (), None, None)))
        (state.folder / "recorder.log").mkdir()
        assert spawn_recorder(state) is None
        assert "could not be started" in delivery(state.journal).error


def test_the_messages_and_the_spawn_import_no_mlflow():
    code = (
        "import sys, treadle.clients.tracking; "
        "sys.exit(any(m in sys.modules for m in ('mlflow', 'pandas', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
