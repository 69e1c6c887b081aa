"""From functions to a graph: a parameter's name says whose result (or which data set) it takes."""

from __future__ import annotations

import ast
import difflib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle.base.errors import PipelineError, UsageError
from treadle.code.fingerprint import Function, Impurity, Parameter, Sources


@dataclass(frozen=True)
class Node:
    """One step: a function, what it takes and what it gives."""

    function: Function
    inputs: dict[str, str]
    """Parameter → the step that gives it (for results of functions)."""
    datasets: dict[str, str]
    """Parameter, which is the data set's name → `pandas` or `polars`."""
    hyperparameters: dict[str, Any]
    """Parameter → default."""

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name


@dataclass(frozen=True)
class Graph:
    """The steps that the wanted results need, in an order in which they can run."""

    sources: Sources
    nodes: dict[str, Node]
    wanted: tuple[str, ...]
    datasets: tuple[str, ...]
    """Every data set of the spec."""
    needed: dict[str, frozenset[str]] = field(default_factory=dict)
    """Step → its results that somebody takes or wants."""

    @property
    def used_datasets(self) -> tuple[str, ...]:
        """Data sets that a step of this graph takes."""
        used = {name for node in self.nodes.values() for name in node.datasets}
        return tuple(name for name in self.datasets if name in used)

    @property
    def impurities(self) -> tuple[Impurity, ...]:
        """What the steps read that is no input."""
        return tuple(i for node in self.nodes.values() for i in node.function.impurities)

    @property
    def code(self) -> str:
        """One digest over the fingerprints of these steps."""
        from treadle.base.digest import digest

        return digest({name: node.function.digest for name, node in self.nodes.items()})

    def parameters(self, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All hyperparameters by `function.parameter`, with overrides. UsageError if unknown."""
        values = {
            f"{node.name}.{name}": value
            for node in self.nodes.values()
            for name, value in node.hyperparameters.items()
        }
        for key, value in (overrides or {}).items():
            if key not in values:
                raise _unknown_parameter(key, self)
            values[key] = value
        return values

    def home(self, result: str) -> str:
        """The step that gives a result."""
        for node in self.nodes.values():
            if result in node.function.results:
                return node.name
        raise PipelineError(
            f"no step gives {result}",
            hint=f"results are: {', '.join(sorted(self.results()))}",
        )

    def results(self) -> list[str]:
        """Every result of these steps."""
        return [result for node in self.nodes.values() for result in node.function.results]


def build(sources: Sources, datasets: Sequence[str], wanted: Sequence[str]) -> Graph:
    """The graph of the steps that `wanted` results need; every other function is ignored.

    Raises PipelineError: an unknown parameter or result (what exists, did you mean, file:line), two
    homes of one name, a cycle (named), a function that cannot be a step, a default that is no
    literal.
    """
    return _Builder(sources, tuple(datasets)).build(tuple(wanted))


class _Builder:
    def __init__(self, sources: Sources, datasets: tuple[str, ...]) -> None:
        self.sources = sources
        self.datasets = datasets
        self.homes: dict[str, list[Function]] = {}
        for function in sources.functions.values():
            if not function.name.startswith("_"):
                for result in function.results:
                    self.homes.setdefault(result, []).append(function)
        self.nodes: dict[str, Node] = {}

    def at(self, line: int) -> str:
        return f"{self.sources.where}:{line}"

    def build(self, wanted: tuple[str, ...]) -> Graph:
        for result in wanted:
            if result not in self.homes:
                raise PipelineError(
                    f"no function of {self.sources.where} gives {result}"
                    + self.tuple_of(result) + _meant(result, self.homes),
                    hint=_listed("results are", self.homes) or "it has no public function",
                )  # fmt: skip
            self.visit(self.home(result).name, [])
        needed: dict[str, set[str]] = {name: set() for name in self.nodes}
        for result in wanted:
            needed[self.home(result).name].add(result)
        for node in self.nodes.values():
            for parameter, giver in node.inputs.items():
                needed[giver].add(parameter)
        return Graph(
            sources=self.sources,
            nodes=self.nodes,
            wanted=wanted,
            datasets=self.datasets,
            needed={name: frozenset(results) for name, results in needed.items()},
        )

    def home(self, result: str) -> Function:
        functions = self.homes[result]
        if result in self.datasets:
            raise PipelineError(
                f"{result} has two homes: the data set {result} and "
                f"{functions[0].name}() in {self.at(functions[0].line)}",
                hint="rename one of them: a name means one thing",
            )
        if len(functions) > 1:
            places = " and ".join(f"{f.name}() in {self.at(f.line)}" for f in functions)
            raise PipelineError(
                f"{result} has two homes: {places}",
                hint="rename one of the results, or begin a helper's name with _",
            )
        if functions[0].again:
            raise PipelineError(
                f"{functions[0].name}() is defined twice: in {self.at(functions[0].again)} and "
                f"{self.at(functions[0].line)}",
                hint="rename one of them",
            )
        return functions[0]

    def visit(self, name: str, path: list[str]) -> None:
        """Depth first, so that `nodes` is in an order in which the steps can run."""
        if name in path:
            cycle = [*path[path.index(name) :], name]
            raise PipelineError(
                f"the functions of {self.sources.where} go in a circle: {' → '.join(cycle)}",
                hint="each takes what another one of them gives",
            )
        if name in self.nodes:
            return
        function = self.sources.functions[name]
        if function.refused:
            raise PipelineError(
                f"{self.at(function.line)}: {name}() cannot be a step: {function.refused}",
                hint="begin a helper's name with _ if it is not meant as a step",
            )
        inputs: dict[str, str] = {}
        datasets: dict[str, str] = {}
        hyperparameters: dict[str, Any] = {}
        for parameter in function.parameters:
            provided = parameter.name in self.homes or parameter.name in self.datasets
            if parameter.has_default:
                hyperparameters[parameter.name] = self.default(function, parameter, provided)
            elif parameter.name in self.homes:
                giver = self.home(parameter.name)
                self.visit(giver.name, [*path, name])
                inputs[parameter.name] = giver.name
            elif parameter.name in self.datasets:
                datasets[parameter.name] = parameter.frame
            else:
                raise self.unknown(function, parameter)
        self.nodes[name] = Node(function, inputs, datasets, hyperparameters)

    def default(self, function: Function, parameter: Parameter, provided: bool) -> Any:
        where = f"{self.at(parameter.line)}: {function.name}({parameter.name}=…)"
        if provided:
            raise PipelineError(
                f"{where} names an input and has a default: it cannot be both",
                hint="drop the default to take the input, or rename the hyperparameter",
            )
        if not parameter.literal or not _plain(parameter.default):
            raise PipelineError(
                f"{where} has a default that is no plain literal",
                hint="a hyperparameter is a number, a text, True, False, None, or a list, tuple "
                "or dict of these: it is part of the cache key and of the run's record",
            )
        if parameter.annotation == "float" and type(parameter.default) is int:
            return float(parameter.default)
        return parameter.default

    def unknown(self, function: Function, parameter: Parameter) -> PipelineError:
        known = [*self.datasets, *self.homes]
        lines = [
            f"{self.at(parameter.line)}: {function.name}({parameter.name}) is neither a data set "
            "nor the result of a function" + self.tuple_of(parameter.name)
            + _meant(parameter.name, known)
        ]  # fmt: skip
        hint = "; ".join(
            text
            for text in (
                _listed("data sets are", self.datasets),
                _listed("results are", [r for r in self.homes if r != function.name]),
                "with a default it is a hyperparameter",
            )
            if text
        )
        return PipelineError("\n".join(lines), hint=hint)

    def tuple_of(self, name: str) -> str:
        function = self.sources.functions.get(name)
        if function is not None and function.named:
            return f" (but {name}() gives {' and '.join(function.results)})"
        if name.startswith("_") and function is not None:
            return " (a function whose name begins with _ is private)"
        return ""


def _plain(value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float | str):
        return True
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    return False


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _listed(words: str, names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"{words}: {listed}" if listed else ""


# ---- --set function.parameter=value --------------------------------------------------------------


def parse_overrides(texts: Sequence[str], graph: Graph) -> list[dict[str, Any]]:
    """All combinations of `function.parameter=value,value…`, in the order given.

    Values get the type of the parameter's default. Without texts: one combination, the empty one.
    Raises UsageError naming the parameter, what was wanted and what exists.
    """
    choices: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not equals:
            raise UsageError(
                f"--set {text}: a value is missing",
                hint="write --set function.parameter=value, or several: =0.05,0.1",
            )
        function, dot, name = key.partition(".")
        node = graph.nodes.get(function)
        if not dot or node is None or name not in node.hyperparameters:
            raise _unknown_parameter(key, graph)
        if key in choices:
            raise UsageError(
                f"--set {key} is given twice", hint=f"write its values together: {key}=1,2"
            )
        default = node.hyperparameters[name]
        annotation = next(p.annotation for p in node.function.parameters if p.name == name)
        parsed = [_typed(key, item, default, annotation) for item in _split(values)]
        choices[key] = [v for i, v in enumerate(parsed) if repr(v) not in map(repr, parsed[:i])]
    return [
        dict(zip(choices, combination, strict=True))
        for combination in itertools.product(*choices.values())
    ]


def _unknown_parameter(key: str, graph: Graph) -> UsageError:
    known = [f"{n.name}.{p}" for n in graph.nodes.values() for p in n.hyperparameters]
    return UsageError(
        f"{key} is no hyperparameter" + _meant(key, known),
        hint=_listed("there are", known) or "no step has a parameter with a default",
    )


def _split(values: str) -> list[str]:
    """At commas outside of brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for position, character in enumerate(values):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[({":
            depth += 1
        elif character in "])}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(values[start:position])
            start = position + 1
    parts.append(values[start:])
    return [part.strip() for part in parts]


def _typed(key: str, text: str, default: Any, annotation: str) -> Any:
    def wrong(wanted: str) -> UsageError:
        return UsageError(
            f"--set {key}={text}: {wanted} is wanted", hint=f"its default is {default!r}"
        )

    optional = default is None or "None" in annotation or "Optional" in annotation
    if optional and text.lower() in ("none", "null"):
        return None
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise wrong("true or false")
        return text.lower() == "true"
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            if "float" not in annotation:
                raise wrong("a whole number") from None
    if isinstance(default, float | int):
        try:
            return float(text)
        except ValueError:
            raise wrong("a number") from None
    if isinstance(default, str):
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
    value = _literal(text)
    if isinstance(default, list | tuple | dict):
        kind = type(default)
        if kind in (list, tuple) and isinstance(value, list | tuple):
            return kind(value)
        if not isinstance(value, kind):
            raise wrong(f"a {kind.__name__} such as {json.dumps(default)}")
    return value


def _literal(text: str) -> Any:
    """What a text is when nothing says its type: a number, true, false, a list … else text."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value if _plain(value) else text


# ---- what a person should know -------------------------------------------------------------------


def advice(graph: Graph, uncached: Iterable[str] = ()) -> list[str]:
    """One line for each thing that a cached step reads beside its inputs."""
    silent = set(uncached)
    lines: dict[str, None] = {}
    for node in graph.nodes.values():
        if node.name in silent:
            continue
        for found in node.function.impurities:
            lines[
                f"{node.name}() {found.what} ({found.file}:{found.line}): declare it as an input, "
                f"or set `cache: false` under `steps: {node.name}:`"
            ] = None
    return list(lines)
