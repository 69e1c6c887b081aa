"""The values of treadle.yaml: types, literals and each section's own rules, by pydantic (strict).

Pydantic says what is wrong; where it stands and how to mend it is said here, in a person's words.
"""

from __future__ import annotations

import functools
import json
import types
import typing
from dataclasses import replace
from typing import Any

from treadle.base.spec import LATER, Spec
from treadle.plan.mistakes import Mistakes, Path, did_you_mean, listed, shortened
from treadle.plan.tree import Node
from treadle.plan.vocabulary import SHAPES, TARGETS, fields, section_of

_EITHER = frozenset({"gpus"})
"""Fields that take a text or a number."""
_NUMBERS = frozenset({"int_type", "int_from_float", "int_parsing_size", "float_type"})
_DUMMIES: dict[str, Any] = {
    "string_type": "x", "int_type": 1, "int_from_float": 1, "int_parsing_size": 1,
    "float_type": 1.0, "bool_type": True, "tuple_type": [], "dict_type": {}, "dataclass_type": {},
}  # fmt: skip
"""A right value for each kind of wrong one."""
_BOOLEANS = {
    "yes": "true", "on": "true", "no": "false", "off": "false",
    "true": "true", "false": "false", "1": "true", "0": "false",
}  # fmt: skip
"""What people write for true and false."""


def read(tree: Node, mistakes: Mistakes) -> Spec | None:
    """The sections, or None where a value is wrong."""
    from pydantic import ValidationError

    adapter = adapter_of_spec()
    plain = tree.plain()
    try:
        spec: Spec = adapter.validate_json(json.dumps(plain))
        return spec
    except ValidationError as error:
        found = error.errors(include_url=False)
    for item in found:
        _tell(item, tree, mistakes)
    # A section's own rule is only asked when its fields are right: ask again with right ones.
    for item in found:
        _mend(plain, _own_path(item["loc"]), item)
    try:
        adapter.validate_json(json.dumps(plain))
    except ValidationError as error:
        for item in error.errors(include_url=False):
            if item["type"] == "value_error":
                _tell(item, tree, mistakes)
    return None


@functools.cache
def adapter_of_spec() -> Any:
    """Pydantic's validator of the whole file, built once."""
    from pydantic import TypeAdapter

    return TypeAdapter(Spec)


def _tell(item: Any, tree: Node, mistakes: Mistakes) -> None:
    """One error of pydantic's, as a mistake."""
    if _other_branch(item["loc"], tree):
        return
    kind, path = item["type"], _own_path(item["loc"])
    if kind == "missing":
        _missing(path, tree, mistakes)
        return
    node = tree.get(*path) or tree
    name = next((str(step) for step in reversed(path) if isinstance(step, str)), "")
    if kind == "value_error":
        words = str(item.get("ctx", {}).get("error", item["msg"]))
        _own_rule(words, node, path, mistakes)
    elif name in _EITHER:
        if kind == "string_type":  # said once, not for each branch of the union
            words = f"expected `all` or a number, found {node.in_words()}"
            mistakes.say(node, path, words)
    elif kind == "literal_error":
        _literal(node, path, mistakes)
    else:
        words, hint = _wrong_type(kind, node, name)
        mistakes.say(node, path, words or str(item["msg"]), hint)


def _missing(path: Path, tree: Node, mistakes: Mistakes) -> None:
    parent = tree.get(*path[:-1]) or tree
    hint = f"write {SHAPES.get(str(path[-1]), str(path[-1]))}"
    at_top = len(path) == 1
    node = replace(parent, start=0, end=1, key_start=0, key_end=0) if at_top else parent
    mistakes.say(node, path, f"`{path[-1]}` is missing", hint, key=bool(parent.key_end))


def _own_rule(words: str, node: Node, path: Path, mistakes: Mistakes) -> None:
    """What a section says about its own fields, at the field that its words are about."""
    if not path:
        return  # the only rule of the whole, the project's name, is asked in `check_together`
    for key, child in (node.entries or {}).items():
        if isinstance(child.value, str | int | float) and (
            words.startswith((repr(child.value), f"{key} ")) or words.endswith(f"not {child.value}")
        ):
            mistakes.say(child, (*path, key), words)
            return
    mistakes.say(node, path, words, key=bool(node.key_end))


def _wrong_type(kind: str, node: Node, name: str) -> tuple[str, str]:
    """What to say of a value that is not of its field's type, and the fix; no words: as pydantic."""
    found, empty = node.in_words(), node.is_empty()
    shape = f"write {SHAPES[name]}" if name in SHAPES else ""
    if kind == "string_type":
        scalar = node.entries is None and node.items is None and not empty
        hint = f'write "{_yaml_word(node.value)}"' if scalar else shape
        return f"expected text, found {found}", hint
    if kind in _NUMBERS:
        whole = "a whole number" if kind.startswith("int") else "a number"
        hint = "remove the quotes" if _numeric(node.value) else shape
        return f"expected {whole}, found {found}", hint
    if kind == "bool_type":
        meant = _BOOLEANS.get(str(node.value).lower())
        hint = f"did you mean {meant}, without quotes?" if meant else ""
        return f"expected `true` or `false`, found {found}", hint
    if kind == "tuple_type":
        scalar = isinstance(node.value, str) and node.style is None
        hint = f"write [{shortened(node.value)}]" if scalar else shape
        return f"expected a list, found {found}", hint
    if kind in ("dataclass_type", "dict_type"):
        if not empty:
            return f"expected a mapping, found {found}", shape.removesuffix(": ")
        hint = f"fill it or leave it out: {shape.removeprefix('write ')}"
        return "nothing stands here", hint.removesuffix(": ")
    return "", shape


def _literal(node: Node, path: Path, mistakes: Mistakes) -> None:
    choices = _literals(path)
    if path[-1] == "task" and node.value in LATER["task"]:
        words = f"task `{node.value}` is not supported yet"
        mistakes.say(node, path, words, f"expected {listed(choices)}")
        return
    hint = did_you_mean(node.value, choices) or f"expected {listed(choices)}"
    if path == ("retrain", "when", *path[2:]) and node.value in ("every", "new_rows"):
        hint = f"`{node.value}` is a key of its own: retrain: {{{node.value}: …}}"
    mistakes.say(node, path, f"{node.in_words()} is not one of {listed(choices)}", hint)


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


def _own_path(location: Path) -> Path:
    """The location without the names of the unions' branches."""
    if len(location) > 2 and location[0] == "deploy":
        location = (*location[:2], *location[3:])
    if len(location) > 1 and location[-2] in _EITHER:
        return location[:-1]
    return location


def _other_branch(location: Path, tree: Node) -> bool:
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


def _numeric(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _yaml_word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
