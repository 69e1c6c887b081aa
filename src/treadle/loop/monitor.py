"""One look at the traffic: windows, findings, quality, and whether to retrain."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from treadle.base import clock, crash, segments
from treadle.base.clock import duration_s
from treadle.base.plain import from_plain
from treadle.base.records import Finding, Model, Release, Window
from treadle.clients import tracking
from treadle.clients.journal import Changes
from treadle.loop import baseline, places, truth
from treadle.loop.project import Project
from treadle.plan import trigger


@dataclass(frozen=True)
class Monitored:
    """What a look at the traffic found."""

    windows: tuple[Window, ...]
    """The newest closed windows, oldest first."""
    findings: tuple[Finding, ...]
    """Of these windows."""
    new_windows: tuple[Window, ...]
    judged: tuple[Window, ...]
    """Windows whose truth was looked at now."""
    new_findings: tuple[Finding, ...]
    answer: str
    """Retrain? yes, no or approval."""
    words: str
    decided: bool
    """Whether this look was written to the ledger (nothing new: no new entry)."""
    next: str


def monitor(project: Project, environment: str, *, limit: int = 8) -> Monitored:
    """Close windows, examine them, judge what truth has matured, decide on a retraining."""
    place = project.spec.place(environment)
    with project.require_state().small_writer():
        new_windows = _advance(project, place)
        found = _examine_traffic(project, place, new_windows)
        judged, quality_found = _judge(project, place)
        answer, decided = _decide(project, place, changed=bool(new_windows or judged))
    stored = [
        from_plain(Window, value)
        for _, value in project.journal.list("window", f"{place}/", newest_first=True, limit=limit)
    ]
    windows = tuple(reversed(stored))
    ids = {window.id for window in windows}
    findings = tuple(finding for finding in _findings(project, place) if finding.window in ids)
    next_ = {
        "yes": "treadle up",
        "approval": "treadle approve retrain --reason …",
        "no": "treadle status",
    }[answer.answer]
    return Monitored(
        windows,
        findings,
        tuple(new_windows),
        tuple(judged),
        (*found, *quality_found),
        answer.answer,
        answer.words,
        decided,
        next_,
    )


def _advance(project: Project, place: str) -> list[Window]:
    """Close the windows that are due: blobs, records and the cursor in one commit."""
    from treadle.monitor import quality
    from treadle.monitor import window as windows

    folder = project.environment_folder(place) / "capture"
    stored = project.journal.get("monitor", place) or {}
    cursor = stored.get("cursor") or {}
    rollouts = project.journal.list("rollout", f"{place}/", limit=1)
    if not rollouts:
        return []
    now = clock.now()
    if not _due(project, cursor, now):
        places.collect(project, place, due=False)
        return []
    places.collect(project, place)
    records, after = segments.read_new(folder, cursor.get("segments"))
    opened = stored.get("open")
    section = project.training_section()
    done = windows.advance(
        records,
        place,
        project.spec.monitor,
        section.event_time if section else None,
        section.key if section else (),
        cursor,
        now,
        open_rows=windows.decode(project.objects.read(opened)) if opened else None,
        segments=after,
        since=clock.parse(rollouts[0][1]["started"]),
    )
    changes = Changes()
    fresh: list[Window] = []
    for closed in done.windows:
        project.objects.put_bytes(closed.blob)
        estimated = quality.estimate(closed.table, project.spec.model.task)
        fresh.append(windows.with_quality(closed.window, estimated=estimated))
        changes.put("window", window_key(closed.window), fresh[-1])
    open_digest = (
        project.objects.put_bytes(windows.encode(done.open_rows))
        if done.open_rows.num_rows
        else None
    )
    changes.put("monitor", place, {"cursor": done.cursor, "open": open_digest})
    crash.point("monitor.stored")
    project.commit(changes)
    return fresh


def _due(project: Project, cursor: Any, now: datetime.datetime) -> bool:
    """Whether a window may close by now: until then the segments can wait where they are."""
    begins = cursor.get("begins")
    if not begins:
        return True
    length = duration_s(project.spec.monitor.window)
    return now >= clock.parse(begins) + datetime.timedelta(seconds=length)


def window_key(window: Window) -> str:
    """The journal's key of a window; sorts by time."""
    return f"{window.environment}/{window.start}/{window.id}"


def _examine_traffic(project: Project, place: str, fresh: Sequence[Window]) -> list[Finding]:
    from treadle.monitor import drift, findings, quality
    from treadle.monitor import window as windows

    found: list[Finding] = []
    for window in fresh:
        release = _last_release(project, place, window)
        model = from_plain(Model, project.journal.get("model", release.model))
        known = baseline.read(project, release.model)
        table = windows.decode(project.objects.read(window.content))
        found += findings.look_at_traffic(
            window,
            drift.with_answers(table, project.spec.model.task, model.classes),
            section=project.spec.monitor,
            now=clock.now(),
            columns=list(model.features),
            training=known["profile"] if known else None,
            placebo=known["placebo"] if known else None,
            block_s=quality.block_seconds(project.spec.test.blocks, project.spec.monitor),
        )
    _keep(project, place, found)
    return found


def _last_release(project: Project, place: str, window: Window) -> Release:
    number = max(window.releases) if window.releases else None
    if number is None:
        champion = project.champion(place)
        assert champion is not None
        return champion
    return project.release(place, number)


def _keep(project: Project, place: str, found: Sequence[Finding]) -> None:
    if found:
        changes = Changes()
        for finding in found:
            changes.put("finding", f"{place}/{finding.id}", finding)
        project.commit(changes)


def _findings(project: Project, place: str) -> list[Finding]:
    return [from_plain(Finding, v) for _, v in project.journal.list("finding", f"{place}/")]


def _judge(project: Project, place: str) -> tuple[list[Window], list[Finding]]:
    """Judge windows whose truth has matured: quality, coverage, decay."""
    from treadle.monitor import findings, quality
    from treadle.monitor import window as windows

    spec = project.spec
    now = clock.now()
    waiting = []
    for key, value in project.journal.list("window", f"{place}/"):
        if project.journal.get("judged", key) is None:
            window = from_plain(Window, value)
            if window.rows and now >= findings.matures_at(window, spec.monitor):
                waiting.append(window)
    if not waiting:
        return [], []
    tables = truth.tables(project, place)
    if not tables:
        return [], []
    champion = project.champion(place)
    assert champion is not None
    done: list[Window] = []
    found: list[Finding] = []
    for window in waiting:
        release = _last_release(project, place, window)
        model = from_plain(Model, project.journal.get("model", release.model))
        known = baseline.read(project, release.model)
        judged, coverage = truth.join(project, window, tables, model, now, None)
        table = windows.decode(project.objects.read(window.content))
        probabilities = _probabilities(table)
        measures = baseline.metrics(spec.model.task, model.classes, probabilities=probabilities)
        realised = quality.values(judged, measures) if len(judged) else {}
        done.append(windows.with_quality(window, coverage=coverage.share, realised=realised))
        since = _judged_since(project, place, window, release, tables, model, now)
        if len(since):
            found += findings.look_at_quality(
                window,
                section=spec.monitor,
                now=now,
                coverage=coverage,
                judged=since,
                release_quality={
                    name: quality.Measured(**value) for name, value in known["quality"].items()
                }
                if known
                else {},
                measures=measures,
            )
    changes = Changes()
    for window in done:
        changes.put("window", window_key(window), window)
        changes.put("judged", window_key(window), clock.text(now))
    for finding in found:
        changes.put("finding", f"{place}/{finding.id}", finding)
    changes.tell(tracking.windows_message(spec.project, place, done, found))
    project.commit(changes)
    return done, found


def _probabilities(table: Any) -> bool:
    import pyarrow as pa

    names = [n for n in table.column_names if n == "prediction" or n.startswith("prediction_0")]
    return bool(names) and pa.types.is_floating(table[names[0]].type)


def _judged_since(
    project: Project,
    place: str,
    last: Window,
    release: Release,
    tables: Any,
    model: Model,
    now: datetime.datetime,
) -> Any:
    """All judged rows of `release` up to the window `last`."""
    from treadle.monitor import quality

    parts = []
    for _, value in project.journal.list("window", f"{place}/"):
        window = from_plain(Window, value)
        if release.number in window.releases and window.start <= last.start and window.rows:
            judged, _ = truth.join(project, window, tables, model, now, [release.number])
            if len(judged):
                parts.append(judged)
    if not parts:
        judged, _ = truth.join(project, last, tables, model, now, [release.number])
        return judged
    return quality.concatenate(parts)


def _decide(project: Project, place: str, *, changed: bool) -> tuple[trigger.RetrainAnswer, bool]:
    """Ask the rule; write the answer to the ledger when a look found something or it changed."""
    evidence = evidence_of(project, place)
    answer = trigger.decide(evidence, project.spec.retrain)
    last = project.journal.get("retrain", place) or {}
    news = changed or last.get("answer") != answer.answer
    if answer.answer == "approval" and last.get("answer") == "approval":
        news = False
    if not news:
        return answer, False
    decision = project.decision(
        "retrain",
        place,
        "retraining",
        answer.answer,
        "retrain",
        answer.words,
        {**answer.evidence, "reasons": list(answer.reasons), "brakes": list(answer.brakes)},
    )
    value = {"answer": answer.answer, "words": answer.words, "at": decision.at, "id": decision.id}
    changes = Changes().put("retrain", place, value).decide(decision)
    if answer.answer == "yes":
        changes.put("retrain_yes", place, decision.at)
        changes.delete("approval", f"retrain {place}")
    project.commit(changes)
    return answer, True


def evidence_of(project: Project, place: str) -> trigger.RetrainEvidence:
    """All that the retraining rule looks at, now."""
    from treadle.monitor import findings

    now = clock.now()
    last = project.last_training(place)
    since = clock.parse(last["started"]) if last else None
    told = findings.evidence(
        _findings(project, place), now, since=since, section=project.spec.monitor
    )
    yes = project.journal.get("retrain_yes", place)
    approval = project.journal.get("approval", f"retrain {place}")
    if approval and since is not None and clock.parse(approval["at"]) < since:
        approval = None  # it was for a training that has been since
    pending = project.journal.get("retrain", place)
    new_rows, data_changed = _new_data(project, last)
    return trigger.RetrainEvidence(
        now=now,
        last_turn=since,
        last_yes=clock.parse(yes) if yes else None,
        new_labelled_rows=new_rows,
        decay=tuple(trigger.Alarm(**alarm) for alarm in told["decay"]),
        drift=tuple(trigger.Alarm(**alarm) for alarm in told["drift"]),
        approval=approval["id"] if approval else None,
        pending=pending["id"] if pending and pending["answer"] == "approval" else None,
        data_changed=data_changed,
    )


def _new_data(project: Project, last: Any) -> tuple[int, bool]:
    """Rows that the last training did not see, and whether its data changed at all."""
    from treadle.data import snapshot as snapshots
    from treadle.data import stored

    if last is None:
        return 0, True
    rows, changed = 0, False
    for name, digest in last["snapshots"].items():
        if name not in project.spec.data:
            continue
        now = snapshots.take(
            name,
            project.spec.data[name],
            project.folder,
            project.journal,
            project.objects,
            Changes(),
            project.report,
            dry=True,
            environ=project.environ,
        )
        if now.digest != digest:
            changed = True
            before = stored.by_digest(digest, project.journal)
            rows += max(0, now.rows - before.rows) if before else 0
    return rows, changed
