"""What a release is later compared with: its training profile, its usual wandering, its quality.

Computed once for a model that is released (not on the way to the verdict) and kept as one blob.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from treadle.base.clock import duration_s
from treadle.base.records import Model
from treadle.base.spec import Spec, Task
from treadle.clients.journal import Changes
from treadle.loop.chain import Chain
from treadle.loop.project import Project

ROWS = 100_000
"""At most so many training rows, evenly spaced, say what is usual."""


def metrics(task: Task, classes: tuple[Any, ...], *, probabilities: bool) -> dict[str, Any]:
    """The metrics that decay is judged by, with the functions of `test/metrics`."""
    import numpy as np

    from treadle.monitor import quality
    from treadle.test import metrics as known

    def judged(truth: Any, prediction: Any) -> known.Judged:
        prediction = np.asarray(prediction, dtype=np.float64)
        if task == "regression":
            return known.Judged(task, np.asarray(truth, dtype=np.float64), prediction, None, ())
        truth = np.asarray(truth).astype(np.int64)
        if not probabilities:
            classes_alone = prediction if prediction.ndim == 1 else prediction.argmax(axis=1)
            return known.Judged(task, truth, classes_alone.astype(np.int64), None, classes)
        if prediction.ndim == 1:
            prediction = np.column_stack([1.0 - prediction, prediction])
        return known.Judged(task, truth, prediction.argmax(axis=1), prediction, classes)

    def score(name: str, truth: Any, prediction: Any) -> float:
        return known.value(name, judged(truth, prediction))

    def statistic(name: str, truth: Any, prediction: Any, block: Any) -> Callable[[Any], Any]:
        return known.statistic(name, judged(truth, prediction), block)

    return quality.watched(task, score, statistic, probabilities=probabilities)


def remember(chain: Chain, model: Model) -> None:
    """Compute and store the baseline of `model`, unless it is there."""
    from treadle.loop.learn import as_pandas, predictor, training_frame

    project, spec = chain.project, chain.project.spec
    if project.journal.get("baseline", model.digest) is not None:
        return
    from treadle.code import store

    predict = predictor(chain, model)
    train = training_frame(chain)
    train = train.iloc[:: max(1, -(-len(train) // ROWS))].reset_index(drop=True)
    holdout = chain.result(spec.test.holdout)
    assert holdout is not None
    judged = as_pandas(store.load(holdout, project.objects))
    blob = json.dumps(
        compute(spec, model, train, judged, predict, _event_time(chain)), sort_keys=True
    ).encode()
    project.commit(Changes().put("baseline", model.digest, project.objects.put_bytes(blob)))


def _event_time(chain: Chain) -> str | None:
    section = chain.project.training_section()
    return section.event_time if section is not None else None


def compute(
    spec: Spec,
    model: Model,
    train: Any,
    holdout: Any,
    predict: Callable[[Any], Any],
    event_time: str | None,
) -> dict[str, Any]:
    """`{"profile": …, "placebo": … | None, "quality": {metric: Measured as plain values}}`."""
    import numpy as np
    import pyarrow as pa

    from treadle.data.profile import profile_frame
    from treadle.monitor import drift, quality

    features = list(model.features)
    prediction = predict(train[features])
    table = pa.Table.from_pandas(train[features], preserve_index=False).append_column(
        drift.PREDICTION, drift.answers(np.asarray(prediction), spec.model.task, model.classes)
    )
    watched = train[features].assign(**{drift.PREDICTION: table[drift.PREDICTION].to_pandas()})
    profile = profile_frame(watched, [*features, drift.PREDICTION])
    placebo = None
    if event_time is not None and event_time in train.columns:
        placebo = drift.reference(
            table,
            microseconds(train[event_time]),
            profile,
            duration_s(spec.monitor.window),
            [*features, drift.PREDICTION],
            block_s=quality.block_seconds(spec.test.blocks, spec.monitor),
        )
    return {
        "profile": profile,
        "placebo": placebo,
        "quality": _quality(spec, model, holdout, predict, event_time),
    }


def _quality(
    spec: Spec, model: Model, holdout: Any, predict: Callable[[Any], Any], event_time: str | None
) -> dict[str, Any]:
    import numpy as np

    from treadle.monitor import quality

    rows = holdout[holdout[spec.model.label].notna()]
    if event_time is None or event_time not in rows.columns or not len(rows):
        return {}
    prediction = np.asarray(predict(rows[list(model.features)]))
    when = microseconds(rows[event_time])
    order = np.argsort(when, kind="stable")
    judged = quality.judge_arrays(
        rows[spec.model.label].to_numpy()[order],
        prediction[order],
        when[order],
        spec.model.task,
        model.classes,
        quality.block_seconds(spec.test.blocks, spec.monitor),
    )
    probabilities = prediction.dtype.kind == "f"
    measures = metrics(spec.model.task, model.classes, probabilities=probabilities)
    return {name: asdict(found) for name, found in quality.measure(judged, measures).items()}


def microseconds(column: Any) -> Any:
    """A time column as microseconds since 1970 (naive times are taken for UTC)."""
    import pandas as pd

    times = pd.to_datetime(column, utc=True)
    return times.dt.as_unit("us").astype("int64").to_numpy()


def read(project: Project, model: str) -> Mapping[str, Any] | None:
    """The stored baseline of a model, by the model record's digest."""
    digest = project.journal.get("baseline", model)
    if digest is None or not project.objects.has(digest):
        return None
    found: Mapping[str, Any] = json.loads(project.objects.read(digest))
    return found
