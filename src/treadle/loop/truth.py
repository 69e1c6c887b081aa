"""Truth that is handed in, and its join to the traffic."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.base import clock
from treadle.base.clock import duration_s
from treadle.base.errors import UsageError
from treadle.base.records import Model, Window
from treadle.clients.journal import Changes
from treadle.loop import datasets
from treadle.loop.project import Project


@dataclass(frozen=True)
class HandedIn:
    """Truth that was taken in."""

    rows: int
    total: int
    words: str


def hand_in_truth(project: Project, environment: str, file: Path) -> HandedIn:
    """`treadle truth FILE`: the label and the key (or prediction_id) of each row."""
    import pyarrow as pa

    from treadle.data.load import read_file

    table = pa.Table.from_pylist(read_file(file))
    return add_truth(project, environment, table, source=str(file))


def add_truth(project: Project, environment: str, frame: Any, *, source: str = "") -> HandedIn:
    """Take in what became known later: a frame or an Arrow table with label and key."""
    from treadle.monitor import truth as truths

    place = project.spec.place(environment)
    table, by = truths.normalise(frame, key(project), project.spec.model.label, _known_at(project))
    if not table.num_rows:
        raise UsageError(f"{source or 'the truth'} has no rows", hint="nothing was taken in")
    with project.require_state().small_writer():
        return _take_in(project, place, table, by, source)


def _take_in(
    project: Project, place: str, table: Any, by: tuple[str, ...], source: str
) -> HandedIn:
    from treadle.monitor.window import encode

    blob = project.objects.put_bytes(encode(table))
    held = [value for _, value in project.journal.list("truth_part", f"{place}/")]
    same = [part for part in held if part["content"] == blob]
    if not same:
        project.commit(
            Changes().put(
                "truth_part",
                f"{place}/{clock.ulid()}",
                {
                    "content": blob,
                    "rows": table.num_rows,
                    "by": list(by),
                    "source": source,
                    "at": clock.text(clock.now()),
                },
            )
        )
    total = sum(part["rows"] for part in held) + (0 if same else table.num_rows)
    words = (
        f"took in the truth of {table.num_rows:,} rows, joined by {', '.join(by)}"
        if not same
        else f"these {table.num_rows:,} rows were taken in before"
    )
    return HandedIn(table.num_rows, total, f"{words}; {total:,} rows of truth in all")


def key(project: Project) -> tuple[str, ...]:
    """The columns by which truth finds its prediction."""
    section = project.spec.monitor.truth
    if section is not None and project.spec.data[section.data].key:
        return project.spec.data[section.data].key
    data = project.training_section()
    return data.key if data and data.key else ("prediction_id",)


def _known_at(project: Project) -> str | None:
    section = project.spec.monitor.truth
    return project.spec.data[section.data].event_time if section is not None else None


def tables(project: Project, place: str) -> dict[tuple[str, ...], Any]:
    """All truth known, by the key that it is joined by: the data set's files and what was handed in."""
    import pyarrow as pa

    from treadle.data import load
    from treadle.monitor import truth as truths
    from treadle.monitor.window import decode

    parts: dict[tuple[str, ...], list[Any]] = {}
    section = project.spec.monitor.truth
    if section is not None:
        snapshot = datasets.look(project, section.data, store=True)
        if snapshot.parts:
            normal, by = truths.normalise(
                load.arrow(snapshot, project.objects),
                key(project),
                project.spec.model.label,
                _known_at(project),
            )
            parts.setdefault(by, []).append(normal)
    for _, part in project.journal.list("truth_part", f"{place}/"):
        parts.setdefault(tuple(part["by"]), []).append(
            decode(project.objects.read(part["content"]))
        )
    hashed = project.spec.monitor.capture.hash
    return {
        by: truths.hash_key(pa.concat_tables(tables, promote_options="permissive"), hashed)
        for by, tables in parts.items()
    }


def join(
    project: Project,
    window: Window,
    tables: Any,
    model: Model,
    now: datetime.datetime,
    releases: Sequence[int] | None,
) -> tuple[Any, Any]:
    """The window's judged rows and its coverage, by whichever key of truth covers most."""
    from treadle.monitor import quality
    from treadle.monitor import truth as truths
    from treadle.monitor import window as windows

    spec = project.spec
    matures = duration_s(spec.monitor.truth.matures) if spec.monitor.truth else 0.0
    matured_before = now - datetime.timedelta(seconds=matures)
    table = windows.decode(project.objects.read(window.content))
    section = project.training_section()
    best: tuple[Any, Any] | None = None
    for by, known in tables.items():
        joined, coverage = truths.join(
            table,
            known,
            by,
            matured_before,
            known_by=now,
            by_event_time=bool(section and section.event_time),
        )
        if best is None or coverage.covered > best[1].covered:
            best = joined, coverage
    assert best is not None
    block_s = quality.block_seconds(spec.test.blocks, spec.monitor)
    return quality.judged(
        best[0], spec.model.task, model.classes, block_s, releases=releases
    ), best[1]
