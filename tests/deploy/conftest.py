"""An environment's folder whose supervisor is stopped at the end, and small models."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.base import supervision
from treadle.deploy import process

_spec = importlib.util.spec_from_file_location(
    "deploy_models", Path(__file__).with_name("models.py")
)
assert _spec and _spec.loader
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models.several(tmp_path_factory.mktemp("models"))


@pytest.fixture
def env_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "environments" / "local"
    yield folder
    state = supervision.read(folder / supervision.STATE, supervision.Supervised)
    try:
        process.stop(folder)
    finally:
        if state is not None and supervision.alive(state):
            os.kill(state.pid, signal.SIGKILL)


@pytest.fixture
def roll_out(env_folder: Path, model_folders: dict[str, Path]) -> Callable[..., Any]:
    from treadle.base.spec import ProcessTarget

    def go(
        release: int, model: str = "one", *, port: int = 0, workers: int = 1, **more: Any
    ) -> Any:
        more = {"content": f"sha256:{model}", **more}
        return process.roll_out(
            env_folder,
            ProcessTarget(target="process", port=port, workers=workers),
            release,
            model_folders[model],
            environment="local",
            name="demo",
            **more,
        )

    return go
