"""The gates of a verdict: each a pure function from numbers to one answer with plain words.

| gate | pass | refuse | undecided |
|---|---|---|---|
| floor, ceiling | the value reaches it | the whole interval misses it | the value misses it, its interval does not |
| versus champion | the whole interval lies within the margin | wholly beyond it | neither |
| baseline | better than a constant, the whole interval | not better | better, within chance |
| time_order | training ends before the holdout begins, no key in both | otherwise | |

A floor is a person's number and is taken at its word: the value that was measured must reach it. (To
ask for the interval's lower end would leave every model within two standard errors of its floor
undecided for ever, and a model that stands exactly on its floor is one that the person accepts.)
Being refused takes evidence: the interval must miss the floor too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from treadle.base.records import GateResult, Outcome
from treadle.base.spec import GateSection
from treadle.test import compare
from treadle.test.compare import MIN_BLOCKS, Estimate
from treadle.test.metrics import Metric


def combined(gates: Iterable[GateResult]) -> Outcome:
    """Refuse if any gate refuses, else undecided if any is, else pass."""
    outcomes = {gate.outcome for gate in gates}
    if "refuse" in outcomes:
        return "refuse"
    return "undecided" if "undecided" in outcomes else "pass"


def name_of(section: GateSection) -> str:
    """`roc_auc at_least 0.62`, `log_loss versus champion`."""
    if section.versus is not None:
        return f"{section.metric} versus {section.versus}"
    word = "at_least" if section.at_least is not None else "at_most"
    return f"{section.metric} {word} {_number(_bound(section))}"


def floor(section: GateSection, measured: Estimate, blocks: str) -> GateResult:
    """A floor (`at_least`) or a ceiling (`at_most`); `blocks` says in words what they are."""
    wanted = _bound(section)
    at_least = section.at_least is not None
    bar = f"{'at least' if at_least else 'at most'} {_number(wanted)}"
    value, low, high = measured.value, measured.low, measured.high
    outcome: Outcome
    if not math.isfinite(value):
        text = f"{section.metric} cannot be computed on these rows: {bar} was wanted"
        return GateResult(name_of(section), "undecided", None, wanted, text=text)
    if (value >= wanted) if at_least else (value <= wanted):
        outcome, ending = "pass", f"{bar} is wanted"
    elif measured.known and ((high < wanted) if at_least else (low > wanted)):
        outcome, ending = "refuse", f"{bar} is wanted, and the whole interval misses it"
    elif measured.known:
        outcome, ending = "undecided", f"{bar} is wanted: missed, but within chance"
    else:
        outcome = "undecided"
        ending = (
            f"{bar} is wanted: missed, and {MIN_BLOCKS} blocks at least would tell by chance or not"
        )
    text = f"{section.metric} is {_number(value)}{interval(measured, blocks)}; {ending}"
    return GateResult(name_of(section), outcome, value, wanted, _finite(low), _finite(high), text)


def versus(
    section: GateSection, metric: Metric, gained: Estimate, values: tuple[float, float], *,
    champion: str, blocks: str,
) -> GateResult:  # fmt: skip
    """The challenger against the champion; the value and interval are of the gain: + is better."""
    outcome = compare.no_worse(gained, section.margin)
    better = "better" if gained.value > 0 else "worse"
    seen = (
        f"{metric.name} is {_number(values[0])} against {_number(values[1])} of {champion}: "
        f"{better} by {_number(abs(gained.value))}"
        if gained.value
        else f"{metric.name} is {_number(values[0])}, as that of {champion}"
    )
    limit = f"worse by at most {_number(section.margin)} is accepted"
    if outcome == "pass":
        ending = limit
    elif outcome == "refuse":
        ending = f"{limit}, and the whole interval is beyond it"
    elif gained.known:
        needed = compare.blocks_needed(gained, -section.margin)
        more = (
            f"about {needed} blocks would decide" if needed else "no number of blocks is in sight"
        )
        ending = f"{limit}, and the interval reaches beyond it: {more}"
    else:
        ending = f"{limit}; {gained.blocks} blocks are too few to tell, {MIN_BLOCKS} are needed"
    text = f"{seen}{interval(gained, blocks)}; {ending}"
    return GateResult(
        name_of(section), outcome, _finite(gained.value), -section.margin,
        _finite(gained.low), _finite(gained.high), text,
    )  # fmt: skip


def baseline(
    metric: Metric, gained: Estimate, values: tuple[float, float], constant: str, blocks: str
) -> GateResult:
    """The model against a constant answer; the value and interval are of the gain: + is better."""
    seen = f"{metric.name} is {_number(values[0])} against {_number(values[1])} of {constant}"
    outcome: Outcome
    if not math.isfinite(gained.value):
        outcome, ending = "undecided", "which cannot be compared on these rows"
    elif gained.value <= 0:
        outcome, ending = "refuse", "the model is no better than a constant"
    elif gained.known and gained.low > 0:
        outcome, ending = "pass", "the model is better than a constant"
    elif gained.known:
        needed = compare.blocks_needed(gained, 0.0)
        more = f": about {needed} blocks would decide" if needed else ""
        outcome, ending = "undecided", f"better than a constant, but within chance{more}"
    else:
        outcome = "undecided"
        ending = f"better, but {gained.blocks} blocks are too few to tell, {MIN_BLOCKS} are needed"
    text = f"{seen}{interval(gained, blocks)}; {ending}"
    return GateResult(
        "baseline", outcome, _finite(gained.value), 0.0, _finite(gained.low), _finite(gained.high),
        text,
    )  # fmt: skip


def time_order(
    train_times: Any, holdout_times: Any, shared_keys: int | None, event_time: str | None
) -> GateResult:
    """Is every training row older than every holdout row, and in one part only?

    Times are datetime64 arrays (None: not known); `shared_keys` the number of holdout rows whose key
    is among the training rows (None: not known).
    """
    if shared_keys:
        text = f"{shared_keys} rows of the holdout are also training rows (by their key)"
        return GateResult("time_order", "refuse", float(shared_keys), 0.0, text=text)
    if event_time is None:
        known = "no key is in both" if shared_keys == 0 else "neither event_time nor key is known"
        return GateResult("time_order", "pass", None, None, text=f"no event_time: {known}")
    if train_times is None:
        text = "no result of the pipeline is known to be the training rows: order not checked"
        return GateResult("time_order", "pass", None, None, text=text)
    last, first = _edge(train_times, np.fmax), _edge(holdout_times, np.fmin)
    if last is None or first is None:
        return GateResult("time_order", "pass", None, None, text=f"{event_time} holds no times")
    if last < first:
        text = f"training ends {_when(last)}, the holdout begins {_when(first)} ({event_time})"
        return GateResult("time_order", "pass", None, None, text=text)
    text = (
        f"training rows go up to {_when(last)}, but the holdout begins {_when(first)} "
        f"({event_time}): the model was told of the time it is judged on"
    )
    return GateResult("time_order", "refuse", None, None, text=text)


def interval(measured: Estimate, blocks: str) -> str:
    """` (95 % 0.67 to 0.70, 14 blocks of 1d)`, or how many blocks there are."""
    if not measured.known:
        return f" ({blocks})"
    return f" (95 % {_number(measured.low)} to {_number(measured.high)}, {blocks})"


def _bound(section: GateSection) -> float:
    bound = section.at_least if section.at_least is not None else section.at_most
    assert bound is not None
    return bound


def _edge(times: Any, fold: np.ufunc) -> np.datetime64 | None:
    known = np.asarray(times)[~np.isnat(np.asarray(times))]
    return fold.reduce(known) if len(known) else None


def _when(moment: np.datetime64) -> str:
    text = str(moment.astype("datetime64[s]")).replace("T", " ")
    return text.removesuffix(" 00:00:00")


def _number(value: float) -> str:
    return f"{value:.4g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
