"""A compiled form answers in the server; for what was never compared the original does."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from treadle.base.errors import StateCorrupt
from treadle.base.spec import ModelSection
from treadle.build.package import package
from treadle.operate.model import compiled
from treadle.operate.model import loaded as models
from treadle.operate.query import Query

FEATURES = ["real", "whole", "flag"]


def rows(count: int = 300, *, flags: bool = False) -> pd.DataFrame:
    random = np.random.default_rng(0)
    made = pd.DataFrame({"real": random.normal(size=count), "whole": random.integers(-9, 9, count)})
    made["flag"] = random.random(count) < 0.5 if flags else random.normal(size=count)
    return made.assign(y=(made["real"] + made["whole"] / 9 > 0).astype(int))


def folder(tmp_path: Path, model: Any = None, *, flags: bool = False, holes: bool = False) -> Path:
    train = rows(flags=flags)
    model = model or make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(train[FEATURES], train["y"])
    judged = train.copy()
    if holes:
        judged.loc[::5, "real"] = np.nan
    section = ModelSection("model", "binary", "y", tuple(FEATURES), compile="auto")
    package(model, section, train, tmp_path / "m", holdout=judged)
    return tmp_path / "m"


def loaded(place: Path) -> tuple[models.LoadedModel, models.LoadedModel]:
    """The same directory answered by its compiled form and by its library."""
    return models.load(place, compiled=True), models.load(place)


@pytest.mark.parametrize("flags", [False, True])
def test_every_way_of_asking_is_answered_as_the_original_does(tmp_path: Path, flags: bool) -> None:
    fast, slow = loaded(folder(tmp_path, flags=flags))
    assert type(fast.native).__name__ == "Linear"
    assert type(slow.native).__name__ == "Pipeline"
    frame = rows(50, flags=flags)[FEATURES]
    cells = tuple(tuple(row) for row in frame.astype(object).to_numpy().tolist())
    wanted = slow.predict(frame)
    np.testing.assert_allclose(fast.predict(frame), wanted, atol=1e-9)
    asked = Query(50, cells=cells, names=tuple(FEATURES))
    answer = fast.answer(fast.prepare(asked))
    assert list(answer) == list(slow.answer(slow.prepare(asked)))
    np.testing.assert_allclose(next(iter(answer.values())), wanted, atol=1e-9)
    several = fast.assemble([fast.admit(asked), fast.admit(asked)])
    together = next(iter(fast.answer(several).values()))
    np.testing.assert_array_equal(together[:50], together[50:])


def test_the_library_is_imported_only_for_what_was_never_compared(tmp_path: Path) -> None:
    place = folder(tmp_path)
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom treadle.operate.model import loaded as model\n"
        "from treadle.operate.query import Query\n"
        f"loaded = model.load(Path({str(place)!r}), compiled=True)\n"
        "heavy = lambda: [m for m in ('sklearn', 'pandas', 'scipy', 'skops') if m in sys.modules]\n"
        "ask = lambda *row: loaded.answer(loaded.prepare(Query(1, cells=(row,), names=None)))\n"
        "ask(0.5, 3, 1.5); print(heavy())\n"
        "try:\n    ask(None, 3, 1.5)\nexcept ValueError as error:\n    print('NaN' in str(error))\n"
        "print('sklearn' in heavy())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "True", "True"], done.stderr


def test_missing_values_that_the_holdout_had_none_of_are_the_originals(tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="pip install 'treadle[compile]'")
    fast, slow = loaded(folder(tmp_path, HistGradientBoostingClassifier(max_iter=5), holes=True))
    assert type(fast.native).__name__ == "Onnx"
    frame = rows(20)[FEATURES]
    frame.loc[3, "real"] = np.nan
    np.testing.assert_allclose(fast.predict(frame), slow.predict(frame), atol=1e-5)
    assert fast.call._original is None  # the form's own answer
    for name, value in (("flag", np.nan), ("whole", np.nan), ("real", np.inf)):
        other = frame.copy()
        other[name] = other[name].astype("float64")
        other.loc[5, name] = value
        np.testing.assert_array_equal(
            outcome(fast, other), outcome(slow, other), err_msg=f"{name} {value}"
        )
    assert fast.call._original is not None


def outcome(model: models.LoadedModel, frame: pd.DataFrame) -> Any:
    """Answers, or the error's words: scikit-learn refuses infinities."""
    try:
        return model.predict(frame)
    except ValueError as error:
        return np.array(str(error).splitlines()[0])


def test_whole_numbers_beyond_a_double_are_the_originals(tmp_path: Path) -> None:
    fast, slow = loaded(folder(tmp_path))
    frame = rows(4)[FEATURES]
    frame.loc[2, "whole"] = 2**53 + 1
    np.testing.assert_array_equal(fast.predict(frame), slow.predict(frame))


def test_a_refused_form_leaves_the_original_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = folder(tmp_path)
    told = json.loads((place / "compiled/parity.json").read_text())
    told |= {"accepted": False, "why": "17 of 300 rows differ"}
    (place / "compiled/parity.json").write_text(json.dumps(told))
    with caplog.at_level(logging.INFO, logger="treadle.server"):
        fast, _ = loaded(place)
    assert type(fast.native).__name__ == "Pipeline"
    assert "17 of 300 rows differ" in caplog.text


def test_without_onnxruntime_the_original_answers_and_the_log_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("skl2onnx", reason="pip install 'treadle[compile]'")
    place = folder(tmp_path, HistGradientBoostingClassifier(max_iter=2))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fast, slow = loaded(place)
    assert fast.native is not None
    assert type(fast.native) is type(slow.native)
    assert "pip install 'treadle[compile]'" in caplog.text


def test_a_model_without_compiled_form_is_loaded_as_ever(tmp_path: Path) -> None:
    train = rows()
    model = LogisticRegression().fit(train[FEATURES], train["y"])
    package(model, ModelSection("model", "binary", "y"), train[[*FEATURES, "y"]], tmp_path / "m")
    assert compiled.parity(tmp_path / "m") is None
    assert type(models.load(tmp_path / "m", compiled=True).native) is LogisticRegression


def test_damage_that_no_digest_caught_is_an_error_and_no_other_answer(tmp_path: Path) -> None:
    place = folder(tmp_path)
    linear, parity = place / "compiled/linear.json", place / "compiled/parity.json"
    text = linear.read_text()
    for damaged in (
        "",
        "{}",
        text.replace("logistic", "other"),
        text.replace('"bias": [', '"bias": [1, '),
    ):
        linear.write_text(damaged)
        with pytest.raises(StateCorrupt, match=r"linear\.json"):
            models.load(place, compiled=True)
    parity.write_text("{")
    with pytest.raises(StateCorrupt, match=r"parity\.json"):
        models.load(place, compiled=True)
