"""What is known about the next turn of one environment, link by link, and the keys of its links.

data digest → step digests → model → verdict → release → observed service: `walk` fills it in, a
turn does what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from treadle.base.digest import digest
from treadle.base.errors import StateCorrupt
from treadle.base.plain import to_plain
from treadle.base.records import Model, Plan, PlannedAction, Release, Result, Snapshot, Verdict
from treadle.base.spec import ModelSection
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


# ---- build, test ---------------------------------------------------------------------------------


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


def model_key(chain: Chain, result: Result, section: ModelSection | None = None) -> str:
    """What a packaged model depends on beside the fitted result; `section`: were it this one."""
    spec = chain.project.spec
    section = section or spec.model
    parts = {
        "rules": RULES,
        "result": result.content,
        "model": _without_compile(section),
        "trust": spec.trust,
        "train": [r.content for r in model_inputs(chain)],
        "data": to_plain(chain.project.training_section()),
    }
    if section.compile is not None:
        holdout = chain.result(spec.test.holdout)
        parts["compiled"] = [section.compile, holdout.content if holdout is not None else None]
    return digest(parts)


def _without_compile(section: ModelSection) -> dict[str, Any]:
    """What of `model:` says what is learned and judged: the original, compiled or not."""
    return {word: value for word, value in to_plain(section).items() if word != "compile"}


def verdict_key(chain: Chain, model: Model, holdout: Result) -> str:
    """What a verdict depends on."""
    spec = chain.project.spec
    return digest(
        {
            "rules": RULES,
            "model": model.digest,
            "holdout": holdout.content,
            "test": to_plain(spec.test),
            "task": _without_compile(spec.model),
            "data": to_plain(chain.project.training_section()),
            "train": [r.content for r in model_inputs(chain)],
            "champion": chain.champion.model if chain.champion else None,
        }
    )


def model_inputs(chain: Chain) -> list[Result]:
    """The stored results that the model's function took."""
    assert chain.graph is not None
    home = chain.graph.home(chain.project.spec.model.result)
    found = (chain.result(name) for name in chain.graph.nodes[home].inputs)
    return [result for result in found if result is not None]


# ---- release, deploy -----------------------------------------------------------------------------


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
    if observed.differs:
        return f"the live objects are not what was applied: {observed.differs[0]}"
    if observed.unfinished:
        return f"the swap to release {champion.number} was cut off"
    if chain.project.journal.get("served", chain.place) != service_settings(chain):
        return "its settings in deploy: or monitor: changed"
    return ""


def service_settings(chain: Chain) -> str:
    """What of the spec a running service was started with, as a digest."""
    spec = chain.project.spec
    return digest(
        {
            "target": to_plain(chain.project.serving_target(chain.environment)),
            "capture": to_plain(spec.monitor.capture),
            "trust": spec.trust,
            "name": spec.project,
        }
    )
