"""The text of treadle.yaml as a tree of nodes that know where they stand. No templating.

ruamel.yaml's composer gives the marks; what YAML offers beyond plain data (anchors, merge keys,
tags, several documents, directives) is a mistake, and so is a key that is written twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from treadle.plan.mistakes import Mistake, shortened

MAX_CHARACTERS = 1_000_000
_CORE = "tag:yaml.org,2002:"
_NOT_TEMPLATED = "treadle.yaml has no templating; write the value out, or make it in pipeline.py"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Node:
    """A value with its place; `value` is a scalar, or None where `items` or `entries` is given."""

    start: int
    end: int
    value: Any = None
    entries: dict[str, Node] | None = None
    items: tuple[Node, ...] | None = None
    key_start: int = 0
    key_end: int = 0
    style: str | None = field(default=None, compare=False)

    def get(self, *path: str | int) -> Node | None:
        """The node at `path`, or None where there is none."""
        node: Node | None = self
        for step in path:
            if node is None:
                return None
            if isinstance(step, int):
                node = node.items[step] if node.items and step < len(node.items) else None
            else:
                node = node.entries.get(step) if node.entries else None
        return node

    def plain(self) -> Any:
        """The value without marks."""
        if self.entries is not None:
            return {key: node.plain() for key, node in self.entries.items()}
        if self.items is not None:
            return [node.plain() for node in self.items]
        return self.value

    def is_empty(self) -> bool:
        """Whether nothing, or null, stands there."""
        return self.entries is None and self.items is None and self.value is None

    def span(self, *, key: bool = False) -> tuple[int, int]:
        """The characters to mark: the value's, or the key's if that is asked for or all there is."""
        if key or self.start >= self.end or (self.is_empty() and self.key_end):
            return self.key_start, self.key_end
        return self.start, self.end

    def in_words(self) -> str:
        """What stands there, as a person would say it."""
        if self.entries is not None:
            return "a mapping"
        if self.items is not None:
            return "a list"
        if self.value is None:
            return "nothing"
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        if isinstance(self.value, str):
            return f"the text {shortened(self.value)!r}"
        return f"the number {self.value}"

    def texts(self) -> Iterator[tuple[int, str, Node]]:
        """The positions, texts and nodes of a list's text items."""
        for number, node in enumerate(self.items or ()):
            if isinstance(node.value, str):
                yield number, node.value, node


def decode(data: bytes) -> tuple[str, list[Mistake]]:
    """The text of the bytes: UTF-8, with or without a byte order mark."""
    for mark, name in ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if data.startswith(mark):
            return "", [Mistake(0, 0, "", f"the file is {name}, not UTF-8", "save it as UTF-8")]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        # Latin-1 maps every byte to a character: the marks stay right and the line can be shown.
        text = data[: error.start].decode("utf-8", "replace") + data[error.start :].decode(
            "latin-1"
        )
        offset = len(data[: error.start].decode("utf-8-sig", "replace"))
        byte = data[error.start]
        return text.removeprefix("\ufeff"), [
            Mistake(
                offset, offset + 1, "", f"the byte 0x{byte:02x} is not UTF-8", "save it as UTF-8"
            )
        ]


def read_tree(text: str) -> tuple[Node | None, list[Mistake]]:
    """The tree of `text` and the mistakes of its YAML; None where there is no tree at all."""
    if len(text) > MAX_CHARACTERS:
        return None, [Mistake(0, 0, "", f"the file has {len(text)} characters; that is no spec")]
    directive = re.search(r"^%.*$", text, re.MULTILINE)
    if directive and not text[: directive.start()].strip(" \r\n"):
        words = "YAML directives are not supported"
        return None, [Mistake(directive.start(), directive.end(), "", words, "remove the line")]
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        return None, [_syntax(error, text)]
    except YAMLError as error:
        offset = getattr(error, "position", 0)
        offset = offset if isinstance(offset, int) else 0
        words = "a character that YAML does not allow"
        return None, [Mistake(offset, offset + 1, "", words, "remove it, or quote and escape it")]
    except RecursionError:
        return None, [Mistake(0, 0, "", "the file is nested too deeply")]
    except Exception as error:  # a parser's own failure is still about this file
        return None, [Mistake(0, 0, "", f"YAML cannot be read: {type(error).__name__}: {error}")]
    if root is None:
        return None, [Mistake(0, 0, "", "the file is empty", "`treadle init` writes a first one")]
    reader = _Reader(text)
    tree = reader.node(root, "", 0)
    return tree, reader.mistakes


def _syntax(error: Any, text: str) -> Mistake:
    mark = error.problem_mark or error.context_mark
    offset = min(mark.index, len(text)) if mark is not None else 0
    problem = str(error.problem or error.context or "cannot be read")
    hint = ""
    if "\\t" in problem or (offset < len(text) and text[offset] == "\t"):
        problem, hint = "a tab stands where YAML wants spaces", "indent with spaces"
    elif "another document" in problem:
        problem, hint = "a second document begins here", "treadle.yaml is one document"
    elif "undefined alias" in problem:
        problem, hint = "anchors and aliases are not supported", _NOT_TEMPLATED
    elif "cannot start any token" in problem or "mapping values are not allowed" in problem:
        hint = "quote the text if this character belongs to it, or check the indentation"
    elif "end of stream" in problem and error.context_mark is not None:
        offset = error.context_mark.index
        problem = "the text that begins here is never closed"
    elif error.context:
        problem = f"{problem} {error.context}"
    while offset > 0 and (offset >= len(text) or text[offset] in "\r\n"):
        offset -= 1  # a mark behind the end of a line shows that line, not an empty one
    return Mistake(offset, offset + 1, "", f"YAML: {problem}", hint)


class _Reader:
    """Turns composed nodes into ours and collects what plain data has no place for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.mistakes: list[Mistake] = []

    def say(self, node: Any, path: str, words: str, hint: str = "") -> None:
        start, end = self.span(node)
        self.mistakes.append(Mistake(start, end, path, words, hint))

    def span(self, node: Any) -> tuple[int, int]:
        start, end = node.start_mark.index, node.end_mark.index
        stop = self.text.find("\n", start)
        return start, max(start + 1, min(end, len(self.text) if stop < 0 else stop))

    def node(self, node: Any, path: str, depth: int) -> Node:
        start, end = self.span(node)
        if node.anchor is not None:
            self.say(node, path, "anchors and aliases are not supported", _NOT_TEMPLATED)
            return Node(start, end)
        if self.text[start : start + 1] == "!":
            self.say(node, path, "YAML tags are not supported", "write a plain value")
            return Node(start, end)
        if depth > 50:
            self.say(node, path, "nested too deeply")
            return Node(start, end)
        kind = type(node).__name__
        if kind == "MappingNode":
            return Node(start, end, entries=self.entries(node, path, depth))
        if kind == "SequenceNode":
            items = tuple(
                self.node(item, f"{path}.{number}".lstrip("."), depth + 1)
                for number, item in enumerate(node.value)
            )
            return Node(start, end, items=items)
        return Node(start, end, value=self.scalar(node, path), style=node.style)

    def entries(self, node: Any, path: str, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key, item in node.value:
            if key.tag == _CORE + "merge":
                self.say(key, path, "merge keys are not supported", _NOT_TEMPLATED)
                continue
            if type(key).__name__ != "ScalarNode" or key.anchor is not None:
                self.say(key, path, "a key is a word")
                continue
            name = key.value
            if key.tag != _CORE + "str" and key.tag != _CORE + "timestamp":
                self.say(key, path, f"a key is text, and {name or 'nothing'!r} is not", "quote it")
                continue
            here = f"{path}.{name}".lstrip(".")
            if _CONTROL.search(name):
                self.say(key, path, "a key with a control character")
                continue
            if "${" in name:
                self.say(key, here, "`${…}` cannot stand in a key", _NOT_TEMPLATED)
                continue
            if name in entries:
                line = self.text.count("\n", 0, entries[name].key_start) + 1
                self.say(key, here, f"`{name}` is written twice", f"the first is in line {line}")
                continue
            key_start, key_end = self.span(key)
            child = self.node(item, here, depth + 1)
            entries[name] = replace(child, key_start=key_start, key_end=key_end)
        return entries

    def scalar(self, node: Any, path: str) -> Any:
        tag, text = node.tag.removeprefix(_CORE), node.value
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        try:
            if tag == "int":
                return _integer(text)
            if tag == "float":
                number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
                if not math.isfinite(number):
                    self.say(node, path, f"{text} is not a number that can be compared with")
                    return 1.0
                return number
        except ValueError:
            return text
        if _CONTROL.search(text):
            self.say(node, path, "the text holds a control character or half a character")
            return ""
        return text  # a date without quotes stays the text that it is


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    unsigned = digits.lstrip("+-")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(unsigned[:2], 10)
    return int(digits, base)
