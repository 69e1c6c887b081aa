"""A release of one environment becomes the champion of another: the same model, the same image.

Nothing is trained, judged or built: what ran in staging is what runs in production, by digest. That
is why nothing that differs between environments is ever inside an image.
"""

from __future__ import annotations

from dataclasses import dataclass

from treadle.base.digest import short
from treadle.base.errors import Refused, UsageError
from treadle.base.plain import from_plain
from treadle.base.records import Model, Release, Verdict
from treadle.clients import tracking
from treadle.clients.journal import Changes
from treadle.loop.chain import Chain
from treadle.loop.project import Project, person, release_key
from treadle.release import promote as moves
from treadle.release import release as releases


@dataclass(frozen=True)
class Promoted:
    """A promotion from one environment to another, or what it would be."""

    source: str
    source_release: int
    environment: str
    release: int
    before: int | None
    """The champion until then."""
    model: str
    address: str
    words: str
    weight: int = 100
    """Its share of the requests; below 100 it is not champion yet."""


@dataclass(frozen=True)
class Share:
    """With what a promotion begins, where it does not begin with everything."""

    weight: int
    pods: int | None = None


def preview(
    project: Project, source: str, environment: str, number: int | None, share: Share | None = None
) -> Promoted:
    """What a promotion would do; changes nothing. Raises what the promotion would."""
    source, place, release = _chosen(project, source, environment, number)
    before = project.release_state(place)["champion"]
    if share is not None:
        from treadle.loop import traffic

        known = _waiting(project, place, release.content)
        following = known.number if known else releases.next_number(project.releases(place))
        would = traffic.preview_new(project, place, following, share.weight, share.pods)
        return Promoted(
            source, release.number, place, following, before, release.model, "",
            f"{source} release {release.number} (model {short(release.model)}) → {would.words}",
            share.weight,
        )  # fmt: skip
    following = releases.next_number(project.releases(place))
    return Promoted(
        source, release.number, place, following, before, release.model, "",
        f"{source} release {release.number} (model {short(release.model)}) → {place} release "
        f"{following}" + (f" instead of release {before}" if before else ""),
    )  # fmt: skip


def promote(
    project: Project, source: str, environment: str, number: int | None, reason: str,
    share: Share | None = None,
) -> Promoted:  # fmt: skip
    """Release the model of `source` in `environment`, make it champion there, and roll it out; with
    a share it gets that part of the requests and the champion stays.

    `number` is a release of `source`; by default its champion. Refused: it is held there, or the
    same model is held here. One commit for ledger, release and MLflow's alias; then the roll-out.
    """
    from treadle.loop.recovery import recover, tell
    from treadle.loop.service import roll_out

    by = person(project.environ)
    with project.require_state().turn_lock(
        f"treadle promote --env {environment}", True, project.report
    ):
        recover(project)
        project.journal.verify()
        source, place, old = _chosen(project, source, environment, number)
        state = project.release_state(place)
        model = from_plain(Model, project.journal.get("model", old.model))
        verdict = from_plain(Verdict, project.journal.get("verdict", old.verdict))
        if share is not None:
            done = _share(project, source, place, old, model, verdict, reason, share, by)
            tell(project)
            return done
        release = releases.propose(
            state["held"], project.releases(place), model, environment=place, run=old.run,
            verdict=old.verdict, by=by, compiled=old.compiled,
            reason=reason or f"promoted from {source} by {by}",
        )  # fmt: skip
        move = moves.move(
            state, "promote", release=release.number, environment=place, by=by,
            reason=release.reason, rule="a person's answer",
            evidence={
                "release": release.number, "model": model.digest, "verdict": old.verdict,
                "run": old.run, "from": {"environment": source, "release": old.number},
            },
        )  # fmt: skip
        changes = Changes().put("release", release_key(place, release.number), release)
        changes.put("release_state", place, move.state)
        for decision in move.decisions:
            changes.decide(decision)
        changes.tell(tracking.release_message(release, model, verdict))
        changes.tell(tracking.alias_message(project.spec, place, release.number, release.model))
        project.commit(changes)
        chain = Chain(project, place, champion=release)
        chain.model = model
        observed = roll_out(chain, by=by)
    tell(project)
    return Promoted(
        source, old.number, place, release.number, state["champion"], model.digest,
        observed.address or "",
        f"{place} release {release.number} is {source} release {old.number} and answers at "
        f"{observed.address}",
    )  # fmt: skip


def _share(
    project: Project, source: str, place: str, old: Release, model: Model, verdict: Verdict,
    reason: str, share: Share, by: str,
) -> Promoted:  # fmt: skip
    """Number the model here, if it has no number yet, and give it its share."""
    from treadle.loop import traffic

    would = preview(project, source, place, old.number, share)
    release = _waiting(project, place, model.content)
    if release is None:
        why = reason or f"a share of {place} for {source} release {old.number}, by {by}"
        release = releases.propose(
            project.release_state(place)["held"], project.releases(place), model,
            environment=place, run=old.run, verdict=old.verdict, by=by, compiled=old.compiled,
            reason=why,
        )  # fmt: skip
        entry = project.decision(
            "release", place, f"release {release.number}", "candidate", "a person's answer",
            f"release {release.number} is {source} release {old.number}, beside the champion: {why}",
            {
                "release": release.number, "model": model.digest, "verdict": old.verdict,
                "run": old.run, "from": {"environment": source, "release": old.number},
            },
            by,
        )  # fmt: skip
        changes = Changes().put("release", release_key(place, release.number), release)
        changes.tell(tracking.release_message(release, model, verdict))
        project.commit(changes.decide(entry))
    traffic.give_new(project, place, release, share.weight, share.pods, reason, by)
    return would


def _waiting(project: Project, place: str, content: str) -> Release | None:
    """The newest release of this model that never was champion and is not held."""
    state = project.release_state(place)
    known = {state["champion"], *state["previous"], *map(int, state["held"])}
    found = [
        one for one in project.releases(place)
        if one.content == content and one.number not in known
    ]  # fmt: skip
    return found[-1] if found else None


def _chosen(
    project: Project, source: str, environment: str, number: int | None
) -> tuple[str, str, Release]:
    """The places and the release that is meant; what cannot be is an error."""
    source, place = project.spec.place(source), project.spec.place(environment)
    if source == place:
        raise UsageError(
            f"{place} cannot be promoted from itself",
            hint="`treadle rollback --to N` goes to another of its releases",
        )
    if number is None:
        champion = project.champion(source)
        if champion is None:
            raise UsageError(
                f"{source} has no champion to promote", hint=f"treadle up --env {source}"
            )
        release = champion
    else:
        release = project.release(source, number)
    held = project.release_state(source)["held"]
    if str(release.number) in held:
        raise Refused(
            f"release {release.number} is held in {source}: {held[str(release.number)]}",
            hint=f"treadle approve {release.number} --env {source} --reason … lets it go again",
        )
    present = project.champion(place)
    if present is not None and present.content == release.content:
        raise UsageError(
            f"release {present.number} of {place} is this very model already",
            hint=f"treadle up --env {place} makes sure that it runs",
        )
    return source, place, release
