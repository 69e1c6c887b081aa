"""One fitted estimator is one file, and a file loads only what the allow-list holds."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from sklearn.cluster import Birch
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from treadle.base.errors import Refused, TreadleError
from treadle.clients import skops_file

X = np.random.default_rng(0).normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)


def fitted(kind):
    return {
        "linear": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y),
        "tree": lambda: DecisionTreeClassifier(random_state=0).fit(X, Y),
        "boosted": lambda: HistGradientBoostingClassifier(max_iter=3, random_state=0).fit(X, Y),
        "columns": lambda: ColumnTransformer([("a", StandardScaler(), [0, 1])]).fit(X),
        "text": lambda: TfidfVectorizer(stop_words="english").fit(["the dog", "a fox"]),
    }[kind]()


@pytest.mark.parametrize("kind", ["linear", "tree", "boosted", "columns", "text"])
def test_equal_estimators_have_equal_bytes_and_loading_changes_nothing(kind, tmp_path):
    data = skops_file.dumps(fitted(kind))
    assert skops_file.dumps(fitted(kind)) == data
    skops_file.dump(fitted(kind), tmp_path / "m.skops")
    assert (tmp_path / "m.skops").read_bytes() == data
    again = skops_file.load(tmp_path / "m.skops")
    assert skops_file.dumps(again) == data
    if kind in ("linear", "tree", "boosted"):
        assert np.array_equal(again.predict_proba(X), fitted(kind).predict_proba(X))


def test_a_shared_object_stays_one_object():
    scaler = StandardScaler().fit(X)
    model = ColumnTransformer([("a", scaler, [0]), ("b", scaler, [1])])
    loaded = skops_file.load(skops_file.dumps(model))
    assert loaded.transformers[0][1] is loaded.transformers[1][1]
    apart = ColumnTransformer([("a", StandardScaler(), [0]), ("b", StandardScaler(), [1])])
    loaded = skops_file.load(skops_file.dumps(apart))
    assert loaded.transformers[0][1] is not loaded.transformers[1][1]


def test_another_model_has_other_bytes():
    other = LogisticRegression(C=2).fit(X, Y)
    assert skops_file.dumps(other) != skops_file.dumps(LogisticRegression(C=1).fit(X, Y))


def test_the_archive_has_no_times_and_sorted_names(tmp_path):
    skops_file.dump(fitted("boosted"), tmp_path / "m.skops")
    with zipfile.ZipFile(tmp_path / "m.skops") as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def _own(x):
    return x


def test_a_function_of_the_users_own_is_named_and_refused():
    data = skops_file.dumps(FunctionTransformer(_own))
    (name,) = skops_file.untrusted_types(data)
    assert name.endswith("._own")
    with pytest.raises(Refused, match="_own"):
        skops_file.load(data)
    assert skops_file.load(data, trusted=[name]).func is _own


def test_functions_that_open_files_are_refused_though_they_are_numpys():
    data = skops_file.dumps(FunctionTransformer(np.loadtxt))
    with pytest.raises(Refused, match="loadtxt"):
        skops_file.load(data)
    assert skops_file.load(skops_file.dumps(FunctionTransformer(np.log1p))).func is np.log1p


def test_what_skops_cannot_write_says_so():
    with pytest.raises(TreadleError, match="cannot write"):
        skops_file.dumps(Birch())
