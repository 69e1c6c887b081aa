"""The running service: roll out, status, predict, score, logs, down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.base import clock, crash, supervision
from treadle.base.digest import short
from treadle.base.errors import TreadleError, Unreachable, UsageError
from treadle.base.plain import from_plain
from treadle.base.records import Model, Release, Rollout, Snapshot
from treadle.clients import tracking
from treadle.clients.journal import Changes
from treadle.loop import cluster_batch, places
from treadle.loop.chain import Chain, service_settings
from treadle.loop.project import Project

if TYPE_CHECKING:
    from treadle.deploy.target import Observed


def roll_out(chain: Chain, *, by: str) -> Observed:
    """Serve the chain's champion: begin and end are recorded, a failure leaves the old one up."""
    project, champion = chain.project, chain.champion
    assert champion is not None
    assert project.state is not None
    place = chain.place
    model = from_plain(Model, project.journal.get("model", champion.model))
    rollout = Rollout(
        id=clock.ulid(),
        environment=place,
        release=champion.number,
        started=clock.text(clock.now()),
        status="running",
    )
    key = f"{place}/{rollout.id}"
    split = places.split(project, place)
    project.commit(Changes().put("rollout", key, rollout).put("rolling", place, key))
    crash.point("deploy.begin")
    try:
        started = places.roll_out(project, place, champion, model)
        done = replace(started, id=rollout.id, started=rollout.started)
    except TreadleError as error:
        failed = replace(
            rollout, status="failed", error=error.message, ended=clock.text(clock.now())
        )
        project.commit(
            Changes()
            .put("rollout", key, failed)
            .delete("rolling", place)
            .decide(
                project.decision(
                    "deploy",
                    place,
                    f"release {champion.number}",
                    "failed",
                    "service runs the champion",
                    error.message,
                    {"release": champion.number, "rollout": rollout.id},
                    by,
                )
            )
        )
        places.collect_leaving(project, place)
        raise
    crash.point("deploy.answered")
    changes = Changes()
    if split is not None:
        words = f"release {champion.number} gets every request: the share of release {split.release} ends"
        evidence: dict[str, object] = {
            "release": split.release, "weight": 0, "before": split.weight,
        }  # fmt: skip
        alias = tracking.alias_message(project.spec, place, champion.number, champion.model)
        changes.delete("split", place).tell(alias).decide(
            project.decision(
                "traffic", place, f"release {split.release}", "ended",
                "a roll-out ends a division", words, evidence, by,
            )
        )  # fmt: skip
    project.commit(
        changes.put("rollout", key, done)
        .delete("rolling", place)
        .put("served", place, service_settings(chain))
        .decide(
            project.decision(
                "deploy",
                place,
                f"release {champion.number}",
                "done",
                "service runs the champion",
                f"release {champion.number} answers at {done.address} as instance {done.instance}",
                {
                    "release": champion.number,
                    "rollout": rollout.id,
                    "instance": done.instance,
                    "model": champion.model,
                },
                by,
            )
        )
    )
    project.report(f"release {champion.number} answers at {done.address}")
    places.collect_leaving(project, place)
    return places.observe(project, place)


# ---- status --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """The loop at a glance."""

    project: str
    environment: str
    lines: tuple[tuple[str, str], ...]
    attention: tuple[str, ...]
    champion: int | None
    service: str
    address: str
    healthy: bool
    turned_by: str
    pending: int
    next: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def status(project: Project, environment: str) -> Status:
    """Data, champion, deployment (wanted/actual), health, last decision, who turns the loop."""
    place = project.spec.place(environment)
    lines: list[tuple[str, str]] = [("project", f"{project.spec.project} ({project.folder})")]
    attention: list[str] = []
    for name in project.spec.data:
        stored = project.journal.get("snapshot", name)
        if stored is None:
            lines.append((f"data {name}", "never read"))
        else:
            snapshot = from_plain(Snapshot, stored)
            lines.append(
                (
                    f"data {name}",
                    f"{snapshot.rows:,} rows in {len(snapshot.parts)} files, "
                    f"snapshot {short(snapshot.digest)}",
                )
            )
    champion = project.champion(place)
    lines.append(("champion", _champion_line(project, champion)))
    observed = places.observe(project, place)
    wanted = f"release {champion.number}" if champion else "nothing"
    actual = (
        f"release {observed.release} {observed.status}" if observed.release else observed.status
    )
    lines.append(
        (
            "service",
            f"wanted {wanted}, actual {actual}"
            + (f" at {observed.address}" if observed.address else ""),
        )
    )
    if observed.split is not None:
        lines.append(("traffic", observed.split.words))
        if observed.error:
            attention.append(f"{observed.error}: treadle logs --env {environment}")
    if observed.restarts:
        attention.append(f"the model server was restarted {observed.restarts} times: treadle logs")
    if champion and observed.status != "serving":
        attention.append(
            f"release {champion.number} is not served ({observed.status}): "
            f"treadle up --env {environment}"
        )
    decisions = project.journal.ledger(place, limit=1)
    if decisions:
        d = decisions[0]
        lines.append(("last decision", f"{d.at[:16]}Z {d.kind} {d.subject}: {d.outcome}"))
    if cluster_batch.targets(project, environment) is not None:
        told, asked = cluster_batch.status_lines(project, environment, champion)
        lines += told
        attention += asked
    turned_by = _turner(project, place)
    lines.append(("turned by", turned_by))
    pending = len(project.journal.pending(1000))
    lines.append(("MLflow", _record_line(project, pending)))
    attention += _attention(project, place, pending)
    next_ = (
        "treadle up"
        if champion is None
        else ("treadle plan" if not attention else attention[0].rpartition(": ")[2])
    )
    return Status(
        project.spec.project,
        environment,
        tuple(lines),
        tuple(attention),
        champion.number if champion else None,
        observed.status,
        observed.address or "",
        champion is not None and observed.status == "serving",
        turned_by,
        pending,
        next_,
    )


def _champion_line(project: Project, champion: Release | None) -> str:
    if champion is None:
        return "none"
    found = project.journal.get("verdict", champion.verdict)
    metrics = ", ".join(f"{n} {v:.3f}" for n, v in found["metrics"].items()) if found else ""
    return (
        f"release {champion.number}, model {short(champion.model)}, since "
        f"{champion.created[:16]}Z; holdout {metrics}"
    )


def _record_line(project: Project, pending: int) -> str:
    """How MLflow stands, and how to look at it."""
    if project.state is None:
        return "nothing recorded yet"
    from treadle.clients.tracking import tracking_uri

    waits = f"{pending} messages wait" if pending else "up to date"
    uri = tracking_uri(project.state.folder, project.environ)
    if uri.startswith("sqlite:"):
        return f"{waits}; mlflow ui --backend-store-uri {uri}"
    scheme, _, rest = uri.partition("://")
    return f"{waits}; {scheme}://{rest.rpartition('@')[2]}"  # never with the password


def _turner(project: Project, place: str) -> str:
    """Who or what turns the loop: a watcher that looked lately, or nothing."""
    if project.state is not None:
        holder = project.state.turn_holder()
        if holder is not None:
            return f"{holder} (now)"
    seen = project.journal.get("watcher", place)
    if seen and supervision.start_of(seen["pid"]) == seen["process_started"] != "":
        return f"`treadle up --watch`, process {seen['pid']}, last looked {seen['at'][:16]}Z"
    return "nothing turns this loop (treadle up --watch, or treadle service install)"


def _attention(project: Project, place: str, pending: int) -> list[str]:
    from treadle.loop.recovery import dead_run

    found: list[str] = []
    dead = dead_run(project)
    if dead is not None and project.state is not None and project.state.turn_holder() is None:
        found.append(f"run {dead[0].id} died{dead[1]}; what it had finished is kept: treadle up")
    state = project.release_state(place)
    held = state["held"]
    found += [
        f"release {number} is held ({reason}): treadle approve 'release {number}' --reason …"
        for number, reason in held.items()
    ]
    for decision in project.journal.ledger(place, limit=50):
        if decision.kind == "verdict":
            digest = str(decision.evidence["verdict"])
            if decision.outcome == "undecided" and not project.journal.get("approval", digest):
                found.append(
                    f"the verdict on model {decision.subject} is undecided: "
                    f"treadle approve {decision.subject} --reason …"
                )
            break
        if decision.kind in ("promote", "rollback"):
            break
    found += _retraining(project, place)
    for _, conflict in project.journal.list("conflict"):
        found.append(str(conflict.get("words", conflict)))
    last = project.journal.get("recorder", "last")
    if pending and last and last.get("error"):
        found.append(f"MLflow could not be told ({last['error']}); it is retried at each command")
    for name in project.spec.data:
        checked, present = (
            project.journal.get("refused", name),
            project.journal.get("snapshot", name),
        )
        # Data that was refused and then put back as it was is what it was: checked and accepted.
        if checked and present and from_plain(Snapshot, present).digest == checked["snapshot"]:
            found.append(f"data {name} was refused ({checked['words']}): treadle explain {name}")
    return found


def _retraining(project: Project, place: str) -> list[str]:
    """What the last answer of the retraining rule asks for, unless it was done since."""
    answer = project.journal.get("retrain", place)
    last = project.last_training(place)
    if not answer or answer["answer"] == "no" or (last and last["started"] >= answer["at"]):
        return []
    approval = project.journal.get("approval", f"retrain {place}")
    if answer["answer"] == "yes":
        return [f"a retraining is due ({answer['words']}): treadle up"]
    if approval and approval["at"] >= answer["at"]:
        return [f"a retraining is due, approved by {approval['by']}: treadle up"]
    return ["a retraining awaits approval: treadle approve retrain --reason …"]


# ---- predict, score ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the service answered."""

    predictions: tuple[Any, ...]
    ids: tuple[str, ...]
    release: str


def predict(
    project: Project, environment: str, file: Path | None, *, text: str | None, limit: int | None
) -> Answer:
    """Ask the running service about the rows of a file (or of JSON lines in `text`)."""
    import json

    observed = places.observe(project, project.spec.place(environment))
    if observed.address is None or observed.status != "serving":
        raise Unreachable(
            f"no service of `{environment}` answers ({observed.status})",
            hint=f"treadle up --env {environment}",
        )
    if file is not None:
        from treadle.data.load import read_file

        rows = read_file(file, limit=limit)
    else:
        try:
            rows = [json.loads(line) for line in (text or "").splitlines() if line.strip()][:limit]
        except json.JSONDecodeError as error:
            raise UsageError(
                f"standard input is no JSON lines: {error}",
                hint='one object a line: {"distance": 944, …}',
            ) from None
    answered = places.ask(project, project.spec.place(environment), observed.address, rows)
    return Answer(tuple(answered.predictions), tuple(answered.ids), answered.version)


@dataclass(frozen=True)
class Scored:
    """A batch that was scored."""

    rows: int
    release: int
    output: str
    first_id: str


def score(
    project: Project,
    environment: str,
    source: str,
    target: Path,
    *,
    number: int | None = None,
    moment: str | None = None,
    force: bool = False,
) -> Scored:
    """Score a file, a glob or a data set into Parquet, streaming; see `operate/scoring`."""
    from treadle.operate.model import loaded as operate_model
    from treadle.operate.scoring.scorer import score as score_files

    place = project.spec.place(environment)
    release = chosen_release(project, place, number, moment)
    model = from_plain(Model, project.journal.get("model", release.model))
    folder = project.require_state().model_folder(model.content)
    loaded = operate_model.load(
        folder, files=model.files, trust_pickle=project.spec.trust == "pickle"
    )
    files, snapshot = _sources(project, source)
    done = score_files(
        files,
        loaded.predict_frame,
        target,
        environment=place,
        release=release.number,
        model=release.model,
        run=release.run,
        snapshot=snapshot,
        features=model.features,
        force=force,
        report=project.report,
    )
    return Scored(done.rows, release.number, done.output, done.first_id)


def chosen_release(project: Project, place: str, number: int | None, moment: str | None) -> Release:
    """The release named by number, by who was champion at a moment, or the champion."""
    if number is not None and moment is not None:
        raise UsageError("--release and --as-of exclude each other")
    if moment is not None:
        from treadle.loop.ledger import champion_as_of

        number = champion_as_of(project, place, moment)
        if number is None:
            raise UsageError(f"nobody was champion of {place} at {moment}", hint="treadle ledger")
    if number is not None:
        return project.release(place, number)
    champion = project.champion(place)
    if champion is None:
        raise UsageError(f"{place} has no champion to score with", hint="treadle up")
    return champion


def _frames(project: Project, snapshot: Snapshot) -> Iterator[Any]:
    """A snapshot's parts as frames, one at a time."""
    from treadle.data import load

    for part in snapshot.parts:
        yield load.frame(replace(snapshot, parts=(part,)), project.objects, "pandas")


def _sources(project: Project, source: str) -> tuple[list[Path] | Iterator[Any], str]:
    """What to score (files, or a data set's frames) and the digest of what it is."""
    from treadle.base.digest import digest, digest_file

    if source in project.spec.data:
        stored = project.journal.get("snapshot", source)
        if stored is None:
            raise UsageError(f"data {source} was never read", hint="treadle up")
        snapshot = from_plain(Snapshot, stored)
        if snapshot.kind == "paths":
            raise UsageError(
                f"data {source} is paths: what they hold is for functions to read",
                hint="name files of rows instead",
            )
        return _frames(project, snapshot), snapshot.digest
    import glob

    files = sorted(Path(found) for found in glob.glob(source, recursive=True))
    if not files:
        raise UsageError(
            f"no file matches {source}",
            hint="a path, a glob in quotes, or a data set: " + ", ".join(project.spec.data),
        )
    return files, digest({str(path): digest_file(path) for path in files})


# ---- logs, down ----------------------------------------------------------------------------------


def log_lines(project: Project, environment: str, lines: int, *, follow: bool) -> Iterator[str]:
    """The last lines of the server's log, and with `follow` those to come (rotation included)."""
    if cluster_batch.targets(project, environment) is not None:
        if follow:
            raise UsageError(
                "logs of a batch are not followed here",
                hint="kubectl logs --follow --selector app.kubernetes.io/component=batch",
            )
        yield from cluster_batch.log_lines(project, environment, lines)
        return
    yield from places.log_lines(project, project.spec.place(environment), lines, follow=follow)


def down(project: Project, environment: str, *, everything: bool = False) -> str:
    """Stop the environment's service after it finished what is in flight."""
    if cluster_batch.targets(project, environment) is not None:
        return cluster_batch.down(project, environment, everything=everything)
    place = project.spec.place(environment)
    if not places.stop(project, place, everything=everything):
        return f"{place} is not running"
    return f"{place} is down; its releases, records and captured traffic stay"
