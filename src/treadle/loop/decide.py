"""Decisions that move a champion: promotion after a verdict, a person's approval, a rollback."""

from __future__ import annotations

import re
from dataclasses import dataclass

from treadle.base.digest import short
from treadle.base.errors import UsageError
from treadle.base.plain import from_plain
from treadle.base.records import Decision, Model, Release, Verdict
from treadle.clients import tracking
from treadle.clients.journal import Changes
from treadle.loop import baseline
from treadle.loop import chain as links
from treadle.loop.chain import Chain
from treadle.loop.learn import parity
from treadle.loop.project import Project, person, release_key
from treadle.release import promote as moves
from treadle.release import release as releases


def promote(chain: Chain, run: str | None, *, by: str) -> Release | None:
    """Release and promote the chain's model if its verdict (or a person) allows; else None.

    One commit: the release, the environment's state, the ledger entries and the news for MLflow.
    """
    project, model, verdict = chain.project, chain.model, chain.verdict
    if model is None or verdict is None:
        return None
    champion = chain.champion
    if champion is not None and champion.model == model.digest:
        return None
    if links.held_release(chain) is not None:
        return None
    approval = project.journal.get("approval", verdict.digest)
    if verdict.outcome != "pass" and approval is None:
        return None
    project.journal.verify()  # nothing is decided on a ledger that was changed
    baseline.remember(chain, model)
    state = project.release_state(chain.place)
    release = releases.propose(
        state["held"],
        project.releases(chain.place),
        model,
        environment=chain.place,
        run=run or _run_of(project, model.digest),
        verdict=verdict.digest,
        by=by,
        reason="its verdict is pass"
        if approval is None
        else f"approved by {approval['by']}: {approval['reason']}",
        compiled=parity(chain, model),
    )
    move = moves.move(
        state,
        "promote",
        release=release.number,
        environment=chain.place,
        by=approval["by"] if approval else "treadle",
        reason=release.reason,
        rule="model acceptable" if approval is None else "a person's answer",
        evidence={
            "release": release.number,
            "model": model.digest,
            "verdict": verdict.digest,
            "run": release.run,
            "metrics": verdict.metrics,
            "champion_metrics": verdict.champion_metrics,
        },
    )
    changes = Changes().put("release", release_key(chain.place, release.number), release)
    _apply(changes, chain.place, move)
    changes.tell(tracking.release_message(release, model, verdict))
    changes.tell(tracking.alias_message(project.spec, chain.place, release.number, release.model))
    project.commit(changes)
    return release


def _run_of(project: Project, model: str) -> str:
    """The run that made a model (the newest, when equal models were made twice)."""
    for key, value in project.journal.list("run", newest_first=True):
        if value["model"] == model:
            return key
    return ""


def _apply(changes: Changes, place: str, move: moves.Move) -> None:
    changes.put("release_state", place, move.state)
    for decision in move.decisions:
        changes.decide(decision)


# ---- a person ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A person's decision as it stands in the ledger, and the command that acts on it."""

    decision: Decision
    next: str


def approve(project: Project, environment: str, identifier: str, reason: str) -> Done:
    """Record a person's answer; the next `treadle up` acts on it.

    identifier: a decision id, a model digest (its first hex digits), `release N` for a held
    release, or `retrain`.
    """
    if not reason.strip():
        raise UsageError("an approval needs a reason", hint="--reason 'why'")
    place = project.spec.place(environment)
    state = project.require_state()
    with state.turn_lock(f"treadle approve {identifier}", True, project.report):
        project.journal.verify()
        if identifier == "retrain":
            return _approve_retraining(project, place, reason)
        match = re.fullmatch(r"(?:release )?(\d{1,6})", identifier)
        if match:
            return _approve_held(project, place, int(match[1]), reason)
        return _approve_verdict(project, place, identifier, reason)


def _approve_verdict(project: Project, place: str, identifier: str, reason: str) -> Done:
    wanted = identifier.removeprefix("sha256:")
    for decision in project.journal.ledger(place):
        if decision.kind == "retrain" and decision.id == identifier:
            return _approve_retraining(project, place, reason)
        if decision.kind != "verdict":
            continue
        model = str(decision.evidence["model"])
        if decision.id != identifier and not (
            len(wanted) >= 4 and model.removeprefix("sha256:").startswith(wanted)
        ):
            continue
        digest = str(decision.evidence["verdict"])
        verdict = from_plain(Verdict, project.journal.get("verdict", digest))
        if verdict.outcome == "pass":
            raise UsageError("that verdict is pass: it needs nobody's approval", hint="treadle up")
        if verdict.outcome == "refuse":
            raise UsageError(
                f"that verdict is a refusal, which is not a person's to overrule here: "
                f"{decision.words}",
                hint="change the model, the data or the gates in treadle.yaml",
            )
        by = person(project.environ)
        entry = project.decision(
            "approve",
            place,
            short(model),
            "approved",
            "a person's answer",
            f"{by} approves model {short(model)}, whose verdict is undecided: {reason}",
            {"verdict": digest, "model": model, "reason": reason},
            by,
        )
        project.commit(
            Changes()
            .put("approval", digest, {"by": by, "reason": reason, "at": entry.at})
            .decide(entry)
        )
        return Done(entry, f"treadle up --env {place}")
    raise UsageError(
        f"nothing that awaits approval has the id `{identifier}`",
        hint="`treadle status` names what needs attention",
    )


def _approve_held(project: Project, place: str, number: int, reason: str) -> Done:
    release = project.release(place, number)
    by = person(project.environ)
    move = moves.move(
        project.release_state(place),
        "approve",
        release=release.number,
        environment=place,
        by=by,
        reason=reason,
        rule="a person's answer",
        evidence={"release": number, "model": release.model, "reason": reason},
    )
    changes = Changes()
    _apply(changes, place, move)
    project.commit(changes)
    return Done(move.decisions[-1], f"treadle up --env {place}")


def _approve_retraining(project: Project, place: str, reason: str) -> Done:
    by = person(project.environ)
    entry = project.decision(
        "approve",
        place,
        "retraining",
        "approved",
        "a person's answer",
        f"{by} approves a retraining: {reason}",
        {"reason": reason},
        by,
    )
    project.commit(
        Changes()
        .put(
            "approval",
            f"retrain {place}",
            {"by": by, "reason": reason, "at": entry.at, "id": entry.id},
        )
        .decide(entry)
    )
    return Done(entry, f"treadle up --env {place}")


# ---- rollback ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preview:
    """What a rollback would do."""

    environment: str
    present: int
    release: int
    text: str


@dataclass(frozen=True)
class RolledBack:
    """A rollback that was done."""

    release: int
    held: int
    address: str
    words: str


def preview_rollback(project: Project, environment: str, number: int | None) -> Preview:
    """The release that a rollback would go to, with both models' numbers; changes nothing."""
    place = project.spec.place(environment)
    state = project.release_state(place)
    target = moves.rollback_target(state, number)
    present = project.champion(place)
    assert present is not None
    wanted = project.release(place, target)
    lines = [f"{place}: release {present.number} → release {wanted.number}"]
    for release in (present, wanted):
        found = project.journal.get("verdict", release.verdict)
        metrics = ", ".join(f"{n} {v:.3f}" for n, v in found["metrics"].items()) if found else ""
        lines.append(
            f"  release {release.number}: model {short(release.model)}, created "
            f"{release.created[:16]}Z, {metrics} on its own holdout"
        )
    lines.append(f"  release {present.number} is held afterwards; nothing is retrained")
    return Preview(place, present.number, target, "\n".join(lines))


def rollback(project: Project, environment: str, number: int | None, reason: str) -> RolledBack:
    """Go back to a release: ledger, MLflow's alias and the running service; no retraining."""
    from treadle.loop import places
    from treadle.loop.service import roll_out

    place = project.spec.place(environment)
    by = person(project.environ)
    with project.require_state().turn_lock("treadle rollback", True, project.report):
        project.journal.verify()
        state = project.release_state(place)
        target = moves.rollback_target(state, number)
        present = project.champion(place)
        assert present is not None
        wanted = project.release(place, target)
        move = moves.move(
            state,
            "rollback",
            release=target,
            environment=place,
            by=by,
            reason=reason or f"rolled back by {by}",
            rule="a person's answer",
            evidence={"from": present.number, "release": target, "model": wanted.model},
        )
        changes = Changes()
        _apply(changes, place, move)
        changes.tell(tracking.alias_message(project.spec, place, target, wanted.model))
        project.commit(changes)
        chain = Chain(
            project,
            place,
            champion=wanted,
            observed=places.observe(project, place),
        )
        chain.model = from_plain(Model, project.journal.get("model", wanted.model))
        observed = roll_out(chain, by=by)
    from treadle.loop.recovery import tell

    tell(project)
    return RolledBack(
        target,
        present.number,
        observed.address or "",
        f"release {target} answers at {observed.address}; release {present.number} is held",
    )
