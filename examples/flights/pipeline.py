"""Will this flight arrive more than 15 minutes late? Plain functions, called by their names."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

TEXTS = ["carrier", "origin", "dest"]
NUMBERS = ["distance", "sched_hour", "weekday", "wind_speed"]
# What is known when the schedule is fixed, plus the hour's weather. An allow-list: the departure
# delay and its kin are in the same file, and learning from one of them would be a leak.
FEATURES = TEXTS + NUMBERS
LABEL = "late"


class Split(NamedTuple):
    """Rows to learn from and later rows to judge on."""

    train: pd.DataFrame
    holdout: pd.DataFrame


def split(flights: pd.DataFrame, holdout_days: int = 14) -> Split:
    """Holds out the last `holdout_days` calendar days of scheduled departures.

    Every row of the holdout is later than every row of the training part. A flight that was
    cancelled or diverted has no label: there is nothing to learn from it, so it leaves the training
    part; it stays in the holdout, so that whoever judges can count what was not covered.
    """
    after_last_day = flights["sched_dep"].max().normalize() + pd.Timedelta(days=1)
    first_held_out = after_last_day - pd.Timedelta(days=holdout_days)
    learned = (flights["sched_dep"] < first_held_out) & flights[LABEL].notna()
    held_out = flights["sched_dep"] >= first_held_out
    return Split(
        train=flights.loc[learned].reset_index(drop=True),
        holdout=flights.loc[held_out].reset_index(drop=True),
    )


def model(train: pd.DataFrame, learning_rate: float = 0.1, iterations: int = 150) -> Pipeline:
    """Gradient boosted trees that give the probability of each class: 0 on time, 1 late.

    A destination that was never seen is encoded as -1, and trees take missing weather as it is, so
    every row gets an answer.
    """
    encode = ColumnTransformer(
        [
            ("texts", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), TEXTS),
            ("numbers", "passthrough", NUMBERS),
        ]
    )
    trees = HistGradientBoostingClassifier(
        learning_rate=learning_rate,
        max_iter=iterations,
        # Early stopping would judge on rows drawn at random, from the days it learns from.
        early_stopping=False,
        random_state=0,
    )
    pipeline = Pipeline([("encode", encode), ("trees", trees)])
    return pipeline.fit(train[FEATURES], train[LABEL].astype("int8"))
