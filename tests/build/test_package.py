from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

from treadle.base.digest import digest_tree
from treadle.base.errors import PipelineError, Refused
from treadle.base.spec import ModelSection
from treadle.build.package import key, package

SCRIPT = """
import os, sys, datetime
os.umask(int(sys.argv[2], 8))
from pathlib import Path
import numpy as np, pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from treadle.base.spec import ModelSection
from treadle.build.package import package
rng = np.random.default_rng(1)
frame = pd.DataFrame({"c": rng.choice(["a", "b", "c"], 300), "x": rng.normal(size=300)})
label = (frame.x + rng.normal(size=300) > 0).astype("int8")
encode = ColumnTransformer([("c", OrdinalEncoder(), ["c"]), ("x", "passthrough", ["x"])])
model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5, random_state=0))
model.fit(frame, label)
print(package(model, ModelSection("model", "binary", "y"), frame, Path(sys.argv[1])).digest)
"""


def rows(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "text": rng.choice(["a", "b", "c"], n),
            "whole": np.arange(n),
            "real": rng.normal(size=n),
            "flag": rng.random(n) < 0.5,
            "y": (np.arange(n) % 3 == 0).astype("int8"),
        }
    )


def fitted(frame: pd.DataFrame, columns: list[str]) -> LogisticRegression:
    return LogisticRegression().fit(frame[columns], frame["y"])


SECTION = ModelSection("model", "binary", "y")


def test_the_same_fitted_model_is_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    digests = []
    for name, seed, umask in (("one", "1", "022"), ("deeper/two", "2", "077")):
        # skops imported by itself first trusts more than when Treadle imports it
        script = SCRIPT if seed == "1" else "import skops.io\n" + SCRIPT
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / name), umask],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"},
        )
        digests.append(done.stdout.strip())
    assert digests[0] == digests[1]
    assert digest_tree(tmp_path / "one") == digest_tree(tmp_path / "deeper/two")


def test_the_record_names_the_tree_and_every_file(tmp_path: Path) -> None:
    frame = rows()
    model = package(fitted(frame, ["whole", "real"]), SECTION, frame, tmp_path / "m")
    content, files = digest_tree(tmp_path / "m")
    assert model.content == content
    assert model.files == files
    assert model.features == ("whole", "real")
    assert model.classes == (0, 1)
    assert {line.partition("==")[0] for line in model.requirements} == {
        "numpy",
        "pandas",
        "scikit-learn",
        "scipy",
        "skops",
    }
    assert model.size_bytes == sum(p.stat().st_size for p in (tmp_path / "m").iterdir())


def test_the_signature_tells_types_and_which_columns_had_holes(tmp_path: Path) -> None:
    frame = rows()
    frame["holes"] = frame["real"].where(frame["whole"] > 5)
    frame["count"] = pd.array([None, *range(1, 60)], dtype="Int64")
    frame["time"] = pd.Timestamp("2013-01-01") + pd.to_timedelta(frame["whole"], unit="h")
    used = ["text", "whole", "holes", "count", "flag", "time"]
    encode = ColumnTransformer([("text", OrdinalEncoder(), ["text"])])
    model = make_pipeline(encode, LogisticRegression()).fit(frame[used], frame["y"])
    package(model, SECTION, frame.head(3), tmp_path / "m", train_features=frame)
    signature = yaml.safe_load((tmp_path / "m/MLmodel").read_text())["signature"]
    assert [(c["name"], c["type"], c["required"]) for c in json.loads(signature["inputs"])] == [
        ("text", "string", True),
        ("whole", "long", True),
        ("holes", "double", False),
        ("count", "double", False),
        ("flag", "boolean", True),
        ("time", "datetime", True),
    ]
    assert json.loads(signature["outputs"]) == [
        {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}
    ]
    example = json.loads((tmp_path / "m/input_example.json").read_text())
    assert example["data"][0][2:4] == [None, None]
    assert example["data"][0][5] == "2013-01-01T00:00:00"


def test_without_names_the_features_are_the_rest(tmp_path: Path) -> None:
    frame = rows().drop(columns=["text"]).assign(known=1.0, key=2)
    model = LogisticRegression().fit(frame[["whole", "real", "flag"]].to_numpy(float), frame["y"])
    made = package(model, SECTION, frame, tmp_path / "m", excluded=("known", "key"))
    assert made.features == ("whole", "real", "flag")


def test_a_column_that_the_allow_list_lacks_is_named(tmp_path: Path) -> None:
    frame = rows()
    section = ModelSection("model", "binary", "y", features=("whole", "rael"))
    with pytest.raises(PipelineError, match="'real', which model.features does not list") as caught:
        package(fitted(frame, ["whole", "real"]), section, frame, tmp_path / "m")
    assert "did you mean 'rael'" in str(caught.value.hint)


def test_a_feature_that_is_no_column_gets_a_suggestion(tmp_path: Path) -> None:
    frame = rows()
    model = LogisticRegression().fit(frame[["whole", "real"]].to_numpy(), frame["y"])
    section = ModelSection("model", "binary", "y", features=("whole", "reall"))
    with pytest.raises(PipelineError, match="no column 'reall'") as caught:
        package(model, section, frame, tmp_path / "m")
    assert "did you mean 'real'" in str(caught.value.hint)


def test_the_label_is_never_a_feature(tmp_path: Path) -> None:
    frame = rows()
    with pytest.raises(PipelineError, match="the label 'y' is among"):
        package(fitted(frame, ["real", "y"]), SECTION, frame, tmp_path / "m")


def test_a_model_that_needs_another_column_than_it_is_fed_says_so(tmp_path: Path) -> None:
    frame = rows()
    model = LogisticRegression().fit(frame[["whole", "real"]].to_numpy(), frame["y"])
    section = ModelSection("model", "binary", "y", features=("whole",))
    with pytest.raises(PipelineError, match="cannot predict its own example rows"):
        package(model, section, frame, tmp_path / "m")


def test_polars_rows_do_as_well_as_pandas_rows(tmp_path: Path) -> None:
    frame = rows()
    model = fitted(frame, ["whole", "real"])
    one = package(model, SECTION, frame, tmp_path / "1")
    two = package(model, SECTION, pl.from_pandas(frame), tmp_path / "2")
    assert one == two


def test_a_regression_predicts_numbers(tmp_path: Path) -> None:
    frame = rows()
    model = LinearRegression().fit(frame[["whole", "flag"]], frame["real"])
    made = package(model, ModelSection("model", "regression", "real"), frame, tmp_path / "m")
    assert made.classes == ()
    told = json.loads((tmp_path / "m/treadle.json").read_text())
    assert told["method"] == "predict"
    assert told["outputs"][0]["tensor-spec"] == {"dtype": "float64", "shape": [-1]}


class OwnModel:
    def predict(self, frame: object) -> np.ndarray:
        return np.zeros(len(frame))  # type: ignore[arg-type]


def test_an_own_class_is_refused_by_name_without_trust(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="OwnModel has no format that is safe") as caught:
        package(OwnModel(), SECTION, rows()[["real", "y"]], tmp_path / "m")
    assert "trust: pickle" in str(caught.value.hint)


def _own_function(x: object) -> object:
    return x


def test_an_own_function_within_a_pipeline_is_refused_by_name(tmp_path: Path) -> None:
    frame = rows()
    model = make_pipeline(FunctionTransformer(_own_function), LogisticRegression())
    model.fit(frame[["whole", "real"]], frame["y"])
    with pytest.raises(Refused, match="_own_function"):
        package(model, SECTION, frame, tmp_path / "m")


def test_what_cannot_predict_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="builtins.dict, which cannot predict"):
        package({}, SECTION, rows()[["real", "y"]], tmp_path / "m", trust_pickle=True)


def test_a_column_that_no_request_can_carry_is_named(tmp_path: Path) -> None:
    frame = rows().assign(lag=pd.to_timedelta(np.arange(60), unit="h"))
    model = LogisticRegression().fit(np.zeros((60, 1)), frame["y"])
    section = ModelSection("model", "binary", "y", features=("lag",))
    with pytest.raises(PipelineError, match="'lag' is of type timedelta64"):
        package(model, section, frame, tmp_path / "m")


def test_a_category_that_a_request_brings_as_text_is_refused(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    frame = rows().assign(text=lambda f: f["text"].astype("category"))
    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(frame[["text"]], frame["y"])
    with pytest.raises(PipelineError, match="cannot predict its own example|answers differently"):
        package(model, SECTION, frame, tmp_path / "m")


def test_a_folder_with_something_in_it_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    with pytest.raises(PipelineError, match="not empty"):
        package(OwnModel(), SECTION, rows(), tmp_path)


def test_the_build_key_covers_all_that_changes_the_directory() -> None:
    keys = {
        key("sha256:a", SECTION, None, None),
        key("sha256:b", SECTION, None, None),
        key("sha256:a", ModelSection("model", "binary", "z"), None, None),
        key("sha256:a", SECTION, ("x==1",), None),
        key("sha256:a", SECTION, None, "sha256:p"),
    }
    assert len(keys) == 5
    assert key("sha256:a", SECTION, None, None) in keys


def test_deciding_by_the_key_imports_nothing_heavy() -> None:
    code = (
        "import sys; from treadle.build.package import key; from treadle.base.spec import "
        "ModelSection; key('a', ModelSection('m', 'binary', 'y'), None, None); "
        "print([m for m in ('numpy','pandas','sklearn','skops','mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dates_are_shown_as_iso_texts(tmp_path: Path) -> None:
    frame = rows().assign(day=[dt.date(2013, 1, 1 + i % 28) for i in range(60)])
    encode = ColumnTransformer([("real", "passthrough", ["real"])])
    model = make_pipeline(encode, LogisticRegression()).fit(frame[["real", "day"]], frame["y"])
    package(model, SECTION, frame, tmp_path / "m")
    assert json.loads((tmp_path / "m/input_example.json").read_text())["data"][0][1] == "2013-01-01"


@pytest.mark.parametrize(
    ("kinds", "words"), [(3, "knows 3 classes: 0, 1, 2"), (1, "one class only")]
)
def test_a_binary_model_knows_two_classes(tmp_path: Path, kinds: int, words: str) -> None:
    from sklearn.dummy import DummyClassifier

    frame = rows().assign(y=lambda f: f["whole"] % kinds)
    model = DummyClassifier().fit(frame[["whole", "real"]], frame["y"])
    with pytest.raises(PipelineError, match=words):
        package(model, SECTION, frame, tmp_path / "m")


OWN = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
import numpy as np, pandas as pd
from ownmodel import Own
from treadle.base.spec import ModelSection
from treadle.build.package import package
frame = pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0]})
print(package(Own(), ModelSection("m", "regression", "y"), frame, Path(sys.argv[1]),
              trust_pickle=True).content)
"""


def test_an_own_class_too_is_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    source = tmp_path / "ownmodel.py"
    digests = []
    for number, factor in enumerate((2, 2, 3)):
        source.write_text(
            f"def double(v):\n    return v * {factor}\n\n\nclass Own:\n"
            "    def predict(self, frame):\n        return double(frame['x'].to_numpy())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", OWN, str(tmp_path / str(number)), str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        digests.append(done.stdout.strip())
    assert digests[0] == digests[1] != digests[2]
