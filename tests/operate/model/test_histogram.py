"""Histogram gradient boosting called tree by tree: the same to the bit as the estimator itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)

from treadle.operate.model import histogram

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(300, 5))
X[::7, 2] = np.nan
X[:, 4] = RANDOM.integers(0, 6, 300)


@pytest.mark.parametrize(
    ("estimator", "label"),
    [
        (HistGradientBoostingClassifier(max_iter=9), X[:, 0] > 0),
        (HistGradientBoostingClassifier(max_iter=9), (X[:, 0] > 0) + (X[:, 1] > 0.5).astype(int)),
        (HistGradientBoostingRegressor(max_iter=9), X[:, 0] * 3),
        (HistGradientBoostingRegressor(max_iter=9, loss="poisson"), np.abs(X[:, 0])),
    ],
)
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_answers_are_those_of_the_estimator_to_the_bit(
    estimator: Any, label: Any, kind: Any
) -> None:
    fitted = estimator.fit(X, label)
    direct = histogram.direct(fitted)
    assert direct is not fitted
    asked = np.concatenate([X, np.full((1, 5), np.inf), np.full((1, 5), np.nan)]).astype(kind)
    for name in ("predict", "predict_proba", "decision_function"):
        if hasattr(fitted, name):
            for rows in (asked, asked[:1], np.asfortranarray(asked)):
                found, right = getattr(direct, name)(rows), getattr(fitted, name)(rows)
                assert found.tobytes() == right.tobytes()


def test_what_is_no_matrix_of_its_width_is_refused_by_the_estimator() -> None:
    direct = histogram.direct(HistGradientBoostingRegressor(max_iter=3).fit(X, X[:, 0]))
    with pytest.raises(ValueError, match="4 features"):
        direct.predict(X[:, :4])
    assert direct.predict(X[:2].tolist()).shape == (2,)


def test_categories_and_other_classes_stay_with_the_estimator() -> None:
    categories = HistGradientBoostingRegressor(max_iter=3, categorical_features=[4]).fit(X, X[:, 0])
    assert histogram.direct(categories) is categories
    forest = RandomForestClassifier(3).fit(np.nan_to_num(X), X[:, 0] > 0)
    assert histogram.direct(forest) is forest
