"""Hundreds of semantic mutations of small projects: none of them leaves a stale hit.

Each mutant is run in full, step by step, on the inputs that the unchanged project has. Where a step
behaves differently, its key must differ; where only formatting, comments or docstrings change, no
key may.
"""

from __future__ import annotations

import ast
import copy
import importlib
import random
import sys
import textwrap

import pytest

from treadle.code import cache, fingerprint, pipeline

PROJECTS = {
    "helpers": {
        "pipeline.py": '''
            """Rows to a score."""
            from typing import NamedTuple
            import features
            from features import ratio as share, LIMIT
            from maths.basic import clip

            WEIGHTS = {"a": 2, "b": 3}
            NAMES = ["a", "b"]

            class Split(NamedTuple):
                train: list
                holdout: list

            def rows(n: int = 6):
                return [{"a": i, "b": i * i - 3} for i in range(n)]

            def split(rows, last: int = 2) -> Split:
                cut = len(rows) - last
                return Split(rows[:cut], rows[cut:])

            def model(train, rate: float = 0.5):
                total = {name: 0.0 for name in NAMES}
                for row in train:
                    for name in NAMES:
                        if row[name] >= LIMIT and not row[name] == 4:
                            total[name] += WEIGHTS[name] * row[name] * rate
                return total

            def score(model, holdout):
                made = [features.make(row, model) for row in holdout]
                return [clip(share(x, 7)) for x in made]
            ''',
        "features.py": '''
            from maths import basic
            LIMIT = -2
            OFFSET = 1
            def make(row, model):
                """Doc."""
                return basic.add(row["a"] * model["a"], row["b"] - model["b"]) + OFFSET
            def ratio(x, y):
                return x / y if y > 0 else 0
            ''',
        "maths/__init__.py": "",
        "maths/basic.py": """
            LOW, HIGH = -1.5, 100
            def add(x, y):
                return x + y
            def clip(x):
                return max(LOW, min(HIGH, x))
            """,
    },
    "classes": {
        "pipeline.py": """
            from shapes import Square, Circle
            from base import registry_size
            def shapes(n: int = 4):
                return [("square", i + 1) if i % 2 == 0 else ("circle", i + 2) for i in range(n)]
            def areas(shapes):
                made = [Square(size) if kind == "square" else Circle(size) for kind, size in shapes]
                return [shape.area() for shape in made] + [len(made[0]), made[1] < made[0]]
            def out(areas, digits: int = 2):
                return {"sum": round(sum(areas), digits), "kinds": registry_size()}
            """,
        "base.py": """
            KINDS = []
            class Shape:
                scale = 2
                def __init_subclass__(cls):
                    KINDS.append(cls.__name__)
                def __init__(self, size):
                    self.size = size * self.scale
                def area(self):
                    return self.factor() * self.size ** 2
                def factor(self):
                    return 1
                def __len__(self):
                    return self.size + 1
                def __lt__(self, other):
                    return self.area() < other.area()
            def registry_size():
                return len(KINDS) * 10
            """,
        "shapes.py": """
            from base import Shape
            PI = 3
            class Square(Shape):
                @property
                def half(self):
                    return self.size / 2
                def area(self):
                    return super().area() + self.half
            class Circle(Shape):
                scale = 3
                def factor(self):
                    return PI
            """,
    },
    "closures": {
        "pipeline.py": """
            import functools
            from tools import twice, Counter, compose
            STEPS = [lambda x: x + 1, lambda x: x * 3]
            COUNTER = Counter(5)
            def numbers(n: int = 5):
                return [compose(*STEPS)(i) for i in range(n)]
            @twice
            def grown(numbers, by: int = 2):
                def add(x):
                    def inner(y):
                        return x + y + by
                    return inner
                return [add(x)(1) for x in numbers]
            def out(grown):
                COUNTER.tick()
                total = functools.reduce(lambda a, b: a - b, grown)
                return [total, COUNTER.seen, [y for x in grown if (y := x % 4) != 1]]
            """,
        "tools.py": """
            import functools
            EXTRA = 7
            def twice(function):
                @functools.wraps(function)
                def wrapper(*args, **kwargs):
                    first = function(*args, **kwargs)
                    return first + [EXTRA, len(first)]
                return wrapper
            def compose(first, *rest):
                def run(x):
                    value = first(x)
                    for step in rest:
                        value = step(value)
                    return value
                return run
            class Counter:
                def __init__(self, start):
                    self.seen = start
                def tick(self, by=2):
                    self.seen += by
            """,
    },
    "dispatch": {
        "pipeline.py": """
            import handlers
            from handlers import HANDLERS, register
            @register("triple")
            def _triple(x):
                return x * 3
            def raw(n: int = 4):
                return list(range(1, n))
            def handled(raw, which: str = "double"):
                return [HANDLERS[which](x) + HANDLERS["triple"](x) for x in raw]
            def named(raw, name: str = "square"):
                return [getattr(handlers, "do_" + name)(x) for x in raw]
            def out(handled, named):
                try:
                    value = handlers.check(handled)
                except ValueError as error:
                    value = str(error)
                match len(named):
                    case 3 if named[0] == 1:
                        kind = "three"
                    case _:
                        kind = "other"
                return {"value": value, "kind": kind, "rest": handlers.settings()["mode"]}
            """,
        "handlers.py": """
            HANDLERS = {}
            CONFIG = {"mode": "fast"}
            CONFIG["level"] = 3
            if CONFIG["level"] > 2:
                CONFIG["mode"] = "slow"
            def register(name):
                def keep(function):
                    HANDLERS[name] = function
                    return function
                return keep
            @register("double")
            def double(x):
                return x * 2
            def do_square(x):
                return x * x
            def do_cube(x):
                return x ** 3
            def settings():
                return CONFIG
            def check(values):
                if max(values) > 14:
                    raise ValueError("too big: %d" % max(values))
                return values
            """,
    },
    "state": {
        "pipeline.py": """
            from pkg import api as service, setup
            from pkg.store import *
            LEVEL = setup(2)
            _cache = {}
            def _remember(key, value):
                _cache[key] = value + LEVEL
                return _cache[key]
            def keys(n: int = 3):
                return ["k%d" % i for i in range(n)]
            def values(keys):
                return {key: _remember(key, len(key) + i) for i, key in enumerate(keys)}
            def out(values):
                global LEVEL
                LEVEL = LEVEL + 1
                return [service.total(values), DEFAULT, fetch("x"), LEVEL, service.kind]
            """,
        "pkg/__init__.py": """
            from . import api
            from .store import fetch as _fetch
            _level = 1
            def setup(level):
                global _level
                _level = level * 5
                return _level - 1
            """,
        "pkg/api.py": """
            from . import store
            kind = "api" + store.DEFAULT
            def total(values):
                return sum(values.values()) + store.BASE
            """,
        "pkg/store.py": """
            BASE = 10
            DEFAULT = "d"
            def fetch(key, default=DEFAULT):
                return {"x": 1, "y": 2}.get(key, default)
            """,
    },
}
ORDER = {
    "helpers": ["rows", "split", "model", "score"],
    "classes": ["shapes", "areas", "out"],
    "closures": ["numbers", "grown", "out"],
    "dispatch": ["raw", "handled", "named", "out"],
    "state": ["keys", "values", "out"],
}


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def keys(folder, order):
    """Step → its key, with inputs that never change."""
    sources = fingerprint.project(folder, "pipeline.py")
    found = {}
    for name in order:
        if name not in sources.functions:
            found[name] = "gone"
            continue
        try:
            graph = pipeline.build(sources, (), [sources.functions[name].results[0]])
            depends = cache.known_depends(graph, graph.nodes[name], {}, graph.parameters())
            depends |= {f"input {p}": "same" for p in graph.nodes[name].inputs}
            found[name] = cache.step_key(name, depends)
        except Exception as error:
            found[name] = f"refused: {error}"
    return found


def behaviour(folder, order, inputs=None):
    """Step → what it gives (or raises) on `inputs`, by default on what the steps before gave."""
    given = {} if inputs is None else inputs
    seen = {}
    for name in order:  # each step in a fresh import, as if all others were hits
        for module in [m for m in sys.modules if m.partition(".")[0] in MODULES]:
            del sys.modules[module]
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            module = importlib.import_module("pipeline")
        except Exception as error:
            sys.path.remove(str(folder))
            return {name: f"no import: {error}" for name in order}, given
        try:
            function = getattr(module, name)
            wanted = fingerprint_parameters[folder.name][name]
            value = function(**copy.deepcopy({p: given[p] for p in wanted}))
            if inputs is None:
                fields = getattr(value, "_asdict", lambda value=value, name=name: {name: value})()
                given.update(fields)
            seen[name] = repr(value)
        except Exception as error:
            seen[name] = f"raises {type(error).__name__}: {error}"
        finally:
            sys.path.remove(str(folder))
    return seen, given


MODULES = {
    name.partition("/")[0].removesuffix(".py") for files in PROJECTS.values() for name in files
}
fingerprint_parameters: dict[str, dict[str, list[str]]] = {}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Lt: ast.GtE,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def mutants(tree):
    """Every mutated copy of a tree, one change each, with words for it."""
    nodes = list(ast.walk(tree))
    names = sorted({n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)})
    for index, node in enumerate(nodes):

        def changed(change, words, index=index):
            clone = copy.deepcopy(tree)
            change(list(ast.walk(clone))[index])
            return clone, f"line {getattr(node, 'lineno', '?')}: {words}"

        if isinstance(node, ast.Constant):
            if isinstance(node.value, bool):
                yield changed(lambda n: setattr(n, "value", not n.value), "negated constant")
            elif isinstance(node.value, int | float):
                yield changed(lambda n: setattr(n, "value", n.value + 1), "constant + 1")
            elif isinstance(node.value, str):
                yield changed(lambda n: setattr(n, "value", n.value + "x"), "other text")
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
            yield changed(lambda n: setattr(n, "op", OPERATORS[type(n.op)]()), "other operator")
        if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
            yield changed(
                lambda n: n.ops.__setitem__(0, OPERATORS[type(n.ops[0])]()), "other comparison"
            )
        if isinstance(node, ast.UnaryOp):
            yield changed(
                lambda n: setattr(
                    n, "op", ast.UAdd() if isinstance(n.op, ast.USub) else ast.Invert()
                ),
                "other sign",
            )
        if isinstance(node, ast.Call) and len(node.args) > 1:
            yield changed(lambda n: n.args.reverse(), "arguments reversed")
        if isinstance(node, ast.Call) and node.args:
            yield changed(lambda n: n.args.pop(), "argument dropped")
        if isinstance(node, ast.IfExp | ast.If):
            yield changed(
                lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test)), "condition negated"
            )
        if isinstance(node, ast.Return) and node.value is not None:
            yield changed(
                lambda n: setattr(n, "value", ast.List([n.value], ast.Load())), "result in a list"
            )
        if isinstance(node, ast.Attribute):
            yield changed(lambda n: setattr(n, "attr", n.attr + "_"), "other attribute")
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            yield changed(lambda n: n.decorator_list.clear(), "decorator removed")
        if isinstance(node, ast.ClassDef) and node.bases:
            yield changed(lambda n: n.bases.clear(), "base class removed")
        if isinstance(node, ast.ImportFrom) and len(node.names) > 1:
            yield changed(lambda n: n.names.pop(), "import dropped")
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)
            and node.id in names
            and len(names) > 1
        ):
            other = names[(names.index(node.id) + 1) % len(names)]
            yield changed(lambda n, other=other: setattr(n, "id", other), f"calls {other}")
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                for position in range(len(block)):
                    yield changed(
                        lambda n, f=field, i=position: getattr(n, f).__setitem__(i, ast.Pass()),
                        f"statement {position} removed",
                    )


@pytest.mark.parametrize("name", PROJECTS)
def test_no_semantic_mutation_leaves_a_stale_hit(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = tmp_path / name
    files = {path: textwrap.dedent(text) for path, text in PROJECTS[name].items()}
    write(folder, files)
    order = ORDER[name]
    functions = fingerprint.project(folder, "pipeline.py").functions
    fingerprint_parameters[name] = {
        n: [p.name for p in f.parameters if not p.has_default] for n, f in functions.items()
    }
    before_keys = keys(folder, order)
    before, given = behaviour(folder, order)
    assert not any(text.startswith("raises") for text in before.values()), before
    told = 0
    stale = []
    for path, text in files.items():
        all_mutants = list(mutants(ast.parse(text)))
        random.Random(0).shuffle(all_mutants)
        for tree, words in all_mutants[:110]:
            mutated = ast.unparse(ast.fix_missing_locations(tree))
            (folder / path).write_text(mutated)
            try:
                compile(mutated, path, "exec")
                after, _ = behaviour(folder, order, given)
                after_keys = keys(folder, order)
            except SyntaxError:
                continue
            if after[order[0]].startswith("no import"):
                # What was made before stays right; the next step that runs shows the error.
                told += 1
                if after_keys == before_keys:
                    stale.append((path, words, "all", "", after[order[0]]))
                continue
            for step in order:
                if after[step] != before[step]:
                    told += 1
                    if after_keys[step] == before_keys[step]:
                        stale.append((path, words, step, before[step], after[step]))
        (folder / path).write_text(text)
    assert stale == []
    assert told >= 40, f"{told} mutations changed what a step gives: 200 in all projects together"


@pytest.mark.parametrize("name", PROJECTS)
def test_formatting_comments_and_docstrings_change_no_key(name, tmp_path):
    folder = tmp_path / name
    files = {path: textwrap.dedent(text) for path, text in PROJECTS[name].items()}
    write(folder, files)
    before = keys(folder, ORDER[name])
    for path, text in files.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                node.body.insert(0, ast.Expr(ast.Constant("Another docstring.")))
        for other in (
            ast.unparse(ast.fix_missing_locations(tree)),
            "# a comment\n\n\n" + text.replace("\n", "  # c\n").replace(":  # c", ":  # d"),
            ast.unparse(ast.parse(text)),
        ):
            (folder / path).write_text(other)
            assert keys(folder, ORDER[name]) == before, (path, other)
        (folder / path).write_text(text)
