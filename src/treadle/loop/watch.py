"""The return half of the loop: traffic → windows → findings → retrain or not; truth handed in.

`monitor` looks once; `watch` looks again and again and turns when the rule says so.
"""

from __future__ import annotations

import os
from pathlib import Path

from treadle.base import clock, supervision
from treadle.base.errors import TreadleError
from treadle.clients.journal import Changes
from treadle.loop import places
from treadle.loop.monitor import monitor
from treadle.loop.project import Project

# ---- up --watch ----------------------------------------------------------------------------------


def watch(project: Project, environment: str, interval_s: float) -> int:
    """Look every `interval_s` seconds and turn when the rule says so; ends on interrupt.

    The first look turns once if there is no champion yet. A turn that fails is reported and the
    loop goes on: the champion keeps serving.
    """
    import time

    from treadle.loop import batch
    from treadle.loop.turn import up

    place = project.spec.place(environment)
    project.report(f"watching {place} every {interval_s:g} s; stop with Ctrl-C", phase="watch")
    if project.champion(place) is None:
        up(project, environment, reason="nothing was released yet", by="treadle")
    read = _stamp(project.spec_path)
    while True:
        if _stamp(project.spec_path) != read:
            read = _stamp(project.spec_path)
            _read_again(project, environment)
        project.commit(
            Changes().put(
                "watcher",
                place,
                {
                    "pid": os.getpid(),
                    "process_started": supervision.start_of(os.getpid()),
                    "at": clock.text(clock.now()),
                },
            )
        )
        try:
            _keep_serving(project, place)
            found = monitor(project, environment)
            for finding in found.new_findings:
                if finding.alarm:
                    project.report(finding.text, warning=True)
            if found.decided:
                project.report(f"retrain? {found.answer}: {found.words}", phase="monitor")
            if found.answer == "yes":
                done = up(project, environment, reason=found.words, by="treadle")
                project.report(f"the turn ended: {'; '.join(done.notes) or 'promoted'}")
            for name in project.spec.deploy:
                if (
                    project.batch_target(name) is not None
                    and project.spec.place(name) == place
                    and batch.due(project, name, clock.now())
                ):
                    up(project, name, reason="its schedule", by="treadle")
        except TreadleError as error:
            project.report(error.message, warning=True)
        time.sleep(interval_s)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def _read_again(project: Project, environment: str) -> None:
    """Take treadle.yaml as it is now; with a mistake in it, the one that was read before stays."""
    from treadle.plan import spec as reader

    try:
        found = reader.load(project.spec_path, project.journal)
    except (TreadleError, OSError) as error:
        project.report(f"treadle.yaml is not taken up: {error}", warning=True)
        return
    if environment not in found.deploy:
        project.report(
            f"treadle.yaml is not taken up: it has no environment `{environment}` any more",
            warning=True,
        )
        return
    project.spec = found
    project.report("treadle.yaml has changed and is read again", phase="watch")


def _keep_serving(project: Project, place: str) -> None:
    """A service that is down though a release is champion is started again."""
    from treadle.loop.chain import Chain, service_wanted
    from treadle.loop.service import roll_out

    champion = project.champion(place)
    if champion is None:
        return
    chain = Chain(
        project,
        place,
        champion=champion,
        observed=places.observe(project, place),
    )
    if (
        chain.observed is not None
        and chain.observed.status in ("absent", "down", "failed")
        and service_wanted(chain)
    ):
        with project.require_state().turn_lock("treadle up --watch", True, project.report):
            roll_out(chain, by="treadle")
