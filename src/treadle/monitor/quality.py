"""Quality on the truth, with intervals by blocks, and the rule that says when it has decayed.

Rows of one block (a day) depend on one another, so nothing here counts rows: every standard error
leaves out one block at a time (delete-m_j jackknife for blocks of unequal size: Busing, Meijer and
van der Leeden, Statistics and Computing 9, 1999; for equal blocks it is Tukey's), is widened where
neighbouring blocks go together (variance × (1 + r) / (1 - r) with r the lag-one autocorrelation of
the pseudo-values where positive: Bayley and Hammersley, 1946), and meets t quantiles. On flights,
intervals by row were 2.5 to 8 times too narrow.

**Decay.** For each metric quality now is compared with quality at release, one-sided (Welch's t on
the two jackknives, Welch–Satterthwaite degrees of freedom). "Now" is the last 14 and the last 28
blocks: the shorter sees a break, the longer a slow slide; fewer than 14 blocks decide nothing (14
days of bootstrap were measured to cover 91 %). "At release" is the release's own holdout; a holdout
is short, so the first 28 blocks of service join it, weighed by blocks, once the span compared lies
wholly after them: without a change they are the same quality, and with a slow slide the holdout
alone would be too uncertain to show it. All comparisons of a look share its α by Holm (1979). An
alarm needs the test *and* a loss of at least the metric's `worth`.

**α of a look.** The budget `false_alarms: {at_most: 1, per: 90d}` is a number of expected alarms:
linear in the looks, so each window may spend at_most × window / per, whatever the dependence
between windows that overlap (Bonferroni over time). Decay has three quarters of it, drift one.

Losses depend on how many rows are positive: log loss rises from September's 13 % late to
December's 33 % with the same model. So losses are judged as skill: 1 - loss / loss of the constant
that fits the same rows best (the rows' own share or mean); 0 is a model that knows nothing,
negative one that is worse than saying the same to everyone.

Measured on the flights (benchmarks/placebo.py, windows of 7d, decay's budget .75 alarms in 90 days).
No change, days of the year drawn in runs of 1, 3, 7: .19, .44, .65 looks with an alarm in 91 days.
Half of the answers turned to noise: found in 98 % of runs, in the second week as a rule. The model of
April kept all year (AUC .69 in May, .61 in September, .60 in December): quiet to 11 August, then an
alarm in 16 of 20 weeks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from treadle.base.clock import duration_s
from treadle.base.spec import MonitorSection, Task

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Score = Callable[[Any, Any], float]
"""(truth of shape (n,), prediction of shape (n,) or (n, classes)) → one number."""
Weighted = Callable[[Floats], Floats]
"""Weights of blocks, shape (replicates, blocks) → the metric's values, shape (replicates,)."""

SPANS = (14, 28)
"""Blocks that "now" is measured over; the first is the least that decides."""
DECAY_SHARE = 0.75
"""Part of the false-alarm budget for decay where truth is configured; drift has the rest."""


@dataclass(frozen=True)
class Measure:
    """A metric and how to read it."""

    score: Score
    higher_is_better: bool = True
    statistic: Callable[[Any, Any, Any], Weighted] | None = None
    """(truth, prediction, block of each row, from 0) → the score for any weights of blocks:
    all blocks left out one by one in one call. Without it `score` is called for each."""
    skill: bool = False
    """A loss: judged as 1 - loss / loss of the constant on the same rows."""
    worth: float = 0.02
    """The least fall (of the score, or of the skill) that is worth an alarm."""


@dataclass(frozen=True)
class Measured:
    """A metric on some rows, with the uncertainty that blocks have. Plain values: may be stored."""

    value: float
    """The score itself."""
    goodness: float
    """What is compared, higher is better: the score, its negative, or the skill."""
    standard_error: float
    """Of `goodness`, by blocks."""
    blocks: int
    freedom: float
    """Degrees of freedom."""
    rows: int
    constant: float | None = None
    """The score of the best constant on the same rows, for losses."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `goodness`."""
        from scipy import stats

        half = float(stats.t.ppf(0.975, self.freedom)) * self.standard_error
        return self.goodness - half, self.goodness + half


@dataclass(frozen=True)
class Judged:
    """Rows with their truth, ready to be measured; n rows in the order of time."""

    truth: npt.NDArray[Any]
    prediction: Floats
    """(n,), or (n, classes) for multiclass."""
    block: Integers
    """The number of the row's block since 1970; neighbours differ by 1."""
    task: Task
    classes: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.block)

    def last(self, blocks: int) -> Judged:
        """The rows of the last `blocks` blocks that have rows."""
        present = np.unique(self.block)
        return self._where(self.block >= present[-blocks]) if blocks < len(present) else self

    def first(self, blocks: int) -> Judged:
        """The rows of the first `blocks` blocks that have rows."""
        present = np.unique(self.block)
        return self._where(self.block <= present[blocks - 1]) if blocks < len(present) else self

    def _where(self, chosen: npt.NDArray[np.bool_]) -> Judged:
        return Judged(
            self.truth[chosen], self.prediction[chosen], self.block[chosen], self.task, self.classes
        )


def block_seconds(blocks: str | None, section: MonitorSection) -> float:
    """Length of a block: `test.blocks`, else a seventh of the window (a day of a week)."""
    return duration_s(blocks) if blocks else duration_s(section.window) / 7


def judged(
    joined: pa.Table,
    task: Task,
    classes: Sequence[Any],
    block_s: float,
    *,
    releases: Collection[int] | None = None,
) -> Judged:
    """The judged rows of `truth.join`, of these releases only (None: all).

    Rows whose prediction is missing or not finite, or whose truth is no known class, cannot be
    scored and are left out.
    """
    chosen = np.array(joined["judged"].to_numpy(), dtype=bool)
    if releases is not None:
        chosen &= np.isin(joined["release"].to_numpy(), list(releases))
    rows = joined.filter(pa.array(chosen))
    moment = np.asarray(rows["when"].cast(pa.int64()).to_numpy())
    return judge_arrays(
        np.array(rows["truth"].to_pylist(), dtype=object),
        _class_predictions(rows, classes)
        if classes and _answers_classes(rows, task)
        else predictions(rows),
        moment.astype(np.int64),
        task,
        classes,
        block_s,
    )


def judge_arrays(
    truth: npt.NDArray[Any],
    prediction: Floats,
    when_us: Integers,
    task: Task,
    classes: Sequence[Any],
    block_s: float,
) -> Judged:
    """The same of plain arrays (a holdout): times in microseconds since 1970, UTC.

    For binary the truth becomes 1.0 where it is the last class, and the prediction is that class's
    probability; for multiclass the truth becomes the class's number.
    """
    prediction = np.asarray(prediction, dtype=np.float64)
    if task == "binary":
        if prediction.ndim == 2:
            prediction = prediction[:, -1]
        positive = classes[-1] if classes else 1
        known = {_same(value): 0.0 for value in classes} | {_same(positive): 1.0}
        if not classes:
            known[_same(0)] = 0.0
        values = np.array([known.get(_same(value), math.nan) for value in truth], dtype=np.float64)
    elif task == "multiclass":
        number = {_same(value): float(i) for i, value in enumerate(classes)}
        values = np.array([number.get(_same(value), math.nan) for value in truth], dtype=np.float64)
    else:
        values = np.array([math.nan if v is None else float(v) for v in truth], dtype=np.float64)
    finite = np.isfinite(prediction)
    good = np.isfinite(values) & (finite if prediction.ndim == 1 else finite.all(axis=1))
    block = np.asarray(when_us, dtype=np.int64) // max(1, int(block_s * 1e6))
    order = np.argsort(np.asarray(when_us)[good], kind="stable")
    return Judged(
        values[good][order], prediction[good][order], block[good][order], task, tuple(classes)
    )


def predictions(table: pa.Table) -> Floats:
    """`prediction`, or `prediction_0` … side by side; NaN where missing."""
    if "prediction" in table.column_names:
        return _floats(table["prediction"])
    several = sorted(
        (
            name
            for name in table.column_names
            if name.startswith("prediction_") and name.removeprefix("prediction_").isdigit()
        ),
        key=lambda name: int(name.removeprefix("prediction_")),
    )
    if not several:
        return np.full(table.num_rows, math.nan)
    return np.column_stack([_floats(table[name]) for name in several])


def _answers_classes(table: pa.Table, task: Task) -> bool:
    """Whether one column of classes, and no probabilities, is what the model answered."""
    if task == "regression" or "prediction" not in table.column_names:
        return False
    kind = table["prediction"].type
    return task == "multiclass" or not pa.types.is_floating(kind)


def _class_predictions(table: pa.Table, classes: Sequence[Any]) -> Floats:
    """Classes as certainties, (n, classes); a class that is not known is NaN."""
    number = {_same(value): index for index, value in enumerate(classes)}
    given = [number.get(_same(value), -1) for value in table["prediction"].to_pylist()]
    table_of = np.vstack([np.eye(len(classes)), np.full(len(classes), math.nan)])
    return table_of[given]


def concatenate(parts: Sequence[Judged]) -> Judged:
    """The rows of several windows, by time of their blocks. ValueError for none."""
    if not parts:
        raise ValueError("no judged rows at all")
    block = np.concatenate([part.block for part in parts])
    order = np.argsort(block, kind="stable")
    return Judged(
        np.concatenate([part.truth for part in parts])[order],
        np.concatenate([part.prediction for part in parts])[order],
        block[order],
        parts[0].task,
        parts[0].classes,
    )


def watched(
    task: Task,
    score: Callable[[str, Any, Any], float],
    statistic: Callable[[str, Any, Any, Any], Weighted] | None = None,
    *,
    probabilities: bool = True,
) -> dict[str, Measure]:
    """The metrics that decay is judged by: one of order or hits, and one of size.

    binary: roc_auc and the skill of log_loss; multiclass: accuracy and the skill of log_loss;
    regression: the skill of rmse (the mean is the constant that fits it best). A model that answers
    with classes alone (`probabilities` False): accuracy. `score` and `statistic` take the metric's
    name first (the phases do not know one another: the loop hands over those of `test/metrics`).
    """

    def one(name: str, *, skill: bool) -> Measure:
        by_blocks = None if statistic is None else functools.partial(statistic, name)
        return Measure(functools.partial(score, name), not skill, by_blocks, skill)

    if task == "regression":
        return {"rmse": one("rmse", skill=True)}
    if not probabilities:
        return {"accuracy": one("accuracy", skill=False)}
    order = "roc_auc" if task == "binary" else "accuracy"
    return {order: one(order, skill=False), "log_loss": one("log_loss", skill=True)}


# ---- measuring -----------------------------------------------------------------------------------


def measure(rows: Judged, measures: Mapping[str, Measure]) -> dict[str, Measured]:
    """Each metric with its standard error by blocks; one that cannot be computed is left out.

    Needs at least two blocks. A block without which the metric has no value (the only one with
    positives) leaves the metric out as well.
    """
    found = {}
    for name, how in measures.items():
        result = _measure_one(rows, how)
        if result is not None:
            found[name] = result
    return found


def values(rows: Judged, measures: Mapping[str, Measure]) -> dict[str, float]:
    """The plain scores of a window, beside each loss `NAME_constant` (the best constant's)."""
    found: dict[str, float] = {}
    for name, how in measures.items():
        score = _score(rows.truth, rows.prediction, how)
        if math.isfinite(score):
            found[name] = score
            if how.skill:
                found[f"{name}_constant"] = _score(rows.truth, constant(rows), how)
    if rows.task == "binary" and len(rows):
        found["rate"] = float(rows.truth.mean())
        found["predicted_rate"] = float(rows.prediction.mean())
    return found


def constant(rows: Judged) -> Floats:
    """The constant prediction that fits the rows best: their mean, or their classes' shares."""
    if rows.task != "multiclass":
        return np.full(len(rows), rows.truth.mean() if len(rows) else math.nan)
    counts = np.bincount(rows.truth.astype(np.int64), minlength=max(1, len(rows.classes)))
    return np.tile(counts / max(1, counts.sum()), (len(rows), 1))


def _measure_one(rows: Judged, how: Measure) -> Measured | None:
    names, inverse, sizes = np.unique(rows.block, return_inverse=True, return_counts=True)
    count = len(names)
    if count < 2:
        return None
    all_and_each = _goodness_without_each(rows, how, inverse, count)
    if not np.isfinite(all_and_each).all():
        return None
    whole, without = float(all_and_each[0]), all_and_each[1:]
    inflation = len(rows) / sizes  # h_j: how much of the whole one block is
    pseudo = inflation * whole - (inflation - 1) * without
    centred = (pseudo - pseudo.mean()) / np.sqrt(inflation - 1)
    variance = float(np.mean(centred**2))
    total = float(np.sum(centred**2))
    if total > 0 and count > 2:
        follow = np.diff(names) == 1  # only true neighbours say how neighbours go together
        lag = float(np.sum(centred[1:][follow] * centred[:-1][follow])) / total
        lag = min(max(lag, 0.0), 0.6)
        variance *= (1 + lag) / (1 - lag)
    return Measured(
        value=_score(rows.truth, rows.prediction, how),
        goodness=whole,
        standard_error=math.sqrt(variance),
        blocks=count,
        freedom=float(count - 1),
        rows=len(rows),
        constant=_score(rows.truth, constant(rows), how) if how.skill else None,
    )


def _goodness_without_each(
    rows: Judged, how: Measure, block: npt.NDArray[Any], count: int
) -> Floats:
    """Goodness of all rows, then without each block in turn; shape (1 + count,)."""
    if how.statistic is None:
        return np.array(
            [_goodness(rows, how)]
            + [_goodness(rows._where(block != number), how) for number in range(count)]
        )
    weights = np.vstack([np.ones(count), 1.0 - np.eye(count)])
    score = how.statistic(rows.truth, rows.prediction, block)(weights)
    if how.skill:
        # The constant of all rows stands for that of each subset: it fits best, so its loss is flat
        # there and the difference is of second order.
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - score / how.statistic(rows.truth, constant(rows), block)(weights)
    return score if how.higher_is_better else -score


def _goodness(rows: Judged, how: Measure) -> float:
    score = _score(rows.truth, rows.prediction, how)
    if how.skill:
        base = _score(rows.truth, constant(rows), how)
        return 1 - score / base if base else math.nan
    return score if how.higher_is_better else -score


def _score(truth: npt.NDArray[Any], prediction: Floats, how: Measure) -> float:
    """The metric; NaN where it has no value on these rows (one class only, no rows)."""
    if not len(truth):
        return math.nan
    try:
        return float(how.score(truth, prediction))
    except (ValueError, ZeroDivisionError, FloatingPointError):
        return math.nan


# ---- decay ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decay:
    """One comparison of quality now with quality at release."""

    metric: str
    span: int
    """Blocks that "now" is measured over."""
    now: Measured
    before: Measured
    with_service: bool
    """Whether the first blocks of service joined the holdout."""
    fall: float
    """How much goodness was lost; negative: it rose."""
    worth: float
    p_value: float
    """Adjusted by Holm over the look's comparisons."""
    alpha: float
    """Of the look."""

    @property
    def alarm(self) -> bool:
        """Both shown and worth it."""
        return self.p_value <= self.alpha and self.fall >= self.worth


@dataclass(frozen=True)
class DecayLook:
    """All comparisons of one look; empty, with a reason, where nothing can be said yet."""

    comparisons: tuple[Decay, ...] = ()
    reason: str = ""
    realised: dict[str, Measured] = field(default_factory=dict)
    """Each metric on the longest span."""


def alpha_of_look(section: MonitorSection, share: float) -> float:
    """The part of the false-alarm budget that one window may spend (at most 0.5)."""
    budget = section.false_alarms
    looks = duration_s(budget.per) / duration_s(section.window)
    return min(0.5, share * budget.at_most / looks)


def decay(
    rows: Judged,
    release: Mapping[str, Measured],
    measures: Mapping[str, Measure],
    alpha: float,
    *,
    spans: Sequence[int] = SPANS,
) -> DecayLook:
    """Is the quality of one release worse than when it was released? The rule is told above.

    `rows` are all judged rows of the release, from its first day to now; `release` is `measure` of
    its holdout. Simulated: tests/monitor/test_quality.py (no change: at most the budget; a fall is
    found), and on resampled days of the flights in benchmarks/placebo.py.
    """
    blocks = len(np.unique(rows.block)) if len(rows) else 0
    known = {name: how for name, how in measures.items() if name in release}
    if blocks < spans[0]:
        return DecayLook(
            reason=f"{blocks} blocks with truth since the release; {spans[0]} are the least that "
            "decide"
        )
    if not known:
        return DecayLook(reason="the release has no quality to compare with")
    longest = max(spans)
    service = measure(rows.first(longest), known) if blocks >= longest + spans[0] else {}
    found: list[tuple[str, int, Measured, Measured, bool, float]] = []
    realised: dict[str, Measured] = {}
    for span in spans:
        if blocks < span:
            continue
        after_service = blocks - span >= longest
        for name, now in measure(rows.last(span), known).items():
            realised[name] = now
            joined = after_service and name in service
            before = _together(release[name], service[name]) if joined else release[name]
            found.append((name, span, now, before, joined, p_worse(before, now)))
    adjusted = holm([item[-1] for item in found])
    comparisons = tuple(
        Decay(
            name,
            span,
            now,
            before,
            joined,
            before.goodness - now.goodness,
            measures[name].worth,
            p_value,
            alpha,
        )
        for (name, span, now, before, joined, _), p_value in zip(found, adjusted, strict=True)
    )
    return DecayLook(comparisons, "" if comparisons else "no metric has a value", realised)


def p_worse(before: Measured, now: Measured) -> float:
    """One-sided p value of "now is not worse than before" (Welch's t)."""
    from scipy import stats

    own, other = now.standard_error**2, before.standard_error**2
    if own + other <= 0:
        return 1.0 if now.goodness >= before.goodness else 0.0
    freedom = (own + other) ** 2 / (own**2 / now.freedom + other**2 / before.freedom)
    t = (before.goodness - now.goodness) / math.sqrt(own + other)
    return float(stats.t.sf(t, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for their number (Holm, 1979): alarm where the adjusted one is ≤ α."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


def _together(holdout: Measured, service: Measured) -> Measured:
    """Two independent measurements of one quality, weighed by their blocks."""
    total = holdout.blocks + service.blocks
    own = (holdout.blocks / total * holdout.standard_error) ** 2
    other = (service.blocks / total * service.standard_error) ** 2
    freedom = (
        (own + other) ** 2 / (own**2 / holdout.freedom + other**2 / service.freedom)
        if own + other > 0
        else float(total - 2)
    )
    return Measured(
        value=(holdout.blocks * holdout.value + service.blocks * service.value) / total,
        goodness=(holdout.blocks * holdout.goodness + service.blocks * service.goodness) / total,
        standard_error=math.sqrt(own + other),
        blocks=total,
        freedom=freedom,
        rows=holdout.rows + service.rows,
    )


# ---- without truth -------------------------------------------------------------------------------


def estimate(table: pa.Table, task: Task) -> dict[str, float]:
    """Quality without truth, from the model's own confidence; empty for regression.

    Confidence-based performance estimation (Białek, Kuberski, Perrakis and Bifet, Estimating Model
    Performance Under Covariate Shift Without Labels, 2024): each row counts as positive by its
    predicted probability. It holds where probabilities are calibrated and the relation between
    inputs and label has not changed. The second is what decay means, so an estimate never raises
    an alarm; it stands beside the realised quality. `prediction`s that are classes give nothing.
    """
    found = predictions(table)
    if task == "regression" or not len(found):
        return {}
    good = np.isfinite(found) & (found >= 0) & (found <= 1)
    found = found[good if found.ndim == 1 else good.all(axis=1)]
    if not len(found):
        return {}
    if task == "multiclass":
        if found.ndim == 1:
            return {}
        entropy = -np.sum(found * np.log(np.clip(found, 1e-15, 1)), axis=1)
        return {"log_loss": float(entropy.mean()), "accuracy": float(found.max(axis=1).mean())}
    chance = found if found.ndim == 1 else found[:, -1]
    if np.isin(chance, (0.0, 1.0)).all():
        return {}
    clipped = np.clip(chance, 1e-15, 1 - 1e-15)
    entropy = -(clipped * np.log(clipped) + (1 - clipped) * np.log1p(-clipped))
    result = {
        "log_loss": float(entropy.mean()),
        "accuracy": float(np.maximum(chance, 1 - chance).mean()),
        "predicted_rate": float(chance.mean()),
    }
    auc = _expected_auc(chance)
    return result | ({"roc_auc": auc} if math.isfinite(auc) else {})


def _expected_auc(chance: Floats) -> float:
    """AUC where row i is a positive of weight p and a negative of weight 1 - p; ties count half."""
    distinct, inverse = np.unique(chance, return_inverse=True)
    positive = np.bincount(inverse, weights=chance, minlength=len(distinct))
    negative = np.bincount(inverse, weights=1 - chance, minlength=len(distinct))
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative / 2
    return float(np.sum(positive * below) / pairs) if pairs > 0 else math.nan


def _floats(column: Any) -> Floats:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return np.full(len(column), math.nan)
    filled = pc.fill_null(column.cast(pa.float64()), math.nan)
    return cast("Floats", np.asarray(filled.to_numpy(), dtype=np.float64))


def _same(value: Any) -> Any:
    """A label as it compares: 1, 1.0, True and numpy's 1 are one; text stays text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        return float(value)
    return value
