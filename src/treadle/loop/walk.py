"""Walking the chain: for each link, is its digest known, and what would run if not?

The first unknown digest makes all that depend on it unknown too. Nothing is written (but new data
with `store`), and neither the user's code nor a table engine is imported while nothing changed:
that is what makes an unchanged turn quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from treadle.base.digest import short
from treadle.base.errors import UsageError
from treadle.base.plain import from_plain
from treadle.base.records import Model, Result, Verdict
from treadle.code import cache, fingerprint, pipeline
from treadle.data import snapshot as snapshots
from treadle.data import stored
from treadle.loop import datasets, places
from treadle.loop.chain import (
    Chain,
    approved,
    held_release,
    model_key,
    service_reason,
    service_wanted,
    verdict_key,
)
from treadle.loop.project import Project
from treadle.plan import stale

if TYPE_CHECKING:
    from treadle.code.pipeline import Graph


def walk(
    project: Project, environment: str, *, overrides: Sequence[str] = (), store: bool = False
) -> Chain:
    """Walk the whole chain for `environment`; with `store` new data is stored on the way."""
    chain = Chain(project, environment, champion=project.champion(environment))
    if project.batch_target(environment) is not None:
        from treadle.loop.batch import plan_batch

        if overrides:
            raise not_trained(project, environment)
        plan_batch(chain)
        return chain
    look_at_data(chain, store=store)
    look_at_code(chain, overrides)
    look_at_model(chain)
    look_at_release(chain)
    look_at_service(chain)
    return chain


def not_trained(project: Project, environment: str) -> UsageError:
    """What a command answers that trains or judges, for an environment that only scores."""
    place = project.spec.place(environment)
    return UsageError(
        f"nothing is trained for `{environment}`: it scores with the champion of `{place}`",
        hint=f"--env {place}",
    )


def look_at_data(chain: Chain, *, store: bool) -> None:
    """Which data sets changed since the last turn, and whether their rules have passed."""
    project = chain.project
    for name, section in project.spec.data.items():
        before = stored.latest(name, project.journal)
        now = datasets.look(project, name, store=store)
        chain.snapshots[name] = now
        if not now.parts and not snapshots.will_read(section):
            chain.add("data", name, "keep", "no file yet")
            continue
        if not store and snapshots.will_read(section):
            chain.add("data", name, "check", "a query: what it gives is known when it is read")
            continue
        checked = project.journal.get("checked", datasets.check_key(project, name, now))
        if before is None or before.digest != now.digest:
            words = stale.data_words(before, now)
            chain.add("data", name, "run", words[0] if words else "changed", words)
        elif checked is None:
            chain.add(
                "data",
                name,
                "check",
                "the rules in data.schema.yaml changed"
                if project.journal.get("checked_last", name)
                else "not checked yet",
            )
        elif checked["refused"]:
            chain.add("data", name, "refuse", checked["refused"][0], checked["refused"])
        else:
            chain.add(
                "data", name, "keep", f"unchanged: {now.rows:,} rows in {len(now.parts)} files"
            )
        if checked is None:
            chain.unchecked.append(name)
        elif checked["refused"]:
            chain.refused.append(name)


def look_at_code(chain: Chain, overrides: Sequence[str]) -> None:
    """Which steps must run, from syntax trees and digests alone."""
    project, spec = chain.project, chain.project.spec
    sources = fingerprint.project(project.folder, spec.pipeline)
    wanted = list(dict.fromkeys((spec.model.result, spec.test.holdout)))
    graph = pipeline.build(sources, list(spec.data), wanted)
    chain.graph = graph
    chain.parameters = parameters_of(graph, overrides)
    look_at_steps(chain)
    chain.code = graph.code
    for step in chain.planned:
        subject = f"{step.name}()"
        if step.hit is not None:
            chain.add("code", subject, "keep", "nothing it depends on changed")
        else:
            words = () if step.waits else stale.explain_changes(step.before, step.depends)
            reason = words[0] if words else step.why
            chain.add("code", subject, "run", reason, words)


def look_at_steps(chain: Chain) -> None:
    """Which steps are done."""
    project = chain.project
    assert chain.graph is not None
    chain.planned = cache.look(
        chain.graph,
        project.journal,
        project.objects,
        chain.snapshots,
        chain.parameters,
        uncached=[name for name, section in project.spec.steps.items() if not section.cache],
    )


def parameters_of(graph: Graph, overrides: Sequence[str]) -> dict[str, Any]:
    """The one set of parameters that the overrides name. UsageError when they name several."""
    if not overrides:
        return {}
    sets = pipeline.parse_overrides(list(overrides), graph)
    if len(sets) != 1:
        raise UsageError(
            f"--set names {len(sets)} combinations, and a turn takes one",
            hint="`treadle train --set …` tries each of them",
        )
    return sets[0]


def look_at_model(chain: Chain) -> None:
    """Is there a packaged model for the present result, and a verdict on it?"""
    project, spec = chain.project, chain.project.spec
    result = chain.result(spec.model.result)
    holdout = chain.result(spec.test.holdout)
    if result is None or holdout is None:
        chain.add("build", "model", "run", "its pipeline will run")
        chain.add("test", "verdict", "run", "its model or its holdout will change")
        return
    known = project.journal.get("model_of", model_key(chain, result))
    if known is not None:
        chain.model = from_plain(Model, project.journal.get("model", known))
        if not all(map(project.objects.has, (chain.model.content, *chain.model.files.values()))):
            chain.model = None
    if chain.model is None:
        chain.add("build", "model", "run", _why_package(chain, result))
        chain.add("test", "verdict", "run", "its model will be built")
        return
    chain.add("build", "model", "keep", f"packaged as {short(chain.model.digest)}")
    if chain.champion is not None and chain.champion.model == chain.model.digest:
        found = project.journal.get("verdict", chain.champion.verdict)
        chain.verdict = from_plain(Verdict, found) if found else None
        chain.add("test", "verdict", "keep", "this model is the champion")
        return
    judged = project.journal.get("verdict_of", verdict_key(chain, chain.model, holdout))
    if judged is None:
        chain.add("test", "verdict", "run", "not judged on this holdout against this champion")
        return
    chain.verdict = from_plain(Verdict, project.journal.get("verdict", judged))
    words = {"pass": "keep", "refuse": "refuse", "undecided": "wait"}
    failed = [g.text for g in chain.verdict.gates if g.outcome != "pass"]
    chain.add(
        "test",
        "verdict",
        words[chain.verdict.outcome],
        f"{chain.verdict.outcome}: {failed[0]}" if failed else "passed its gates",
        failed,
    )


def _why_package(chain: Chain, result: Result) -> str:
    """Why there is no packaged model for a result; the word of treadle.yaml that changed, if one."""
    now = chain.project.spec.model
    other: Literal["auto"] | None = None if now.compile else "auto"
    before = replace(now, compile=other)
    if chain.project.journal.get("model_of", model_key(chain, result, before)) is None:
        return "this result was not packaged yet"
    if now.compile is None:
        return "model.compile was `auto` and is not said any more: packaged without compiled form"
    return "model.compile is `auto` now: a compiled form is made and compared on the holdout"


def look_at_release(chain: Chain) -> None:
    """Would the model become the champion?"""
    if chain.model is None or chain.verdict is None:
        chain.add("release", chain.place, "run", "if the verdict is pass")
        return
    champion = chain.champion
    if champion is not None and champion.model == chain.model.digest:
        chain.add("release", chain.place, "keep", f"release {champion.number} is champion")
    elif held_release(chain) is not None:
        chain.add(
            "release",
            chain.place,
            "keep",
            f"release {held_release(chain)} is this model and is held",
        )
    elif chain.verdict.outcome == "pass" or approved(chain):
        chain.add("release", chain.place, "run", f"model {short(chain.model.digest)} passed")
    else:
        now = f"release {champion.number} stays" if champion else "nothing is released"
        chain.add("release", chain.place, "keep", f"the verdict is {chain.verdict.outcome}: {now}")


def look_at_service(chain: Chain) -> None:
    """Does the service run the champion?"""
    project = chain.project
    chain.observed = places.observe(project, chain.place)
    observed, champion = chain.observed, chain.champion
    releasing = any(a.phase == "release" and a.action == "run" for a in chain.actions)
    shared, ends = "", ""
    if observed.split is not None:
        shared = f"; {observed.split.words}"
        ends = f"; the share of release {observed.split.release} ends"
    if releasing:
        chain.add("deploy", chain.place, "run", f"if there is a new champion{ends}")
    elif champion is None:
        chain.add("deploy", chain.place, "keep", "there is no champion to serve")
    elif service_wanted(chain):
        chain.add("deploy", chain.place, "run", f"{service_reason(chain)}{ends}")
    else:
        chain.add(
            "deploy",
            chain.place,
            "keep",
            f"release {champion.number} answers at {observed.address}{shared}",
        )
