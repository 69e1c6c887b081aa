"""The keys of treadle.yaml: unknown ones, misspelt ones, those of later work; and durations.

Out comes a tree that the next checks can read: a misspelt key stands there as the one that was
meant, an unknown one is left out, a duration that is none has become one.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace
from typing import Any

from treadle.base.clock import duration_s
from treadle.base.spec import LATER, Spec, StepSection
from treadle.plan.mistakes import Mistakes, Path, close, dotted, listed, shortened
from treadle.plan.tree import Node
from treadle.plan.vocabulary import DURATIONS, SHAPES, TARGETS, fields, section_of

_NONZERO = frozenset({"blocks", "per", "window", "every", "deadline"})
_HUNDRED_YEARS_S = 100 * 366 * 86400.0


@dataclass(frozen=True)
class Settled:
    """The file with its keys as they were meant."""

    tree: Node
    left_out: frozenset[str]
    """Environments that are not in the tree, because their target cannot be told: who names one
    of them is not wrong."""


def settle(root: Node, mistakes: Mistakes) -> Settled:
    """`root`, a mapping, with misspelt keys as they were meant and unknown ones left out."""
    named = _named(Spec, root, (), mistakes)
    tree = _within(Spec, named, (), mistakes)
    written, kept = named.get("deploy"), tree.get("deploy")
    environments = (written.entries or {}) if written is not None else {}
    read = (kept.entries or {}) if kept is not None else {}
    return Settled(tree, frozenset(environments) - frozenset(read))


def _settled(kind: Any, node: Node, path: Path, mistakes: Mistakes) -> Node:
    """`node`, which should be of `kind`, with settled keys all the way down."""
    section = section_of(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if section is not None and node.entries is not None:
        return _within(section, _named(section, node, path, mistakes), path, mistakes)
    if path == ("deploy",) and node.entries is not None:
        environments = {
            name: _environment(item, (*path, name), mistakes) for name, item in node.entries.items()
        }
        kept = {name: item for name, item in environments.items() if item is not None}
        return replace(node, entries=kept)
    if origin is dict and node.entries is not None:
        entries = {
            name: _settled(arguments[1], item, (*path, name), mistakes)
            for name, item in node.entries.items()
        }
        return replace(node, entries=entries)
    if origin is tuple and node.items is not None:
        items = tuple(
            _settled(arguments[0], item, (*path, number), mistakes)
            for number, item in enumerate(node.items)
        )
        return replace(node, items=items)
    if path and path[-1] in DURATIONS:
        return _duration(node, path, mistakes)
    return node


def _named(
    section: type, node: Node, path: Path, mistakes: Mistakes, later: tuple[str, ...] = ()
) -> Node:
    """A section's mapping with the keys that it has: those of `later` work are refused as such."""
    known = fields(section)
    entries = node.entries or {}
    kept = {name: item for name, item in entries.items() if name in known}
    for name, item in entries.items():
        if name in known:
            continue
        here = (*path, name)
        if name in (later or _later(section)):
            mistakes.say(item, here, f"`{name}` is not supported yet", "leave it out", key=True)
            continue
        meant = close(name, known)
        hint = f"did you mean `{meant}`?" if meant else _elsewhere(name, path)
        hint = hint or f"expected {listed(known)}"
        mistakes.say(item, here, "there is no such key", hint, key=True)
        if meant is not None and meant not in kept:
            kept[meant] = item
    return replace(node, entries=kept)


def _within(section: type, node: Node, path: Path, mistakes: Mistakes) -> Node:
    """A section whose own keys are settled, with those below them settled too."""
    known = fields(section)
    entries = {
        name: _settled(known[name], item, (*path, name), mistakes)
        for name, item in (node.entries or {}).items()
    }
    return replace(node, entries=entries)


def _environment(node: Node, path: Path, mistakes: Mistakes) -> Node | None:
    """One environment of `deploy:`, read as the target that it chose; None: beyond repair."""
    if node.entries is None:
        words = f"expected a mapping, found {node.in_words()}"
        mistakes.say(node, path, words, SHAPES["deploy"])
        return None
    entries = node.entries
    name = "target" if "target" in entries else _close_key("target", entries)
    if name is None:
        hint = f"expected `target:` {listed(TARGETS)}"
        mistakes.say(node, path, "`target` is missing", hint, key=True)
        for key, item in entries.items():
            if key in LATER["environment"]:
                mistakes.say(item, (*path, key), f"`{key}` is not supported yet", key=True)
        return None
    chosen = entries[name]
    target = _target(chosen, (*path, "target"), mistakes)
    if target is None:
        return None
    if target != chosen.value:
        node = replace(node, entries={**entries, name: replace(chosen, value=target)})
    section = TARGETS[target]
    named = _named(section, node, path, mistakes, LATER["environment"])
    return _within(section, named, path, mistakes)


def _target(chosen: Node, path: Path, mistakes: Mistakes) -> str | None:
    """The target that is written at `chosen` or was meant there; None: nobody can tell."""
    name = chosen.value
    if isinstance(name, str) and name in LATER["targets"]:
        hint = f"expected {listed(TARGETS)}"
        mistakes.say(chosen, path, f"target `{name}` is not supported yet", hint)
        return None
    if isinstance(name, str) and name in TARGETS:
        return name
    meant = close(name, TARGETS)
    hint = f"did you mean `{meant}`?" if meant else f"expected {listed(TARGETS)}"
    mistakes.say(chosen, path, f"there is no target for {chosen.in_words()}", hint)
    return meant


def _duration(node: Node, path: Path, mistakes: Mistakes) -> Node:
    """A duration that is one; a wrong one is told and replaced, so that the rest is checked."""
    if node.entries is not None or node.items is not None or node.value is None:
        return node
    name, text, words, hint = str(path[-1]), node.value, "", ""
    if not isinstance(text, str):
        words = f"expected a duration, found {node.in_words()}"
        hint = f"write a unit: {text}d" if type(text) is int else "write one such as 7d"
    else:
        try:
            seconds = duration_s(text)
            if seconds == 0 and name in _NONZERO:
                words, hint = f"{name} cannot be {text}", "write one such as 7d"
            elif seconds > _HUNDRED_YEARS_S:
                words, hint = f"{shortened(text)} is more than a hundred years", ""
        except ValueError:
            words = f"{shortened(text)!r} is no duration"
            hint = "write a number and ms, s, m, h, d or w: 7d"
    if not words:
        return node
    mistakes.say(node, path, words, hint)
    return replace(node, value="1h")


def _close_key(word: str, entries: dict[str, Node]) -> str | None:
    """The key of `entries` that is a misspelling of `word`."""
    return next((name for name in entries if close(name, [word])), None)


def _later(section: type) -> tuple[str, ...]:
    if section is Spec:
        words: tuple[str, ...] = LATER["top"]
        return words
    return tuple(LATER["step"]) if section is StepSection else ()


def _elsewhere(name: str, path: Path) -> str:
    """Where a key belongs that stands in the wrong section."""
    places = [place for place in _homes().get(name, []) if place != dotted(path)]
    if not places:
        return ""
    places = [place or "the top of the file" for place in places[:2]]
    return f"`{name}` belongs under {listed(places)}"


def _homes() -> dict[str, list[str]]:
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
