"""Drift of inputs and of predictions: how far a window is from training, beside how far is usual.

**Effect.** The population stability index (PSI) of the window's histogram on the training
profile's bins, a bin for unseen categories included; from .1 on it is worth a look (Siddiqi, Credit
Risk Scorecards, 2006). The share of missing values is a second histogram, of two bins.

**How far is usual.** A column is allowed to wander as it did in training. At build time
`reference` cuts the training rows into windows of the same length and measures each against all
others: the placebo windows. A new window's PSI (what row sampling alone explains is taken off
first) is compared with theirs by a prediction interval: log(PSI + .01) is taken for normal, so the
new one lies at a t of n - 1 degrees of freedom, sd · √(1 + 1/n) (Hahn and Meeker, Statistical
Intervals, 1991, section 4.7). That is where dependence between neighbouring rows, days and hours
goes: it is in the placebo windows as it is in the new one. Temperature, where every week of winter
differs from winter, needs a far greater PSI than a schedule that never moves. A test of rows as if
they were independent (Kolmogorov–Smirnov) alarms in nearly every week of flights.

**Many columns, many looks.** The look's α (`quality.alpha_of_look`) is halved: one half for the
predictions, through which every input that matters must pass, the other for all inputs together by
Holm; each column's two tests share its p by Bonferroni. An alarm needs the test and the effect.
A column beyond the threshold, but within its usual wandering, is a finding and no alarm.

**Without placebo windows** (training rows carry no time, or too few): the window's own blocks tell
how dependent rows are: Pearson's χ² divided by the design effect between blocks, as F (Rao and
Scott, JASA 76, 1981; Thomas and Rao, 1987) of (bins - 1, blocks - 1). That knows nothing of
how weeks differ, so the effect wanted is .25, and fewer than 4 blocks decide nothing.

**Partial windows** (the first after a deployment, one with an outage) are not compared: a week
without its weekend is no drift of `weekday`. Partial is fewer blocks with traffic than the placebo
windows have.

What this does not do: find a shift smaller than what the column does from week to week anyway (half
a standard deviation of temperature is less than that), or one that leaves the answers to the same
inputs changed: truth does, see `quality`.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from treadle.base.distance import ks_from_counts, psi
from treadle.base.spec import Task
from treadle.monitor.quality import holm

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PREDICTION = "prediction"
THRESHOLD = 0.1
"""PSI that is worth an alarm where placebo windows say what is usual."""
THRESHOLD_ALONE = 0.25
"""PSI that is worth an alarm where the window has only itself to say it."""
PREDICTION_SHARE = 0.5
LEAST_WINDOWS = 8
LEAST_ROWS = 100
_FLOOR = 0.01
_LEAST_SPREAD = 0.25  # of log(PSI + floor): eight equal placebo windows do not make a certainty


@dataclass(frozen=True)
class ColumnDrift:
    """One column of one window against training."""

    column: str
    what: str
    """`shape` or `missing`: which of the column's two histograms is further from usual."""
    psi: float
    """Of that histogram, as measured."""
    usual: float | None
    """The greatest PSI among the placebo windows; None without them."""
    jensen_shannon: float
    """Of the values' histogram, base 2, 0 to 1."""
    ks: float | None
    """Greatest difference of the cumulative distributions at the bins' edges; numbers only."""
    missing: tuple[float, float]
    """Share of missing values in training and now."""
    unseen: tuple[float, float]
    """Share of values that the profile has no bin for, in training and now; categories only."""
    threshold: float
    p_value: float | None
    """Adjusted for the number of columns (Holm) and compared with `alpha`; None: no test."""
    alpha: float

    @property
    def large(self) -> bool:
        """Beyond the effect that is worth a look."""
        return self.psi >= self.threshold

    @property
    def alarm(self) -> bool:
        """Large, and further than usual."""
        return self.large and self.p_value is not None and self.p_value <= self.alpha


# ---- profiles ------------------------------------------------------------------------------------


def profile(table: pa.Table, columns: Sequence[str], edges_of: Mapping[str, Any]) -> dict[str, Any]:
    """The histogram of `columns` on the bins of the profile `edges_of`, in the profile's format.

    Columns that the profile or the table does not have are left out. Numbers: bin i holds
    edges[i-1] < x ≤ edges[i]; a value that is no number counts as missing. Categories are compared
    as text (true and false, whole numbers without point); those without a bin are `other`.
    """
    found: dict[str, Any] = {}
    for name in columns:
        form = edges_of["columns"].get(name)
        if form is not None and name in table.column_names:
            column = table[name]
            if form["kind"] == "numeric":
                counts, missing = _numeric(column, _edges(form)[0])
                found[name] = {
                    "kind": "numeric",
                    "edges": _edges(form)[0].tolist(),
                    "counts": counts.tolist(),
                    "missing": missing,
                }
            else:
                found[name] = _categories(column, form)
    return {"rows": table.num_rows, "columns": found}


def answers(prediction: npt.NDArray[Any], task: Task, classes: Sequence[Any] = ()) -> pa.Array:
    """Predictions as the one column `prediction` whose distribution is watched.

    Binary: the probability of the last class; multiclass: the most probable class, as text; else
    the numbers. Attach it to the training or holdout rows before `data.profile_frame` and
    `reference`; windows get it by `with_answers`.
    """
    values = np.asarray(prediction)
    if values.ndim == 2:
        if task == "binary":
            values = values[:, -1]
        else:
            names = [str(value) for value in (classes or range(values.shape[1]))]
            known = np.where(np.isfinite(values), values, -1.0)
            best = known.argmax(axis=1)
            return pa.array([names[index] for index in best], pa.string())
    return pa.array(values.tolist() if values.dtype == object else values)


def with_answers(table: pa.Table, task: Task, classes: Sequence[Any] = ()) -> pa.Table:
    """A window's table whose `prediction` is the watched column."""
    if PREDICTION in table.column_names:
        return table
    several = sorted(
        (
            name
            for name in table.column_names
            if name.startswith("prediction_") and name.removeprefix("prediction_").isdigit()
        ),
        key=lambda name: int(name.removeprefix("prediction_")),
    )
    if not several:
        return table
    values = np.column_stack([_floats(table[name]) for name in several])
    return table.append_column(PREDICTION, answers(values, task, classes))


def reference(
    table: pa.Table,
    when_us: Integers,
    training: Mapping[str, Any],
    window_s: float,
    columns: Sequence[str],
    *,
    block_s: float,
) -> dict[str, Any] | None:
    """The placebo windows of the training rows: plain values, kept beside the profile.

    `when_us`: each row's time in microseconds. Windows are as long as monitoring's; where
    training spans fewer than 8 of them, a tenth of its span (shorter windows wander more: a
    cautious stand-in).
    Windows of under 100 rows, or with fewer blocks than the median one, are left out. None where
    fewer than 8 remain. `{"window_s": s, "windows": n, "blocks": least number of blocks with rows
    in a window, "columns": {name: {"shape": [PSI …], "missing": [PSI …]}}}`.
    """
    when_us = np.asarray(when_us, dtype=np.int64)
    if len(when_us) < LEAST_WINDOWS * LEAST_ROWS:
        return None
    block_us = max(1, int(block_s * 1e6))
    start = int(when_us.min()) // block_us * block_us  # windows of whole blocks, as live ones are
    span_s = (int(when_us.max()) // block_us * block_us + block_us - start) / 1e6
    length_s = window_s if span_s >= LEAST_WINDOWS * window_s else span_s / 10
    number = ((when_us - start) / 1e6 // max(length_s, 1e-6)).astype(np.int64)
    present, counts = np.unique(number, return_counts=True)
    block = when_us // block_us
    blocks = np.array([len(np.unique(block[number == index])) for index in present])
    least = 0  # shorter windows than the live ones cannot say how many blocks those have
    if length_s >= window_s:
        least = min(int(np.median(blocks)), max(1, int(window_s // block_s)))
    good = present[(counts >= LEAST_ROWS) & (blocks >= least)]
    if len(good) < LEAST_WINDOWS:
        return None
    wanted = [name for name in columns if name in training["columns"]]
    parts = [profile(table.filter(pa.array(number == index)), wanted, training) for index in good]
    found: dict[str, Any] = {}
    for name in wanted:
        if not all(name in part["columns"] for part in parts):
            continue
        form = training["columns"][name]
        bins = np.array([_bins(part["columns"][name], form) for part in parts])
        lacks = np.array([_missing(part["columns"][name]) for part in parts])
        found[name] = {
            kind: [_excess(all_.sum(axis=0) - one, one) for one in all_]
            for kind, all_ in (("shape", bins), ("missing", lacks))
        }
    return {"window_s": length_s, "windows": len(good), "blocks": least, "columns": found}


# ---- one look ------------------------------------------------------------------------------------


def compare(
    table: pa.Table,
    training: Mapping[str, Any],
    placebo: Mapping[str, Any] | None,
    columns: Sequence[str],
    alpha: float,
    *,
    block_s: float,
) -> list[ColumnDrift]:
    """Each column of a window (and its `prediction`) against training; the rule is told above.

    `training` is the model's profile, `placebo` its `reference`, `alpha` the part of the budget
    that this look may spend on drift. Windows of fewer than 100 rows give nothing. Simulated in
    tests/monitor/test_drift.py and, on the real weeks of a year, in benchmarks/placebo.py.
    """
    if table.num_rows < LEAST_ROWS or partial(table, placebo, block_s):
        return []
    names = [name for name in columns if name in training["columns"] and name != PREDICTION]
    if PREDICTION in training["columns"] and PREDICTION in table.column_names:
        names.append(PREDICTION)
    now = profile(table, names, training)
    names = [name for name in names if name in now["columns"]]
    has_prediction = PREDICTION in names
    input_alpha = alpha * (1 - PREDICTION_SHARE) if has_prediction else alpha
    found = {
        name: _column(
            name,
            table,
            training["columns"][name],
            now["columns"][name],
            placebo,
            training,
            block_s,
            alpha * PREDICTION_SHARE if name == PREDICTION else input_alpha,
        )
        for name in names
    }
    inputs = [n for n in names if n != PREDICTION and found[n].p_value is not None]
    adjusted = dict(
        zip(inputs, holm([cast("float", found[n].p_value) for n in inputs]), strict=True)
    )
    return [_with_p(found[n], adjusted[n]) if n in adjusted else found[n] for n in names]


def partial(
    table: pa.Table, placebo: Mapping[str, Any] | None, block_s: float
) -> tuple[int, int] | None:
    """(Blocks with traffic, blocks a window has), where the window lacks some; else None."""
    least = int((placebo or {}).get("blocks", 0))
    if not least or not table.num_rows:
        return None
    moment = np.asarray(table["when"].cast(pa.int64()).to_numpy())
    blocks = len(np.unique(moment // max(1, int(block_s * 1e6))))
    return (blocks, least) if blocks < least else None


def _column(
    name: str,
    table: pa.Table,
    form: Mapping[str, Any],
    now: Mapping[str, Any],
    placebo: Mapping[str, Any] | None,
    training: Mapping[str, Any],
    block_s: float,
    alpha: float,
) -> ColumnDrift:
    was, has = _bins(form, form), _bins(now, form)
    pairs = {"shape": (was, has), "missing": (_missing(form), _missing(now))}
    usual = (placebo or {}).get("columns", {}).get(name)
    tests: dict[str, tuple[float | None, float | None]] = {}
    for kind, (before, after) in pairs.items():
        if usual is not None:
            tests[kind] = _p_beyond(_excess(before, after), usual[kind]), max(usual[kind])
        else:
            rows = _block_counts(table, name, training, block_s, kind)
            tests[kind] = _p_by_blocks(before, after, rows), None
    threshold = THRESHOLD if usual is not None else THRESHOLD_ALONE
    effects = {
        kind: psi(_listed(before), _listed(after)) for kind, (before, after) in pairs.items()
    }
    # Of the two histograms the one that shows more: large before small, then by its p value.
    what = min(
        pairs,
        key=lambda kind: (
            effects[kind] < threshold,
            1.0 if tests[kind][0] is None else tests[kind][0],
            -effects[kind],
        ),
    )
    p_value = tests[what][0]
    return ColumnDrift(
        column=name,
        what=what,
        psi=effects[what],
        usual=tests[what][1],
        jensen_shannon=_jensen_shannon(was, has),
        ks=ks_from_counts(_listed(was), _listed(has)) if form["kind"] == "numeric" else None,
        missing=(_share(_missing(form)), _share(_missing(now))),
        unseen=(_unseen(form), _unseen(now)),
        threshold=threshold,
        p_value=None if p_value is None else min(1.0, 2 * p_value),
        alpha=alpha,
    )


def _with_p(found: ColumnDrift, p_value: float) -> ColumnDrift:
    return dataclasses.replace(found, p_value=p_value)


def _excess(before: Floats, after: Floats) -> float:
    """PSI beyond what sampling rows alone explains: its mean and two standard deviations.

    Without change PSI / (1/n + 1/m) is χ² of (bins - 1) degrees of freedom (Yurdakul, 2018).
    """
    n, m = float(before.sum()), float(after.sum())
    if n <= 0 or m <= 0:
        # All values missing, or none in training: the other histogram of the column shows it.
        return 0.0
    freedom = max(1, int(np.count_nonzero(before + after)) - 1)
    noise = (1 / n + 1 / m) * (freedom + 2 * math.sqrt(2 * freedom))
    return max(0.0, psi(_listed(before), _listed(after)) - noise)


def _p_beyond(value: float, usual: Sequence[float]) -> float:
    """The p value of one more window being as far out as this, by the placebo windows."""
    from scipy import stats

    logs = np.log(np.asarray(usual, dtype=np.float64) + _FLOOR)
    spread = max(float(logs.std(ddof=1)), _LEAST_SPREAD) * math.sqrt(1 + 1 / len(logs))
    t = (math.log(value + _FLOOR) - float(logs.mean())) / spread
    return float(stats.t.sf(t, len(logs) - 1))


def _p_by_blocks(before: Floats, after: Floats, blocks: Floats) -> float | None:
    """Rao and Scott's F: the distance in units of what blocks of the window differ by."""
    from scipy import stats

    blocks = blocks[blocks.sum(axis=1) > 0] if blocks.size else blocks
    n, m = float(after.sum()), float(before.sum())
    if len(blocks) < 4 or n <= 0 or m <= 0:
        return None
    bins = (before + after) > 0
    freedom = int(np.count_nonzero(bins)) - 1
    if freedom < 1:
        return 1.0
    expected = (before[bins] + 0.5) / (before[bins] + 0.5).sum()
    share = after[bins] / n
    distance = n * m / (n + m) * float(np.sum((share - expected) ** 2 / expected))
    sizes = blocks.sum(axis=1)
    pooled = np.maximum(share, 0.5 / n)
    within = (blocks[:, bins] / sizes[:, None] - share) ** 2 / pooled
    effect = float(np.sum(sizes[:, None] * within)) / ((len(blocks) - 1) * freedom)
    ratio = distance / freedom / max(1.0, effect)
    return float(stats.f.sf(ratio, freedom, len(blocks) - 1))


def _block_counts(
    table: pa.Table, name: str, training: Mapping[str, Any], block_s: float, kind: str
) -> Floats:
    moment = np.asarray(table["when"].cast(pa.int64()).to_numpy())
    number = moment // max(1, int(block_s * 1e6))
    form = training["columns"][name]
    rows = []
    for index in np.unique(number):
        part = profile(table.filter(pa.array(number == index)), [name], training)["columns"][name]
        rows.append(_bins(part, form) if kind == "shape" else _missing(part))
    return np.array(rows)


# ---- histograms ----------------------------------------------------------------------------------


def _edges(form: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """Inner edges and one count for each bin, open ends included."""
    edges = np.asarray(form["edges"], dtype=np.float64)
    counts = np.asarray(form["counts"], dtype=np.float64)
    if len(counts) == len(edges) + 1:
        return edges, counts
    if len(counts) == len(edges) - 1:  # closed ends: what lies beyond was not there in training
        return edges, np.concatenate([[0.0], counts, [0.0]])
    raise ValueError(f"{len(counts)} counts do not go with {len(edges)} edges")


def _bins(found: Mapping[str, Any], form: Mapping[str, Any]) -> Floats:
    """Counts of the values that are there, in the order of the training profile's bins."""
    if form["kind"] == "numeric":
        return _edges(found)[1]
    known = [found["counts"].get(value, 0) for value in form["counts"]]
    return np.array([*known, found["other"]], dtype=np.float64)


def _missing(found: Mapping[str, Any]) -> Floats:
    present = (
        sum(found["counts"])
        if found["kind"] == "numeric"
        else (sum(found["counts"].values()) + found["other"])
    )
    return np.array([present, found["missing"]], dtype=np.float64)


def _share(counts: Floats) -> float:
    total = float(counts.sum())
    return float(counts[-1]) / total if total else 0.0


def _unseen(found: Mapping[str, Any]) -> float:
    if found["kind"] == "numeric":
        return 0.0
    total = sum(found["counts"].values()) + found["other"]
    return float(found["other"]) / total if total else 0.0


def _jensen_shannon(before: Floats, after: Floats) -> float:
    if before.sum() <= 0 or after.sum() <= 0:
        return 0.0
    p, q = before / before.sum(), after / after.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log2(p / middle), 0.0).sum()
        right = np.where(q > 0, q * np.log2(q / middle), 0.0).sum()
    return float(max(0.0, (left + right) / 2))


def _listed(values: Floats) -> list[float]:
    return [float(value) for value in values]


def _numeric(column: Any, edges: Floats) -> tuple[Integers, int]:
    values = _floats(column)
    there = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(edges, there, side="left"), minlength=len(edges) + 1)
    return counts.astype(np.int64), len(values) - len(there)


def _categories(column: Any, form: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    counts = dict.fromkeys(form["counts"], 0)
    other, missing = 0, 0
    for pair in pc.value_counts(column).to_pylist():
        text, count = _text(pair["values"]), pair["counts"]
        if text is None:
            missing += count
        elif text in counts:
            counts[text] += count
        else:
            other += count
    return {"kind": "category", "counts": counts, "other": other, "missing": missing}


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    return str(value)


def _floats(column: Any) -> Floats:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_temporal(kind):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return np.full(len(column), math.nan)
    filled = pc.fill_null(column.cast(pa.float64(), safe=False), math.nan)
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.float64)
