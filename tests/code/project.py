"""A project in a folder, fingerprinted, planned and run with state in memory."""

from __future__ import annotations

import textwrap
from pathlib import Path

from treadle.base.records import Part, Snapshot
from treadle.clients.memory import MemoryJournal, MemoryObjects
from treadle.code import cache, execute, fingerprint, pipeline, store


def write(folder: Path, **files: str) -> Path:
    """`pipeline="…"` becomes pipeline.py; `pkg__mod` becomes pkg/mod.py."""
    for name, text in files.items():
        path = folder / (
            name.replace("__", "/") + ".py" if name != "pkg__init" else "pkg/__init__.py"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


class Turns:
    """Turns of one project: each `run` plans and executes what must run."""

    def __init__(self, folder: Path, wanted=("out",), datasets=(), frames=None, uncached=()):
        self.folder, self.wanted, self.datasets = folder, wanted, tuple(datasets)
        self.frames = frames or {}
        self.uncached = uncached
        self.journal, self.objects = MemoryJournal(), MemoryObjects()
        self.lines: list[str] = []

    def graph(self):
        sources = fingerprint.project(self.folder, "pipeline.py")
        return pipeline.build(sources, self.datasets, self.wanted)

    def snapshots(self):
        return {
            name: Snapshot(
                name,
                "files",
                (
                    Part(
                        f"{name}.csv", f"sha256:{hash(repr(self.frames.get(name))) & 0xFFFF}", 1, 1
                    ),
                ),
            )
            for name in self.datasets
        }

    def plan(self, **parameters):
        values = {key.replace("__", "."): value for key, value in parameters.items()}
        return cache.look(
            self.graph(),
            self.journal,
            self.objects,
            self.snapshots(),
            values,
            uncached=self.uncached,
        )

    def stale(self, **parameters):
        return {step.name for step in self.plan(**parameters) if step.hit is None}

    def run(self, trust=False, **parameters):
        self.lines = []
        ran = []

        def report(line, **facts):
            self.lines.append(line)
            if facts.get("status") == "done":
                ran.append(facts["step"])

        self.steps = execute.run(
            self.plan(**parameters),
            self.graph(),
            lambda name, kind: self.frames[name],
            self.objects,
            self.journal,
            self.journal.commit,
            report,
            trust,
            run_id="R",
        )
        return ran

    def value(self, name):
        for step in self.steps.values():
            for result in step.results:
                if result.name == name:
                    return store.load(result, self.objects)
        raise KeyError(name)
