"""Why something is stale, in words: what changed between two sets of digests.

The rule itself is one line, "a step reruns when a digest that it depends on changed", and falls
in code/cache; here its answer becomes something to read. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from treadle.base.records import Part, Snapshot

_ORDER = ("code", "source", "param", "data", "input", "file", "package", "python")
_SHOWN = 60


def explain_changes(before: Mapping[str, str] | None, after: Mapping[str, str]) -> tuple[str, ...]:
    """What changed between two `Step.depends`, one sentence each; nothing where they are equal.

    Keys begin with a word that says what they are: `code model()`, `param model.learning_rate`,
    `input train`, `data flights`, `package scikit-learn`, `source pipeline.py`. None before: the
    first run.
    """
    if before is None:
        return ("first run",)
    changed = sorted(
        (key for key in {*before, *after} if before.get(key) != after.get(key)), key=_rank
    )
    return tuple(_words(key, before.get(key), after.get(key)) for key in changed)


def _rank(key: str) -> tuple[int, str]:
    word = key.partition(" ")[0]
    return (_ORDER.index(word) if word in _ORDER else len(_ORDER), key)


def _words(key: str, old: str | None, new: str | None) -> str:
    word, _, name = key.partition(" ")
    if old is None and new is not None:
        if word == "param":
            return f"new {key} = {_value(new)}"
        if word == "package":
            return f"newly imports {name} {_value(new)}".rstrip()
        if word == "code":
            return f"now calls {name}"
        return f"new {key}"
    if new is None:
        if word == "package":
            return f"no longer imports {name}"
        if word == "code":
            return f"no longer calls {name}"
        return f"{key} is no longer used"
    assert old is not None
    if word == "code":
        return f"{key}: body changed"
    if _is_digest(old) or _is_digest(new):
        return f"{key} changed"
    return f"{key} {_value(old)} → {_value(new)}"


def _is_digest(value: str) -> bool:
    digits = value.removeprefix("sha256:")
    return len(digits) == 64 and not set(digits) - set("0123456789abcdef")


def _value(text: str) -> str:
    """A parameter's value as a person writes it; canonical JSON's tags are taken off."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict) and len(found) == 1:
        ((tag, inner),) = found.items()
        if tag.startswith("$") and not tag.startswith("$$"):
            text = str(inner)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def data_words(old: Snapshot | None, new: Snapshot, *, moved: int | None = None) -> tuple[str, ...]:
    """What changed between two snapshots of one data set; the first sentence is the sum of it.

    moved: how many columns' distributions moved, where a difference was computed (data/diff);
    it joins the first sentence. Nothing where the snapshots are equal.
    """
    name = f"data {new.dataset}"
    if old is None:
        return (f"{name}: first snapshot, {_amount(new)}",)
    if old == new:
        return ()
    words = _parts(old, new)
    if moved:
        words.append(f"{moved} column{'s' if moved != 1 else ''} moved")
    schema = _columns(old, new)
    if old.kind != new.kind:
        schema.append(f"was {old.kind}, is {new.kind}")
    if old.key != new.key:
        schema.append(f"key [{', '.join(old.key)}] → [{', '.join(new.key)}]")
    if old.event_time != new.event_time:
        schema.append(f"event_time {old.event_time or 'none'} → {new.event_time or 'none'}")
    if words:
        return (f"{name}: {', '.join(words)}", *(f"{name}: {text}" for text in schema))
    return tuple(f"{name}: {text}" for text in schema) or (f"{name}: changed",)


def _parts(old: Snapshot, new: Snapshot) -> list[str]:
    unit = "batch" if new.kind == "query" else "file"
    was, now = {p.path: p for p in old.parts}, {p.path: p for p in new.parts}
    added = [part for path, part in now.items() if path not in was]
    removed = [part for path, part in was.items() if path not in now]
    altered = [path for path in now if path in was and now[path].content != was[path].content]
    renamed = _renamed(added, removed)
    words: list[str] = []
    if added:
        words.append(f"{_signed(added, +1, new.kind)}{_count(len(added), 'new ' + unit)}")
    if removed:
        words.append(f"{_signed(removed, -1, new.kind)}{_count(len(removed), 'removed ' + unit)}")
    if altered:
        difference = sum((now[p].rows or 0) - (was[p].rows or 0) for p in altered)
        rows = f"{difference:+,} rows in " if difference else ""
        text = f"{rows}{_count(len(altered), 'changed ' + unit)}"
        words.append(f"{text} ({_shown(altered)})")
    if renamed:
        words.append(_count(renamed, "renamed " + unit))
    return words


def _renamed(added: list[Part], removed: list[Part]) -> int:
    """Takes files of equal content out of both lists and counts them: same rows, another name."""
    contents = {part.content: part for part in removed}
    count = 0
    for part in list(added):
        twin = contents.pop(part.content, None)
        if twin is not None:
            added.remove(part)
            removed.remove(twin)
            count += 1
    return count


def _columns(old: Snapshot, new: Snapshot) -> list[str]:
    was, now = {c.name: c for c in old.columns}, {c.name: c for c in new.columns}
    words = [f"new column {name} ({now[name].type})" for name in now if name not in was]
    words += [f"column {name} is gone" for name in was if name not in now]
    for name, column in now.items():
        if name in was and was[name].type != column.type:
            words.append(f"column {name} {was[name].type} → {column.type}")
    return words


def _signed(parts: list[Part], sign: int, kind: str) -> str:
    if kind == "paths":
        return ""
    rows = sum(part.rows or 0 for part in parts) * sign
    return f"{rows:+,} rows in "


def _amount(snapshot: Snapshot) -> str:
    unit = "batch" if snapshot.kind == "query" else "file"
    files = _count(len(snapshot.parts), unit)
    if snapshot.kind == "paths":
        return files
    return f"{snapshot.rows:,} rows in {files}"


def _count(number: int, unit: str) -> str:
    plural = unit.removesuffix("batch") + "batches" if unit.endswith("batch") else unit + "s"
    return f"{number:,} " + (unit if number == 1 else plural)


def _shown(paths: list[str]) -> str:
    if len(paths) <= 2:
        return ", ".join(paths)
    return f"{paths[0]}, {paths[1]} and {len(paths) - 2} more"
