"""Which blobs nothing needs any more.

Roots: the champion and the rollback targets of each environment, held releases, the latest snapshot
of each data set, the latest result of each step, the newest runs, and every window that is not yet
examined with its truth. All else that is stored under a digest may go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from treadle.base import crash
from treadle.base.digest import short
from treadle.clients.journal import Changes
from treadle.loop.project import Project

KEPT_RUNS = 10


@dataclass(frozen=True)
class Collected:
    """What went and what stayed."""

    deleted: int
    freed_bytes: int
    kept: int
    kept_bytes: int
    dry_run: bool


def collect(project: Project, *, keep: int, dry_run: bool) -> Collected:
    """Delete what nothing needs; `keep` releases before each champion stay rollback targets."""
    state = project.require_state()
    with state.turn_lock("treadle gc", True, project.report), state.no_writers():
        needed = needed_digests(project, keep)
        if not dry_run:  # first: no record may speak of what is gone, if this dies half-way
            _forget(project, needed)
        deleted = freed = kept = kept_bytes = 0
        for digest in list(project.objects.digests()):
            size = project.objects.path(digest).stat().st_size
            if digest in needed:
                kept, kept_bytes = kept + 1, kept_bytes + size
                continue
            deleted, freed = deleted + 1, freed + size
            project.report(
                f"{'would delete' if dry_run else 'deleting'} {short(digest)}", detail=True
            )
            if not dry_run:
                crash.point("gc.delete")
                project.objects.delete(digest)
        if not dry_run:
            state.sweep(needed)
    return Collected(deleted, freed, kept, kept_bytes, dry_run)


def needed_digests(project: Project, keep: int) -> set[str]:
    """Every digest that something living refers to."""
    journal = project.journal
    models: set[str] = set()
    for place, state in journal.list("release_state"):
        numbers = {state["champion"], *state["previous"][-keep:], *map(int, state["held"])}
        for key, release in journal.list("release", f"{place}/"):
            if int(key.rpartition("/")[2]) in numbers:
                models.add(release["model"])
    needed: set[str] = set()
    snapshots = [value for _, value in journal.list("snapshot")]
    runs = [value for _, value in journal.list("run", newest_first=True)]
    kept_runs = [r for i, r in enumerate(runs) if i < KEPT_RUNS or r["model"] in models]
    models |= {run["model"] for run in kept_runs[:KEPT_RUNS] if run["model"]}
    for run in kept_runs:
        for digest in run["snapshots"].values():
            found = journal.get("snapshot_by", digest)
            if found:
                snapshots.append(found)
    for snapshot in snapshots:
        needed |= {part["content"] for part in snapshot["parts"]}
    for digest in models:
        model = journal.get("model", digest)
        if model:
            needed |= {model["content"], model["profile"], *model["files"].values()}
    for _, last in journal.list("step_last"):
        step = journal.get("step", last["key"])
        for result in step["results"] if step else ():
            needed |= _with_tree(project, result["content"])
    for _, window in journal.list("window"):
        needed.add(window["content"])
    for _, message in journal.pending(100_000):
        needed |= _digests_in(message.payload)  # what MLflow was not told yet
    for kind in ("truth_part", "monitor", "baseline"):
        for _, value in journal.list(kind):
            needed |= _digests_in(value)
    return {digest for digest in needed if digest}


def _with_tree(project: Project, content: str) -> set[str]:
    """A result's blob and, for a tree, the blobs of its files."""
    if not project.objects.has(content):
        return {content}
    path = project.objects.path(content)
    if path.stat().st_size > 1_000_000:  # a tree's manifest is small
        return {content}
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError:
        return {content}
    return {content} | _digests_in(manifest)


def _digests_in(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value} if value.startswith("sha256:") and len(value) == 71 else set()
    if isinstance(value, dict):
        return set().union(*map(_digests_in, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(_digests_in, value)) if value else set()
    return set()


def _forget(project: Project, needed: set[str]) -> None:
    """Steps whose results are gone are no longer hits; the records of what was decided stay."""
    changes = Changes()
    for key, step in project.journal.list("step"):
        if any(result["content"] not in needed for result in step["results"]):
            changes.delete("step", key)
    if changes:
        project.commit(changes)
