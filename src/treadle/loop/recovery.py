"""Before and after a turn: what a dead process left, and news for MLflow."""

from __future__ import annotations

import os
from dataclasses import replace

from treadle.base import clock
from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Run
from treadle.base.spec import KubernetesTarget
from treadle.clients import tracking
from treadle.clients.journal import Changes
from treadle.loop.project import Project


def recover(project: Project) -> None:
    """Clear up after a process that died. For the holder of the turn's lock.

    Its run is marked KILLED, here and (through the outbox) in MLflow; a roll-out that it did not see
    the end of gets one; its temporary files go.
    """
    clear_temporary(project)
    changes = Changes()
    dead = dead_run(project)
    if dead is not None:
        run, step = dead
        killed = replace(
            run,
            status="KILLED",
            ended=clock.text(clock.now()),
            error=f"its process ({run.process}) ended without a word{step}",
        )
        changes.put("run", run.id, killed).delete("running", run.id)
        changes.tell(tracking.run_message(killed, [], None, None))
        project.report(f"run {run.id} died{step}; what it had finished is kept", warning=True)
    if project.journal.get("turning", "current"):
        changes.delete("turning", "current")
    for place, key in project.journal.list("rolling"):
        rollout = project.journal.get("rollout", key)
        if rollout is not None and rollout["status"] == "running":
            words = "the process that rolled out ended without a word"
            ended = {"status": "failed", "ended": clock.text(clock.now()), "error": words}
            changes.put("rollout", key, {**rollout, **ended})
        changes.delete("rolling", place)
    _write_down_splits(project, changes)
    project.commit(changes)


def _write_down_splits(project: Project, changes: Changes) -> None:
    """How requests are divided, where that changed and nobody lived to write it down."""
    from treadle.loop import places

    for place, target in project.spec.deploy.items():
        if not isinstance(target, KubernetesTarget):
            continue
        split, told = places.split(project, place), project.journal.get("split", place)
        if to_plain(split) == told:
            continue
        number = split.release if split is not None else (told or {}).get("release")
        words = split.words if split is not None else f"release {number} has no share any more"
        changes.decide(
            project.decision(
                "traffic", place, f"release {number}", f"{split.share:.3g} %" if split else "ended",
                "what serves is written down", words, {"release": number, "split": to_plain(split)},
            )
        )  # fmt: skip
        if split is None:
            changes.delete("split", place)
        else:
            changes.put("split", place, to_plain(split))


def dead_run(project: Project) -> tuple[Run, str] | None:
    """A run whose process died, and ` in STEP()` where it did. Asked while nobody turns."""
    found = project.journal.get("turning", "current")
    stored = project.journal.get("run", found["run"]) if found else None
    if stored is None or stored["status"] != "RUNNING":
        return None

    run = from_plain(Run, stored)
    running = project.journal.get("running", run.id)
    return run, f" in {running['step']}()" if running else ""


def clear_temporary(project: Project) -> None:
    """What a dead turn left in `tmp/`: only turns write there, and this one is alone."""
    folder = project.require_state().folder / "tmp"
    left = os.listdir(folder) if folder.is_dir() else []
    if left:
        import shutil

        for name in left:
            shutil.rmtree(folder / name, ignore_errors=True)


def tell(project: Project) -> None:
    """Start the recorder where something waits for MLflow; never waits, never fails a turn.

    A champion that a person moved in MLflow's UI (the recorder found it) becomes a ledger entry.
    """
    state = project.state
    for key, conflict in project.journal.list("conflict"):
        told = project.journal.get("conflict_told", key)
        if told != conflict["found"]:
            project.commit(
                Changes()
                .put("conflict_told", key, conflict["found"])
                .decide(
                    project.decision(
                        "conflict",
                        key.partition("/")[0],
                        key,
                        "conflict",
                        "MLflow is a projection",
                        conflict["words"],
                        conflict,
                    )
                )
            )
    if state is not None:
        tracking.spawn_recorder(state)


def process_name() -> str:
    """Host and pid, for a run's record."""
    import socket

    return f"{socket.gethostname()} pid {os.getpid()}"
