"""The verdict on a model: all gates on the holdout, in the order in which they would stop a person.

Pure: what it is told is in `JudgeInput`, what it finds is a `Verdict`; equal inputs give equal
verdicts (the resampling is seeded).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.base.clock import duration_s
from treadle.base.digest import digest
from treadle.base.errors import UsageError
from treadle.base.records import GateResult, Outcome, Verdict
from treadle.base.spec import GateSection, ModelSection, Task, TestSection
from treadle.test import compare, gate, leak, metrics
from treadle.test.metrics import Judged

FORMAT = 1
"""Raised when the same inputs would be judged otherwise."""
Predict = Callable[[Any], Any]
"""A pandas frame of the model's features → ndarray: (n,) or (n, k)."""

_CONSTANT_CAN = {
    "roc_auc", "average_precision", "log_loss", "brier", "accuracy", "balanced_accuracy",
    "f1_macro", "mae", "rmse", "r2", "mape", "median_absolute_error",
}  # fmt: skip
"""Metrics in which a constant answer is a meaningful rival (a constant 'yes' has a recall of 1)."""
_DEFAULT = {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}
_DEFAULT_CLASSES = "balanced_accuracy"


@dataclass(frozen=True)
class JudgeInput:
    """Everything a verdict rests on.

    Frames are pandas or polars. `predict` takes a pandas frame of `features` and gives for classes
    the probabilities, (n, k) in the order of `classes` or (n,) of the second of two; classes
    themselves (integers, text) where the model has no probabilities; for numbers (n,).
    """

    test: TestSection
    model: ModelSection
    holdout: Any
    predict: Predict
    features: tuple[str, ...]
    model_digest: str = ""
    holdout_digest: str = ""
    classes: tuple[Any, ...] = ()
    train: Any = None
    """The training rows, where a result of the pipeline is known to be them."""
    key: tuple[str, ...] = ()
    event_time: str | None = None
    known_later: tuple[str, ...] = ()
    predict_champion: Predict | None = None
    """The champion, if there is one and it is another model."""
    champion_features: tuple[str, ...] = ()
    """The columns that it is given; by default all columns of the holdout."""
    champion_classes: tuple[Any, ...] = ()
    champion_digest: str | None = None
    champion_name: str | None = None
    """How words call it: `release 3`."""
    attempts: int = 1
    """Different models judged on this holdout, this one included."""

    @property
    def rival(self) -> str:
        """The champion's name in words."""
        return self.champion_name or "the champion"


def key(
    model: str, champion: str | None, holdout: str, test: TestSection, section: ModelSection, *,
    data: Sequence[Any], train: str | None = None,
) -> str:  # fmt: skip
    """The test key: equal keys, equal verdicts (but for the number of attempts).

    `data` holds what the data section says: key, event_time, known_later.
    """
    return digest({
        "test": FORMAT, "model": model, "champion": champion, "holdout": holdout,
        "gates": test, "section": section, "data": list(data), "train": train,
    })  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """The judged rows: labelled, in pandas, with their truth in class numbers or floats."""

    frame: Any
    truth: NDArray[Any]
    times: NDArray[np.datetime64] | None
    unlabelled: int
    unknown: tuple[str, ...]
    """Labels that are no class of the model."""


class _CannotJudge(Exception):
    """A prediction that cannot be judged; the words say why."""


def judge(given: JudgeInput) -> Verdict:
    """The verdict. UsageError for a gate on a metric that the task does not have."""
    task = given.model.task
    for section in given.test.gates:
        _check_metric(section, task)
    gates: list[GateResult] = []
    missing = [name for name in (given.model.label, *given.features)
               if name not in given.holdout.columns]  # fmt: skip
    if missing:
        text = f"the holdout has no column {', '.join(missing)}"
        gates.append(GateResult("holdout", "refuse", None, None, text=text))
        return _verdict(given, gates)
    classes = given.classes or _labels(given)
    rows = _rows(given, classes)
    train = _train(given)
    gates.append(_time_order(given, train))
    refused = _labels_gate(given, rows, classes)
    if refused is not None:
        gates.append(leak.gate(given.features, given.known_later, {}, task))
        return _verdict(given, [refused, *gates], rows)
    gates.append(_leak(given, rows, train, classes))
    try:
        judged = _judged(given.predict, given.features, rows, classes, task)
    except _CannotJudge as error:
        gates.insert(0, GateResult("predicts", "refuse", None, None, text=f"the model {error}"))
        return _verdict(given, gates, rows)
    block, words = _blocks(given, rows)
    count = int(block.max()) + 1
    champion, reason = _champion(given, rows, classes)
    answer, more = _baseline(given, judged, train, classes, block=block, words=words)
    gates.append(answer)
    needed = [more] if answer.outcome == "undecided" else []
    for section in given.test.gates:
        answer, more = _gate(
            given, section, judged, champion, reason=reason, block=block, words=words
        )
        gates.append(answer)
        if answer.outcome == "undecided":
            needed.append(more)
    if given.attempts > 1:
        text = (
            f"{given.attempts} different models were judged on these rows: the more are tried, the "
            "more the best of them owes to chance"
        )
        gates.append(GateResult("attempts", "pass", float(given.attempts), None, text=text))
    return _verdict(
        given, gates, rows, metrics.values(judged),
        metrics.values(champion) if champion is not None else {},
        blocks=count, needed=needed,
    )  # fmt: skip


def _verdict(
    given: JudgeInput, gates: Sequence[GateResult], rows: _Rows | None = None,
    values: dict[str, float] | None = None, champion: dict[str, float] | None = None, *,
    blocks: int = 0, needed: Sequence[int | None] = (),
) -> Verdict:  # fmt: skip
    known = [number for number in needed if number is not None]
    outcome: Outcome = gate.combined(gates)
    return Verdict(
        outcome=outcome, model=given.model_digest, champion=given.champion_digest,
        holdout=given.holdout_digest, gates=tuple(gates), metrics=values or {},
        champion_metrics=champion or {}, rows=len(rows.truth) if rows else 0,
        unlabelled=rows.unlabelled if rows else 0, blocks=blocks,
        blocks_needed=max(known) if known and outcome == "undecided" else None,
        attempts=given.attempts,
    )  # fmt: skip


def _check_metric(section: GateSection, task: Task) -> None:
    known = metrics.METRICS[task]
    if section.metric not in known:
        close = difflib.get_close_matches(section.metric, known, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"{section.metric!r} is no metric of the task {task}",
            hint=f"{meant}there are {', '.join(known)}",
        )


# ---- rows ----------------------------------------------------------------------------------------


def _pandas(frame: Any, names: Sequence[str]) -> Any:
    """The named columns that are there, in pandas."""
    chosen = frame[[n for n in dict.fromkeys(names) if n in frame.columns]]
    convert = getattr(chosen, "to_pandas", None)
    return (chosen if convert is None else convert()).reset_index(drop=True)


def _plain(value: Any) -> Any:
    """A class as Python's own value; 1.0 is 1, for holes turn integers into floats."""
    item = getattr(value, "item", None)
    value = item() if callable(item) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _labels(given: JudgeInput) -> tuple[Any, ...]:
    """The classes of a model that does not tell them: the labels that there are, sorted."""
    if given.model.task == "regression":
        return ()
    found: set[Any] = set()
    for frame in (given.train, given.holdout):
        if frame is not None and given.model.label in frame.columns:
            labels = _pandas(frame, [given.model.label])[given.model.label].dropna().unique()
            found.update(_plain(value) for value in labels)
    return tuple(sorted(found, key=lambda value: (isinstance(value, str), value)))


def _encode(labels: Any, classes: Sequence[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class numbers of labels (a pandas column without holes); -1 for what is no class."""
    import pandas as pd

    numbers = {_plain(value): index for index, value in enumerate(classes)}
    codes, uniques = pd.factorize(labels)
    values = [_plain(value) for value in uniques]
    found = np.array([numbers.get(value, -1) for value in values], dtype=np.int64)
    unknown = tuple(str(value) for value in values if value not in numbers)
    return found[codes] if len(codes) else np.zeros(0, dtype=np.int64), unknown


def _rows(given: JudgeInput, classes: Sequence[Any]) -> _Rows:
    names = [*given.features, *given.champion_features, given.model.label]
    if given.predict_champion is not None and not given.champion_features:
        names = list(given.holdout.columns)
    if given.event_time is not None:
        names.append(given.event_time)
    frame = _pandas(given.holdout, names)
    there = frame[given.model.label].notna()
    unlabelled = int((~there).sum())
    frame = frame[there].reset_index(drop=True) if unlabelled else frame
    labels = frame[given.model.label]
    unknown: tuple[str, ...] = ()
    truth: NDArray[Any]
    if given.model.task == "regression":
        truth = labels.to_numpy(dtype=np.float64)
    else:
        truth, unknown = _encode(labels, classes)
    return _Rows(frame, truth, _times(frame, given.event_time), unlabelled, unknown)


def _times(frame: Any, event_time: str | None) -> NDArray[np.datetime64] | None:
    """Event times in UTC, or None where there are none; unreadable ones are NaT."""
    import pandas as pd

    if event_time is None or event_time not in frame.columns:
        return None
    column = frame[event_time]
    if pd.api.types.is_numeric_dtype(column.dtype):
        return None
    times = pd.to_datetime(column, errors="coerce", utc=True)
    return np.asarray(times.dt.tz_localize(None), dtype="datetime64[us]")


def _train(given: JudgeInput) -> Any:
    """The training rows' columns that the checks need, in pandas."""
    if given.train is None:
        return None
    names = [*given.features, given.model.label, *given.key]
    return _pandas(given.train, [*names, *([given.event_time] if given.event_time else [])])


def _blocks(given: JudgeInput, rows: _Rows) -> tuple[NDArray[np.int64], str]:
    """Each row's block, and words for them."""
    seconds = duration_s(given.test.blocks) if given.test.blocks else None
    if rows.times is None:
        seconds = None
    block = compare.blocks_of(rows.times, seconds, len(rows.truth))
    if seconds is None:
        return block, f"{len(rows.truth)} rows taken as independent"
    return block, f"{int(block.max()) + 1} blocks of {given.test.blocks}"


# ---- gates ---------------------------------------------------------------------------------------


def _labels_gate(given: JudgeInput, rows: _Rows, classes: Sequence[Any]) -> GateResult | None:
    label, task = given.model.label, given.model.task
    if not len(rows.truth):
        text = f"no row of the holdout has a {label} ({rows.unlabelled} rows without)"
        return GateResult("labels", "refuse", 0.0, 1.0, text=text)
    if task == "regression":
        if not np.isfinite(rows.truth).all():
            text = f"{label} is infinite in {int((~np.isfinite(rows.truth)).sum())} rows"
            return GateResult("labels", "refuse", None, None, text=text)
        return None
    if task == "binary" and len(classes) > 2:
        text = (
            f"{label} has {len(classes)} values, and a binary task has two: say `task: multiclass`"
        )
        return GateResult("labels", "refuse", float(len(classes)), 2.0, text=text)
    if rows.unknown:
        text = (
            f"{int((rows.truth < 0).sum())} rows have a {label} that the model does not know: "
            f"{', '.join(rows.unknown[:5])} (it knows {', '.join(map(str, classes))})"
        )
        return GateResult("labels", "refuse", None, None, text=text)
    present = np.unique(rows.truth)
    if len(present) < 2:
        only = classes[int(present[0])]
        text = (
            f"every row of the holdout has the {label} {only!r} ({len(rows.truth)} rows): "
            "nothing can be told apart on them"
        )
        return GateResult("labels", "undecided", 1.0, 2.0, text=text)
    return None


def _time_order(given: JudgeInput, train: Any) -> GateResult:
    shared: int | None = None
    if train is not None and given.key and set(given.key) <= set(train.columns):
        keys = _pandas(given.holdout, given.key)
        if set(given.key) <= set(keys.columns):
            names = list(given.key)
            shared = len(keys.merge(train[names].drop_duplicates(), on=names, how="inner"))
    holdout = None
    if given.event_time is not None:
        holdout = _times(_pandas(given.holdout, [given.event_time]), given.event_time)
    learned = None if train is None else _times(train, given.event_time)
    event_time = given.event_time if holdout is not None else None
    return gate.time_order(learned, holdout, shared, event_time)


def _leak(given: JudgeInput, rows: _Rows, train: Any, classes: Sequence[Any]) -> GateResult:
    task = given.model.task
    if leak.by_name(given.features, given.known_later):
        return leak.gate(given.features, given.known_later, {}, task)
    if train is not None and given.model.label in train.columns:
        train = train[train[given.model.label].notna()]
        fit = (train, _target(train[given.model.label], classes, task))
        judged = (rows.frame, rows.truth)
    else:
        fit = (rows.frame.iloc[::2], rows.truth[::2])
        judged = (rows.frame.iloc[1::2], rows.truth[1::2])
    scores = leak.alone(given.features, task, fit, judged) if len(judged[1]) > 1 else {}
    return leak.gate(given.features, given.known_later, scores, task)


def _target(labels: Any, classes: Sequence[Any], task: Task) -> NDArray[Any]:
    if task == "regression":
        return np.asarray(labels.to_numpy(dtype=np.float64))
    return _encode(labels, classes)[0]


def _baseline(
    given: JudgeInput, judged: Judged, train: Any, classes: Sequence[Any], *,
    block: NDArray[np.int64], words: str,
) -> tuple[GateResult, int | None]:  # fmt: skip
    """The model against a constant learned from the training rows (or else the holdout's own)."""
    task = given.model.task
    usable = {metric.name: metric for metric in metrics.usable(judged)}
    default = _DEFAULT[task] if _DEFAULT[task] in usable else _DEFAULT_CLASSES
    asked = [s.metric for s in given.test.gates if s.metric in usable]
    name = next((m for m in asked if m in _CONSTANT_CAN), default)
    target = judged.truth
    if train is not None and given.model.label in train.columns:
        labels = train[given.model.label].dropna()
        learned = _target(labels, classes, task)
        learned = learned[learned >= 0] if task != "regression" else learned[np.isfinite(learned)]
        target = learned if len(learned) else target
    n = len(judged.truth)
    if task == "regression":
        median = name in ("mae", "mape", "median_absolute_error")
        number = float(np.median(target) if median else target.mean())
        constant = f"the constant {number:.4g} ({'median' if median else 'mean'})"
        rival = Judged(task, judged.truth, np.full(n, number), None, ())
    else:
        rates = np.bincount(target, minlength=len(classes)) / len(target)
        most = int(rates.argmax())
        constant = "constant rates" if task == "multiclass" else f"the constant rate {rates[1]:.4g}"
        probability = np.tile(rates, (n, 1)) if judged.probability is not None else None
        rival = Judged(task, judged.truth, np.full(n, most), probability, judged.classes)
    metric = usable[name]
    ours, theirs = (metrics.statistic(name, j, block) for j in (judged, rival))
    gained = compare.estimate(compare.gain(ours, theirs, metric.sign), int(block.max()) + 1)
    values = (metrics.value(name, judged), metrics.value(name, rival))
    needed = compare.blocks_needed(gained, 0.0) if gained.known else compare.MIN_BLOCKS
    return gate.baseline(metric, gained, values, constant, words), needed


def _gate(
    given: JudgeInput, section: GateSection, judged: Judged, champion: Judged | None, *,
    reason: str | None, block: NDArray[np.int64], words: str,
) -> tuple[GateResult, int | None]:  # fmt: skip
    """One gate of the spec, and how many blocks would decide it."""
    metric = metrics.METRICS[given.model.task][section.metric]
    name, count = gate.name_of(section), int(block.max()) + 1
    if metric.needs == "probability" and judged.probability is None:
        text = f"{metric.name} needs probabilities, and the model gives classes alone"
        return GateResult(name, "refuse", None, None, text=text), None
    ours = metrics.statistic(metric.name, judged, block)
    if section.versus is None:
        measured = compare.estimate(ours, count)
        answer = gate.floor(section, measured, words)
        assert answer.wanted is not None
        more = compare.blocks_needed(measured, answer.wanted)
        return answer, more if measured.known else compare.MIN_BLOCKS
    if champion is None:
        if reason is None:
            text = "no champion yet: floors and the baseline decide"
            return GateResult(name, "pass", None, None, text=text), None
        return GateResult(name, "undecided", None, None, text=reason), None
    if metric.needs == "probability" and champion.probability is None:
        text = f"{metric.name} needs probabilities, and {given.rival} gives classes alone"
        return GateResult(name, "undecided", None, None, text=text), None
    theirs = metrics.statistic(metric.name, champion, block)
    gained = compare.estimate(compare.gain(ours, theirs, metric.sign), count)
    values = (metrics.value(metric.name, judged), metrics.value(metric.name, champion))
    answer = gate.versus(section, metric, gained, values, champion=given.rival, blocks=words)
    if not gained.known:
        return answer, compare.MIN_BLOCKS
    return answer, compare.blocks_needed(gained, -section.margin)


def _champion(
    given: JudgeInput, rows: _Rows, classes: Sequence[Any]
) -> tuple[Judged | None, str | None]:
    """The champion on the same rows; or None and why it cannot be judged (None: there is none)."""
    if given.predict_champion is None:
        return None, None
    theirs = given.champion_classes or tuple(classes)
    features = given.champion_features or tuple(rows.frame.columns)
    missing = [name for name in features if name not in rows.frame.columns]
    if missing:
        return None, f"{given.rival} needs {', '.join(missing)}, which the holdout lacks"
    truth = rows.truth
    if given.model.task != "regression" and tuple(map(_plain, theirs)) != tuple(
        map(_plain, classes)
    ):
        truth, unknown = _encode(rows.frame[given.model.label], theirs)
        if unknown:
            return None, f"{given.rival} does not know the class {', '.join(unknown)}"
        rows = _Rows(rows.frame, truth, rows.times, rows.unlabelled, ())
    try:
        return _judged(given.predict_champion, features, rows, theirs, given.model.task), None
    except _CannotJudge as error:
        return None, f"{given.rival} {error}"


def _judged(
    predict: Predict, features: Sequence[str], rows: _Rows, classes: Sequence[Any], task: Task
) -> Judged:
    """Predictions in a metric's terms. _CannotJudge where they have no sense."""
    n = len(rows.truth)
    try:
        answer = np.asarray(predict(rows.frame[list(features)]))
    except Exception as error:
        raise _CannotJudge(
            f"cannot predict the holdout: {type(error).__name__}: {error}"
        ) from error
    if answer.ndim == 2 and answer.shape[1] == 1:
        answer = answer[:, 0]
    if answer.shape[:1] != (n,) or answer.ndim > 2:
        raise _CannotJudge(f"answered {n} rows with an array of shape {answer.shape}")
    if answer.dtype.kind in "fc" and not np.isfinite(answer).all():
        bad = ~np.isfinite(answer)
        count = int((bad.any(axis=1) if bad.ndim == 2 else bad).sum())
        raise _CannotJudge(f"gave no number for {count} of {n} rows (NaN or infinite)")
    if task == "regression":
        if answer.ndim != 1 or answer.dtype.kind not in "biuf":
            raise _CannotJudge(f"gave {answer.dtype} of shape {answer.shape}, and not numbers")
        return Judged(task, rows.truth, answer.astype(np.float64), None, ())
    known = tuple(classes)
    if answer.ndim == 1 and answer.dtype.kind != "f":
        import pandas as pd

        predicted, unknown = _encode(pd.Series(answer), known)
        if unknown:
            raise _CannotJudge(f"gave classes that are none: {', '.join(unknown[:5])}")
        return Judged(task, rows.truth, predicted, None, known)
    if answer.ndim == 1:
        if task != "binary":
            raise _CannotJudge("gave one number for each row where each class needs one")
        answer = np.stack([1 - answer, answer], axis=1)
    if answer.shape[1] != len(known):
        raise _CannotJudge(f"gave {answer.shape[1]} probabilities a row for {len(known)} classes")
    probability = answer.astype(np.float64)
    if (probability < -1e-9).any() or (probability > 1 + 1e-6).any():
        raise _CannotJudge("gave probabilities outside 0 to 1")
    probability = np.clip(probability, 0.0, 1.0)
    return Judged(task, rows.truth, probability.argmax(axis=1), probability, known)
