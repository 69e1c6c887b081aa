"""A batch environment: the champion of another environment over files, by `up` or on a schedule.

Here on this machine; where input and output are on a cluster, `cluster_batch` does it there.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.base import clock
from treadle.base.digest import digest
from treadle.base.errors import UsageError
from treadle.base.spec import BatchTarget
from treadle.clients.journal import Changes
from treadle.loop import cluster_batch
from treadle.loop.chain import Chain
from treadle.loop.project import Project

if TYPE_CHECKING:
    from treadle.loop.outcome import TurnResult


def plan_batch(chain: Chain) -> None:
    """What a scoring run of this environment would do."""
    target = _target(chain)
    if target.on_cluster:
        cluster_batch.plan(chain)
        return
    champion = chain.champion
    if champion is None:
        chain.add("deploy", chain.environment, "keep", f"{target.of} has no champion to score with")
        return
    files = input_files(chain.project, target)
    if not files:
        chain.add("deploy", chain.environment, "wait", f"no file matches {target.input}")
        return
    last = chain.project.journal.get("batch", chain.environment)
    if last and last.get("input") == input_digest(chain, files):
        chain.add(
            "deploy",
            chain.environment,
            "keep",
            f"{len(files)} files were scored with release {champion.number}",
        )
    else:
        chain.add(
            "deploy",
            chain.environment,
            "run",
            f"score {len(files)} files with release {champion.number} into {target.output}",
        )


def turn_batch(chain: Chain, by: str) -> TurnResult:
    """Score what changed since the last time; its own decision stands in the shared ledger."""
    from treadle.loop.outcome import TurnResult
    from treadle.loop.service import score

    project, target = chain.project, _target(chain)
    if target.on_cluster:
        return cluster_batch.turn(chain, by)
    result = TurnResult(chain.environment, turned=chain.plan().changes)
    if chain.champion is None:
        raise UsageError(
            f"{target.of} has no champion to score with", hint=f"treadle up --env {target.of}"
        )
    if any(action.action == "wait" for action in chain.actions):
        raise UsageError(
            f"no file matches {target.input}",
            hint=f"`input:` of {chain.environment} is relative to treadle.yaml",
        )
    if not result.turned:
        result.notes.append(f"nothing to do: {chain.actions[0].reason}")
        result.next = "treadle status"
        return result
    files = input_files(project, target)
    key = input_digest(chain, files)
    moment = re.sub(r"\D", "", clock.text(clock.now())[:19])
    output = project.folder / target.output
    if output.suffix != ".parquet":
        output.mkdir(parents=True, exist_ok=True)
        output = output / f"{chain.environment}-{moment}.parquet"
    project.report(
        f"scoring {len(files)} files with release {chain.champion.number}", phase="deploy"
    )
    done = score(project, chain.environment, str(project.folder / target.input), output, force=True)
    words = (
        f"scored {done.rows:,} rows of {len(files)} files with release {done.release} "
        f"into {done.output}"
    )
    decision = project.decision(
        "deploy",
        chain.place,
        chain.environment,
        "scored",
        "batch scores with the champion",
        words,
        {"rows": done.rows, "release": done.release, "output": done.output, "input": key},
        by,
    )
    project.commit(
        Changes()
        .put(
            "batch",
            chain.environment,
            {
                "input": key,
                "at": decision.at,
                "output": done.output,
                "rows": done.rows,
                "release": done.release,
            },
        )
        .decide(decision)
    )
    result.release = chain.champion
    result.made["scores"] = str(done.output)
    result.made["rows"] = f"{done.rows:,}"
    result.next = f"treadle lineage {done.first_id}"
    return result


def due(project: Project, environment: str, now: datetime) -> bool:
    """Whether the environment's `at:` has come since its last scoring."""
    from treadle.plan import schedule

    target = project.batch_target(environment)
    assert target is not None
    if target.at is None:
        return False
    last = project.journal.get("batch", environment)
    if target.on_cluster:  # the CronJob is on time by itself; a new champion is for us to bring
        champion = project.champion(environment)
        return champion is not None and (last is None or last["release"] != champion.number)
    return schedule.due(target.at, clock.parse(last["at"]) if last else None, now)


def _target(chain: Chain) -> BatchTarget:
    target = chain.project.batch_target(chain.environment)
    assert target is not None
    return target


def input_files(project: Project, target: BatchTarget) -> list[Path]:
    """The files that `input:` matches now."""
    import glob

    found = glob.glob(str(project.folder / target.input), recursive=True)
    return sorted(Path(name) for name in found if Path(name).is_file())


def input_digest(chain: Chain, files: list[Path]) -> str:
    """What a scoring depends on: each file's size and time, and the champion."""
    assert chain.champion is not None
    return digest(
        {
            "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
            "model": chain.champion.model,
        }
    )
