"""`model: {compile: auto}`: planned, compared, released with the comparison, and served."""

from __future__ import annotations

import csv
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.e2e.conftest import Project
from tests.support.projects import SPEC
from tests.support.torch_models import needs_torch

from treadle.operate.model import loaded as models

ASKED = ("features: [area, rooms]}", "features: [area, rooms], compile: auto}")


def ask(address: str, rows: list[dict[str, Any]]) -> list[Any]:
    body = json.dumps({"dataframe_records": rows}).encode()
    request = urllib.request.Request(
        f"{address}/invocations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[Any] = json.loads(answer.read())["predictions"]
    return found


def directory(project: Project, compiled: bool = True) -> Path:
    """The served model's directory."""
    found = [
        path
        for path in (project.folder / ".treadle/models").iterdir()
        if (path / "compiled/parity.json").is_file() is compiled
    ]
    assert len(found) == 1
    return found[0]


def test_a_project_that_asks_for_it_is_answered_by_the_compiled_form(project: Project) -> None:
    project.edit("treadle.yaml", ASKED)
    planned = project("plan").out
    assert "model.compile is `auto` now" in planned
    assert "train()    keep" in planned
    ran = project("up")
    assert "compiled (linear): at most 1e-12 apart on" in ran.err
    turned = project("up", "--json").json
    assert not turned["turned"]
    assert turned["release"]["number"] == 2
    told = turned["release"]["compiled"]
    assert (told["accepted"], told["form"], told["classes_changed"]) == (True, "linear", 0)
    assert told["worst"]["absolute"] <= told["tolerance"]["absolute"]
    assert told["rows"] > 50
    assert "at most 1e-12 apart" in project("lineage", "release", "2").out
    with open(project.folder / "houses.csv") as file:
        rows = [{"area": int(r["area"]), "rooms": int(r["rooms"])} for r in csv.DictReader(file)]
    original = models.load(directory(project)).predict(pd.DataFrame(rows))
    served = ask(turned["address"], rows)
    assert served == pytest.approx(original.tolist(), rel=1e-9, abs=1e-9)
    assert ask(turned["address"], rows[:1]) == pytest.approx(served[:1], rel=1e-12)
    log = (project.folder / ".treadle/environments/local/server.log").read_text()
    assert "compiled form (linear) answers" in log
    project.edit("treadle.yaml", ASKED[::-1])
    assert project("plan", "--json").json["changes"] is True
    assert "nothing to do" not in project("up").out
    assert project("up", "--json").json["release"]["compiled"] is None


FAR = """\
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor

def train(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] < 2020].assign(area=lambda f: f["area"] + 2**30)

def holdout(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] >= 2020].assign(area=lambda f: f["area"] + 2**30)

def model(train: pd.DataFrame) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor().fit(train[["area", "rooms"]], train["price"])
"""


def test_a_form_that_answers_otherwise_is_refused_aloud_and_the_original_serves(
    fresh: Callable[..., Project],
) -> None:
    pytest.importorskip("skl2onnx", reason="pip install 'treadle[compile]'")
    project = fresh(spec=SPEC.replace(*ASKED), pipeline=FAR)
    ran = project("up")
    assert "no compiled form, the original answers: the onnx form was not accepted" in ran.err
    turned = project("up", "--json").json
    told = turned["release"]["compiled"]
    assert not told["accepted"]
    assert told["outside"] > 0
    assert told["why"] in turned["made"]["compiled"]
    rows = [{"area": 2**30 + area, "rooms": 3} for area in range(40, 60)]
    original = models.load(directory(project)).predict(pd.DataFrame(rows))
    assert ask(turned["address"], rows) == original.tolist()
    assert len(set(original.tolist())) > 3


NETWORK = """\
import pandas as pd
import torch

def train(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] < 2020]

def holdout(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] >= 2020]

class Price(torch.nn.Module):
    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers((x - self.mean) / self.scale).squeeze(-1) * 100 + 300

def model(train: pd.DataFrame, steps: int = 300) -> torch.nn.Module:
    torch.manual_seed(0)
    x = torch.tensor(train[["area", "rooms"]].to_numpy(dtype="float32"))
    y = torch.tensor(train["price"].to_numpy(dtype="float32"))
    network = Price(x.mean(0), x.std(0))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(x), y)
        loss.backward()
        optimizer.step()
    return network
"""


@needs_torch
def test_a_module_of_pytorch_goes_all_the_way_without_a_pickle(
    fresh: Callable[..., Project],
) -> None:
    project = fresh(pipeline=NETWORK)
    project("up")
    turned = project("up", "--json").json
    assert not turned["turned"]
    assert turned["model"]["flavor"] == "pytorch"
    assert not [name for name in turned["model"]["files"] if name.endswith((".pkl", ".pth"))]
    rows = [{"area": area, "rooms": 3} for area in range(40, 60)]
    original = models.load(directory(project, compiled=False)).predict(pd.DataFrame(rows))
    assert ask(turned["address"], rows) == pytest.approx(original.tolist(), rel=1e-6)
    assert original[-1] > original[0]
