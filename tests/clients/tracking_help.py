"""A small released model and its records, for the tests of the projection."""

from __future__ import annotations

import dataclasses

from treadle.base.records import Column, Model, Part, Release, Run, Snapshot, Verdict
from treadle.base.spec import DataSection, ModelSection, ProcessTarget, Spec
from treadle.clients.state import State

SPEC = Spec(
    "flights",
    {"flights": DataSection(files="data/f-*.parquet")},
    ModelSection(result="model", task="binary", label="late"),
    deploy={"local": ProcessTarget("process"), "production": ProcessTarget("process", port=8081)},
)
SNAPSHOT = Snapshot(
    "flights",
    "files",
    (
        Part("data/f-01.parquet", "sha256:" + "1" * 64, 10, 5),
        Part("data/f-02.parquet", "sha256:" + "2" * 64, 20, 7),
    ),
    (Column("late", "boolean"), Column("temp", "float", False)),
)


def a_model(state: State, tmp_path, text: str = "one") -> Model:
    folder = tmp_path / f"model-{text}"
    folder.mkdir()
    (folder / "MLmodel").write_text(
        f"flavors:\n  python_function:\n    loader_module: none\n# {text}\n", encoding="utf-8"
    )
    content, files = state.objects.put_tree(folder)
    return Model(content, files, "sklearn", "binary", "late", ("temp",))


def a_run(identifier: str = "R1", **changes) -> Run:
    run = Run(
        id=identifier,
        project="flights",
        environment="local",
        started="2026-01-01T00:00:00.000000Z",
        status="FINISHED",
        ended="2026-01-01T00:01:00.000000Z",
        parameters={"model.learning_rate": 0.1, "split.days": 14, "model.names": ["a", "b"]},
        snapshots={"flights": SNAPSHOT.digest},
        code="sha256:c",
        commit="abc123+",
        steps={"split": "sha256:s"},
        metrics={"rows": 12},
        by="ada",
        reason="typed up",
    )
    return dataclasses.replace(run, **changes)


def a_verdict(model: Model) -> Verdict:
    return Verdict(
        "pass",
        model.digest,
        None,
        "sha256:h",
        (),
        {"roc_auc": 0.7, "log_loss": float("nan")},
        champion_metrics={"roc_auc": 0.65},
    )


def a_release(
    model: Model, number: int = 1, run: str = "R1", environment: str = "local"
) -> Release:
    return Release(
        number,
        environment,
        model.digest,
        model.content,
        run,
        "sha256:v",
        "2026-01-01T00:02:00.000000Z",
        "treadle",
    )
