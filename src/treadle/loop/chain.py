"""The chain that a turn walks: data → steps → model → verdict → release → observed service.

`walk` reads the records and fingerprints and says for each link whether its digest is known; the
first unknown one makes all that depend on it unknown too. It writes nothing and imports neither
the user's code nor a table engine while nothing changed: that is what makes an unchanged turn quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

from treadle.base.digest import digest, short
from treadle.base.errors import UsageError
from treadle.base.errors import StateCorrupt
from treadle.base.plain import from_plain, to_plain
from treadle.base.quick import dataclass
from treadle.base.records import Model, Plan, PlannedAction, Release, Result, Snapshot, Verdict
from treadle.code import cache, fingerprint, pipeline
from treadle.data import snapshot as snapshots
from treadle.deploy import process
from treadle.loop import datasets
from treadle.plan import stale
from treadle.release import release as releases

if TYPE_CHECKING:
    from treadle.clients.objects import Objects
    from treadle.code.cache import PlannedStep
    from treadle.code.pipeline import Graph
    from treadle.deploy.target import Observed
    from treadle.loop.project import Project

_MANIFEST_BYTES = 1_000_000
"""A larger blob is no tree's manifest."""
RULES = 1
"""Version of packaging and judging: raised when an equal input would give another answer."""


@dataclass
class Chain:
    """What is known about the next turn of one environment."""

    project: Project
    environment: str
    parameters: dict[str, Any] = field(default_factory=dict)
    """Overrides by `function.parameter`."""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    """Data sets whose present snapshot was not yet checked by the present rules."""
    refused: list[str] = field(default_factory=list)
    """Data sets whose present snapshot was checked and refused."""
    graph: Graph | None = None
    code: str = ""
    planned: list[PlannedStep] = field(default_factory=list)
    model: Model | None = None
    verdict: Verdict | None = None
    champion: Release | None = None
    observed: Observed | None = None
    actions: list[PlannedAction] = field(default_factory=list)

    @property
    def place(self) -> str:
        """The environment whose champion this one uses."""
        return self.project.spec.place(self.environment)

    def plan(self) -> Plan:
        """The chain's actions as a record."""
        return Plan(self.project.spec.project, self.environment, tuple(self.actions))

    @property
    def stale_steps(self) -> list[PlannedStep]:
        """Steps that must run, or may have to, in order."""
        return [step for step in self.planned if step.hit is None]

    def result(self, name: str) -> Result | None:
        """The stored result called `name`, if the steps that lead to it are done."""
        for step in self.planned:
            if step.hit is not None:
                for result in step.hit.results:
                    if result.name == name:
                        return result
        return None

    def add(
        self, phase: str, subject: str, action: Any, reason: str, changed: Sequence[str] = ()
    ) -> None:
        """Append one action."""
        self.actions.append(PlannedAction(phase, subject, action, reason, tuple(changed)))


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


# ---- data ----------------------------------------------------------------------------------------


def look_at_data(chain: Chain, *, store: bool) -> None:
    """Which data sets changed since the last turn, and whether their rules have passed."""
    project = chain.project
    for name, section in project.spec.data.items():
        before = snapshots.latest(name, project.journal)
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


# ---- code ----------------------------------------------------------------------------------------


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


# ---- build, test ---------------------------------------------------------------------------------


def look_at_model(chain: Chain) -> None:
    """Is there a packaged model for the present result, and a verdict on it?"""
    project, spec = chain.project, chain.project.spec
    result = chain.result(spec.model.result)
    holdout = chain.result(spec.test.holdout)
    if result is None or holdout is None:
        chain.add("build", "model", "run", "its pipeline will run")
        chain.add("test", "verdict", "run", "its model or its holdout will change")
        return
    stored = project.journal.get("model_of", model_key(chain, result))
    if stored is not None:
        chain.model = from_plain(Model, project.journal.get("model", stored))
        if not all(map(project.objects.has, (chain.model.content, *chain.model.files.values()))):
            chain.model = None
    if chain.model is None:
        chain.add("build", "model", "run", "this result was not packaged yet")
        chain.add("test", "verdict", "run", "its model will be built")
        return
    chain.add("build", "model", "keep", f"packaged as {short(chain.model.digest)}")
    if chain.champion is not None and chain.champion.model == chain.model.digest:
        found = project.journal.get("verdict", chain.champion.verdict)
        chain.verdict = from_plain(Verdict, found) if found else None
        chain.add("test", "verdict", "keep", "this model is the champion")
        return
    stored = project.journal.get("verdict_of", verdict_key(chain, chain.model, holdout))
    if stored is None:
        chain.add("test", "verdict", "run", "not judged on this holdout against this champion")
        return
    chain.verdict = from_plain(Verdict, project.journal.get("verdict", stored))
    words = {"pass": "keep", "refuse": "refuse", "undecided": "wait"}
    failed = [g.text for g in chain.verdict.gates if g.outcome != "pass"]
    chain.add(
        "test",
        "verdict",
        words[chain.verdict.outcome],
        f"{chain.verdict.outcome}: {failed[0]}" if failed else "passed its gates",
        failed,
    )


def damaged_blobs(content: str, objects: Objects) -> list[str]:
    """The missing and damaged blobs of a stored blob or tree."""
    from treadle.clients.objects import manifest

    def whole(digest: str) -> bool:
        try:
            objects.path(digest, verify=True)
        except StateCorrupt:
            return False
        return True

    if not whole(content):
        return [content]
    if objects.path(content).stat().st_size > _MANIFEST_BYTES:
        return []
    try:
        files = manifest(objects.read(content), content)
    except StateCorrupt:
        return []  # no tree
    return sorted({digest for digest in files.values() if not whole(digest)})


def model_key(chain: Chain, result: Result) -> str:
    """What a packaged model depends on beside the fitted result."""
    spec = chain.project.spec
    return digest(
        {
            "rules": RULES,
            "result": result.content,
            "model": to_plain(spec.model),
            "trust": spec.trust,
            "train": [r.content for r in model_inputs(chain)],
            "data": to_plain(training_section(chain)),
        }
    )


def verdict_key(chain: Chain, model: Model, holdout: Result) -> str:
    """What a verdict depends on."""
    spec = chain.project.spec
    return digest(
        {
            "rules": RULES,
            "model": model.digest,
            "holdout": holdout.content,
            "test": to_plain(spec.test),
            "task": to_plain(spec.model),
            "data": to_plain(training_section(chain)),
            "train": [r.content for r in model_inputs(chain)],
            "champion": chain.champion.model if chain.champion else None,
        }
    )


def training_section(chain: Chain) -> Any:
    """The `data:` entry that the model learns from, if there is exactly one."""
    name = chain.project.spec.training_data()
    return chain.project.spec.data[name] if name else None


def model_inputs(chain: Chain) -> list[Result]:
    """The stored results that the model's function took."""
    assert chain.graph is not None
    home = chain.graph.home(chain.project.spec.model.result)
    found = (chain.result(name) for name in chain.graph.nodes[home].inputs)
    return [result for result in found if result is not None]


# ---- release, deploy -----------------------------------------------------------------------------


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


def approved(chain: Chain) -> bool:
    """Did a person approve this very verdict?"""
    if chain.verdict is None:
        return False
    return chain.project.journal.get("approval", chain.verdict.digest) is not None


def held_release(chain: Chain) -> int | None:
    """The held release of this environment that has the present model, if there is one."""
    if chain.model is None:
        return None
    held = chain.project.release_state(chain.environment)["held"]
    if not held:
        return None
    found = releases.held_release(held, chain.project.releases(chain.place), chain.model.content)
    return found[0] if found else None


def look_at_service(chain: Chain) -> None:
    """Does the service run the champion?"""
    project = chain.project
    chain.observed = process.observe(project.environment_folder(chain.place))
    observed, champion = chain.observed, chain.champion
    releasing = any(a.phase == "release" and a.action == "run" for a in chain.actions)
    if releasing:
        chain.add("deploy", chain.place, "run", "if there is a new champion")
    elif champion is None:
        chain.add("deploy", chain.place, "keep", "there is no champion to serve")
    elif service_wanted(chain):
        chain.add("deploy", chain.place, "run", service_reason(chain))
    else:
        chain.add(
            "deploy",
            chain.place,
            "keep",
            f"release {champion.number} answers at {observed.address}",
        )


def service_wanted(chain: Chain) -> bool:
    """Whether the champion must be rolled out."""
    return chain.champion is not None and service_reason(chain) != ""


def service_reason(chain: Chain) -> str:
    """Why the champion must be rolled out; empty when it is served as wanted."""
    observed, champion = chain.observed, chain.champion
    assert observed is not None
    assert champion is not None
    if observed.status != "serving":
        return f"release {champion.number} is not running ({observed.status})"
    if observed.release != champion.number:
        return f"release {observed.release} is running, release {champion.number} is champion"
    if chain.project.journal.get("served", chain.place) != service_settings(chain):
        return "its settings in deploy: or monitor: changed"
    return ""


def service_settings(chain: Chain) -> str:
    """What of the spec a running service was started with, as a digest."""
    spec = chain.project.spec
    return digest(
        {
            "target": to_plain(chain.project.process_target(chain.environment)),
            "capture": to_plain(spec.monitor.capture),
            "trust": spec.trust,
            "name": spec.project,
        }
    )
