"""From the tree of treadle.yaml to sections: every mistake at once.

Three layers: keys (ours: unknown, misspelt, of later work), values (pydantic, strict) and what
sections say about one another (ours). A misspelt key is read as the one that was meant, so that
one slip of the finger does not hide the mistakes behind it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from treadle.base import spec as sections
from treadle.base.clock import duration_s
from treadle.base.spec import (
    LATER,
    BatchTarget,
    DockerTarget,
    KubernetesTarget,
    ProcessTarget,
    Spec,
)
from treadle.plan.mistakes import Mistake, close, did_you_mean, listed
from treadle.plan.tree import Node

METRICS: dict[str, tuple[str, ...]] = {
    "binary": (
        "roc_auc", "log_loss", "accuracy", "f1", "precision", "recall", "brier",
        "average_precision", "balanced_accuracy",
    ),
    "multiclass": ("log_loss", "accuracy", "f1_macro", "balanced_accuracy"),
    "regression": ("mae", "rmse", "r2", "mape", "median_absolute_error"),
}  # fmt: skip
"""The names a gate may use, by task."""

DURATIONS = frozenset(
    {
        "restated",
        "blocks",
        "per",
        "matures",
        "window",
        "every",
        "cooldown",
        "deadline",
        "scale_down_stabilization",
    }
)
_NONZERO = frozenset({"blocks", "per", "window", "every", "deadline"})
TARGETS: dict[str, type] = {
    "process": ProcessTarget, "docker": DockerTarget, "kubernetes": KubernetesTarget,
    "batch": BatchTarget,
}  # fmt: skip
_SERVING = frozenset(TARGETS) - {"batch"}
"""Targets that have a champion of their own, which a batch may score with."""
_EITHER = frozenset({"gpus"})
"""Fields that take a text or a number."""
_HUNDRED_YEARS_S = 100 * 366 * 86400.0
_SHAPES = {
    "data": "data: {flights: {files: data/*.parquet}}",
    "model": "model: {result: model, task: binary, label: late}",
    "test": "test: {gates: [{metric: roc_auc, at_least: 0.62}]}",
    "gates": "gates: [{metric: roc_auc, at_least: 0.62}]",
    "deploy": "deploy: {local: {target: process, port: 8080}}",
    "build": "build: {base: python:3.12-slim}",
    "monitor": "monitor: {window: 7d}",
    "truth": "truth: {data: arrivals, matures: 1d}",
    "retrain": "retrain: {when: [drift], cooldown: 7d}",
    "steps": "steps: {fetch: {cache: false}}",
    "false_alarms": "false_alarms: {at_most: 1, per: 90d}",
    "incremental": "incremental: {by: updated_at, restated: 7d}",
    "project": "project: flights",
    "result": "result: model",
    "task": "task: binary",
    "label": "label: late",
    "metric": "metric: roc_auc",
    "of": "of: local",
    "input": "input: data/tomorrow.parquet",
    "output": "output: forecasts/",
    "s3": "s3: {secret: NAME}",
    "secret": "secret: NAME",
    "by": "by: updated_at",
    "port": "port: 8080",
    "context": "context: minikube",
    "state": "state: checkout",
    "route": "route: {gateway: infra/public, host: flights.example.com}",
    "gateway": "gateway: infra/public",
    "prometheus": "prometheus: {namespace: monitoring}",
}
_DUMMIES: dict[str, Any] = {
    "string_type": "x", "int_type": 1, "int_from_float": 1, "int_parsing_size": 1,
    "float_type": 1.0, "bool_type": True, "tuple_type": [], "dict_type": {}, "dataclass_type": {},
}  # fmt: skip
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
Path = tuple[str | int, ...]


def check(root: Node) -> tuple[Spec | None, list[Mistake]]:
    """The sections, or every mistake in them."""
    if root.entries is None:
        words = f"the file is {_kind(root)}, not a mapping"
        return None, [Mistake(root.start, root.end, "", words, "it begins with `project: NAME`")]
    checker = _Checker()
    tree = checker.settle(Spec, root, ())
    spec = checker.values(tree)
    checker.words(tree)
    checker.together(tree)
    return (None if checker.mistakes else spec), checker.mistakes


def fields(section: type) -> dict[str, Any]:
    """A section's field names and types, in order."""
    hints = typing.get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def section_of(kind: Any) -> type | None:
    """The section type inside an optional type, if there is one."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        found = [section_of(item) for item in typing.get_args(kind) if item is not type(None)]
        return found[0] if len(found) == 1 else None
    return None


def homes() -> dict[str, list[str]]:
    """Where each field name belongs: `cooldown` → [`retrain`]."""
    found: dict[str, list[str]] = {}

    def visit(section: type, path: str) -> None:
        for name, kind in fields(section).items():
            found.setdefault(name, []).append(path)
            here = f"{path}.{name}".lstrip(".")
            inner = section_of(kind)
            arguments = typing.get_args(kind)
            if inner is not None:
                visit(inner, here)
            elif name == "deploy":
                for target in TARGETS.values():
                    visit(target, f"{here}.NAME")
            elif typing.get_origin(kind) is dict and section_of(arguments[1]):
                visit(arguments[1], f"{here}.NAME")
            elif typing.get_origin(kind) is tuple and section_of(arguments[0]):
                visit(arguments[0], here)

    visit(Spec, "")
    return found


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path)


def _kind(node: Node) -> str:
    """What stands there, in a person's words."""
    if node.entries is not None:
        return "a mapping"
    if node.items is not None:
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    if isinstance(node.value, str):
        return f"the text {_cut(node.value)!r}"
    return f"the number {node.value}"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


class _Checker:
    """Collects mistakes while it walks."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.beyond_repair: set[str] = set()
        """Environments left out because their target cannot be told."""

    def say(self, node: Node, path: Path, words: str, hint: str = "", *, key: bool = False) -> None:
        start, end = (node.key_start, node.key_end) if key else (node.start, node.end)
        if start >= end or (node.is_empty() and node.key_end):
            start, end = node.key_start, node.key_end
        self.mistakes.append(Mistake(start, max(end, start + 1), _dotted(path), words, hint))

    # ---- keys -----------------------------------------------------------------------------------

    def settle(self, kind: Any, node: Node, path: Path) -> Node:
        """`node` with misspelt keys as they were meant and unknown ones left out."""
        section = section_of(kind)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if section is not None and node.entries is not None:
            return self.section(section, node, path)
        if path == ("deploy",) and node.entries is not None:
            environments = {
                name: self.target(item, (*path, name)) for name, item in node.entries.items()
            }
            kept = {name: item for name, item in environments.items() if item is not None}
            self.beyond_repair = set(environments) - set(kept)
            return replace(node, entries=kept)
        if origin is dict and node.entries is not None:
            entries = {
                name: self.settle(arguments[1], item, (*path, name))
                for name, item in node.entries.items()
            }
            return replace(node, entries=entries)
        if origin is tuple and node.items is not None:
            items = tuple(
                self.settle(arguments[0], item, (*path, number))
                for number, item in enumerate(node.items)
            )
            return replace(node, items=items)
        if path and path[-1] in DURATIONS:
            return self.duration(node, path)
        return node

    def section(self, section: type, node: Node, path: Path, later: tuple[str, ...] = ()) -> Node:
        known = fields(section)
        entries = node.entries or {}
        kept = {name: item for name, item in entries.items() if name in known}
        for name, item in entries.items():
            if name in known:
                continue
            here = (*path, name)
            if name in (later or _later(section)):
                self.say(item, here, f"`{name}` is not supported yet", "leave it out", key=True)
                continue
            meant = close(name, known)
            hint = f"did you mean `{meant}`?" if meant else _elsewhere(name, path)
            hint = hint or f"expected {listed(known)}"
            self.say(item, here, "there is no such key", hint, key=True)
            if meant is not None and meant not in kept:
                kept[meant] = item
        return replace(
            node,
            entries={
                name: self.settle(known[name], item, (*path, name)) for name, item in kept.items()
            },
        )

    def target(self, node: Node, path: Path) -> Node | None:
        """One environment of `deploy:`, read as the target that it chose; None: beyond repair."""
        if node.entries is None:
            self.say(node, path, f"expected a mapping, found {_kind(node)}", _SHAPES["deploy"])
            return None
        entries = node.entries
        name = "target" if "target" in entries else close_key("target", entries)
        if name is None:
            hint = f"expected `target:` {listed(TARGETS)}"
            self.say(node, path, "`target` is missing", hint, key=True)
            for key, item in entries.items():
                if key in LATER["environment"]:
                    self.say(item, (*path, key), f"`{key}` is not supported yet", key=True)
            return None
        chosen = entries[name]
        where = (*path, "target")
        if isinstance(chosen.value, str) and chosen.value in LATER["targets"]:
            hint = f"expected {listed(TARGETS)}"
            self.say(chosen, where, f"target `{chosen.value}` is not supported yet", hint)
            return None
        section = TARGETS.get(chosen.value) if isinstance(chosen.value, str) else None
        if section is None:
            meant = close(chosen.value, TARGETS)
            hint = f"did you mean `{meant}`?" if meant else f"expected {listed(TARGETS)}"
            self.say(chosen, where, f"there is no target for {_kind(chosen)}", hint)
            if meant is None:
                return None
            section = TARGETS[meant]
            entries = {**entries, name: replace(chosen, value=meant)}
        return self.section(section, replace(node, entries=entries), path, LATER["environment"])

    def duration(self, node: Node, path: Path) -> Node:
        """A duration that is one; a wrong one is told and replaced, so that the rest is checked."""
        if node.entries is not None or node.items is not None or node.value is None:
            return node
        name, text, words, hint = str(path[-1]), node.value, "", ""
        if not isinstance(text, str):
            words = f"expected a duration, found {_kind(node)}"
            hint = f"write a unit: {text}d" if type(text) is int else "write one such as 7d"
        else:
            try:
                seconds = duration_s(text)
                if seconds == 0 and name in _NONZERO:
                    words, hint = f"{name} cannot be {text}", "write one such as 7d"
                elif seconds > _HUNDRED_YEARS_S:
                    words, hint = f"{_cut(text)} is more than a hundred years", ""
            except ValueError:
                words = f"{_cut(text)!r} is no duration"
                hint = "write a number and ms, s, m, h, d or w: 7d"
        if not words:
            return node
        self.say(node, path, words, hint)
        return replace(node, value="1h")

    # ---- values ---------------------------------------------------------------------------------

    def values(self, tree: Node) -> Spec | None:
        """Types, literals and each section's own rules, by pydantic."""
        from pydantic import ValidationError

        adapter = adapter_of_spec()
        plain = tree.plain()
        try:
            spec: Spec = adapter.validate_json(json.dumps(plain))
            return spec
        except ValidationError as error:
            found = error.errors(include_url=False)
        for item in found:
            self.value_mistake(item, tree)
        # A section's own rule is only asked when its fields are right: ask again with right ones.
        for item in found:
            _mend(plain, _own_path(item["loc"]), item)
        try:
            adapter.validate_json(json.dumps(plain))
        except ValidationError as error:
            for item in error.errors(include_url=False):
                if item["type"] == "value_error":
                    self.value_mistake(item, tree)
        return None

    def value_mistake(self, item: Any, tree: Node) -> None:
        path = _own_path(item["loc"])
        if _other_branch(item["loc"], tree):
            return
        kind, context = item["type"], item.get("ctx", {})
        if kind == "missing":
            parent = tree.get(*path[:-1]) or tree
            hint = f"write {_SHAPES.get(str(path[-1]), str(path[-1]))}"
            at_top = len(path) == 1
            node = replace(parent, start=0, end=1, key_start=0, key_end=0) if at_top else parent
            self.say(node, path, f"`{path[-1]}` is missing", hint, key=bool(parent.key_end))
            return
        node = tree.get(*path) or tree
        found = _kind(node)
        name = next((str(step) for step in reversed(path) if isinstance(step, str)), "")
        if kind == "value_error":
            words = str(context.get("error", item["msg"]))
            if not path:
                return  # the only rule of the whole, the project's name, is asked in `names`
            for key, child in (node.entries or {}).items():
                if isinstance(child.value, str | int | float) and (
                    words.startswith((repr(child.value), f"{key} "))
                    or words.endswith(f"not {child.value}")
                ):
                    self.say(child, (*path, key), words)
                    return
            self.say(node, path, words, key=bool(path) and bool(node.key_end))
            return
        empty = node.is_empty()
        hint = f"write {_SHAPES[name]}" if name in _SHAPES and kind != "literal_error" else ""
        if name in _EITHER:
            if kind != "string_type":
                return  # said once, not for each branch of the union
            words, hint = f"expected `all` or a number, found {found}", ""
        elif kind == "string_type":
            words = f"expected text, found {found}"
            scalar = node.entries is None and node.items is None and not empty
            hint = f'write "{_yaml_word(node.value)}"' if scalar else hint
        elif kind in ("int_type", "int_from_float", "int_parsing_size", "float_type"):
            whole = "a whole number" if kind.startswith("int") else "a number"
            words = f"expected {whole}, found {found}"
            hint = "remove the quotes" if _numeric(node.value) else hint
        elif kind == "bool_type":
            words = f"expected `true` or `false`, found {found}"
            meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}
            meant |= {"true": "true", "false": "false", "1": "true", "0": "false"}
            answer = meant.get(str(node.value).lower())
            hint = f"did you mean {answer}, without quotes?" if answer else ""
        elif kind == "tuple_type":
            words = f"expected a list, found {found}"
            scalar = isinstance(node.value, str) and node.style is None
            hint = f"write [{_cut(node.value)}]" if scalar else hint
        elif kind in ("dataclass_type", "dict_type"):
            words = "nothing stands here" if empty else f"expected a mapping, found {found}"
            hint = f"fill it or leave it out: {hint.removeprefix('write ')}" if empty else hint
            hint = hint.removesuffix(": ")
        elif kind == "literal_error":
            self.literal(node, path, found)
            return
        else:
            words = str(item["msg"])
        self.say(node, path, words, hint)

    def literal(self, node: Node, path: Path, found: str) -> None:
        choices = _literals(path)
        if path[-1] == "task" and node.value in LATER["task"]:
            words = f"task `{node.value}` is not supported yet"
            self.say(node, path, words, f"expected {listed(choices)}")
            return
        hint = did_you_mean(node.value, choices) or f"expected {listed(choices)}"
        if path == ("retrain", "when", *path[2:]) and node.value in ("every", "new_rows"):
            hint = f"`{node.value}` is a key of its own: retrain: {{{node.value}: …}}"
        self.say(node, path, f"{found} is not one of {listed(choices)}", hint)

    # ---- texts ----------------------------------------------------------------------------------

    def words(self, tree: Node) -> None:
        """`${NAME}` stands in `database:` alone; no text is empty."""
        for path, node in _leaves(tree, ()):
            if not isinstance(node.value, str):
                continue
            if not node.value.strip():
                self.say(node, path, "the text is empty", "fill it or leave the key out")
            if "${" not in node.value:
                continue
            if len(path) == 3 and path[0] == "data" and path[2] == "database":
                wrong = _VARIABLE.sub("", node.value)
                if "${" in wrong:
                    words = f"`{_cut(wrong[wrong.index('${') :])}` names no environment variable"
                    self.say(node, path, words, 'write database: "${FLIGHTS_DSN}"')
            else:
                hint = "only `database:` may name a secret; write the value out"
                self.say(node, path, "`${…}` is not supported here: there is no templating", hint)

    # ---- sections about one another ---------------------------------------------------------------

    def together(self, tree: Node) -> None:
        """What no section can know alone."""
        self.names(tree)
        self.lists(tree)
        self.model(tree)
        self.gates(tree)
        self.deploy(tree)
        self.monitor(tree)

    def names(self, tree: Node) -> None:
        project = tree.get("project")
        if project is not None and isinstance(project.value, str) and project.value.strip():
            name = project.value
            if not sections._NAME.fullmatch(name):
                words = "a project's name is lower-case letters, digits, - and _, a letter first"
                self.say(project, ("project",), f"{words}, at most 63", f"write {_project(name)}")
        for section in ("data", "steps"):
            node = tree.get(section)
            for name, item in ((node.entries or {}) if node else {}).items():
                if not (name.isidentifier() and name.isascii()):
                    words = "functions take it by this name, so it must be a Python name"
                    hint = f"write {_identifier(name)}"
                    self.say(item, (section, name), words, hint, key=True)
        data = tree.get("data")
        if data is not None and data.entries == {}:
            self.say(data, ("data",), "there is no data set", f"write {_SHAPES['data']}")
        for name, item in (data.entries or {} if data else {}).items():
            if item.get("paths") is None:
                continue
            for key in ("key", "event_time", "known_later"):
                child = item.get(key)
                if child is not None and not child.is_empty():
                    self.say(child, ("data", name, key), "`paths:` has no columns", key=True)
        deploy = tree.get("deploy")
        if deploy is not None and deploy.entries is not None:
            for name, item in deploy.entries.items():
                if not sections._NAME.fullmatch(name):
                    words = "an environment's name is lower-case letters, digits, - and _"
                    self.say(
                        item, ("deploy", name), words, "it is part of every prediction id", key=True
                    )

    def lists(self, tree: Node) -> None:
        """Names that stand twice in one list."""
        for path, node in _lists(tree, ()):
            seen: set[str] = set()
            for number, text, item in node.texts():
                if text in seen:
                    self.say(item, (*path, number), f"`{text}` is listed twice")
                seen.add(text)

    def model(self, tree: Node) -> None:
        features = tree.get("model", "features")
        label = tree.get("model", "label")
        if features is None:
            return
        if features.items == ():
            self.say(features, ("model", "features"), "no column is left to learn from",
                     "list columns, or leave it out to learn from the rest")  # fmt: skip
        later: dict[str, str] = {}
        data = tree.get("data")
        for name, item in (data.entries or {} if data else {}).items():
            known_later = item.get("known_later")
            for _, column, _ in known_later.texts() if known_later else ():
                later.setdefault(column, name)
        for number, column, node in features.texts():
            path = ("model", "features", number)
            if label is not None and column == label.value:
                words = f"`{column}` is the label: a model that sees it learns nothing"
                self.say(node, path, words, "remove it from the features")
            elif column in later:
                words = f"`{column}` is known only later: learning from it is a leak"
                hint = (
                    f"it stands in data.{later[column]}.known_later; remove it from one of the two"
                )
                self.say(node, path, words, hint)

    def gates(self, tree: Node) -> None:
        task, gates = tree.get("model", "task"), tree.get("test", "gates")
        known = METRICS.get(close(task.value, METRICS) or "") if task is not None else None
        if known is None or gates is None or task is None:
            return
        for number, gate in enumerate(gates.items or ()):
            metric = gate.get("metric")
            path = ("test", "gates", number, "metric")
            if metric is None or not isinstance(metric.value, str) or metric.value in known:
                continue
            others = [name for name, names in METRICS.items() if metric.value in names]
            words = f"there is no metric `{_cut(metric.value)}`"
            if others:
                words = (
                    f"`{metric.value}` is a metric of {' and '.join(others)}, not of {task.value}"
                )
            meant = did_you_mean(metric.value, known)
            self.say(metric, path, words, meant or f"expected {listed(known)}")

    def deploy(self, tree: Node) -> None:
        deploy = tree.get("deploy")
        if deploy is None or deploy.entries is None:
            return
        if not deploy.entries and not self.beyond_repair:
            self.say(deploy, ("deploy",), "there is no environment", f"write {_SHAPES['deploy']}")
        processes = [
            name for name, item in deploy.entries.items()
            if (target := item.get("target")) is not None and target.value in _SERVING
        ]  # fmt: skip
        for name, item in deploy.entries.items():
            of, at = item.get("of"), item.get("at")
            if of is not None and isinstance(of.value, str) and of.value not in processes:
                path, words = ("deploy", name, "of"), ""
                if of.value == name:
                    words = "a batch environment scores with the champion of another one"
                elif of.value in deploy.entries:
                    words = f"`{of.value}` is a batch environment and has no champion of its own"
                elif of.value in self.beyond_repair:
                    of = None
                else:
                    words = f"there is no environment `{_cut(of.value)}`"
                if of is not None:
                    hint = did_you_mean(of.value, processes) or f"expected {listed(processes)}"
                    hint = hint if processes else "deploy one to a process or to docker"
                    self.say(of, path, words, hint)
            if at is not None and isinstance(at.value, str) and at.value.strip():
                from treadle.plan.schedule import parse

                try:
                    parse(at.value)
                except ValueError as error:
                    words, _, hint = str(error).partition("; ")
                    self.say(at, ("deploy", name, "at"), words, hint)
            if getattr(item.get("target"), "value", None) == "batch":
                self.batch(name, item, deploy)

    def batch(self, name: str, item: Node, deploy: Node) -> None:
        """Files here or on the cluster: one or the other, and the words that belong to it."""
        from treadle.plan import batch

        for word, words, hint in batch.mistakes(item, deploy):
            self.say(item.get(word) or item, ("deploy", name, word), words, hint)

    def monitor(self, tree: Node) -> None:
        truth = tree.get("monitor", "truth")
        names = tree.get("monitor", "truth", "data")
        data = tree.get("data")
        sets = list(data.entries or ()) if data is not None else []
        if names is not None and isinstance(names.value, str) and names.value.strip():
            path = ("monitor", "truth", "data")
            if names.value not in sets:
                hint = did_you_mean(names.value, sets) or f"expected {listed(sets)}"
                self.say(names, path, f"there is no data set `{_cut(names.value)}`", hint)
            elif data is not None and data.get(names.value, "paths") is not None:
                self.say(names, path, "truth is rows, and `paths:` has none")
        retrain = tree.get("retrain")
        if retrain is None or retrain.entries is None:
            return
        when = retrain.get("when")
        reasons = list(dict.fromkeys(text for _, text, _ in when.texts())) if when else None
        if truth is None and (reasons is None or "decay" in reasons):
            rest = ", ".join(reason for reason in reasons or ["drift"] if reason != "decay")
            words = "decay is measured on the truth, and there is no `monitor.truth`"
            if reasons is None:
                words = f"`when` is [decay, drift] by default; {words}"
            hint = f"write when: [{rest}], or add monitor: {{{_SHAPES['truth']}}}"
            where = ("retrain",) if when is None else ("retrain", "when")
            self.say(when or retrain, where, words, hint, key=when is None)
        if (
            when is not None
            and when.items == ()
            and not (retrain.get("every") or retrain.get("new_rows"))
        ):
            self.say(when, ("retrain", "when"), "nothing could ever start a retraining",
                     "name a reason, or leave `retrain:` out")  # fmt: skip
        rows = retrain.get("new_rows")
        if rows is not None and type(rows.value) is int and rows.value < 1:
            self.say(rows, ("retrain", "new_rows"), "expected a number of rows, at least 1")
        minute = tree.get("monitor", "capture", "per_minute")
        if minute is not None and type(minute.value) is int and minute.value < 0:
            words = "expected a number of requests, at least 0"
            self.say(minute, ("monitor", "capture", "per_minute"), words)
        self._kept_fields(tree)

    def _kept_fields(self, tree: Node) -> None:
        """What monitoring itself needs of a request is kept, and a time as it is."""
        times, keys = set(), set()
        data = tree.get("data")
        for name in (data.entries or {}) if data is not None else {}:
            times.add(getattr(tree.get("data", name, "event_time"), "value", None))
            if tree.get("monitor", "truth") is not None:
                key = tree.get("data", name, "key")
                keys |= {text for _, text, _ in key.texts()} if key is not None else set()
        for word in ("exclude", "hash"):
            fields = tree.get("monitor", "capture", word)
            for number, text, node in fields.texts() if fields is not None else ():
                path = ("monitor", "capture", word, number)
                if text in times:
                    words = f"windows are cut by `{_cut(text)}`, the event_time"
                    self.say(node, path, words, "leave it out of this list")
                elif text in keys and word == "exclude":
                    words = f"the truth is joined by `{_cut(text)}`"
                    self.say(node, path, words, f"to hide it, write hash: [{_cut(text)}]")


@functools.cache
def adapter_of_spec() -> Any:
    """Pydantic's validator of the whole file, built once."""
    from pydantic import TypeAdapter

    return TypeAdapter(Spec)


def close_key(word: str, entries: dict[str, Node]) -> str | None:
    """The key of `entries` that is a misspelling of `word`."""
    return next((name for name in entries if close(name, [word])), None)


def _later(section: type) -> tuple[str, ...]:
    if section is Spec:
        words: tuple[str, ...] = LATER["top"]
        return words
    return tuple(LATER["step"]) if section is sections.StepSection else ()


def _elsewhere(name: str, path: Path) -> str:
    """Where a key belongs that stands in the wrong section."""
    places = [place for place in homes().get(name, []) if place != _dotted(path)]
    if not places:
        return ""
    places = [place or "the top of the file" for place in places[:2]]
    return f"`{name}` belongs under {listed(places)}"


def _literals(path: Path) -> list[str]:
    """The words allowed at `path`."""
    kind: Any = Spec
    for step in path:
        section = section_of(kind)
        arguments = typing.get_args(kind)
        if section is not None:
            kind = fields(section)[str(step)]
        elif typing.get_origin(kind) is dict:
            kind = arguments[1]
        else:
            kind = arguments[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = typing.get_args(kind)[0]
    return [str(word) for word in typing.get_args(kind)]


def _own_path(location: tuple[str | int, ...]) -> Path:
    """The location without the names of the unions' branches."""
    if len(location) > 2 and location[0] == "deploy":
        location = (*location[:2], *location[3:])
    if len(location) > 1 and location[-2] in _EITHER:
        return location[:-1]
    return location


def _other_branch(location: tuple[str | int, ...], tree: Node) -> bool:
    """Whether an error speaks of the deploy target that was not chosen."""
    if len(location) < 3 or location[0] != "deploy":
        return False
    target = tree.get("deploy", location[1], "target")
    section = TARGETS.get(target.value) if target and isinstance(target.value, str) else None
    return section is not None and location[2] != section.__name__


def _mend(plain: Any, path: Path, item: Any) -> None:
    """Put a value of the right type where pydantic found a wrong one or none."""
    kind = item["type"]
    holder = plain
    try:
        for step in path[:-1]:
            holder = holder[step]
        if kind == "literal_error":
            choices = _literals(path)
            if path[0] != "deploy":
                holder[path[-1]] = choices[0]
        elif kind == "missing" and path[0] != "deploy":
            required = {"data": {}, "model": {"result": "x", "task": "binary", "label": "x"}}
            holder[path[-1]] = required.get(str(path[-1]), "binary" if path[-1] == "task" else "x")
        elif kind in _DUMMIES:
            holder[path[-1]] = _DUMMIES[kind]
    except (KeyError, IndexError, TypeError):
        return


def _leaves(node: Node, path: Path) -> Iterator[tuple[Path, Node]]:
    for name, item in (node.entries or {}).items():
        yield from _leaves(item, (*path, name))
    for number, item in enumerate(node.items or ()):
        yield from _leaves(item, (*path, number))
    if node.entries is None and node.items is None:
        yield path, node


def _lists(node: Node, path: Path) -> Iterator[tuple[Path, Node]]:
    for name, item in (node.entries or {}).items():
        yield from _lists(item, (*path, name))
    for number, item in enumerate(node.items or ()):
        yield from _lists(item, (*path, number))
    if node.items is not None:
        yield path, node


def _numeric(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _yaml_word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _identifier(name: str) -> str:
    word = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return word if word[:1].isalpha() or word[:1] == "_" else f"d{word}"


def _project(name: str) -> str:
    word = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in name.lower())
    word = word.strip("-_") or "project"
    return (word if word[0].isalpha() else f"p-{word}")[:63]
