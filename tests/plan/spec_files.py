"""A treadle.yaml with every section, to be changed, and what is said of it then."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.base.errors import SpecError
from treadle.plan.spec import load

VALID = """\
# yaml-language-server: $schema=.treadle/schema.json
project: flights
pipeline: pipeline.py
data:
  flights:
    files: data/flights-*.parquet
    key: [carrier, flight, sched_dep]
    event_time: sched_dep
    known_later: [dep_time, dep_delay]
  arrivals:
    query: SELECT * FROM arrivals
    database: "${FLIGHTS_DSN}"
    incremental:
      by: known_at
      restated: 7d
steps:
  model:
    cache: false
model:
  result: model
  task: binary
  label: late
  features: [carrier, origin]
test:
  holdout: holdout
  blocks: 1d
  gates:
    - metric: roc_auc
      at_least: 0.62
    - metric: log_loss
      versus: champion
      margin: 0.005
deploy:
  zebra:
    target: process
    port: 8080
  nightly:
    target: batch
    of: zebra
    input: data/tomorrow.parquet
    output: forecasts/
    at: 05:00 Europe/Berlin
monitor:
  window: 7d
  false_alarms:
    at_most: 1
    per: 90d
  truth:
    data: arrivals
    matures: 1d
  capture:
    rate: 0.5
    per_minute: 100
retrain:
  when: [decay, drift]
  every: 30d
  new_rows: 20000
  cooldown: 7d
  approve: auto
trust: pickle
"""
LINES = VALID.splitlines()
PROCESS = "    target: process\n    port: 8080\n"
"""The first environment of VALID."""
CLUSTER = "    target: kubernetes\n    context: minikube\n    state: checkout\n"
"""Another one in its place."""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "treadle.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mistakes(folder: Path, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(SpecError) as error:
        load(written(folder, text))
    assert error.value.mistakes
    assert error.value.exit_code == 2
    return error.value.mistakes


def changed(old: str, new: str) -> str:
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)
