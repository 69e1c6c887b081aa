"""The year's demo: the loop turns through real flights, and what it says happened did happen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.projects import treadle

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_year_turns_from_january_to_december_without_losing_a_request(tmp_path: Path) -> None:
    scratch = tmp_path / "year"
    done = treadle(
        ROOT / "examples" / "flights",
        "demo",
        "drift",
        "--json",
        "--scratch",
        str(scratch),
        timeout=1100,
    )
    assert done.code == 0, done
    story = done.json
    assert (story["requests"], story["flights"]) == (4656, 227657)
    assert story["failed_requests"] == 0
    assert story["windows"] == 35
    assert story["decay_alarms"] >= 1, "the truth must show what inputs hide"
    assert story["drift_alarms"] <= 2, "drift alone must not cry wolf"
    assert story["swaps"] >= 1
    env = {"TREADLE_CLOCK": str(scratch / "clock")}

    entries = treadle(scratch, "ledger", "--json", env=env).json["decisions"]
    kinds = [(entry["kind"], entry["outcome"]) for entry in reversed(entries)]
    assert ("retrain", "yes") in kinds
    assert ("retrain", "no") in kinds
    outcomes = {outcome for kind, outcome in kinds if kind == "verdict"}
    assert {"pass", "undecided"} <= outcomes
    assert not any(kind == "data" and outcome == "refuse" for kind, outcome in kinds), (
        "clean data must never be refused"
    )

    links = treadle(scratch, "lineage", story["last_id"], "--json", env=env).json["links"]
    assert [link["kind"] for link in links] == [
        "prediction",
        "instance",
        "release",
        "model",
        "verdict",
        "run",
        "code",
        "parameters",
        "data",
    ]
    assert links[0]["facts"]["inputs"]["origin"] in ("EWR", "JFK", "LGA")
    first = treadle(scratch, "ledger", "--as-of", "2013-05-15", "--json", env=env).json
    assert first["champion"] == 1
    monitored = treadle(scratch, "monitor", "--json", env=env)
    assert monitored.code == 0, monitored
    assert json.loads(monitored.out)["windows"][-1]["realised"]["roc_auc"] > 0.5
    assert treadle(scratch, "gc", env=env).code == 0
