"""Mistakes in treadle.yaml: collected while the file is checked, and shown as a person reads them:
place, words, source line, caret, way out.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from treadle.base.errors import SpecError

Path = tuple[str | int, ...]
"""Keys and positions from the top of the file: `("test", "gates", 0, "metric")`."""
_LINE_CELLS = 100
_MOST_SHOWN = 40


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong, by its character offsets in the decoded text."""

    start: int
    end: int
    path: str
    """The dotted key, `gates.0.metric`; empty for the file as a whole."""
    words: str
    hint: str = ""
    """What was expected, or did you mean."""


class Placed(Protocol):
    """What stands somewhere in the text, as a node of the tree does."""

    def span(self, *, key: bool = False) -> tuple[int, int]:
        """Where the caret goes: the first character, and the one behind the last."""


@dataclass
class Mistakes:
    """What checks have found so far. A check says what it finds and goes on: a person who mends a
    file wants all of its mistakes, not the first.
    """

    found: list[Mistake] = field(default_factory=list)

    def say(
        self, place: Placed, path: Path, words: str, hint: str = "", *, key: bool = False
    ) -> None:
        """Add one; `key`: the key is what is wrong, and not its value."""
        start, end = place.span(key=key)
        self.found.append(Mistake(start, max(end, start + 1), dotted(path), words, hint))


def dotted(path: Path) -> str:
    """`test.gates.0.metric`."""
    return ".".join(str(step) for step in path)


def shortened(text: str) -> str:
    """`text`, or its beginning where it would fill the line."""
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def close(word: object, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, or None."""
    known = list(choices)
    if not isinstance(word, str) or not word:
        return None
    folded = {choice.casefold(): choice for choice in reversed(known)}
    plain = word.strip().casefold().replace("-", "_").replace(" ", "_")
    if plain in folded:
        return folded[plain]
    found = difflib.get_close_matches(plain, list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """`did you mean `min`?`, or an empty text."""
    choice = close(word, choices)
    return f"did you mean `{choice}`?" if choice is not None else ""


def listed(words: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    items = [f"`{word}`" for word in words]
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column of a character, both from 1, as editors count them."""
    offset = min(max(offset, 0), len(text))
    line = text.count("\n", 0, offset) + 1
    return line, offset - (text.rfind("\n", 0, offset) + 1) + 1


def render(mistake: Mistake, text: str, name: str) -> str:
    """`treadle.yaml:4:5: gates.0.mim: …`, the source line and a caret under the word."""
    line, column = position(text, mistake.start)
    subject = f"{mistake.path}: " if mistake.path else ""
    lines = [f"{name}:{line}:{column}: {subject}{mistake.words}"]
    begin = text.rfind("\n", 0, min(mistake.start, len(text))) + 1
    stop = text.find("\n", begin)
    source = text[begin : len(text) if stop < 0 else stop].rstrip("\r")
    if source.strip():
        width = max(1, min(mistake.end - mistake.start, len(source) - (column - 1)))
        # A long line is shown from a little before the word, so that the caret stays in sight.
        shift = max(0, column - 1 - _LINE_CELLS // 2) if len(source) > _LINE_CELLS else 0
        shown = source[shift : shift + _LINE_CELLS]
        before = source[shift : column - 1]
        width = max(1, min(width, len(shown) - len(before)))
        marked = source[column - 1 : column - 1 + width].rstrip() or "x"
        lead = "".join("\t" if c == "\t" else " " * _cells(c) for c in before)
        lines.append(f"    {_visible(shown)}")
        lines.append(f"    {lead}{'^' * max(1, sum(map(_cells, marked)))}")
    if mistake.hint:
        lines.append(f"    {mistake.hint}")
    return "\n".join(lines)


def refuse(mistakes: Sequence[Mistake], text: str, name: str) -> SpecError:
    """The error that names all mistakes, in the order of the file."""
    unique = {(m.start, m.path, m.words): m for m in mistakes}
    ordered = sorted(unique.values(), key=lambda m: (m.start, m.path))
    count = "1 mistake" if len(ordered) == 1 else f"{len(ordered)} mistakes"
    return SpecError(f"{name} has {count}", [render(m, text, name) for m in ordered])


def _cells(character: str) -> int:
    """How many columns of a terminal a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _visible(text: str) -> str:
    return "".join(c if c == "\t" or c.isprintable() else "�" for c in text)
