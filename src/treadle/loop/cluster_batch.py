"""A batch environment on a cluster: what would change, and having it so.

With `at:` a CronJob is kept there, and the cluster scores on time, whether anybody turns the loop or
not; without, `up` runs one Job and waits for it. Either way the ledger says with which release.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from treadle.base import clock, crash
from treadle.base.digest import digest
from treadle.base.errors import TreadleError, UsageError
from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Model, Release, Rollout
from treadle.base.spec import BatchTarget, KubernetesTarget
from treadle.clients.journal import Changes
from treadle.loop import built
from treadle.loop.chain import Chain
from treadle.loop.project import Project

if TYPE_CHECKING:
    from treadle.deploy.kubernetes.jobs import Ran
    from treadle.deploy.kubernetes.scoring import Scoring
    from treadle.loop.outcome import TurnResult

_MOST_FIELDS = 8


def targets(project: Project, environment: str) -> tuple[BatchTarget, KubernetesTarget] | None:
    """The batch target and its cluster's; None: the environment scores on this machine, or serves."""
    target = project.batch_target(environment)
    if target is None or not target.on_cluster:
        return None
    cluster = project.serving_target(environment)
    assert isinstance(cluster, KubernetesTarget)  # the check of treadle.yaml holds it
    return target, cluster


def wanted(
    project: Project, environment: str, release: Release, *, build: bool, job: str = ""
) -> Scoring:
    """What the cluster should have; without `build` with the image that was built before (UsageError
    if none was)."""
    from treadle.deploy.kubernetes.batch import job_name
    from treadle.deploy.kubernetes.scoring import Scoring
    from treadle.deploy.kubernetes.wanted import Wanted
    from treadle.plan import schedule

    found = targets(project, environment)
    assert found is not None
    target, cluster = found
    model = from_plain(Model, project.journal.get("model", release.model))
    if build:
        from treadle.loop import image

        ready = image.for_cluster(project, environment, release, cluster, "batch")
    else:
        ready = built.known(project, environment, release, cluster, "batch")
    own = Wanted(
        project=project.spec.project, environment=environment,
        namespace=cluster.namespace or project.spec.project.replace("_", "-"),
        image=ready.reference, image_digest=ready.digest, release=release.number,
        content=model.content, run=release.run, least=1, cpu=target.cpu, memory=target.memory,
        gpus=cluster.gpus, resources=cluster.resources, node_selector=cluster.node_selector,
        tolerations=cluster.tolerations, pull_secrets=cluster.pull_secrets, labels=cluster.labels,
        trust_pickle=project.spec.trust == "pickle",
    )  # fmt: skip
    when = schedule.parse(target.at) if target.at is not None else None
    store = target.s3
    return Scoring(
        own, project.spec.place(environment), target.input, target.output,
        cron=when.cron if when else "", zone=when.zone if when else "UTC",
        job="" if when else job or (job_name(own.name) if build else own.name), record=model.digest,
        features=model.features, deadline_s=max(1, round(clock.duration_s(target.deadline))),
        size=target.size, endpoint=store.endpoint if store else None,
        region=store.region if store else None, secret=store.secret if store else None,
    )  # fmt: skip


def outline(project: Project, environment: str) -> Scoring | None:
    """What is known of it without a release and an image: what it needs of the cluster."""
    from treadle.deploy.kubernetes.scoring import Scoring
    from treadle.deploy.kubernetes.wanted import Wanted
    from treadle.plan import schedule

    found = targets(project, environment)
    if found is None:
        return None
    target, cluster = found
    namespace = cluster.namespace or project.spec.project.replace("_", "-")
    own = Wanted(
        project.spec.project, environment, namespace, "none", "", 0, "",
        pull_secrets=cluster.pull_secrets,
    )  # fmt: skip
    return Scoring(
        own, target.of, target.input, target.output, size=target.size,
        cron="" if target.at is None else schedule.parse(target.at).cron,
        secret=target.s3.secret if target.s3 else None,
    )  # fmt: skip


# ---- plan ----------------------------------------------------------------------------------------


def plan(chain: Chain) -> None:
    """What `up` would do of this environment; the live objects are asked, nothing is written."""
    project, environment, champion = chain.project, chain.environment, chain.champion
    found = targets(project, environment)
    assert found is not None
    target, cluster = found
    if champion is None:
        chain.add("deploy", environment, "keep", f"{target.of} has no champion to score with")
        return
    words = f"score {target.input} with release {champion.number} into {target.output}"
    if target.at is None:
        job = _begun(project, environment, champion)
        words = f"take up Job {job}: {words}" if job else f"run a Job: {words}"
        chain.add("deploy", environment, "run", words)
        return
    from treadle.deploy.kubernetes import batch

    try:
        differs = batch.difference(
            cluster.context, wanted(project, environment, champion, build=False)
        )
    except UsageError:
        if project.journal.get("image_of", f"{environment}/{champion.number:06d}") is not None:
            raise
        last = project.journal.get("batch", environment)
        before = f"release {last['release']} → " if last and last.get("release") else ""
        # No image of this release was built yet: what would differ is plain.
        verb = "update" if before else "create"
        words = f"{verb} the CronJob ({before}release {champion.number}): {words} at {target.at}"
        chain.add("deploy", environment, "run", words)
        return
    except TreadleError as error:
        chain.add("deploy", environment, "run", error.message)
        return
    lines = [
        f"{one.object}: {'; '.join(one.fields[:_MOST_FIELDS]) or one.action}" for one in differs
    ]
    if lines:
        chain.add("deploy", environment, "run", f"have the CronJob as it should be: {lines[0]}", lines)  # fmt: skip
    elif not _recorded(project, environment, champion):
        chain.add("deploy", environment, "run", "the CronJob is not written down yet")
    else:
        words = f"the CronJob scores with release {champion.number} at {target.at}"
        chain.add("deploy", environment, "keep", words)


def _recorded(project: Project, environment: str, champion: Release) -> bool:
    last = project.journal.get("batch", environment)
    return bool(last and last.get("cron") and last["release"] == champion.number)


def _begun(project: Project, environment: str, champion: Release) -> str:
    """A Job of this release and these settings whose end is not written down."""
    from treadle.deploy.kubernetes import batch

    job = batch.unfinished(project.environment_folder(environment), champion.number)
    last = project.journal.get("batch", environment) or {}
    begun = project.journal.get("batch_begun", environment) or {}
    same = begun.get("job") == job and begun.get("settings") == _settings(project, environment)
    return job if job and same and last.get("job") != job else ""


def _settings(project: Project, environment: str) -> str:
    """What of treadle.yaml a Job depends on."""
    found = targets(project, environment)
    assert found is not None
    target, cluster = found
    return digest({"batch": to_plain(target), "of": [cluster.context, cluster.namespace]})


# ---- up ------------------------------------------------------------------------------------------


def turn(chain: Chain, by: str) -> TurnResult:
    """Have the CronJob as it should be, or run a Job to its end; one decision in the shared ledger."""
    from treadle.loop.outcome import TurnResult

    project, environment, champion = chain.project, chain.environment, chain.champion
    found = targets(project, environment)
    assert found is not None
    target, _ = found
    result = TurnResult(environment, turned=chain.plan().changes)
    if champion is None:
        raise UsageError(
            f"{target.of} has no champion to score with", hint=f"treadle up --env {target.of}"
        )
    result.release = champion
    result.next = f"treadle status --env {environment}"
    if not result.turned:
        result.notes.append(f"nothing to do: {chain.actions[0].reason}")
        return result
    job = "" if target.at is not None else _begun(project, environment, champion)
    scoring = _looked_at(project, environment, champion, job)
    if target.at is not None:
        _schedule(chain, result, scoring, by)
    else:
        _run(chain, result, scoring, by)
    return result


def _looked_at(project: Project, environment: str, champion: Release, job: str) -> Scoring:
    """What the cluster should have, after nothing was found in its way and a node has its image."""
    from treadle.deploy.kubernetes import image as images
    from treadle.deploy.kubernetes.service import reach
    from treadle.loop import preflight

    _, target = _both(project, environment)
    cluster = reach(target.context, environment)
    preflight.before_scoring(project, environment, cluster)
    scoring = wanted(project, environment, champion, build=True, job=job)
    images.look(
        cluster, scoring.wanted, project.environment_folder(environment), target.context,
        loaded=target.image is None, report=project.report,
    )  # fmt: skip
    return scoring


def _schedule(chain: Chain, result: TurnResult, scoring: Scoring, by: str) -> None:
    from treadle.deploy.kubernetes import batch

    project, environment = chain.project, chain.environment
    _, cluster = _both(project, environment)
    started = clock.text(clock.now())
    folder = project.environment_folder(environment)
    batch.schedule(folder, cluster.context, scoring, report=project.report)
    words = (
        f"CronJob {scoring.name} scores {scoring.input} with release {scoring.wanted.release} into "
        f"{scoring.output} at {scoring.cron} {scoring.zone}"
    )
    told = {"cron": scoring.cron, "zone": scoring.zone, "name": scoring.name}
    _record(chain, scoring, "scheduled", words, told, by, started)
    result.made["CronJob"] = f"{scoring.name} in {scoring.wanted.namespace}"
    result.made["schedule"] = f"{scoring.cron} {scoring.zone}"
    result.made["scores"] = scoring.output


def _run(chain: Chain, result: TurnResult, scoring: Scoring, by: str) -> None:
    from treadle.deploy.kubernetes import batch

    project, environment = chain.project, chain.environment
    _, cluster = _both(project, environment)
    started = clock.text(clock.now())
    begun = {"job": scoring.job, "settings": _settings(project, environment)}
    project.commit(Changes().put("batch_begun", environment, begun))
    folder = project.environment_folder(environment)
    project.report(
        f"Job {scoring.job} scores with release {scoring.wanted.release}", phase="deploy"
    )
    try:
        ran = batch.run(folder, cluster.context, scoring, report=project.report)
    except TreadleError as error:
        if batch.unfinished(folder, scoring.wanted.release) == scoring.job:
            _record(chain, scoring, "failed", error.message, {"job": scoring.job}, by, started)
        raise
    crash.point("batch.ended")
    told = {"job": scoring.job, **_facts(ran)}
    words = (
        f"scored {told['rows']:,} rows of {told['files']} files with release "
        f"{scoring.wanted.release} into {told['output']}"
    )
    _record(chain, scoring, "scored", words, told, by, started)
    result.made["scores"] = str(told["output"])
    result.made["rows"] = f"{told['rows']:,}"
    result.made["Job"] = f"{scoring.job} in {scoring.wanted.namespace}"
    if told["first_id"]:
        result.next = f"treadle lineage {told['first_id']}"


def _facts(ran: Ran) -> dict[str, Any]:
    """What the scorer left, as it stands in the ledger."""
    told = ran.told
    return {
        "rows": int(told.get("rows") or 0), "files": int(told.get("files") or 0),
        "output": str(told.get("output") or ""), "first_id": str(told.get("first_id") or ""),
        "instance": ran.pod,
    }  # fmt: skip


def _record(
    chain: Chain, scoring: Scoring, outcome: str, words: str, told: dict[str, Any], by: str,
    started: str,
) -> None:  # fmt: skip
    """One transaction: the decision, what was scored last, and which pods are this release's."""
    project, environment = chain.project, chain.environment
    own = scoring.wanted
    assert chain.champion is not None
    evidence = {"release": own.release, "model": chain.champion.model, "image": own.image_digest, **told}  # fmt: skip
    decision = project.decision(
        "deploy", chain.place, environment, outcome, "batch scores with the champion", words,
        evidence, by,
    )  # fmt: skip
    changes = Changes().decide(decision)
    changes.put("batch", environment, {"at": decision.at, **told, "release": own.release, "outcome": outcome})  # fmt: skip
    # Its pods are named after it, and prediction ids after its pods: lineage finds the image here.
    rollout = Rollout(
        id=clock.ulid(), environment=environment, release=own.release, started=started,
        status="failed" if outcome == "failed" else "done", ended=clock.text(clock.now()),
        instance=scoring.name, image=own.image_digest,
    )  # fmt: skip
    changes.put("rollout", f"{environment}/{rollout.id}", rollout)
    project.commit(changes)
    project.report(words)


def _both(project: Project, environment: str) -> tuple[BatchTarget, KubernetesTarget]:
    found = targets(project, environment)
    assert found is not None
    return found


# ---- looking, ending -----------------------------------------------------------------------------


def status_lines(
    project: Project, environment: str, champion: Release | None
) -> tuple[list[tuple[str, str]], list[str]]:
    """How the environment stands on the cluster, and what asks for somebody's attention."""
    from treadle.deploy.kubernetes import batch

    seen = batch.observe(project.environment_folder(environment))
    lines = [(f"batch {environment}", seen.words)]
    attention = []
    if champion is not None and seen.status != "job" and seen.release != champion.number:
        has = f"has release {seen.release}" if seen.release else "is not there"
        attention.append(
            f"the CronJob of {environment} {has}, and release {champion.number} is champion: "
            f"treadle up --env {environment}"
        )
    elif seen.status in ("gone", "unknown"):
        attention.append(f"{environment}: {seen.words}: treadle up --env {environment}")
    if seen.last is not None and seen.last.status == "failed":
        attention.append(
            f"the last scoring of {environment} failed: treadle logs --env {environment}"
        )
    return lines, attention


def log_lines(project: Project, environment: str, lines: int) -> Iterator[str]:
    """The last lines of the environment's last pod."""
    from treadle.deploy.kubernetes import batch

    return batch.log_lines(project.environment_folder(environment), lines)


def down(project: Project, environment: str, *, everything: bool) -> str:
    """Delete the environment's objects; scores, and the claims that they are on, stay."""
    from treadle.deploy.kubernetes import batch

    folder = project.environment_folder(environment)
    if not batch.stop(folder, everything=everything, report=project.report):
        return f"{environment} is not on the cluster"
    left = "" if everything else "; claims and what is on them stay"
    return f"{environment} is down{left}"
