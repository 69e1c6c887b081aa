"""Objects as YAML: the same bytes on any machine, nothing that a reader could take for something else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TAKEN = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""What some reader of YAML takes for no text."""


def text(objects: Sequence[Mapping[str, Any]]) -> str:
    """The objects as YAML of which JSON is a part: a document each, keys sorted, the same anywhere."""
    return "".join("---\n" + _yaml(one) for one in objects)


def _yaml(value: Any, indent: int = 0) -> str:
    """Block style with every text quoted where it could be read as something else."""
    pad = "  " * indent
    lines = []
    for key in sorted(value):
        item = value[key]
        if isinstance(item, Mapping) and item:
            lines.append(f"{pad}{_word(key)}:\n{_yaml(item, indent + 1)}")
        elif isinstance(item, list | tuple) and item:
            lines.append(f"{pad}{_word(key)}:\n" + "".join(_item(one, indent) for one in item))
        else:
            lines.append(f"{pad}{_word(key)}: {_scalar(item)}\n")
    return "".join(lines)


def _item(value: Any, indent: int) -> str:
    pad = "  " * indent
    if isinstance(value, Mapping) and value:
        block = _yaml(value, indent + 1)
        return f"{pad}- {block[len(pad) + 2 :]}"
    if isinstance(value, list | tuple):
        return f"{pad}- {_quoted(value)}\n"
    return f"{pad}- {_scalar(value)}\n"


def _word(key: str) -> str:
    """A key as it is where nobody could read it as something else, as `no` or `1e3`."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z]*", key) and key.lower() not in _TAKEN
    return key if plain else _quoted(key)


def _scalar(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    # JSON's scalars are YAML's; a text in quotes is never taken for a number, a date or a boolean.
    return _quoted(value)


def _quoted(value: Any) -> str:
    """JSON, with the characters escaped that YAML would take for the end of a line."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda m: f"\\u{ord(m[0]):04x}", text)
