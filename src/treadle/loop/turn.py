"""One turn: walk the chain, do the difference, in the order of the loop.

`up` goes all the way; `train` stops after the verdict. Each phase's records are committed when the
phase is done, so that a turn that dies is taken up where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from treadle.base.digest import short
from treadle.base.errors import DataRefused, StateCorrupt, TreadleError, UsageError
from treadle.base.records import Verdict
from treadle.loop import chain as links
from treadle.loop.chain import Chain
from treadle.loop.outcome import EXIT, TurnResult
from treadle.loop.project import Project, person
from treadle.loop.recovery import recover, tell
from treadle.loop.walk import look_at_model, not_trained, walk


def up(
    project: Project,
    environment: str,
    overrides: Sequence[str] = (),
    *,
    wait: bool = True,
    reason: str = "",
    by: str | None = None,
) -> TurnResult:
    """One whole turn of `environment`; another turn of this state is waited for (or StateBusy)."""
    state = project.require_state()
    with state.turn_lock(f"treadle up --env {environment}", wait, project.report):
        recover(project)
        chain = walk(project, environment, overrides=overrides, store=True)
        by = by or person(project.environ)
        reason = reason or f"`treadle up` by {by}"
        if project.batch_target(environment) is not None:
            from treadle.loop.batch import turn_batch

            return turn_batch(chain, by)
        result = TurnResult(environment, turned=chain.plan().changes)
        learn(chain, result, by=by, reason=reason)
        release(chain, result, by=by)
        deploy(chain, result, by=by)
        finish(chain, result)
    tell(project)
    return result


def train(project: Project, environment: str, overrides: Sequence[str] = ()) -> list[TurnResult]:
    """Data to verdict for each combination of `overrides`; releases nothing."""
    if project.batch_target(environment) is not None:
        raise not_trained(project, environment)
    state = project.require_state()
    results = []
    with state.turn_lock(f"treadle train --env {environment}", True, project.report):
        recover(project)
        by = person(project.environ)
        for one in combinations(project, overrides):
            chain = walk(project, environment, overrides=one, store=True)
            result = TurnResult(environment, turned=True)
            reason = "`treadle train`" + (f" --set {' '.join(one)}" if one else "")
            learn(chain, result, by=by, reason=reason)
            result.exit_code = EXIT[result.verdict.outcome] if result.verdict else 1
            results.append(result)
    tell(project)
    return results


def combinations(project: Project, overrides: Sequence[str]) -> list[list[str]]:
    """`--set a=1,2 --set b=3` as one list of assignments for each combination."""
    if not overrides:
        return [[]]
    from treadle.code import fingerprint, pipeline

    spec = project.spec
    sources = fingerprint.project(project.folder, spec.pipeline)
    graph = pipeline.build(sources, list(spec.data), [spec.model.result, spec.test.holdout])
    import json

    return [
        [
            f"{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in one.items()
        ]
        for one in pipeline.parse_overrides(list(overrides), graph)
    ]


# ---- data → verdict ------------------------------------------------------------------------------


def learn(chain: Chain, result: TurnResult, *, by: str, reason: str) -> None:
    """Data, code, build and test: the chain's model and verdict, with a run when anything ran."""
    from treadle.loop import datasets
    from treadle.loop import learn as phases

    datasets.refuse_known(chain)
    wanted = phases.unrecorded(chain) or any(
        a.action == "run" for a in chain.actions if a.phase in ("code", "build", "test")
    )
    result.parameters = phases.all_parameters(chain)
    if not wanted:
        datasets.check(chain)
        result.model, result.verdict = chain.model, chain.verdict
        return
    run = phases.begin_run(chain, by=by, reason=reason)
    result.run, result.turned = run.id, True
    try:
        checking = datasets.begin_check(chain)
        for attempt in range(3):
            try:
                phases.execute(chain, run, checked=lambda: datasets.end_check(chain, checking))
                look_at_model(chain)
                model = phases.build(chain)
                if chain.verdict is None:
                    look_at_model(chain)  # a lost model, made again, may have been judged
                verdict = phases.judge(chain, model)
                break
            except StateCorrupt:
                if attempt == 2 or not phases.discard_damaged(chain):
                    raise
    except BaseException as error:
        phases.end_run(chain, run, error=error)
        raise
    result.model, result.verdict = model, verdict
    phases.end_run(
        chain,
        replace(run, model=model.digest, verdict=verdict.digest, metrics=dict(verdict.metrics)),
    )


# ---- verdict → service ---------------------------------------------------------------------------


def release(chain: Chain, result: TurnResult, *, by: str) -> None:
    """Number and promote the model, or say in the result why not."""
    from treadle.loop import decide

    promoted = decide.promote(chain, result.run, by=by)
    if promoted is not None:
        chain.champion, result.promoted, result.turned = promoted, True, True
        chain.project.report(
            f"release {promoted.number} is the champion of {chain.place}", phase="release"
        )
    result.release = chain.champion
    if chain.verdict is None or (
        chain.champion and result.model and chain.champion.model == result.model.digest
    ):
        return
    held = links.held_release(chain)
    if held is not None:
        result.notes.append(
            f"this model is release {held}, which is held: it is not deployed again until its "
            f"inputs change or a person names it (treadle rollback --to {held})"
        )
        return
    result.exit_code = EXIT[chain.verdict.outcome]
    stays = f"release {chain.champion.number} stays" if chain.champion else "nothing is released"
    if chain.verdict.outcome == "refuse":
        failed = [g.text for g in chain.verdict.gates if g.outcome == "refuse"]
        result.notes.append(f"refused, {stays}: {failed[0] if failed else ''}")
        result.next = "treadle explain model"
    else:
        result.notes.append(f"undecided, {stays}: a person may decide")
        result.next = (
            f"treadle approve {short(chain.verdict.model)} --reason '…', or wait for more data"
        )


def deploy(chain: Chain, result: TurnResult, *, by: str) -> None:
    """Make the service run the champion, if there is one."""
    from treadle.loop import places

    if chain.champion is None:
        return
    project = chain.project
    chain.observed = places.observe(project, chain.place)
    if links.service_wanted(chain):
        from treadle.loop.service import roll_out

        project.report(f"{links.service_reason(chain)}: rolling out", phase="deploy")
        chain.observed = roll_out(chain, by=by)
        result.turned = True
    result.address = chain.observed.address


def finish(chain: Chain, result: TurnResult) -> None:
    """What there is now, where it is, and the next command."""
    from treadle.loop import learn as phases

    project = chain.project
    if result.model:
        result.made["model"] = f"{short(result.model.digest)} ({result.model.flavor})"
        told = phases.parity(chain, result.model)
        if told is not None:
            result.made["compiled"] = phases.compiled_words(told)
    if chain.champion:
        result.made["champion"] = f"release {chain.champion.number} of {chain.place}"
    if result.address:
        result.made["service"] = f"{result.address} (POST {result.address}/invocations)"
    if result.run:
        result.made["run"] = f"{result.run} (treadle lineage {result.run})"
    if project.state is not None:
        result.made["state"] = str(project.state.folder)
    if not result.turned:
        result.notes.insert(0, "nothing to do: every digest is as it was")
    if not result.next:
        result.next = "treadle status"
        sample = _sample_file(chain)
        if result.promoted and sample:
            result.next = f"treadle predict {sample} --limit 3"


def _sample_file(chain: Chain) -> str | None:
    name = chain.project.spec.training_data()
    if name is None or name not in chain.snapshots:
        return None
    snapshot = chain.snapshots[name]
    return snapshot.parts[-1].path if snapshot.kind == "files" and snapshot.parts else None


# ---- before and after ----------------------------------------------------------------------------


def judge_again(project: Project, environment: str, identifier: str | None) -> Verdict:
    """`treadle test`: the gates alone, on the present holdout, against the present champion."""
    from treadle.loop import learn as phases
    from treadle.loop.trace import _named_release, find_model

    if project.batch_target(environment) is not None:
        raise not_trained(project, environment)
    chain = walk(project, environment)
    if chain.stale_steps:
        raise UsageError(
            f"the holdout is not there yet: {', '.join(s.name + '()' for s in chain.stale_steps)} "
            "must run first",
            hint="treadle train",
        )
    if identifier is not None:
        release_ = _named_release(project, identifier)
        wanted = release_.model if release_ else identifier
        model = find_model(project, wanted)
        if model is None:
            raise UsageError(
                f"there is no model `{identifier}`",
                hint="a digest, or `release N`; `treadle ledger` names them",
            )
    elif chain.model is not None:
        model = chain.model
    else:
        raise UsageError("there is no model to judge yet", hint="treadle train")
    return phases.verdict_on(chain, model)


__all__ = ["DataRefused", "TreadleError", "TurnResult", "judge_again", "train", "up"]
