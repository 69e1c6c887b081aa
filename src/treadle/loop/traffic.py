"""A share of the requests for another release beside the champion: the mechanism of a canary, moved by
a person.

From 1 to 99 percent both serve; 0 gives all back to the champion; 100 makes the other one champion
and rolls it out. Each change is a ledger entry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from treadle.base import clock, crash
from treadle.base.errors import Refused, TreadleError, UsageError
from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Model, Release, Rollout
from treadle.base.spec import KubernetesTarget
from treadle.clients import tracking
from treadle.clients.journal import Changes
from treadle.loop import places
from treadle.loop.chain import Chain, service_settings
from treadle.loop.project import Project, person
from treadle.release import promote as moves

if TYPE_CHECKING:
    from treadle.deploy.target import Split


@dataclass(frozen=True)
class Shift:
    """How requests are divided, would be, or have been divided."""

    environment: str
    champion: int
    split: Split | None
    """None: the champion gets all."""
    words: str


@dataclass(frozen=True)
class Asked:
    """What a person asks for."""

    release: int | None = None
    """By default the one that has a share already."""
    weight: int = 0
    pods: int | None = None
    """In total, by replicas; by default as many as the environment may have."""
    reason: str = ""


def present(project: Project, environment: str) -> Shift:
    """How requests are divided now."""
    place, champion = _served(project, environment)
    split = places.split(project, place)
    words = f"{place}: release {champion.number} gets every request"
    if split is not None:
        words = f"{place}: {split.words}, release {champion.number} the rest"
    return Shift(place, champion.number, split, words)


def preview(project: Project, environment: str, asked: Asked) -> Shift:
    """What a change would do; changes nothing. Raises what the change would."""
    place, champion = _served(project, environment)
    candidate = _candidate(project, place, champion, asked)
    if asked.weight == 0:
        words = f"{place}: release {champion.number} gets every request, release {candidate.number} none"  # fmt: skip
        return Shift(place, champion.number, None, words)
    if asked.weight == 100:
        words = f"{place}: release {candidate.number} becomes champion instead of release {champion.number} and gets every request"  # fmt: skip
        return Shift(place, candidate.number, None, words)
    return _would(project, place, champion, candidate.number, asked.weight, asked.pods)


def preview_new(
    project: Project, environment: str, number: int, weight: int, pods: int | None
) -> Shift:
    """What it would be to give a release its first share that is only about to be made."""
    place, champion = _served(project, environment)
    _as_rolled_out(project, place, champion)
    return _would(project, place, champion, number, weight, pods)


def give_new(
    project: Project, place: str, candidate: Release, weight: int, pods: int | None, reason: str,
    by: str,
) -> None:  # fmt: skip
    """Give a new release its first share. For the holder of the turn's lock."""
    _, champion = _served(project, place)
    would = _would(project, place, champion, candidate.number, weight, pods)
    assert would.split is not None
    _weigh(project, place, champion, candidate, would.split, reason, by)


def _would(
    project: Project, place: str, champion: Release, number: int, weight: int, pods: int | None
) -> Shift:
    stable = (champion, _model(project, champion))
    split = places.divide(project, place, stable, number, weight, pods)
    words = f"{place}: {split.words}, release {champion.number} the rest"
    if split.how == "replicas" and abs(split.share - split.weight) >= 0.5:
        from treadle.deploy.kubernetes.weights import exact_pods

        words += f"; --pods {exact_pods(split.weight)} would give it exactly"
    if split.how == "route":
        words += "; who asks the Service itself, within the cluster, gets the champion"
    return Shift(place, champion.number, split, words)


def shift(project: Project, environment: str, asked: Asked) -> Shift:
    """Divide the requests so, and write it down."""
    from treadle.loop.recovery import recover, tell
    from treadle.loop.service import roll_out

    by = person(project.environ)
    command = f"treadle traffic --env {environment}"
    with project.require_state().turn_lock(command, True, project.report):
        recover(project)
        project.journal.verify()
        would = preview(project, environment, asked)
        place, champion = _served(project, environment)
        candidate = _candidate(project, place, champion, asked)
        if would.split is not None:
            _weigh(project, place, champion, candidate, would.split, asked.reason, by)
        else:
            if asked.weight == 100:
                champion = _promote(project, place, champion, candidate, asked.reason, by)
            chain = Chain(project, place, champion=champion)
            chain.model = _model(project, champion)
            roll_out(chain, by=by)
    tell(project)
    return would


def _weigh(
    project: Project, place: str, champion: Release, candidate: Release, split: Split,
    reason: str, by: str,
) -> None:  # fmt: skip
    rollout = Rollout(
        id=clock.ulid(), environment=place, release=candidate.number,
        started=clock.text(clock.now()), status="running",
    )  # fmt: skip
    key = f"{place}/{rollout.id}"
    project.commit(Changes().put("rollout", key, rollout).put("rolling", place, key))
    crash.point("deploy.begin")
    evidence: dict[str, object] = {
        "release": candidate.number, "champion": champion.number, "weight": split.weight,
        "share": split.share, "how": split.how, "pods": [split.stable, split.candidate],
        "rollout": rollout.id, "reason": reason,
    }  # fmt: skip
    why = f": {reason}" if reason else ""
    try:
        instance, image = places.weigh(
            project, place, (champion, _model(project, champion)),
            (candidate, _model(project, candidate)), split,
        )  # fmt: skip
    except TreadleError as error:
        ended = replace(
            rollout, status="failed", error=error.message, ended=clock.text(clock.now())
        )
        entry = project.decision(
            "traffic", place, f"release {candidate.number}", "failed", "a person's answer",
            error.message, evidence, by,
        )  # fmt: skip
        project.commit(Changes().put("rollout", key, ended).delete("rolling", place).decide(entry))
        places.collect_leaving(project, place)
        raise
    crash.point("deploy.answered")
    done = replace(
        rollout, status="done", ended=clock.text(clock.now()), instance=instance, image=image,
    )  # fmt: skip
    entry = project.decision(
        "traffic", place, f"release {candidate.number}", f"{split.share:.3g} %",
        "a person's answer", f"{split.words}, release {champion.number} the rest{why}", evidence, by,
    )  # fmt: skip
    changes = Changes().put("rollout", key, done).put("split", place, to_plain(split))
    changes.tell(
        tracking.alias_message(
            project.spec, place, champion.number, champion.model,
            (candidate.number, candidate.model),
        )
    )  # fmt: skip
    project.commit(changes.delete("rolling", place).decide(entry))
    project.report(split.words)
    places.collect_leaving(project, place)


def _promote(
    project: Project, place: str, champion: Release, candidate: Release, reason: str, by: str
) -> Release:
    """The candidate is champion; one commit for ledger, state and MLflow's alias."""
    move = moves.move(
        project.release_state(place), "promote", release=candidate.number, environment=place, by=by,
        reason=reason or f"its share was raised to 100 % by {by}", rule="a person's answer",
        evidence={
            "release": candidate.number, "model": candidate.model, "verdict": candidate.verdict,
            "run": candidate.run, "instead": champion.number,
        },
    )  # fmt: skip
    changes = Changes().put("release_state", place, move.state)
    for decision in move.decisions:
        changes.decide(decision)
    changes.tell(tracking.alias_message(project.spec, place, candidate.number, candidate.model))
    project.commit(changes)
    return candidate


def _served(project: Project, environment: str) -> tuple[str, Release]:
    """The place and its champion; UsageError where nothing can be divided."""
    place = project.spec.place(environment)
    if not isinstance(project.serving_target(place), KubernetesTarget):
        raise UsageError(
            f"{place} is no Kubernetes environment: one version serves there",
            hint="deploy: {NAME: {target: kubernetes, …}}",
        )
    champion = project.champion(place)
    if champion is None:
        raise UsageError(f"{place} has no champion", hint=f"treadle up --env {place}")
    return place, champion


def _candidate(project: Project, place: str, champion: Release, asked: Asked) -> Release:
    """The release that is meant, if it may have a share."""
    split = places.split(project, place)
    number = asked.release if asked.release is not None else split.release if split else None
    if number is None:
        raise UsageError(
            f"which release is to get {asked.weight} % of {place}?",
            hint="--release N; `treadle ledger` lists them",
        )
    if asked.weight == 0 and (split is None or split.release != number):
        raise UsageError(
            f"release {number} has no share of {place}'s requests", hint="treadle status"
        )
    if asked.pods is not None and not 0 < asked.weight < 100:
        raise UsageError("pods are counted where two versions serve", hint="without --pods")
    candidate = project.release(place, number)
    if number == champion.number:
        raise UsageError(
            f"release {number} is the champion: it gets what the other one does not",
            hint="--release names the other one",
        )
    state = project.release_state(place)
    if str(number) in state["held"] and asked.weight:
        raise Refused(
            f"release {number} is held: {state['held'][str(number)]}",
            hint=f"treadle approve {number} --env {place} --reason … lets it go again",
        )
    if asked.weight == 100 and number in state["previous"]:
        raise UsageError(
            f"release {number} was champion before: to make it champion again is a roll-back",
            hint=f"treadle rollback --env {place} --to {number}",
        )
    if asked.weight:
        _as_rolled_out(project, place, champion)
    return candidate


def _as_rolled_out(project: Project, place: str, champion: Release) -> None:
    """UsageError where treadle.yaml asks for more than a change of shares."""
    present = service_settings(Chain(project, place, champion=champion))
    if project.journal.get("served", place) != present:
        raise UsageError(
            f"what treadle.yaml says of {place} is not what was rolled out",
            hint=f"treadle up --env {place} first",
        )


def _model(project: Project, release: Release) -> Model:
    return from_plain(Model, project.journal.get("model", release.model))
