"""What editors and `config show --origin` need: the meaning of every word of treadle.yaml.

The words' meanings stand once, as docstrings in base/spec.py, and are read from there.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from collections.abc import Iterator
from typing import Any

from treadle.base import spec as sections
from treadle.base.spec import Spec
from treadle.plan.check_values import adapter_of_spec
from treadle.plan.tree import Node
from treadle.plan.vocabulary import DURATIONS, METRICS, fields

_DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+$"


@functools.cache
def meanings() -> dict[str, dict[str, str]]:
    """Section → field → its docstring on one line; the section's own under the empty name."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sections)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = {"": " ".join((ast.get_docstring(node) or "").split())}
        for item, after in zip(node.body, [*node.body[1:], None], strict=True):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                texts[item.target.id] = " ".join(after.value.value.split())
        found[node.name] = texts
    return found


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the whole file."""
    schema: dict[str, Any] = adapter_of_spec().json_schema()
    for name, section in [("Spec", schema), *schema.get("$defs", {}).items()]:
        texts = meanings().get(name, {})
        if texts.get(""):
            section["description"] = texts[""]
        section["additionalProperties"] = False
        for word, field in section.get("properties", {}).items():
            field.pop("title", None)
            if texts.get(word):
                field["description"] = texts[word]
            if word in DURATIONS:
                for branch in field.get("anyOf", [field]):
                    if branch.get("type") == "string":
                        branch["pattern"] = _DURATION_PATTERN
            if name == "GateSection" and word == "metric":
                field["enum"] = sorted({metric for names in METRICS.values() for metric in names})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def origins(spec: Spec, tree: Node, name: str, text: str) -> Iterator[tuple[str, Any, str, str]]:
    """(dotted key, plain value, where, why) of every value, in the order of the sections."""
    lines = _Lines(name, text)
    yield from _of_section(spec, tree, "", lines)


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Tells in which line of the file a node stands."""

    name: str
    text: str

    def where(self, node: Node | None) -> str:
        if node is None:
            return "default"
        line = self.text.count("\n", 0, node.key_start or node.start) + 1
        return f"{self.name}:{line}"


def _of_section(
    section: Any, node: Node | None, path: str, lines: _Lines
) -> Iterator[tuple[str, Any, str, str]]:
    texts = meanings().get(type(section).__name__, {})
    for field in fields(type(section)):
        value = getattr(section, field)
        child = node.get(field) if node is not None else None
        yield from _of_value(value, child, f"{path}{field}", texts.get(field, ""), lines)


def _of_value(
    value: Any, node: Node | None, key: str, why: str, lines: _Lines
) -> Iterator[tuple[str, Any, str, str]]:
    if dataclasses.is_dataclass(value):
        yield from _of_section(value, node, f"{key}.", lines)
    elif isinstance(value, dict) and value:
        for word, item in value.items():
            child = node.get(word) if node is not None else None
            yield from _of_value(item, child, f"{key}.{word}", why, lines)
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        for number, item in enumerate(value):
            child = node.get(number) if node is not None else None
            yield from _of_section(item, child, f"{key}.{number}.", lines)
    else:
        plain = list(value) if isinstance(value, tuple) else value
        yield key, plain, lines.where(node), why
