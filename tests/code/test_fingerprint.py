"""What counts for a step's digest and what does not, without importing the user's code."""

from __future__ import annotations

import sys
import textwrap

import pytest

from treadle.base.errors import PipelineError
from treadle.code import fingerprint

BASE = '''
"""A module."""
import math
from helpers import shift as move
RATE = 2
OTHER = 5
TABLE = {"a": 1}

def _scale(x):
    """Doc."""
    return x * RATE  # comment

def unrelated(x):
    return x - OTHER

def out(x, k: int = 3):
    """Doc."""
    return move(_scale(x), k) + TABLE["a"] + math.floor(0.5)
'''
HELPERS = """
STEP = 1
def shift(x, k):
    return x + k * STEP
def unused():
    return 1
"""


def digests(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    sources = fingerprint.project(folder, "pipeline.py")
    return {name: function.digest for name, function in sources.functions.items()}


def changed(folder, before, after, where="pipeline", **files):
    files = {"pipeline": BASE, "helpers": HELPERS, **files}
    first = digests(folder, **files)
    text = textwrap.dedent(files[where])
    assert before in text
    second = digests(folder, **{where: text.replace(before, after)})
    return {name for name in second if first.get(name) != second[name]}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# comment", "# another"),
        ('"""Doc."""', '"""Other\nwords."""'),
        ("x * RATE", "( x*RATE )"),
        ("\n\ndef unrelated", "\n\n\n\ndef unrelated"),
        ('"""A module."""', ""),
        ("k: int = 3", "k: int = 4"),  # a default is a parameter, not code
    ],
)
def test_formatting_comments_and_docstrings_do_not_count(tmp_path, before, after):
    assert "out" not in changed(tmp_path, before, after)


@pytest.mark.parametrize(
    ("where", "before", "after"),
    [
        ("pipeline", "x * RATE", "x / RATE"),
        ("pipeline", "RATE = 2", "RATE = 2.0"),
        ("pipeline", '{"a": 1}', '{"a": 2}'),
        ("pipeline", "shift as move", "unused as move"),
        ("pipeline", "import math", "import cmath as math"),
        ("helpers", "k * STEP", "k - STEP"),
        ("helpers", "STEP = 1", "STEP = 0"),
        ("pipeline", "k: int", "j: int"),
    ],
)
def test_code_that_a_step_reaches_counts(tmp_path, where, before, after):
    assert "out" in changed(tmp_path, before, after, where)


@pytest.mark.parametrize(
    ("where", "before", "after"),
    [
        ("pipeline", "x - OTHER", "x + OTHER"),
        ("pipeline", "OTHER = 5", "OTHER = 6"),
        ("helpers", "return 1", "return 2"),
    ],
)
def test_code_that_a_step_does_not_reach_does_not_count(tmp_path, where, before, after):
    assert "out" not in changed(tmp_path, before, after, where)


def test_a_parameter_named_like_a_function_is_not_that_function(tmp_path):
    text = "def model(train): return 1\ndef out(model): return model\n"
    assert changed(tmp_path, "return 1", "return 2", pipeline=text) == {"model"}


def test_moving_functions_does_not_count(tmp_path):
    a = "def _a(): return 1\n"
    b = "def _b(): return 2\n"
    out = "def out(): return _a() + _b()\n"
    assert (
        digests(tmp_path, pipeline=a + b + out)["out"]
        == digests(tmp_path, pipeline=out + b + a)["out"]
    )


CASES = {
    "getattr with a computed name": (
        "import helpers\ndef out(name='shift'): return getattr(helpers, name)(1, 2)\n",
        "return 1",
        "return 2",
    ),
    "a table of functions by globals()": (
        "import helpers\ndef out(): return globals()['helpers'].unused()\n",
        "return 1",
        "return 2",
    ),
    "importlib": (
        "import importlib\ndef out(): return importlib.import_module('helpers').unused()\n",
        "return 1",
        "return 2",
    ),
    "a star import": (
        "from helpers import *\ndef out(): return unused()\n",
        "return 1",
        "return 2",
    ),
    "an attribute of a module": (
        "import helpers\ndef out(): return helpers.unused()\n",
        "return 1",
        "return 2",
    ),
    "an import inside": (
        "def out():\n    from helpers import unused as u\n    return u()\n",
        "return 1",
        "return 2",
    ),
    "an import inside, whole": (
        "def out():\n    import helpers as h\n    return h.unused()\n",
        "return 1",
        "return 2",
    ),
    "a module handed on": (
        "import helpers\ndef _f(m): return m.unused()\ndef out(): return _f(helpers)\n",
        "return 1",
        "return 2",
    ),
    "getattr with a constant name": (
        "import helpers\ndef out(): return getattr(helpers, 'unused')()\n",
        "return 1",
        "return 2",
    ),
    "a patched module": (
        "import helpers\nhelpers.shift = helpers.unused\ndef out(): return helpers.shift()\n",
        "return 1",
        "return 2",
    ),
    "a decorator": (
        "from helpers import unused\ndef _d(f): return lambda: unused()\n@_d\ndef out(): return 0\n",
        "return 1",
        "return 2",
    ),
    "a default value": (
        "from helpers import unused\ndef _f(x=unused()): return x\ndef out(): return _f()\n",
        "return 1",
        "return 2",
    ),
    "a closure": (
        "from helpers import unused\ndef out():\n    def inner(): return unused()\n    return inner()\n",
        "return 1",
        "return 2",
    ),
    "a lambda in a table": (
        "from helpers import unused\nT = {'a': lambda: unused()}\ndef out(): return T['a']()\n",
        "return 1",
        "return 2",
    ),
    "a statement at import": (
        "from helpers import unused\nimport os\nos.x = unused()\ndef out(): return 1\n",
        "return 1",
        "return 2",
    ),
    "a try of imports": (
        "try:\n    from helpers import unused\nexcept ImportError:\n    unused = None\ndef out(): return unused()\n",
        "return 1",
        "return 2",
    ),
    "a file that is read as text": (
        "import inspect, helpers\ndef out(): return inspect.getsource(helpers)\n",
        "return 1",
        "return 1  # c",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_known_counts(tmp_path, case):
    text, before, after = CASES[case]
    assert "out" in changed(tmp_path, before, after, "helpers", pipeline=text)


def test_classes_count_whole_and_by_the_names_of_their_methods(tmp_path):
    text = """
    class _Base:
        def run(self): return self.step()
    class _A(_Base):
        def step(self): return 1
    def make(): return _A()
    def out(make): return make.run()
    """
    assert changed(tmp_path, "return 1", "return 2", pipeline=text) >= {"make"}
    assert changed(tmp_path, "self.step()", "-self.step()", pipeline=text) == {"make", "out"}


def test_a_registry_filled_by_decorators_counts(tmp_path):
    text = """
    REGISTRY = {}
    def register(name):
        def keep(f):
            REGISTRY[name] = f
            return f
        return keep
    @register("a")
    def _a(x): return x + 1
    def out(which: str = "a"): return REGISTRY[which](1)
    """
    assert "out" in changed(tmp_path, "x + 1", "x + 2", pipeline=text)


def test_a_function_that_changes_a_global_counts_where_the_global_does(tmp_path):
    text = """
    SEEN = []
    def _note(): SEEN.append(1)
    def out(): return len(SEEN)
    """
    assert "out" in changed(tmp_path, "append(1)", "append(2)", pipeline=text)


def test_packages_of_functions_and_relative_modules(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text(
        "from .deep import g as g2\nfrom . import other\n"
    )
    (tmp_path / "pkg" / "deep.py").write_text("from .other import K\ndef g(): return K\n")
    (tmp_path / "pkg" / "other.py").write_text("K = 1\n")
    pipeline = "import pkg\nimport pkg.deep\ndef out(): return pkg.g2() + pkg.deep.g()\n"
    first = digests(tmp_path, pipeline=pipeline)
    (tmp_path / "pkg" / "other.py").write_text("K = 2\n")
    assert digests(tmp_path)["out"] != first["out"]


def test_swapped_import_names_count(tmp_path):
    helpers = "def f(): return 1\ndef g(): return 2\n"
    first = digests(
        tmp_path,
        helpers=helpers,
        pipeline="from helpers import f as x, g as y\ndef out(): return x() - y()\n",
    )
    second = digests(
        tmp_path, pipeline="from helpers import g as x, f as y\ndef out(): return x() - y()\n"
    )
    assert first != second


def test_versions_of_the_packages_that_a_step_reaches(tmp_path):
    import importlib.metadata

    (tmp_path / "pipeline.py").write_text(
        "import numpy as np\nimport pandas as pd\nfrom sklearn.base import clone\nimport yaml, nowhere\n"
        "def a(): return np.zeros(1)\ndef b(x: pd.DataFrame): return clone(x)\ndef c(): return yaml.load, nowhere.x\n"
    )
    functions = fingerprint.project(tmp_path, "pipeline.py").functions
    assert functions["a"].packages == {"numpy": importlib.metadata.version("numpy")}
    assert functions["b"].packages == {
        "pandas": importlib.metadata.version("pandas"),
        "scikit-learn": importlib.metadata.version("scikit-learn"),
    }
    assert functions["c"].packages == {
        "pyyaml": importlib.metadata.version("pyyaml"),
        "nowhere": "not installed",
    }


def test_an_editable_or_local_package_counts_by_its_source(tmp_path, monkeypatch):
    library = tmp_path / "elsewhere" / "mylib"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("K = 1\n")
    monkeypatch.syspath_prepend(str(library.parent))
    project = tmp_path / "project"
    project.mkdir()
    (project / "pipeline.py").write_text("import mylib\ndef out(): return mylib.K\n")
    first = fingerprint.project(project, "pipeline.py").functions["out"].packages
    (library / "__init__.py").write_text("K = 2\n")
    second = fingerprint.project(project, "pipeline.py").functions["out"].packages
    assert first["mylib"].startswith("source sha256:") and first != second


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("time.time()", "clock"),
        ("datetime.datetime.now()", "clock"),
        ("pd.Timestamp.now()", "clock"),
        ("os.environ['A']", "environment"),
        ("os.getenv('A')", "environment"),
        ("random.random()", "seed"),
        ("np.random.rand(3)", "seed"),
        ("np.random.default_rng()", "seed"),
        ("uuid.uuid4()", "random"),
        ("requests.get('http://x')", "outside"),
        ("pd.read_csv('https://x/y.csv')", "network"),
        ("pl.read_parquet(name)", "no input"),
        ("x.sample(3)", "random_state"),
        ("train_test_split(x)", "random_state"),
    ],
)
def test_what_differs_from_run_to_run_is_found(tmp_path, line, what):
    (tmp_path / "pipeline.py").write_text(
        "import time, datetime, os, random, uuid, requests\nimport numpy as np, pandas as pd, polars as pl\n"
        "from sklearn.model_selection import train_test_split\n"
        f"def _deep(x, name):\n    return {line}\ndef out(x): return _deep(x, 1)\n"
    )
    found = fingerprint.project(tmp_path, "pipeline.py").functions["out"].impurities
    assert len(found) == 1 and what in found[0].what and found[0].line in (4, 5)


@pytest.mark.parametrize(
    "line",
    [
        "np.random.default_rng(0)",
        "np.random.default_rng(seed)",
        "x.sample(3, random_state=0)",
        "time.sleep(0)",
        "train_test_split(x, random_state=seed)",
        "os.path.join('a', 'b')",
        "datetime.datetime(2013, 1, 1)",
    ],
)
def test_what_is_seeded_is_not_reported(tmp_path, line):
    (tmp_path / "pipeline.py").write_text(
        "import time, datetime, os\nimport numpy as np\nfrom sklearn.model_selection import train_test_split\n"
        f"def out(x, seed: int = 0):\n    return {line}\n"
    )
    assert fingerprint.project(tmp_path, "pipeline.py").functions["out"].impurities == ()


def test_results_and_frames_from_annotations(tmp_path):
    (tmp_path / "shapes.py").write_text(
        "from typing import NamedTuple\nclass Both(NamedTuple):\n    left: int\n    right: int = 0\n"
        "class More(Both): ...\n"
    )
    (tmp_path / "pipeline.py").write_text(
        "from __future__ import annotations\nimport collections, typing\nimport polars as pl, pandas as pd, shapes\n"
        "from shapes import Both\nPair = collections.namedtuple('Pair', 'a b')\n"
        "Trio = typing.NamedTuple('Trio', [('c', int), ('d', int)])\n"
        "def one(x: pl.DataFrame, y: 'pd.DataFrame', z: 'pl.LazyFrame | None') -> Both: ...\n"
        "def two() -> shapes.Both: ...\ndef three() -> 'Both': ...\ndef four() -> Pair: ...\n"
        "def five() -> Trio: ...\ndef six() -> dict[str, int]: ...\ndef seven() -> shapes.More: ...\n"
    )
    functions = fingerprint.project(tmp_path, "pipeline.py").functions
    assert {n: f.results for n, f in functions.items()} == {
        "one": ("left", "right"),
        "two": ("left", "right"),
        "three": ("left", "right"),
        "four": ("a", "b"),
        "five": ("c", "d"),
        "six": ("six",),
        "seven": ("left", "right"),
    }
    assert [p.frame for p in functions["one"].parameters] == ["polars", "pandas", "polars"]


def test_a_file_that_is_no_python_is_shown_with_a_caret(tmp_path):
    (tmp_path / "pipeline.py").write_text("def out(:\n    pass\n")
    with pytest.raises(
        PipelineError, match=r"pipeline.py:1: this is no Python: .*\n  def out\(:\n +\^"
    ):
        fingerprint.project(tmp_path, "pipeline.py")
    with pytest.raises(PipelineError, match="there is no nowhere.py"):
        fingerprint.project(tmp_path, "nowhere.py")


def test_nothing_heavy_and_nothing_of_the_user_is_imported(tmp_path):
    import subprocess

    (tmp_path / "pipeline.py").write_text("raise RuntimeError\ndef out(): return 1\n")
    script = (
        "import sys; from treadle.code import fingerprint, pipeline, cache; from pathlib import Path;"
        f"fingerprint.project(Path({str(tmp_path)!r}), 'pipeline.py');"
        "print({'numpy','pandas','polars','pyarrow','sklearn','pydantic','importlib.metadata'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
