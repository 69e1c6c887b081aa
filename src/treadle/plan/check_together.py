"""What no section of treadle.yaml can know alone: names that are used in another section, and what
one section needs of another.

In: the tree with settled keys. What is not of the shape that it should be is passed over: that is
said of values.
"""

from __future__ import annotations

from collections.abc import Collection

from treadle.base import spec as sections
from treadle.plan import batch
from treadle.plan.mistakes import Mistakes, close, did_you_mean, listed, shortened
from treadle.plan.tree import Node
from treadle.plan.vocabulary import METRICS, SHAPES, TARGETS

_SERVING = frozenset(TARGETS) - {"batch"}
"""Targets that have a champion of their own, which a batch may score with."""


def check(tree: Node, left_out: Collection[str], mistakes: Mistakes) -> None:
    """Say what does not fit; `left_out`: environments that are written, and not in the tree."""
    _names(tree, mistakes)
    _data(tree, mistakes)
    _features(tree, mistakes)
    _gates(tree, mistakes)
    _deploy(tree, left_out, mistakes)
    _truth(tree, mistakes)
    _retrain(tree, mistakes)
    _capture(tree, mistakes)


def _names(tree: Node, mistakes: Mistakes) -> None:
    """Names that go into ids, paths and Python have letters that are right there."""
    project = tree.get("project")
    name = _written(project)
    if project is not None and name is not None and not sections.NAME.fullmatch(name):
        words = "a project's name is lower-case letters, digits, - and _, a letter first"
        mistakes.say(project, ("project",), f"{words}, at most 63", f"write {_project(name)}")
    for section in ("data", "steps"):
        for name, item in _entries(tree.get(section)).items():
            if not (name.isidentifier() and name.isascii()):
                words = "functions take it by this name, so it must be a Python name"
                hint = f"write {_identifier(name)}"
                mistakes.say(item, (section, name), words, hint, key=True)
    for name, item in _entries(tree.get("deploy")).items():
        if not sections.NAME.fullmatch(name):
            words = "an environment's name is lower-case letters, digits, - and _"
            hint = "it is part of every prediction id"
            mistakes.say(item, ("deploy", name), words, hint, key=True)


def _data(tree: Node, mistakes: Mistakes) -> None:
    data = tree.get("data")
    if data is not None and data.entries == {}:
        mistakes.say(data, ("data",), "there is no data set", f"write {SHAPES['data']}")
    for name, item in _entries(data).items():
        if item.get("paths") is None:
            continue
        for key in ("key", "event_time", "known_later"):
            child = item.get(key)
            if child is not None and not child.is_empty():
                mistakes.say(child, ("data", name, key), "`paths:` has no columns", key=True)


def _features(tree: Node, mistakes: Mistakes) -> None:
    """A model learns from something, and from nothing that is unknown when it is asked."""
    features, label = tree.get("model", "features"), tree.get("model", "label")
    if features is None:
        return
    if features.items == ():
        words = "no column is left to learn from"
        hint = "list columns, or leave it out to learn from the rest"
        mistakes.say(features, ("model", "features"), words, hint)
    later: dict[str, str] = {}
    for name, item in _entries(tree.get("data")).items():
        known_later = item.get("known_later")
        for _, column, _ in known_later.texts() if known_later else ():
            later.setdefault(column, name)
    for number, column, node in features.texts():
        path = ("model", "features", number)
        if label is not None and column == label.value:
            words = f"`{column}` is the label: a model that sees it learns nothing"
            mistakes.say(node, path, words, "remove it from the features")
        elif column in later:
            words = f"`{column}` is known only later: learning from it is a leak"
            hint = f"it stands in data.{later[column]}.known_later; remove it from one of the two"
            mistakes.say(node, path, words, hint)


def _gates(tree: Node, mistakes: Mistakes) -> None:
    """A gate names a metric of the model's task."""
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
        words = f"there is no metric `{shortened(metric.value)}`"
        if others:
            words = f"`{metric.value}` is a metric of {' and '.join(others)}, not of {task.value}"
        meant = did_you_mean(metric.value, known)
        mistakes.say(metric, path, words, meant or f"expected {listed(known)}")


def _deploy(tree: Node, left_out: Collection[str], mistakes: Mistakes) -> None:
    deploy = tree.get("deploy")
    if deploy is None or deploy.entries is None:
        return
    if not deploy.entries and not left_out:
        words = "there is no environment"
        mistakes.say(deploy, ("deploy",), words, f"write {SHAPES['deploy']}")
    for name, item in deploy.entries.items():
        _scored_for(name, item, deploy.entries, left_out, mistakes)
        _time(name, item, mistakes)
        if getattr(item.get("target"), "value", None) == "batch":
            for word, words, hint in batch.mistakes(item, deploy):
                mistakes.say(item.get(word) or item, ("deploy", name, word), words, hint)


def _scored_for(
    name: str, item: Node, environments: dict[str, Node], left_out: Collection[str],
    mistakes: Mistakes,
) -> None:  # fmt: skip
    """`of:` names an environment that has a champion."""
    of = item.get("of")
    serving = [
        other for other, one in environments.items()
        if (target := one.get("target")) is not None and target.value in _SERVING
    ]  # fmt: skip
    if of is None or not isinstance(of.value, str) or of.value in serving:
        return
    if of.value == name:
        words = "a batch environment scores with the champion of another one"
    elif of.value in environments:
        words = f"`{of.value}` is a batch environment and has no champion of its own"
    elif of.value in left_out:
        return
    else:
        words = f"there is no environment `{shortened(of.value)}`"
    hint = did_you_mean(of.value, serving) or f"expected {listed(serving)}"
    hint = hint if serving else "deploy one to a process or to docker"
    mistakes.say(of, ("deploy", name, "of"), words, hint)


def _time(name: str, item: Node, mistakes: Mistakes) -> None:
    """`at:` is a time that comes again."""
    at = item.get("at")
    text = _written(at)
    if at is None or text is None:
        return
    from treadle.plan.schedule import parse

    try:
        parse(text)
    except ValueError as error:
        words, _, hint = str(error).partition("; ")
        mistakes.say(at, ("deploy", name, "at"), words, hint)


def _truth(tree: Node, mistakes: Mistakes) -> None:
    """The truth is a data set with rows."""
    named, data = tree.get("monitor", "truth", "data"), tree.get("data")
    name = _written(named)
    if named is None or name is None:
        return
    path = ("monitor", "truth", "data")
    sets = list(_entries(data))
    if name not in sets:
        hint = did_you_mean(name, sets) or f"expected {listed(sets)}"
        mistakes.say(named, path, f"there is no data set `{shortened(name)}`", hint)
    elif data is not None and data.get(name, "paths") is not None:
        mistakes.say(named, path, "truth is rows, and `paths:` has none")


def _retrain(tree: Node, mistakes: Mistakes) -> None:
    """Each reason to retrain can be measured, and there is one."""
    retrain = tree.get("retrain")
    if retrain is None or retrain.entries is None:
        return
    when = retrain.get("when")
    reasons = list(dict.fromkeys(text for _, text, _ in when.texts())) if when else None
    if tree.get("monitor", "truth") is None and (reasons is None or "decay" in reasons):
        rest = ", ".join(reason for reason in reasons or ["drift"] if reason != "decay")
        words = "decay is measured on the truth, and there is no `monitor.truth`"
        if reasons is None:
            words = f"`when` is [decay, drift] by default; {words}"
        hint = f"write when: [{rest}], or add monitor: {{{SHAPES['truth']}}}"
        where = ("retrain",) if when is None else ("retrain", "when")
        mistakes.say(when or retrain, where, words, hint, key=when is None)
    if (
        when is not None
        and when.items == ()
        and not (retrain.get("every") or retrain.get("new_rows"))
    ):
        words = "nothing could ever start a retraining"
        hint = "name a reason, or leave `retrain:` out"
        mistakes.say(when, ("retrain", "when"), words, hint)
    rows = retrain.get("new_rows")
    if rows is not None and type(rows.value) is int and rows.value < 1:
        words = "expected a number of rows, at least 1"
        mistakes.say(rows, ("retrain", "new_rows"), words)


def _capture(tree: Node, mistakes: Mistakes) -> None:
    """What monitoring itself needs of a request is kept, and a time as it is."""
    minute = tree.get("monitor", "capture", "per_minute")
    if minute is not None and type(minute.value) is int and minute.value < 0:
        words = "expected a number of requests, at least 0"
        mistakes.say(minute, ("monitor", "capture", "per_minute"), words)
    times, keys = set(), set()
    for item in _entries(tree.get("data")).values():
        times.add(getattr(item.get("event_time"), "value", None))
        key = item.get("key")
        if tree.get("monitor", "truth") is not None and key is not None:
            keys |= {text for _, text, _ in key.texts()}
    for word in ("exclude", "hash"):
        fields = tree.get("monitor", "capture", word)
        for number, text, node in fields.texts() if fields is not None else ():
            path = ("monitor", "capture", word, number)
            if text in times:
                words = f"windows are cut by `{shortened(text)}`, the event_time"
                mistakes.say(node, path, words, "leave it out of this list")
            elif text in keys and word == "exclude":
                words = f"the truth is joined by `{shortened(text)}`"
                hint = f"to hide it, write hash: [{shortened(text)}]"
                mistakes.say(node, path, words, hint)


def _entries(node: Node | None) -> dict[str, Node]:
    """What a mapping holds; nothing where there is none."""
    return (node.entries or {}) if node is not None else {}


def _written(node: Node | None) -> str | None:
    """The text that somebody wrote there: none that is empty, which is said of texts."""
    text = node.value if node is not None else None
    return text if isinstance(text, str) and text.strip() else None


def _identifier(name: str) -> str:
    """A Python name that looks like `name`."""
    word = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return word if word[:1].isalpha() or word[:1] == "_" else f"d{word}"


def _project(name: str) -> str:
    """A project's name that looks like `name`."""
    word = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in name.lower())
    word = word.strip("-_") or "project"
    return (word if word[0].isalpha() else f"p-{word}")[:63]
