"""What holds for any text of treadle.yaml, whatever its key: none is empty, none is a template but
for secrets in `database:`, and none stands twice in one list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from treadle.plan.mistakes import Mistakes, Path, shortened
from treadle.plan.tree import Node

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


def check(tree: Node, mistakes: Mistakes) -> None:
    """Say what is wrong with texts."""
    for path, node in _nodes(tree, ()):
        if isinstance(node.value, str):
            _text(node.value, node, path, mistakes)
    for path, node in _nodes(tree, ()):
        _listed_twice(node, path, mistakes)


def _text(text: str, node: Node, path: Path, mistakes: Mistakes) -> None:
    """`${NAME}` stands in `database:` alone; no text is empty."""
    if not text.strip():
        mistakes.say(node, path, "the text is empty", "fill it or leave the key out")
    if "${" not in text:
        return
    if len(path) == 3 and path[0] == "data" and path[2] == "database":
        wrong = _VARIABLE.sub("", text)
        if "${" in wrong:
            words = f"`{shortened(wrong[wrong.index('${') :])}` names no environment variable"
            mistakes.say(node, path, words, 'write database: "${FLIGHTS_DSN}"')
    else:
        hint = "only `database:` may name a secret; write the value out"
        mistakes.say(node, path, "`${…}` is not supported here: there is no templating", hint)


def _listed_twice(node: Node, path: Path, mistakes: Mistakes) -> None:
    seen: set[str] = set()
    for number, text, item in node.texts():
        if text in seen:
            mistakes.say(item, (*path, number), f"`{text}` is listed twice")
        seen.add(text)


def _nodes(node: Node, path: Path) -> Iterator[tuple[Path, Node]]:
    """A node and all below it, the innermost first."""
    for name, item in (node.entries or {}).items():
        yield from _nodes(item, (*path, name))
    for number, item in enumerate(node.items or ()):
        yield from _nodes(item, (*path, number))
    yield path, node
