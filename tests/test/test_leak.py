from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from treadle.test import leak

RNG = np.random.default_rng(0)
N = 4000
LABEL = RNG.integers(0, 2, N)
FRAME = pd.DataFrame(
    {
        "noise": RNG.normal(size=N),
        "hint": LABEL + RNG.normal(size=N),
        "copy": np.where(LABEL == 1, "yes", "no"),
        "shift": LABEL * 10 + RNG.random(N),
        "inside": np.where(
            LABEL == 1, RNG.uniform(-1, 1, N), RNG.choice([-5, 5], N) + RNG.random(N)
        ),
        "number": np.arange(N),
        "text_id": [f"id{i}" for i in range(N)],
        "holes": np.where(LABEL == 1, np.nan, RNG.normal(size=N)),
        "empty": np.nan,
        "when": pd.Timestamp("2013-01-01")
        + pd.to_timedelta(LABEL * 100 + RNG.integers(0, 90, N), "D"),
        "kind": pd.Categorical(np.where(LABEL == 1, "a", "b")),
        "truth": LABEL.astype(bool),
    }
)


def scores(task: str = "binary", target: np.ndarray = LABEL) -> dict[str, float]:
    half = N // 2
    return leak.alone(list(FRAME.columns), task, (FRAME[:half], target[:half]),
                      (FRAME[half:].reset_index(drop=True), target[half:]))  # fmt: skip


def test_what_holds_the_label_is_found_however_it_holds_it() -> None:
    found = {name for name, score in scores().items() if score >= leak.TOO_GOOD}
    assert found == {"copy", "shift", "inside", "holes", "when", "kind", "truth"}


def test_noise_identifiers_and_hints_are_not_leaks() -> None:
    found = scores()
    assert found["noise"] < 0.56
    assert found["text_id"] == pytest.approx(0.5)
    assert 0.7 < found["hint"] < 0.8


def test_a_number_that_is_the_label_in_another_unit_is_found() -> None:
    target = RNG.lognormal(size=N)
    frame = pd.DataFrame({"miles": target * 1.6 + 3, "noise": RNG.normal(size=N)})
    half = N // 2
    found = leak.alone(["miles", "noise"], "regression", (frame[:half], target[:half]),
                       (frame[half:], target[half:]))  # fmt: skip
    assert found["miles"] >= leak.TOO_GOOD
    assert found["noise"] < 0.1


def test_the_words_name_the_features_the_best_first() -> None:
    answer = leak.gate(["a", "b", "c"], ["later"], {"a": 0.985, "b": 0.999, "c": 0.6}, "binary")
    assert answer.outcome == "undecided"
    assert answer.text.startswith(
        "b and a alone predict the label with an area under the curve of 0.999"
    )
    assert leak.gate(["later", "a"], ["later"], {}, "binary").text.startswith(
        "the model learns from later"
    )


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40))
@settings(deadline=None)
def test_the_area_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    score = np.array([float(s) for s, _ in rows])
    positive = np.array([p for _, p in rows])
    area = leak.area(score, positive)
    if positive.all() or not positive.any():
        assert area is None
    else:
        assert area == pytest.approx(roc_auc_score(positive, score))
