"""What the year does to a model, measured with plain scikit-learn and nothing of Treadle.

    python measure_year.py                              the features of pipeline.py
    python measure_year.py --also humid visib precip    with more of the hour's weather
    python measure_year.py --also temp                  with temperature

Two tables. The first walks the turns: at the end of each month a challenger learns from everything
up to 14 days before and is judged on those 14 days, beside the champion of that moment, with the
gates of treadle.yaml. The second keeps April's model all year and judges it on each whole month.
Losses are mean log losses in nats per flight, lower is better; flights without a label are left out.

The interval is that of a mean over days, since the flights of one day share its weather: standard
error of the paired difference by days, Student's t at 95 %. A challenger passes when the interval
ends below the margin, is refused when it begins above it, and is undecided otherwise. April has no
champion: there the difference is to the constant, the share of late flights learned from.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pipeline
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

HERE = Path(__file__).parent
AUC_FLOOR = 0.62
MARGIN = 0.005
"""Nats per flight by which a challenger may be worse than the champion."""


class Difference(NamedTuple):
    """A paired difference of losses in nats per flight, with its error by days."""

    mean: float
    error: float
    low: float
    high: float


def read_year() -> pd.DataFrame:
    """All flights of the year in the order of their scheduled departures."""
    files = [
        *(HERE / "data").glob("flights-*.parquet"),
        *(HERE / "later").glob("flights-*.parquet"),
    ]
    months = [pd.read_parquet(file) for file in sorted(files, key=lambda file: file.name)]
    return pd.concat(months, ignore_index=True)


def losses(late: np.ndarray, probability: np.ndarray | float) -> np.ndarray:
    """Log loss of each flight, in nats."""
    given_to_what_happened = np.where(late == 1, probability, 1 - np.asarray(probability))
    return np.asarray(-np.log(np.clip(given_to_what_happened, 1e-15, 1.0)))


def own_rate_loss(late: np.ndarray) -> float:
    """Loss of the best constant in hindsight: the share of late flights of these very rows."""
    return float(losses(late, float(late.mean())).mean())


def difference_by_days(difference: np.ndarray, days: pd.Series) -> Difference:
    """Mean over flights; its error counts days, not flights."""
    mean = float(difference.mean())
    by_day = pd.Series(difference - mean).groupby(days.to_numpy()).sum()
    blocks = len(by_day)
    error = float(np.sqrt((by_day**2).sum() * blocks / (blocks - 1)) / len(difference))
    reach = float(student.ppf(0.975, blocks - 1)) * error
    return Difference(mean, error, mean - reach, mean + reach)


def verdict(auc: float, difference: Difference) -> str:
    """The gates of treadle.yaml: the floor, then the comparison within the margin."""
    if auc < AUC_FLOOR:
        return "refuse: auc"
    if difference.high < MARGIN:
        return "pass"
    return "refuse: log loss" if difference.low > MARGIN else "undecided"


def late_probability(model: Pipeline, rows: pd.DataFrame) -> np.ndarray:
    """Probability of arriving late, per row."""
    return np.asarray(model.predict_proba(rows[pipeline.FEATURES]))[:, 1]


def walk(year: pd.DataFrame) -> Pipeline:
    """Prints the table of turns; gives the model of the first, which learned up to 16 April."""
    print("turn      learned   fit s    auc   loss  constant  champion   challenger - champion")
    first = champion = None
    champion_since = ""
    for end in pd.date_range("2013-05-01", "2014-01-01", freq="MS"):
        train, holdout = pipeline.split(year[year["sched_dep"] < end])
        began = time.perf_counter()
        challenger = pipeline.model(train)
        seconds = time.perf_counter() - began
        judged = holdout[holdout["late"].notna()]
        late = judged["late"].to_numpy()
        probability = late_probability(challenger, judged)
        auc = roc_auc_score(late, probability)
        loss = losses(late, probability)
        constant_loss = losses(late, float(train["late"].mean()))
        constant = constant_loss.mean()
        days = judged["sched_dep"].dt.date
        if champion is None:
            other, other_loss = "none     ", constant_loss
        else:
            other_loss = losses(late, late_probability(champion, judged))
            other = f"{champion_since} {other_loss.mean():.3f}"
        difference = difference_by_days(loss - other_loss, days)
        answer = verdict(auc, difference)
        month = (end - pd.Timedelta(days=1)).strftime("%b")
        print(
            f"{month}       {len(train):7d}   {seconds:5.2f}  {auc:.3f}  {loss.mean():.3f}"
            f"     {constant:.3f}  {other}  {difference.mean:+.4f} ± {difference.error:.4f}"
            f" [{difference.low:+.4f}, {difference.high:+.4f}]  {answer}"
        )
        if first is None:
            first = challenger
        if answer == "pass":
            champion, champion_since = challenger, month
    assert first is not None
    return first


def keep(model: Pipeline, year: pd.DataFrame) -> None:
    """Prints how one model does on every month after April."""
    print("month   flights  no label  late    auc   loss  month's own rate")
    for month in range(5, 13):
        rows = year[year["sched_dep"].dt.month == month]
        judged = rows[rows["late"].notna()]
        late = judged["late"].to_numpy()
        probability = late_probability(model, judged)
        loss, constant = losses(late, probability).mean(), own_rate_loss(late)
        worse = "  worse than a constant" if loss > constant else ""
        print(
            f"{rows['sched_dep'].iloc[0].strftime('%b')}     {len(rows):7d}"
            f"  {len(rows) - len(judged):8d}  {late.mean():.3f}"
            f"  {roc_auc_score(late, probability):.3f}  {loss:.3f}  {constant:.3f}{worse}"
        )


def hourly_latency(model: Pipeline, year: pd.DataFrame) -> tuple[float, float]:
    """Milliseconds that one hour's flights take: median and 95th percentile over 200 hours of May.

    The model alone, in this process: no codec and no socket.
    """
    may = year[year["sched_dep"].dt.month == 5]
    spent = []
    for _, rows in list(may.groupby(may["sched_dep"].dt.floor("h")))[:200]:
        began = time.perf_counter()
        model.predict_proba(rows[pipeline.FEATURES])
        spent.append(1000 * (time.perf_counter() - began))
    return float(np.median(spent)), float(np.quantile(spent, 0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description="What the year does to a model.")
    parser.add_argument("--also", nargs="*", default=[], help="more numeric columns to learn from")
    parser.add_argument("--without", nargs="*", default=[], help="numeric columns to leave out")
    chosen = parser.parse_args()
    numbers = [name for name in pipeline.NUMBERS if name not in chosen.without] + chosen.also
    pipeline.NUMBERS[:] = numbers
    pipeline.FEATURES[:] = pipeline.TEXTS + numbers
    year = read_year()
    print(f"{len(year)} flights; features: {', '.join(pipeline.FEATURES)}\n")
    april = walk(year)
    print("\nApril's model kept all year\n")
    keep(april, year)
    median, high = hourly_latency(april, year)
    print(f"\none hour's flights: median {median:.1f} ms, 95th percentile {high:.1f} ms")


if __name__ == "__main__":
    main()
