"""A release's Kubernetes objects, for people and for GitOps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.base.errors import UsageError
from treadle.base.plain import from_plain
from treadle.base.records import Model, Release
from treadle.base.spec import KubernetesTarget
from treadle.clients.files import write_file
from treadle.deploy.kubernetes import manifest, text
from treadle.deploy.kubernetes.wanted import Wanted
from treadle.loop import cluster_batch, places
from treadle.loop.project import Project


@dataclass(frozen=True)
class Rendered:
    """Objects in the order in which they are applied."""

    objects: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...]

    @property
    def text(self) -> str:
        """As YAML documents."""
        return text.text(self.objects)

    def write(self, folder: Path) -> list[Path]:
        """A file for each object, named by order, kind and name; files of before are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("[0-9][0-9]-*.yaml"):
            old.unlink()
        found = []
        for number, one in enumerate(self.objects, 1):
            name = f"{number:02}-{one['kind'].lower()}-{one['metadata']['name']}.yaml"
            write_file(folder / name, text.text([one]).encode())
            found.append(folder / name)
        return found


def render(project: Project, environment: str, versions: Sequence[str] = ()) -> Rendered:
    """The objects of the environment's champion, with the image that was built for it, and of the
    release that has a share beside it.

    `versions` are APIs that the cluster has beside its own (`monitoring.coreos.com/v1`); no cluster
    is asked.
    """
    if cluster_batch.targets(project, environment) is not None:
        from treadle.deploy.kubernetes import scoring
        from treadle.loop.service import chosen_release

        champion = chosen_release(project, environment, None, None)
        batch = cluster_batch.wanted(project, environment, champion, build=False)
        return Rendered(tuple(scoring.render(batch)), ())
    known = {version for version, _ in manifest.CUSTOM.values()}
    for one in versions:
        if one not in known:
            raise UsageError(
                f"nothing is rendered for the API {one}",
                hint=f"there are {', '.join(sorted(known))}",
            )
    kinds = {kind for kind, (version, _) in manifest.CUSTOM.items() if version in versions}
    wanted = _wanted(project, environment)
    split = places.split(project, wanted.environment)
    candidate = None
    if split is not None:
        release = project.release(wanted.environment, split.release)
        candidate = _of_release(project, wanted.environment, release)
    objects = manifest.render(wanted, kinds=kinds, candidate=candidate, split=split)
    return Rendered(tuple(objects), tuple(manifest.left_out(wanted, kinds)))


def _wanted(project: Project, environment: str) -> Wanted:
    place = project.spec.place(environment)
    if not isinstance(project.serving_target(place), KubernetesTarget):
        raise elsewhere(project, place)
    champion = project.champion(place)
    if champion is None:
        raise UsageError(f"{place} has no champion", hint=f"treadle up --env {place}")
    return _of_release(project, place, champion)


def _of_release(project: Project, place: str, release: Release) -> Wanted:
    model = from_plain(Model, project.journal.get("model", release.model))
    return places.wanted_objects(project, place, release, model, build=False)


def elsewhere(project: Project, place: str) -> UsageError:
    """What is said of an environment that is on no cluster."""
    named = [n for n, t in project.spec.deploy.items() if isinstance(t, KubernetesTarget)]
    return UsageError(
        f"{place} is no Kubernetes environment",
        hint=f"--env {named[0]}" if named else "deploy: {NAME: {target: kubernetes, …}}",
    )
