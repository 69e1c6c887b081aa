"""MLflow as a person finds it after a turn; and a turn while MLflow is away."""

from __future__ import annotations

import time

import pytest
from tests.e2e.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def delivered(project: Project, seconds: float = 240) -> None:
    """Waits until the recorder has told MLflow everything."""
    deadline = time.monotonic() + seconds
    while project.status()["pending"]:
        assert time.monotonic() < deadline, project("status").out
        time.sleep(1)


def test_after_a_turn_mlflow_knows_the_run_the_model_and_the_champion(fresh) -> None:
    from mlflow import MlflowClient

    project = fresh()
    turn = project("up", "--json", recorder=True).json
    delivered(project)
    assert "up to date" in project("status").out
    client = MlflowClient(*[f"sqlite:///{project.folder}/.treadle/mlflow.db"] * 2)
    experiment = client.get_experiment_by_name("houses")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.intercept"] == "true"
    assert run.data.metrics["mae"] == pytest.approx(turn["verdict"]["metrics"]["mae"])
    assert run.inputs.dataset_inputs, "the data sets are named"
    assert turn["run"] in str(run.data.tags)
    (model,) = client.search_registered_models()
    aliases = {alias: version for alias, version in model.aliases.items()}
    champion = next(name for name in aliases if "champion" in name)
    version = client.get_model_version(model.name, aliases[champion])
    assert any(turn["model"]["content"] in str(value) for value in version.tags.values())
    # A second release moves the alias; a rollback moves it back.
    project.edit("pipeline.py", ("intercept: bool = True", "intercept: bool = False"))
    project("up", recorder=True)
    delivered(project)
    second = client.get_model_version_by_alias(model.name, champion).version
    assert second != version.version
    project("rollback", "--yes", recorder=True)
    delivered(project)
    assert client.get_model_version_by_alias(model.name, champion).version == version.version
    # The registered model is an MLflow model like any other.
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(f"sqlite:///{project.folder}/.treadle/mlflow.db")
    mlflow.set_registry_uri(f"sqlite:///{project.folder}/.treadle/mlflow.db")
    loaded = mlflow.pyfunc.load_model(f"models:/{model.name}@{champion}")
    answer = loaded.predict(pd.DataFrame({"area": [100], "rooms": [3]}))
    ours = project("predict", "-", "--json", input='{"area": 100, "rooms": 3}\n').json
    assert float(answer[0]) == pytest.approx(ours["predictions"][0])


def test_experiments_are_runs_side_by_side(fresh) -> None:
    from mlflow import MlflowClient

    project = fresh()
    project("train", "--set", "model.intercept=true,false", recorder=True)
    delivered(project)
    client = MlflowClient(*[f"sqlite:///{project.folder}/.treadle/mlflow.db"] * 2)
    experiment = client.get_experiment_by_name("houses")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.params["model.intercept"] for run in runs} == {"true", "false"}
    assert all("mae" in run.data.metrics for run in runs)
    assert not client.search_registered_models(), "nothing was released"


def test_a_turn_succeeds_while_mlflow_is_away_and_tells_it_later(fresh) -> None:
    from mlflow import MlflowClient

    project = fresh()
    away = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_EXPERIMENT_NAME": "elsewhere",
    }
    project("up", recorder=True, env=away)
    assert project.status()["healthy"] is True
    deadline = time.monotonic() + 240
    while not any("MLflow" in line for line in project.status()["attention"]):
        assert time.monotonic() < deadline, "status says why it waits"
        time.sleep(1)
    status = project("status").out
    assert "messages wait" in status
    assert "127.0.0.1" in status
    assert project.status()["pending"] >= 3
    # The variable is gone: the next command delivers.
    assert "nothing to do" in project("up", recorder=True).out
    delivered(project)
    client = MlflowClient(*[f"sqlite:///{project.folder}/.treadle/mlflow.db"] * 2)
    assert client.get_experiment_by_name("houses") is not None
    assert not [line for line in project.status()["attention"] if "MLflow" in line]


def test_a_run_that_died_is_killed_in_mlflow_too(fresh) -> None:
    from mlflow import MlflowClient

    project = fresh()
    dies = "    import os; os.kill(os.getpid(), 9)\n    return LinearRegression"
    project.edit("pipeline.py", ("    return LinearRegression", dies))
    project("up", recorder=True, code=-9)
    project.edit("pipeline.py", (dies, "    return LinearRegression"))
    project("up", recorder=True)
    delivered(project)
    client = MlflowClient(*[f"sqlite:///{project.folder}/.treadle/mlflow.db"] * 2)
    experiment = client.get_experiment_by_name("houses")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]


def test_a_champion_moved_in_mlflow_is_a_conflict_with_both_ways_out(fresh) -> None:
    from mlflow import MlflowClient

    project = fresh()
    project("up", recorder=True)
    delivered(project)
    project.edit("pipeline.py", ("intercept: bool = True", "intercept: bool = False"))
    project("up", recorder=True)
    delivered(project)
    client = MlflowClient(*[f"sqlite:///{project.folder}/.treadle/mlflow.db"] * 2)
    (model,) = client.search_registered_models()
    champion = next(name for name in model.aliases if "champion" in name)
    client.set_registered_model_alias(model.name, champion, "1")
    project("train", "--set", "model.intercept=true", recorder=True)  # something to tell
    delivered(project)
    found = next(line for line in project.status()["attention"] if "MLflow" in line)
    assert "treadle rollback --to 1" in found, found
    assert project.status()["champion"] == 2, "MLflow is a projection: nothing was moved here"
    assert str(client.get_model_version_by_alias(model.name, champion).version) == "1"
    project("up", recorder=True)
    assert project.ledger()[0]["kind"] == "conflict"
