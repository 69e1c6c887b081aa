"""The return half of the loop, under a replayed clock: traffic, windows, truth, retraining."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Project

from treadle.base import clock

SPEC = """\
project: sales
data:
  sales: {files: "sales*.csv", key: [id], event_time: sold}
model: {result: model, task: regression, label: price, features: [area, rooms]}
test: {holdout: holdout, blocks: 1d, gates: [{metric: mae, at_most: 30}]}
deploy:
  local: {target: process, port: 0}
monitor: {window: 1d}
retrain: {when: [drift], new_rows: 50, cooldown: 0s}
"""

PIPELINE = """\
import pandas as pd
from sklearn.linear_model import LinearRegression

def train(sales: pd.DataFrame) -> pd.DataFrame:
    return sales[sales["sold"] < sales["sold"].max() - pd.Timedelta(days=20)]

def holdout(sales: pd.DataFrame) -> pd.DataFrame:
    return sales[sales["sold"] >= sales["sold"].max().normalize() - pd.Timedelta(days=19)]

def model(train: pd.DataFrame) -> LinearRegression:
    return LinearRegression().fit(train[["area", "rooms"]], train["price"])
"""

BEGIN = datetime.datetime(2024, 3, 1, tzinfo=datetime.UTC)


def sales_csv(
    first: datetime.datetime,
    rows: int,
    *,
    seed: int,
    slope: float = 2.5,
    priced: bool = True,
    hours: float = 0.2,
) -> str:
    """A sale each so many hours from `first` on; without prices it is a request."""
    source = random.Random(seed)
    lines = ["id,sold,area,rooms" + (",price" if priced else "")]
    for number in range(rows):
        area, rooms = source.randint(30, 200), source.randint(1, 7)
        sold = first + datetime.timedelta(hours=hours * number)
        price = 20 + slope * area + 8 * rooms + source.gauss(0, 10)
        line = f"{seed}{number:05},{sold:%Y-%m-%dT%H:%M:%S},{area},{rooms}"
        lines.append(line + (f",{price:.1f}" if priced else ""))
    return "\n".join(lines) + "\n"


class Replayed(Project):
    """A project whose processes live in the time that a file says."""

    clock: Path

    def __call__(self, *arguments: str, **options):
        return super().__call__(
            *arguments, env={"TREADLE_CLOCK": str(self.clock)} | options.pop("env", {}), **options
        )

    def at(self, days: float) -> None:
        clock.set_replay(self.clock, BEGIN + datetime.timedelta(days=days))


@pytest.fixture
def sales(tmp_path: Path) -> Iterator[Callable[..., Replayed]]:
    made: list[Replayed] = []

    def make(spec: str = SPEC) -> Replayed:
        project = Replayed(tmp_path / "sales")
        project.clock = tmp_path / "clock"
        project.folder.mkdir()
        project.at(0)
        (project.folder / "treadle.yaml").write_text(spec)
        (project.folder / "pipeline.py").write_text(PIPELINE)
        history = sales_csv(BEGIN - datetime.timedelta(days=100), 1000, seed=1, hours=2.4)
        (project.folder / "sales-1.csv").write_text(history)
        project("up")
        made.append(project)
        return project

    yield make
    for project in made:
        project("down", code=None)


def test_traffic_becomes_a_window_and_truth_by_key_and_by_id_its_quality(sales) -> None:
    project = sales()
    assert "no window has closed yet" in project("monitor").out
    first = project("explain", "retrain").out
    assert "no" in first, "a no is written down too"
    # Day 1: 60 answers, asked by hand.
    project.at(0.1)
    today = BEGIN + datetime.timedelta(days=0.1)
    (project.folder / "ask.csv").write_text(sales_csv(today, 60, seed=2, priced=False))
    ids = project("predict", "ask.csv", "--json").json["ids"]
    assert len(ids) == 60
    project.at(1.2)
    shown = project("monitor", "--json").json
    (window,) = shown["new_windows"]
    assert window["rows"] == 60
    assert window["releases"] == [1]
    assert window["coverage"] == 0
    assert shown["answer"] == "no"
    decision = project.ledger()[0]
    assert (decision["kind"], decision["outcome"]) == ("retrain", "no")
    assert decision["evidence"]["new_labelled_rows"] == 0
    # Half of the truth by key, some by prediction id.
    answers = sales_csv(today, 60, seed=2).splitlines()
    (project.folder / "by-key.csv").write_text(
        "\n".join([line.split(",")[0] + "," + line.split(",")[4] for line in answers[:41]]) + "\n"
    )
    assert "40 rows, joined by id" in project("truth", "by-key.csv").out
    assert "taken in before" in project("truth", "by-key.csv").out
    shown = project("monitor", "--json").json
    (judged,) = shown["judged"]
    assert judged["coverage"] == pytest.approx(40 / 60)
    assert judged["realised"]["rmse"] == pytest.approx(10, abs=3)
    assert "67%" in project("monitor").out
    assert f"rmse {judged['realised']['rmse']:.3f}" in project("monitor").out
    # An id of that window leads to its row, and what was captured of it.
    lineage = project("lineage", ids[3], "--json").json["links"][0]
    assert set(lineage["facts"]["inputs"]) == {"area", "rooms"}
    # The truth of another day by the prediction ids of its answers.
    project.at(1.3)
    (project.folder / "more.csv").write_text(
        sales_csv(today + datetime.timedelta(days=1), 30, seed=3, priced=False)
    )
    more = project("predict", "more.csv", "--json").json["ids"]
    truths = [line.split(",")[4] for line in sales_csv(today, 30, seed=3).splitlines()[1:]]
    (project.folder / "by-id.csv").write_text(
        "prediction_id,price\n" + "".join(f"{i},{t}\n" for i, t in zip(more, truths, strict=True))
    )
    assert "joined by prediction_id" in project("truth", "by-id.csv").out
    project.at(2.5)
    shown = project("monitor", "--json").json
    assert [w["coverage"] for w in shown["judged"]] == [1.0]
    assert "lacks" in project("truth", "ask.csv", code=2).err
    # The window is kept by gc, and nothing that monitoring needs goes.
    project("gc")
    assert len(project("monitor", "--json").json["windows"]) >= 2


def test_new_rows_make_a_retraining_due_and_the_turn_answers_it(sales) -> None:
    project = sales()
    project.at(2)
    (project.folder / "sales-2.csv").write_text(sales_csv(BEGIN, 80, seed=4))
    shown = project("monitor", "--json").json
    assert shown["answer"] == "yes"
    assert "80 new labelled rows" in shown["words"]
    assert "a retraining is due" in project("status").out
    assert "80 new labelled rows" in project("explain", "retrain").out
    ran = project("up", code=None)
    assert ran.code in (0, 3, 5), ran
    assert "a retraining is due" not in project("status").out
    assert project("monitor", "--json").json["answer"] == "no"


def test_a_retraining_waits_for_a_person_where_the_spec_says_so(sales) -> None:
    project = sales(SPEC.replace("cooldown: 0s", "cooldown: 0s, approve: person"))
    project.at(2)
    (project.folder / "sales-2.csv").write_text(sales_csv(BEGIN, 80, seed=4))
    assert project("monitor", "--json").json["answer"] == "approval"
    assert "awaits approval" in project("status").out
    project("approve", "retrain", "--reason", "go on", env={"GITHUB_ACTOR": "ada"})
    assert "a retraining is due, approved by ada" in project("status").out
    shown = project("monitor", "--json").json
    assert shown["answer"] == "yes"
    assert project.ledger()[0]["outcome"] == "yes"


def test_decay_on_the_truth_is_an_alarm_and_a_reason(sales) -> None:
    project = sales(
        SPEC.replace("model:", '  truths: {files: "truth/*.csv", key: [id]}\nmodel:')
        .replace("window: 1d", "window: 1d, truth: {data: truths, matures: 0s}")
        .replace("[drift]", "[decay]")
        .replace("blocks: 1d", "blocks: 1h")
    )
    (project.folder / "truth").mkdir()
    for day in range(6):
        project.at(day + 0.1)
        today = BEGIN + datetime.timedelta(days=day + 0.1)
        name = f"ask-{day}.csv"
        (project.folder / name).write_text(sales_csv(today, 60, seed=20 + day, priced=False))
        project("predict", name)
        lines = sales_csv(today, 60, seed=20 + day, slope=3.5).splitlines()
        (project.folder / "truth" / f"{day}.csv").write_text(
            "\n".join(line.split(",")[0] + "," + line.split(",")[4] for line in lines) + "\n"
        )
    project.at(8)
    (project.folder / "sales-2.csv").write_text(sales_csv(BEGIN, 30, seed=5, slope=3.5))
    shown = project("monitor", "--json").json
    alarms = [f for f in shown["new_findings"] if f["alarm"]]
    assert any(f["kind"] == "decay" for f in alarms), (
        shown["new_findings"],
        [(w["realised"], w["coverage"], w["rows"]) for w in shown["windows"]],
    )
    assert shown["answer"] == "yes"
    assert "at release it was" in shown["words"]
    assert "alarms:" in project("monitor").out
