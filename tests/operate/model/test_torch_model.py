"""PyTorch models in the server: torch alone, and nothing that came with the model is run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.support.torch_models import archive, needs_torch, records

from treadle.base.errors import MissingExtra, Refused, UsageError
from treadle.operate.model import torch_model

CONF = {"model_data": "data"}


def folder(tmp_path: Path, parts: dict[str, Any] | None = None) -> Path:
    """A directory whose model is `[rows, 2] @ (2, -1)`."""
    (tmp_path / "data").mkdir(parents=True)
    (tmp_path / "data/model.pt2").write_bytes(archive(parts or records()))
    return tmp_path


@needs_torch
def test_a_matrix_a_frame_and_one_named_tensor_are_answered_alike(tmp_path: Path) -> None:
    _, call = torch_model.load(folder(tmp_path), CONF, "predict", False)
    frame = pd.DataFrame({"a": [1, 3], "b": [2.0, 4.0]})
    wanted = np.array([[0.0], [2.0]], dtype="float32")
    for data in (frame, frame.to_numpy("float32"), frame.to_numpy(), {"x": frame.to_numpy()}):
        answer = call(data, {})
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, wanted)


@needs_torch
def test_arrays_that_are_not_ours_to_write_or_in_another_order_are_copied(tmp_path: Path) -> None:
    _, call = torch_model.load(folder(tmp_path), CONF, "predict", False)
    array = np.asfortranarray(np.arange(8, dtype="float32").reshape(4, 2))
    array.flags.writeable = False
    np.testing.assert_array_equal(call(array, {})[:, 0], array[:, 0] * 2 - array[:, 1])
    assert call(array[:0], {}).shape == (0, 1)
    hole = np.array([[np.nan, 1.0]], dtype="float32")
    assert np.isnan(call(hole, {})).all()


@needs_torch
def test_named_columns_become_a_matrix_in_order_and_absent_ones_are_missing(tmp_path: Path) -> None:
    _, call = torch_model.load(folder(tmp_path), CONF, "predict", False, ("a", "b"))
    columns = {"b": np.array([2, 4]), "a": np.array([True, None], dtype=object)}
    for data in (columns, pd.DataFrame(columns)):
        answer = call(data, {})[:, 0]
        assert answer[0] == 0.0
        assert np.isnan(answer[1])
    assert np.isnan(call({"a": np.array([1.0])}, {})).all()
    assert np.isnan(call(pd.DataFrame({"a": [1.0]}), {})).all()


@needs_torch
def test_neither_mlflow_nor_pandas_nor_pyarrow_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from treadle.operate.model import torch_model\n"
        "print('torch' in sys.modules)\n"
        f"_, call = torch_model.load(Path({str(folder(tmp_path))!r}), {CONF!r}, 'predict', False)\n"
        "call(np.ones((2, 2), 'float32'), {})\n"
        "print([m for m in ('mlflow', 'pandas', 'pyarrow', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "[]"]


def test_a_program_that_could_run_code_is_refused_and_torch_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    parts = records()
    parts["data/weights/model_weights_config.json"]["config"]["weight"]["use_pickle"] = True
    with pytest.raises(Refused, match="is a pickle: loading it runs code") as caught:
        torch_model.load(folder(tmp_path, parts), CONF, "predict", False)
    assert "trust: pickle" in str(caught.value.hint)


def test_a_pickled_module_is_refused_without_trust(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/model.pth").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(Refused, match=r"model\.pth is a pickle"):
        torch_model.load(tmp_path, CONF, "predict", False)


@needs_torch
@pytest.mark.filterwarnings("ignore")
def test_a_pickled_module_is_loaded_with_trust(tmp_path: Path) -> None:
    import mlflow.pytorch
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout())
    mlflow.pytorch.save_model(
        module, tmp_path / "m", serialization_format="pickle", pip_requirements=["torch"]
    )
    _, call = torch_model.load(tmp_path / "m", CONF, "predict", True)
    data = np.ones((3, 2), dtype="float32")
    with torch.no_grad():
        wanted = module.eval()(torch.from_numpy(data)).numpy()
    np.testing.assert_array_equal(call(data, {}), wanted)


def test_torch_that_is_not_installed_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra) as caught:
        torch_model.load(folder(tmp_path), CONF, "predict", False)
    assert caught.value.hint == "pip install 'treadle[torch]'"


def test_a_directory_without_a_model_of_torch_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match="neither model.pt2 nor model.pth"):
        torch_model.load(tmp_path, CONF, "predict", False)
    with pytest.raises(Refused, match="outside the model directory"):
        torch_model.load(tmp_path, {"model_data": "../elsewhere"}, "predict", False)
    with pytest.raises(UsageError, match="has predict alone"):
        torch_model.load(folder(tmp_path / "m"), CONF, "predict_proba", False)
