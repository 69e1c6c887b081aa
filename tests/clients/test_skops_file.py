"""One fitted estimator is one file, and a file loads only what the allow-list holds."""

from __future__ import annotations

import subprocess
import sys
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


@pytest.mark.parametrize("before", ["import skops.io", ""])
def test_our_skops_trusts_nothing_by_itself_and_that_of_others_stays_whole(tmp_path, before):
    code = f"""
{before}
import numpy as np
import sklearn.utils
from treadle.base.trust import skops_io
from sklearn.linear_model import LinearRegression
data = skops_io().dumps(LinearRegression())
assert skops_io() is skops_io()
assert skops_io().get_untrusted_types(data=data) == ["sklearn.linear_model._base.LinearRegression"]
import skops.io
from skops.io import _trusted_types
assert skops.io is not skops_io()
assert skops.io.get_untrusted_types(data=data) == []
assert isinstance(skops.io.loads(data), LinearRegression)
assert "numpy.log1p" in _trusted_types.NUMPY_UFUNC_TYPE_NAMES
assert len(sklearn.utils.all_estimators()) > 100
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_the_list_that_a_model_trusts_does_not_depend_on_how_skops_was_imported(tmp_path):
    code = """
import numpy as np, pathlib, sys
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from treadle.build.flavor import write
x, y = np.arange(20.0).reshape(10, 2), np.arange(10) % 2
model = make_pipeline(FunctionTransformer(np.log1p), FunctionTransformer(expit), LogisticRegression())
print(write(model.fit(x, y), "binary", pathlib.Path(sys.argv[1])).trusted)
"""
    ours, theirs = (
        subprocess.run(
            [sys.executable, "-c", how + code, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for how in ("", "import skops.io")
    )
    assert ours == theirs
    assert "'numpy.log1p'" in ours
    assert "expit" in ours
