"""Small real projects for end-to-end tests, and the command line to turn them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

PIPELINE = """\
import pandas as pd
from sklearn.linear_model import LinearRegression

def train(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] < 2020]

def holdout(houses: pd.DataFrame) -> pd.DataFrame:
    return houses[houses["year"] >= 2020]

def model(train: pd.DataFrame, intercept: bool = True) -> LinearRegression:
    return LinearRegression(fit_intercept=intercept).fit(train[["area", "rooms"]], train["price"])
"""

SPEC = """\
project: houses
data:
  houses: {files: "houses*.csv"}
model: {result: model, task: regression, label: price, features: [area, rooms]}
test:
  gates:
    - {metric: mae, at_most: 30}
deploy:
  local: {target: process, port: 0}
"""


def houses_csv(rows: int = 400, seed: int = 1) -> str:
    """Houses with a price in thousands that area and rooms explain, give or take 10."""
    source = random.Random(seed)
    lines = ["area,rooms,year,price"]
    for _ in range(rows):
        area, rooms = source.randint(30, 200), source.randint(1, 7)
        price = 20 + 2.5 * area + 8 * rooms + source.gauss(0, 10)
        lines.append(f"{area},{rooms},{source.randint(2010, 2024)},{price:.1f}")
    return "\n".join(lines) + "\n"


def houses(folder: Path, *, spec: str = SPEC, pipeline: str = PIPELINE, rows: int = 400) -> Path:
    """A regression project on a CSV file, without key and time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "houses.csv").write_text(houses_csv(rows))
    (folder / "treadle.yaml").write_text(spec)
    (folder / "pipeline.py").write_text(pipeline)
    return folder


class Ran:
    """A finished command."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def treadle(
    folder: Path,
    *arguments: str,
    env: dict[str, str] | None = None,
    input: str | None = None,
    timeout: float = 300,
    recorder: bool = False,
) -> Ran:
    """Run the command as a user does: its own process, in the project's folder."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TREADLE_", "MLFLOW_"))}
    if not recorder:
        environ["TREADLE_RECORDER"] = "off"
    environ |= env or {}
    return Ran(
        subprocess.run(
            [sys.executable, "-m", "treadle", *arguments],
            cwd=folder,
            env=environ,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            input=input or "",
        )
    )
