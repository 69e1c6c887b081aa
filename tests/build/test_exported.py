"""PyTorch models as exported programs: canonical, loaded by MLflow and by our server, no pickle."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.support.torch_models import needs_torch

from treadle.base.digest import digest_tree
from treadle.base.errors import PipelineError, Refused
from treadle.base.spec import ModelSection
from treadle.build.package import package

pytestmark = [needs_torch, pytest.mark.filterwarnings("ignore")]
FEATURES = ("real", "whole", "flag")
BINARY = ModelSection("model", "binary", "y", FEATURES)
REGRESSION = ModelSection("model", "regression", "y", FEATURES)


def rows(n: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "real": random.normal(size=n),
            "whole": random.integers(-5, 5, n),
            "flag": random.random(n) < 0.5,
            "text": "a",
            "y": random.integers(0, 2, n),
        }
    )


def net(*last: Any, outputs: int = 1, seed: int = 0) -> Any:
    import torch

    torch.manual_seed(seed)
    layers = [torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, outputs), *last)


def sigmoid() -> Any:
    import torch

    return torch.nn.Sigmoid()


def matrix() -> np.ndarray:
    return rows()[list(FEATURES)].to_numpy(dtype="float32")


SCRIPT = """
import sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from treadle.base.spec import ModelSection
from treadle.build.package import package

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = torch.nn.Linear(2, 4), torch.nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor([2.0, 0.5]))

    def forward(self, x):
        return torch.softmax(self.second(torch.relu(self.first(x * self.scale))), dim=1)

frame = pd.DataFrame({"a": np.arange(9.0), "b": 1.0, "y": np.arange(9) % 3})
made = package(Net(), ModelSection("m", "multiclass", "y"), frame, Path(sys.argv[1]))
print(made.digest)
"""


def test_the_same_module_is_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("one", "1"), ("deeper/two", "2")):
        script = tmp_path / f"{seed}.py"
        script.write_text("\n" * int(seed) + SCRIPT)  # traces name file and line
        done = subprocess.run(
            [sys.executable, os.fspath(script), str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        digests.append(done.stdout.strip())
    assert digests[0] == digests[1]
    assert digest_tree(tmp_path / "one") == digest_tree(tmp_path / "deeper/two")


def test_mlflow_and_our_server_answer_as_the_module_itself(tmp_path: Path) -> None:
    import torch

    from treadle.operate.model import torch_model

    module = net(sigmoid())
    made = package(module, BINARY, rows(), tmp_path / "m")
    assert made.flavor == "pytorch"
    assert made.classes == (0, 1)
    assert [line.partition("==")[0] for line in made.requirements] == ["numpy", "torch"]
    assert "+" not in "".join(made.requirements)
    assert module.training
    module.eval()
    with torch.no_grad():
        wanted = module(torch.from_numpy(matrix())).squeeze(-1).numpy()
    pyfunc = importlib.import_module("mlflow.pyfunc").load_model(str(tmp_path / "m"))
    answered = pyfunc.predict(matrix())
    assert answered.shape == (60,)
    np.testing.assert_allclose(answered, wanted, rtol=1e-6)
    _, call = torch_model.load(tmp_path / "m", {"model_data": "data"}, "predict", False)
    np.testing.assert_array_equal(call(matrix(), {}), answered)
    np.testing.assert_array_equal(call(rows()[list(FEATURES)], {}), answered)
    for count in (1, 2, 7):
        np.testing.assert_allclose(call(matrix()[:count], {}), wanted[:count], rtol=1e-5)


def test_mlflow_that_unpickles_nothing_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    package(net(sigmoid()), BINARY, rows(), tmp_path / "m")
    module = importlib.import_module("mlflow.pytorch").load_model(str(tmp_path / "m"))
    assert module(torch.from_numpy(matrix())).shape == (60,)


def test_a_scoring_request_of_mlflow_is_answered(tmp_path: Path) -> None:
    package(net(sigmoid()), BINARY, rows(), tmp_path / "m")
    pyfunc = importlib.import_module("mlflow.pyfunc").load_model(str(tmp_path / "m"))
    server = importlib.import_module("mlflow.pyfunc.scoring_server")
    body = json.loads((tmp_path / "m/serving_input_example.json").read_text())
    data = server.infer_and_parse_data(body, pyfunc.metadata.get_input_schema())
    np.testing.assert_allclose(pyfunc.predict(data), pyfunc.predict(matrix()[:3]))


def test_the_directory_says_what_mlflow_says_of_its_own(tmp_path: Path) -> None:
    import yaml
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    package(net(sigmoid()), BINARY, rows(), tmp_path / "ours")
    kind = np.dtype("float32")
    importlib.import_module("mlflow.pytorch").save_model(
        net(sigmoid()).eval(),
        str(tmp_path / "theirs"),
        serialization_format="pt2",
        input_example=matrix()[:3],
        signature=ModelSignature(
            Schema([TensorSpec(kind, (-1, 3))]), Schema([TensorSpec(kind, (-1,))])
        ),
        pip_requirements=["torch"],
    )
    ours, theirs = (
        yaml.safe_load((tmp_path / name / "MLmodel").read_text()) for name in ("ours", "theirs")
    )
    assert ours["flavors"] == theirs["flavors"]
    assert ours["signature"] == theirs["signature"]
    assert (tmp_path / "ours/data/model.pt2").is_file()
    assert (tmp_path / "theirs/data/model.pt2").is_file()


def test_a_program_that_the_user_exported_is_taken_as_it_is(tmp_path: Path) -> None:
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Any) -> Any:
            return self.inner(x).squeeze(-1)

    module = Flat().eval()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (torch.zeros(3, 3),), dynamic_shapes=shapes)
    made = package(program, REGRESSION, rows().assign(y=1.5), tmp_path / "m")
    assert made.flavor == "pytorch"
    fixed = torch.export.export(module, (torch.zeros(3, 3),))
    with pytest.raises(PipelineError, match=r"shape \[3, 3\]"):
        package(fixed, REGRESSION, rows(), tmp_path / "fixed")


def test_a_program_that_was_exported_on_another_device_is_refused(tmp_path: Path) -> None:
    import torch

    module, rows_ = net().eval().to("meta"), torch.zeros((3, 3), device="meta")
    program = torch.export.export(module, (rows_,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    with pytest.raises(PipelineError, match="holds weights on meta"):
        package(program, REGRESSION, rows(), tmp_path / "m")


def test_a_module_of_doubles_is_fed_doubles(tmp_path: Path) -> None:
    package(net().double(), REGRESSION, rows(), tmp_path / "m")
    signature = (tmp_path / "m/MLmodel").read_text()
    assert "float64" in signature
    pyfunc = importlib.import_module("mlflow.pyfunc").load_model(str(tmp_path / "m"))
    assert pyfunc.predict(matrix().astype("float64")).dtype == np.float64


def test_scores_that_are_no_probabilities_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="where a probability, 0 to 1, is expected") as caught:
        package(net(seed=4), BINARY, rows().assign(real=lambda f: f.real * 99), tmp_path / "1")
    assert "sigmoid" in str(caught.value.hint)
    many = ModelSection("model", "multiclass", "y", FEATURES)
    with pytest.raises(PipelineError, match="add up to") as caught:
        package(net(sigmoid(), outputs=3), many, rows(), tmp_path / "2")
    assert "softmax" in str(caught.value.hint)
    with pytest.raises(PipelineError, match="one number a row"):
        package(net(sigmoid()), many, rows(), tmp_path / "3")
    with pytest.raises(PipelineError, match="a regression gives one"):
        package(net(outputs=2), REGRESSION, rows(), tmp_path / "4")


def test_a_text_is_no_number(tmp_path: Path) -> None:
    section = ModelSection("model", "binary", "y", ("real", "whole", "text"))
    with pytest.raises(PipelineError, match="'text' is a string"):
        package(net(sigmoid()), section, rows(), tmp_path / "m")


def test_another_width_than_the_features_is_refused(tmp_path: Path) -> None:
    section = ModelSection("model", "binary", "y", ("real", "whole"))
    with pytest.raises(PipelineError, match="cannot be exported for 2 features"):
        package(net(sigmoid()), section, rows(), tmp_path / "m")


def test_what_torch_cannot_trace_is_refused_with_the_reason(tmp_path: Path) -> None:
    import torch

    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net(sigmoid())

        def forward(self, x: Any) -> Any:
            return self.inner(x) if x.sum() > 0 else self.inner(-x)

    with pytest.raises(PipelineError, match="Branches cannot be exported") as caught:
        package(Branches(), BINARY, rows(), tmp_path / "m")
    assert "no branch on values" in str(caught.value.hint)

    class Pairs(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x, x

    with pytest.raises(PipelineError, match="gives a tuple"):
        package(Pairs(), BINARY, rows(), tmp_path / "pairs")


def test_an_operator_of_ones_own_is_refused_by_name(tmp_path: Path) -> None:
    import torch

    @torch.library.custom_op("treadletest::twice", mutates_args=(), schema="(Tensor x) -> Tensor")
    def twice(x: Any) -> Any:
        return x * 2

    @twice.register_fake
    def _(x: Any) -> Any:
        return torch.empty_like(x)

    class Own(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.sigmoid(torch.ops.treadletest.twice(x).sum(dim=1))

    with pytest.raises(Refused, match="treadletest.twice") as caught:
        package(Own(), BINARY, rows(), tmp_path / "m")
    assert "trust: pickle" in str(caught.value.hint)


def test_a_stored_module_comes_back_as_the_same_program(tmp_path: Path) -> None:
    import torch

    from treadle.clients.objects import DiskObjects
    from treadle.code import store

    objects = DiskObjects(tmp_path / "objects")
    module = net(sigmoid())
    stored = store.save("model", module, objects)
    assert stored.format == "model"
    assert store.save("model", module, objects) == stored
    again = store.load(stored, objects)
    one = package(module, BINARY, rows(), tmp_path / "1")
    two = package(again, BINARY, rows(), tmp_path / "2")
    assert one == two

    class Shapeless(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.sum(dim=1)

    with pytest.raises(store.NotStorable, match="how many features") as caught:
        store.save("model", Shapeless(), objects)
    assert "example_input_array" in str(caught.value.hint)


def layers() -> dict[str, Any]:
    """Modules of the usual layers, each a function of one matrix."""
    import torch

    nn = torch.nn

    class Embedded(nn.Module):
        example_input_array = torch.zeros(1, 3)

        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(10, 3), nn.Linear(5, 1)

        def forward(self, x: Any) -> Any:
            code = x[:, 1].long().clamp(0, 9)
            return self.last(torch.cat([self.table(code), x[:, [0, 2]]], 1)).squeeze(1)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, x: Any) -> Any:
            tokens = self.first(x).unsqueeze(1).expand(-1, 4, -1)
            return self.last(self.encoder(tokens).mean(1))

    class Recurrent(nn.Module):
        example_input_array = torch.zeros(1, 3)

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x: Any) -> Any:
            with torch.no_grad():
                x = torch.nan_to_num(x)
            return self.last(self.inner(x.unsqueeze(-1))[0][:, -1])

    torch.manual_seed(1)
    return {"embedding": Embedded(), "attention": Attention(), "recurrent": Recurrent()}


@pytest.mark.parametrize("name", ["embedding", "attention", "recurrent"])
def test_the_usual_layers_are_exported_for_any_number_of_rows(tmp_path: Path, name: str) -> None:
    import torch

    from treadle.operate.model import torch_model

    module = layers()[name]
    package(module, REGRESSION, rows(), tmp_path / "m")
    _, call = torch_model.load(tmp_path / "m", {"model_data": "data"}, "predict", False)
    module.eval()
    for count in (1, 2, 33):
        with torch.no_grad():
            wanted = module(torch.from_numpy(matrix()[:count])).reshape(count).numpy()
        np.testing.assert_allclose(call(matrix()[:count], {}), wanted, rtol=1e-4, atol=1e-6)
