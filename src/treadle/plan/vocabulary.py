"""The words of treadle.yaml that several checks, and the JSON Schema, have to agree on.

What a word means stands in base/spec.py; here is which words there are and how they are written.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from treadle.base.spec import BatchTarget, DockerTarget, KubernetesTarget, ProcessTarget

METRICS: dict[str, tuple[str, ...]] = {
    "binary": (
        "roc_auc", "log_loss", "accuracy", "f1", "precision", "recall", "brier",
        "average_precision", "balanced_accuracy",
    ),
    "multiclass": ("log_loss", "accuracy", "f1_macro", "balanced_accuracy"),
    "regression": ("mae", "rmse", "r2", "mape", "median_absolute_error"),
}  # fmt: skip
"""The names a gate may use, by task."""

DURATIONS = frozenset(
    {
        "restated",
        "blocks",
        "per",
        "matures",
        "window",
        "every",
        "cooldown",
        "deadline",
        "scale_down_stabilization",
    }
)
"""Keys whose value is a duration, wherever they stand."""
TARGETS: dict[str, type] = {
    "process": ProcessTarget, "docker": DockerTarget, "kubernetes": KubernetesTarget,
    "batch": BatchTarget,
}  # fmt: skip
"""What an environment may be, by its `target:`."""
SHAPES = {
    "data": "data: {flights: {files: data/*.parquet}}",
    "model": "model: {result: model, task: binary, label: late}",
    "test": "test: {gates: [{metric: roc_auc, at_least: 0.62}]}",
    "gates": "gates: [{metric: roc_auc, at_least: 0.62}]",
    "deploy": "deploy: {local: {target: process, port: 8080}}",
    "build": "build: {base: python:3.12-slim}",
    "monitor": "monitor: {window: 7d}",
    "truth": "truth: {data: arrivals, matures: 1d}",
    "retrain": "retrain: {when: [drift], cooldown: 7d}",
    "steps": "steps: {fetch: {cache: false}}",
    "false_alarms": "false_alarms: {at_most: 1, per: 90d}",
    "incremental": "incremental: {by: updated_at, restated: 7d}",
    "project": "project: flights",
    "result": "result: model",
    "task": "task: binary",
    "label": "label: late",
    "metric": "metric: roc_auc",
    "of": "of: local",
    "input": "input: data/tomorrow.parquet",
    "output": "output: forecasts/",
    "s3": "s3: {secret: NAME}",
    "secret": "secret: NAME",
    "by": "by: updated_at",
    "port": "port: 8080",
    "context": "context: minikube",
    "state": "state: checkout",
    "route": "route: {gateway: infra/public, host: flights.example.com}",
    "gateway": "gateway: infra/public",
    "prometheus": "prometheus: {namespace: monitoring}",
}
"""How a key is written, for hints: by example, as an example needs no explanation."""


def fields(section: type) -> dict[str, Any]:
    """A section's field names and types, in order."""
    hints = typing.get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def section_of(kind: Any) -> type | None:
    """The section type inside an optional type, if there is one."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        found = [section_of(item) for item in typing.get_args(kind) if item is not type(None)]
        return found[0] if len(found) == 1 else None
    return None
