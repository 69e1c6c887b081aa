"""Functions become a graph by the names of their parameters; mistakes are named."""

from __future__ import annotations

import textwrap

import pytest

from treadle.base.errors import PipelineError, UsageError
from treadle.code import fingerprint, pipeline


def graph(folder, text, wanted=("model",), datasets=("flights",)):
    (folder / "pipeline.py").write_text(textwrap.dedent(text))
    return pipeline.build(fingerprint.project(folder, "pipeline.py"), datasets, wanted)


GOOD = """
from typing import NamedTuple
import polars as pl
from math import floor
class Split(NamedTuple):
    train: list
    holdout: list
def split(flights: pl.DataFrame, days: int = 14) -> Split: return Split(1, 2)
def model(train, rate: float = 1, deep: bool = False, name: str = "a", sizes: list = [1, 2], depth: int | None = None): ...
def not_needed(nowhere, *rest): ...
def _private(model): ...
"""


def test_only_what_is_wanted_is_wired(tmp_path):
    built = graph(tmp_path, GOOD)
    assert list(built.nodes) == ["split", "model"]
    assert built.nodes["model"].inputs == {"train": "split"}
    assert built.nodes["split"].datasets == {"flights": "polars"}
    assert built.needed == {"split": {"train"}, "model": {"model"}}
    assert built.used_datasets == ("flights",)
    assert built.parameters({"model.rate": 0.5}) == {
        "split.days": 14,
        "model.rate": 0.5,
        "model.deep": False,
        "model.name": "a",
        "model.sizes": [1, 2],
        "model.depth": None,
    }
    assert graph(tmp_path, GOOD, ("holdout",)).needed == {"split": {"holdout"}}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "def model(trian): ...\ndef train(): ...",
            r"pipeline.py:1: model\(trian\) is neither .*did you mean train\?",
            "results are: train",
        ),
        ("def model(fligths): ...", r"did you mean flights\?", "data sets are: flights"),
        (
            GOOD.replace("train,", "split,"),
            r"model\(split\) is neither .*split\(\) gives train and holdout",
            "results are",
        ),
        (
            "def modle(): ...",
            r"no function of pipeline.py gives model; did you mean modle\?",
            "results are: modle",
        ),
        (
            "def model(a): ...\ndef a(b): ...\ndef b(a): ...",
            r"in a circle: a → b → a$",
            "takes what another",
        ),
        ("def model(model): ...", r"in a circle: model → model", ""),
        (
            "def model(flights): ...\ndef flights(): ...",
            r"flights has two homes: the data set flights and flights\(\)",
            "rename",
        ),
        (
            "def model(x): ...\ndef x(): ...\ndef x(): return 1",
            r"x\(\) is defined twice: in pipeline.py:2 and pipeline.py:3",
            "rename",
        ),
        (
            "from typing import NamedTuple\nclass A(NamedTuple):\n    x: int\ndef a() -> A: ...\ndef x(): ...\ndef model(x): ...",
            r"x has two homes: a\(\) in pipeline.py:4 and x\(\) in pipeline.py:5",
            "begin a helper's name",
        ),
        ("def model(*rows): ...", r"takes \*rows", ""),
        ("def model(**rows): ...", r"takes \*\*rows", ""),
        ("def model(a, /): ...\ndef a(): ...", r"positional-only", ""),
        ("async def model(): ...", "async", ""),
        ("def model():\n    yield 1", "generator", ""),
        (
            "N = 3\ndef model(n=N): ...",
            r"pipeline.py:2: model\(n=…\) has a default that is no plain literal",
            "hyperparameter",
        ),
        ("def model(n={1, 2}): ...", "no plain literal", "hyperparameter"),
        ("def model(flights=None): ...", "names an input and has a default", ""),
    ],
)
def test_mistakes_are_named_with_the_way_out(tmp_path, text, message, hint):
    with pytest.raises(PipelineError, match=message) as caught:
        graph(tmp_path, text)
    assert hint in (caught.value.hint or "")


def test_overrides_are_typed_and_combined(tmp_path):
    built = graph(tmp_path, GOOD)
    assert pipeline.parse_overrides([], built) == [{}]
    assert pipeline.parse_overrides(["model.rate=1,0.5", "split.days=7"], built) == [
        {"model.rate": 1.0, "split.days": 7},
        {"model.rate": 0.5, "split.days": 7},
    ]
    assert [type(c["model.rate"]) for c in pipeline.parse_overrides(["model.rate=1"], built)] == [
        float
    ]
    assert pipeline.parse_overrides(["model.sizes=[1,2],[3]", "model.name='a,b',c"], built)[1] == {
        "model.sizes": [1, 2],
        "model.name": "c",
    }
    assert pipeline.parse_overrides(["model.depth=none,3", "model.deep=true"], built) == [
        {"model.depth": None, "model.deep": True},
        {"model.depth": 3, "model.deep": True},
    ]
    assert len(pipeline.parse_overrides(["model.rate=1,1.0"], built)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.rate", "a value is missing"),
        ("model.rat=1", r"did you mean model.rate\?"),
        ("rate=1", "is no hyperparameter"),
        ("model.train=1", "is no hyperparameter"),
        ("split.days=x", "a whole number is wanted"),
        ("model.rate=", "a number is wanted"),
        ("model.deep=1", "true or false is wanted"),
        ("model.sizes=3", "a list such as"),
    ],
)
def test_overrides_that_cannot_be_say_so(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        pipeline.parse_overrides([text], graph(tmp_path, GOOD))


def test_advice_names_the_line_and_the_two_ways_out(tmp_path):
    built = graph(tmp_path, "import time\ndef model():\n    return time.time()\n")
    (line,) = pipeline.advice(built)
    assert line.startswith(
        "model() reads the clock: time.time() (pipeline.py:3): declare it as an input"
    )
    assert line.endswith("or set `cache: false` under `steps: model:`")
    assert pipeline.advice(built, ["model"]) == []
