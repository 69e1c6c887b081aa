"""Hit or miss: what a step's results depend on, by words, and the key that is their digest.

The walk falls before anything of the user is imported. Where a step must run, what it gives is not
known yet; the steps after it wait, and are looked up again when it is (`resolve`): a step that ran
and gave the same bytes as before makes none of its followers run.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from treadle.base.digest import digest, digest_file
from treadle.base.plain import from_plain
from treadle.base.records import Result, Snapshot, Step
from treadle.clients.journal import Journal
from treadle.clients.objects import Objects
from treadle.code.pipeline import Graph, Node

FORMAT = 1
"""Part of every key: raise it when stored results change their meaning."""


@dataclass(frozen=True)
class PlannedStep:
    """What is known about one step before it runs."""

    name: str
    key: str | None
    """None while an input is not known."""
    hit: Step | None
    """The stored step with this key whose results are all there."""
    depends: dict[str, str]
    """What went into the key, by words: `code model()`, `param model.rate` (a Python literal),
    `input train`, `data flights`, `package pandas`, `python`, `file lookup.csv`. Without the
    inputs that are not known yet."""
    before: dict[str, str] | None
    """The same of the last run of this function; None: it never ran."""
    waits: tuple[str, ...] = ()
    """Steps that must run before this one's key is known."""
    why: str = ""
    """Why it runs where `before` and `depends` do not say it: `never run`, `cache: false`,
    `waits for split`, `result train is lost`; empty for a hit and for a change."""
    cache: bool = True
    parameters: dict[str, Any] = field(default_factory=dict)
    """Its hyperparameters by their own names."""


def step_key(name: str, depends: Mapping[str, str]) -> str:
    """The digest of all that a step's results depend on."""
    return digest({"format": FORMAT, "step": name, "depends": dict(depends)})


def input_digest(result: Result, giver: Step) -> str:
    """What a step depends on when it takes a result: its bytes.

    Pickled objects name their classes, not the code of them: there the giver's key counts too.
    """
    if result.format == "pickle":
        return digest([result.content, giver.key])
    return result.content


def known_depends(
    graph: Graph, node: Node, snapshots: Mapping[str, Snapshot], parameters: Mapping[str, Any]
) -> dict[str, str]:
    """What a step depends on, as far as it is known without running anything."""
    function = node.function
    depends = {f"code {node.name}()": function.digest, "python": graph.sources.python}
    for name in node.hyperparameters:
        depends[f"param {node.name}.{name}"] = repr(parameters[f"{node.name}.{name}"])
    for name in node.datasets:
        depends[f"data {name}"] = snapshots[name].digest
    for package, version in function.packages.items():
        depends[f"package {package}"] = version
    for path in function.reads:
        depends[f"file {path}"] = file_digest(graph.sources.folder, path)
    return depends


def file_digest(folder: Path, path: str) -> str:
    """The digest of a file that a step opens itself, or `missing`."""
    full = os.path.join(folder, path)
    try:
        return digest_file(full)
    except OSError:
        return "missing"


def look(
    graph: Graph,
    journal: Journal,
    objects: Objects,
    snapshots: Mapping[str, Snapshot],
    parameters: Mapping[str, Any] | None = None,
    *,
    uncached: Collection[str] = (),
) -> list[PlannedStep]:
    """Every step in order, with its hit where one is known.

    `parameters` are overrides by `function.parameter`; `uncached` are functions with `cache: false`.
    """
    values = graph.parameters(parameters)
    done: dict[str, Step] = {}
    planned = []
    for node in graph.nodes.values():
        own = {name: values[f"{node.name}.{name}"] for name in node.hyperparameters}
        last = journal.get("step_last", node.name)
        before = None if last is None else dict(last["depends"])
        start = PlannedStep(
            name=node.name,
            key=None,
            hit=None,
            depends=known_depends(graph, node, snapshots, values),
            before=before,
            cache=node.name not in uncached,
            parameters=own,
        )
        step = resolve(start, graph, done, journal, objects)
        if step.hit is not None:
            done[node.name] = step.hit
        planned.append(step)
    return planned


def resolve(
    planned: PlannedStep,
    graph: Graph,
    done: Mapping[str, Step],
    journal: Journal,
    objects: Objects,
) -> PlannedStep:
    """A planned step, looked up with the steps that are done by now."""
    node = graph.nodes[planned.name]
    depends = dict(planned.depends)
    waits = []
    for parameter, giver in node.inputs.items():
        step = done.get(giver)
        if step is None:
            waits.append(giver)
        else:
            depends[f"input {parameter}"] = input_digest(result_of(step, parameter), step)
    if waits:
        unique = tuple(dict.fromkeys(waits))
        why = f"waits for {', '.join(unique)}"
        return replace(planned, key=None, hit=None, depends=depends, waits=unique, why=why)
    base = step_key(planned.name, depends)
    noticed = journal.get("step_files", base) or ()
    for path in noticed:
        depends[f"file {path}"] = file_digest(graph.sources.folder, path)
    key = step_key(planned.name, depends) if noticed else base
    planned = replace(planned, key=key, hit=None, depends=depends, waits=(), why="")
    if not planned.cache:
        return replace(planned, why="cache: false")
    stored = journal.get("step", key)
    if stored is None:
        why = "never run" if planned.before is None else ""
        if planned.before == depends:
            why = "its record is lost"
        return replace(planned, why=why)
    step = from_plain(Step, stored)
    gone = lost(step, graph.needed.get(planned.name, frozenset()), objects)
    if gone:
        return replace(planned, why=f"result {', '.join(gone)} is lost")
    return replace(planned, hit=step)


def lost(step: Step, needed: Iterable[str], objects: Objects) -> list[str]:
    """Needed results that a stored step does not have, or whose blobs are gone."""
    results = {result.name: result for result in step.results}
    return [
        name
        for name in sorted(needed)
        if name not in results or not objects.has(results[name].content)
    ]


def result_of(step: Step, name: str) -> Result:
    """One of a step's results. KeyError if it has none of that name."""
    for result in step.results:
        if result.name == name:
            return result
    raise KeyError(name)
