"""Does the model see what it cannot know? By name, and by features that alone predict too well.

The second is a suspicion that stops a model until a person has looked: a single column that ranks the holdout's cases with an
area under the curve of .98 or more, or explains .98 of a number's variance, is far more often a copy
or a consequence of the label than a discovery (Kaufman, Rosset, Perlich and Stitelman (2012),
Leakage in Data Mining, ACM TKDD 6(4)). Each column is turned into the label's mean per value (text,
few values) or per quantile bin (numbers), learned on the training rows and judged on the holdout, so
that an identifier which is unique in each row does not look good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.base.records import GateResult
from treadle.base.spec import Task

TOO_GOOD = 0.98
"""Area under the curve, or share of variance, from which a single feature is suspicious."""
_FIT_ROWS = 50_000
_BINS = 256
_FEW = 1000

Floats = NDArray[np.float64]


def by_name(features: Iterable[str], known_later: Sequence[str]) -> tuple[str, ...]:
    """The features that the data section says are known only later."""
    later = set(known_later)
    return tuple(name for name in features if name in later)


def alone(
    features: Sequence[str],
    task: Task,
    fit: tuple[Any, Any],
    judge: tuple[Any, Any],
) -> dict[str, float]:
    """How well each feature alone predicts: area under the curve (classes), R² (numbers).

    `fit` and `judge` are (pandas frame, target) with the target as class numbers or floats; several
    classes give the mean of each class against the rest. A feature that cannot be read is left out.
    """
    rows, target = fit
    if len(rows) > _FIT_ROWS:
        taken = np.linspace(0, len(rows) - 1, _FIT_ROWS).astype(np.int64)
        rows, target = rows.iloc[taken], target[taken]
    found = {}
    for name in features:
        if name not in rows.columns or name not in judge[0].columns:
            continue
        score = _score(rows[name], target, judge[0][name], judge[1], task)
        if score is not None:
            found[name] = score
    return found


def gate(
    features: Sequence[str], known_later: Sequence[str], scores: dict[str, float], task: Task
) -> GateResult:
    """The leak gate's answer: refuse by name, undecided by score, or pass with the highest score."""
    named = by_name(features, known_later)
    if named:
        text = (
            f"the model learns from {_list(named)}, which the data section lists as known_later: "
            "nobody knows it when the prediction is asked for"
        )
        return GateResult("leak", "refuse", None, None, text=text)
    measure = "R²" if task == "regression" else "an area under the curve"
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is None:
        return GateResult("leak", "pass", None, TOO_GOOD, text="no feature is known only later")
    high = sorted((n for n in scores if scores[n] >= TOO_GOOD), key=lambda n: -scores[n])
    if high:
        text = (
            f"{_list(high)} alone predict{'s' if len(high) == 1 else ''} the label with {measure} of {scores[best]:.3f} "
            f"({TOO_GOOD} is suspicious): known_later if it is known only with the label, else a "
            "person may approve"
        )
        # A suspicion, not a proof: an easy task has such features, and a person can tell.
        return GateResult("leak", "undecided", scores[best], TOO_GOOD, text=text)
    text = (
        "no feature is known only later, and none alone predicts too well "
        f"(best {best} with {measure} of {scores[best]:.3f}, {TOO_GOOD} is suspicious)"
    )
    return GateResult("leak", "pass", scores[best], TOO_GOOD, text=text)


def area(score: Floats, positive: NDArray[np.bool_]) -> float | None:
    """The area under the ROC curve; None with one class only. Ties count half."""
    from scipy.stats import rankdata

    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    ranks = rankdata(score)
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _score(fit: Any, target: Any, judge: Any, truth: Any, task: Task) -> float | None:
    try:
        codes, judged = _codes(fit, judge)
    except (TypeError, ValueError):
        return None
    raw = _numbers(judge)
    if task == "regression":
        encoded = _means(codes, judged, np.asarray(target, dtype=np.float64))
        spread = float(((truth - truth.mean()) ** 2).sum())
        if spread == 0:
            return None
        best = 1 - float(((truth - encoded) ** 2).sum()) / spread
        if raw is not None:
            there = np.isfinite(raw)
            if there.sum() > 2 and raw[there].std() > 0 and truth[there].std() > 0:
                share = float(np.corrcoef(raw[there], truth[there])[0, 1] ** 2)
                best = max(best, share * float(there.mean()))
        return best
    areas = []
    present = np.unique(truth)
    for number in present[1:] if len(present) == 2 else present:
        found = area(_means(codes, judged, (target == number).astype(np.float64)), truth == number)
        if found is None:
            return None
        if raw is not None and np.isfinite(raw).all():
            plain = area(raw, truth == number)
            found = max(found, plain or 0.0, 1 - (plain or 0.0))
        areas.append(found)
    return float(np.mean(areas)) if areas else None


def _numbers(column: Any) -> Floats | None:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return np.asarray(column.astype("int64"), dtype=np.float64)
    if not (
        pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype)
    ):
        return None
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _codes(fit: Any, judge: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group numbers from 0 for both; -1 is a value that the fitted rows did not have."""
    import pandas as pd

    numbers, others = _numbers(fit), _numbers(judge)
    if numbers is None or others is None:
        codes, values = pd.factorize(fit.astype(object), use_na_sentinel=False)
        return codes.astype(np.int64), pd.Index(values).get_indexer(judge.astype(object))
    finite = numbers[np.isfinite(numbers)]
    edges = np.unique(finite)
    if len(edges) > _FEW:
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, _BINS + 1)[1:-1]))
        sides = [np.searchsorted(edges, v, "right") for v in (numbers, others)]
    else:
        sides = [np.searchsorted(edges, v, "left") for v in (numbers, others)]
    hole = len(edges) + 1
    first, second = (np.where(np.isnan(v), hole, s) for v, s in
                     zip((numbers, others), sides, strict=True))  # fmt: skip
    return first.astype(np.int64), second.astype(np.int64)


def _means(codes: NDArray[np.int64], judged: NDArray[np.int64], target: Floats) -> Floats:
    """The target's mean in the group of each judged row; the overall mean where there is none."""
    size = max(int(codes.max(initial=0)), int(judged.max(initial=0))) + 1
    counts = np.bincount(codes, minlength=size)
    sums = np.bincount(codes, weights=target, minlength=size)
    overall = float(target.mean()) if len(target) else 0.0
    means = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
    return np.where(judged >= 0, means[judged], overall)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
