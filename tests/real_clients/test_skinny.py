"""A model of MLflow's own kind where mlflow-skinny is all of MLflow that there is."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.real_clients import models
from tests.real_clients.conftest import VENV, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The clients' Python, which has mlflow-skinny, with the server and what it lacks for it."""
    if not (VENV / "bin" / "python").is_file():
        pytest.skip("the clients are not installed: tests/real_clients/setup brings them")
    beside = tmp_path_factory.mktemp("beside")
    for name in ("treadle", "msgspec", "ruamel"):
        found = importlib.util.find_spec(name)
        assert found and found.submodule_search_locations
        (beside / name).symlink_to(next(iter(found.submodule_search_locations)))
    return {"PYTHONPATH": str(beside), "PYTHONDONTWRITEBYTECODE": "1"}


def python(environ: dict[str, str], *arguments: str) -> Any:
    return subprocess.run(
        [VENV / "bin" / "python", "-P", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, **environ}, timeout=120,
    )  # fmt: skip


def test_a_pyfunc_with_parameters_is_served_by_mlflow_skinny(
    environ: dict[str, str], tmp_path: Path
) -> None:
    listed = "from importlib.metadata import distributions as d; print(*(x.name for x in d()))"
    names = python(environ, "-c", listed).stdout.split()
    assert "mlflow-skinny" in names and "mlflow" not in names
    folder = models.scaled(tmp_path / "made" / "model")
    served = start(
        folder, tmp_path, "--trust-pickle", python=str(VENV / "bin" / "python"), **environ
    )
    try:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        body = {
            "dataframe_split": {"columns": ["x"], "data": [[1.5], [2]]},
            "params": {"factor": 2.0, "text": "ab"},
        }
        connection.request(
            "POST", "/invocations", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"predictions": [5.0, 6.0]})
        connection.request("GET", "/version")
        assert json.loads(connection.getresponse().read())["flavor"] == "pyfunc"
        connection.close()
    finally:
        assert served.stop() == 0
    assert "Traceback" not in served.log.read_text()


def test_what_pyfunc_lacks_beside_mlflow_skinny_is_named(
    environ: dict[str, str], tmp_path: Path
) -> None:
    folder = models.scaled(tmp_path / "made" / "model")
    without = (
        "import sys; sys.modules['pandas'] = None\n"
        "from treadle.operate.model.loaded import load\n"
        f"load({str(folder)!r}, trust_pickle=True)"
    )
    done = python(environ, "-c", without)
    assert "a model of MLflow's python_function needs pandas, which is not installed" in done.stderr
