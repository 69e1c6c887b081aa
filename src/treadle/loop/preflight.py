"""What an environment's cluster has and lacks: before an apply in short, for `doctor` with probes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from treadle.base.errors import Refused, TreadleError
from treadle.base.spec import KubernetesTarget
from treadle.clients.kube import Cluster
from treadle.deploy.kubernetes import preflight, probe
from treadle.deploy.kubernetes.preflight import Finding
from treadle.deploy.kubernetes.wanted import Wanted
from treadle.loop import cluster_batch, image, manifests, places
from treadle.loop.project import Project

if TYPE_CHECKING:
    from treadle.deploy.kubernetes.scoring import Scoring


def before_apply(
    project: Project, place: str, target: KubernetesTarget, cluster: Cluster, draft: Wanted
) -> None:
    """Refused before an image is built, if anything stands in the way; warnings are said once."""
    preflight.before_apply(
        cluster, draft, project.environment_folder(place), target.context,
        more=[_images(target)], report=project.report,
    )  # fmt: skip


def before_scoring(project: Project, environment: str, cluster: Cluster) -> None:
    """The same for a batch environment on a cluster."""
    scores = cluster_batch.outline(project, environment)
    target = project.serving_target(environment)
    assert scores is not None
    assert isinstance(target, KubernetesTarget)
    preflight.before_apply(
        cluster, scores.wanted, project.environment_folder(environment), target.context,
        found=lambda known: _of_scoring(cluster, scores, known.enforced),
        more=[_images(target)], report=project.report,
    )  # fmt: skip


def _of_scoring(cluster: Cluster, scores: Scoring, enforced: bool | None) -> list[Finding]:
    from treadle.deploy.kubernetes import batch, scoring

    objects = scoring.render(scores)
    found = preflight.look(cluster, scores.wanted, objects=objects, enforced=enforced)
    if found[0].state == "missing":
        return found  # that is the one thing to say
    # Of claims that are there, or not, the batch's own look says more.
    if scores.size is None:
        found = [one for one in found if one.name != "storage"]
    return [*found, *batch.look(cluster, scores)]


def examine(project: Project, environment: str, *, probes: bool) -> list[Finding]:
    """What the environment's cluster has and lacks. Nothing is written but, with `probes`, pods that
    are deleted again, where something was rolled out and so an image is there to run."""
    from treadle.deploy.kubernetes.service import cluster_of

    scores = cluster_batch.outline(project, environment)
    if scores is not None:
        target = project.serving_target(environment)
        assert isinstance(target, KubernetesTarget)
        try:
            cluster = cluster_of(target.context)
        except TreadleError as error:
            return [Finding("cluster", "missing", error.message, error.hint)]
        known = preflight.seen(project.environment_folder(environment), target.context)
        return [*_of_scoring(cluster, scores, known.enforced), _images(target)]
    place = project.spec.place(environment)
    target = project.serving_target(place)
    if not isinstance(target, KubernetesTarget):
        raise manifests.elsewhere(project, place)
    try:
        cluster = cluster_of(target.context)
    except TreadleError as error:
        return [Finding("cluster", "missing", error.message, error.hint)]
    wanted = places.wanted_objects(project, place, None, None, draft=True)
    folder = project.environment_folder(place)
    known = preflight.seen(folder, target.context)
    found = preflight.look(cluster, wanted, enforced=known.enforced)
    if found[0].state == "missing":
        return found
    found.append(_images(target))
    if not probes or any(one.state == "missing" for one in found):
        return found
    live = cluster.get("apps/v1/Deployment", wanted.namespace, wanted.name)
    if live is None:
        words = (
            "nothing runs here yet: whether a node can pull is looked at before the first roll-out"
        )
        return [*found, Finding("image", "ok", words)]
    running = str(live["spec"]["template"]["spec"]["containers"][0]["image"])
    return _probed(project, place, target, cluster, replace(wanted, image=running), found)


def _probed(
    project: Project,
    place: str,
    target: KubernetesTarget,
    cluster: Cluster,
    wanted: Wanted,
    found: list[Finding],
) -> list[Finding]:
    """What pods of our own find out beside."""
    project.report(f"probing with three small pods in {wanted.namespace}; they are deleted again")
    try:
        words = probe.pull(cluster, wanted, always=target.image is not None)
        state = "warning" if words else "ok"
        done = "a node asked the registry and has" if target.image else "a node has"
        pulled = Finding("image", state, words or f"{done} {wanted.image}")  # type: ignore[arg-type]
    except Refused as error:
        pulled = Finding("image", "missing", error.message, error.hint)
    enforced, why = probe.enforced(cluster, wanted, report=project.report)
    if enforced is None:
        policies = Finding("network policies", "warning", f"not known: {why}")
    else:
        policies = preflight.policies(enforced)
        folder = project.environment_folder(place)
        known = preflight.seen(folder, target.context)
        if project.state is not None:
            preflight.keep(folder, replace(known, enforced=enforced))
    return [policies if one.name == policies.name else one for one in found] + [pulled]


def _images(target: KubernetesTarget) -> Finding:
    """Where the cluster gets its images from."""
    if target.image is not None:
        return Finding("images", "ok", f"pulled from {target.image}")
    try:
        nodes = image.nodes_of(target)
    except TreadleError as error:
        return Finding("images", "missing", error.message, error.hint)
    absent = nodes.missing()
    if absent is not None:
        return Finding("images", "missing", absent.message, absent.hint)
    return Finding("images", "ok", f"loaded into the nodes of {nodes}")
