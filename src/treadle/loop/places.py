"""Where an environment is served: the one place that knows which target is which module.

Every journey asks here, so that it does the same in a process and in a container. What only one
kind of target needs is imported only for it: `status` of a process costs nothing of Docker.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from treadle.base.clock import duration_s
from treadle.base.errors import TreadleError, UsageError
from treadle.base.spec import DockerTarget, KubernetesTarget
from treadle.clients.files import disk_errors
from treadle.deploy import process

if TYPE_CHECKING:
    from treadle.base.records import Model, Release, Rollout
    from treadle.deploy.client import Asked
    from treadle.deploy.kubernetes.wanted import Wanted
    from treadle.deploy.target import Observed, Split
    from treadle.loop.project import Project


_SELDOM_S = 60.0
"""Pods are asked so often for what they captured, where nothing needs it yet."""


def observe(project: Project, place: str) -> Observed:
    """What runs now."""
    folder = project.environment_folder(place)
    if isinstance(project.serving_target(place), DockerTarget):
        from treadle.deploy import docker

        return docker.observe(folder)
    if isinstance(project.serving_target(place), KubernetesTarget):
        from treadle.deploy.kubernetes import service as kubernetes

        return kubernetes.observe(folder)
    return process.observe(folder)


def ask(project: Project, place: str, address: str, rows: Any) -> Asked:
    """A question to the service: directly, or through the cluster's API server."""
    from treadle.deploy import client

    if isinstance(project.serving_target(place), KubernetesTarget):
        from treadle.deploy.kubernetes import service as kubernetes

        folder = project.environment_folder(place)
        status, data, told, where = kubernetes.ask(folder, "invocations", client.body(rows))
        return client.answered(status, data, told, where)
    return client.ask(address, rows)


def roll_out(project: Project, place: str, release: Release, model: Model) -> Rollout:
    """Serve a release; the one before goes on until the new one is ready."""
    folder = project.environment_folder(place)
    target = project.serving_target(place)
    assert project.state is not None
    if isinstance(target, DockerTarget):
        from treadle.deploy import docker
        from treadle.loop import image

        ready = image.for_engine(project, place, release, target)
        former = _former_process(project, place, target.port)
        with disk_errors(folder):
            done = docker.roll_out(
                folder, target, release.number, ready.reference, environment=place,
                content=model.content, project=project.spec.project, run=release.run,
                image_digest=ready.digest, capture=project.spec.monitor.capture,
                report=project.report,
            )  # fmt: skip
        if former:
            process.stop(folder)
        return done
    if isinstance(target, KubernetesTarget):
        from treadle.deploy.kubernetes import capture
        from treadle.deploy.kubernetes import image as images
        from treadle.deploy.kubernetes import service as kubernetes
        from treadle.loop import preflight

        with disk_errors(folder):
            cluster = kubernetes.reach(target.context, place)
            draft = wanted_objects(project, place, release, model, draft=True)
            kubernetes.refuse_moved(folder, target.context, draft.namespace)
            preflight.before_apply(project, place, target, cluster, draft)
            wanted = wanted_objects(project, place, release, model)
            images.look(
                cluster, wanted, folder, target.context, loaded=target.image is None,
                report=project.report,
            )  # fmt: skip
            # What pods captured goes when they do.
            with capture.beside(folder, report=project.report, cluster=cluster):
                return kubernetes.roll_out(
                    folder, target.context, wanted, cluster=cluster, report=project.report
                )
    if (folder / "docker.json").exists():
        from treadle.deploy import docker

        if docker.stop(folder):
            project.report("moving from a container to a process: the container is stopped first")
    with disk_errors(folder):
        return process.roll_out(
            folder, target, release.number, project.state.model_folder(model.content),
            environment=place, content=model.content, files=model.files,
            name=project.spec.project, run=release.run, capture=project.spec.monitor.capture,
            trust_pickle=project.spec.trust == "pickle", report=project.report,
        )  # fmt: skip


def wanted_objects(
    project: Project,
    place: str,
    release: Release | None,
    model: Model | None,
    *,
    build: bool = True,
    draft: bool = False,
) -> Wanted:
    """What a cluster should have of a release. Without `build` the image of it that was built
    before is taken (UsageError if there is none); a `draft` has none, and needs no release."""
    from treadle.deploy.kubernetes.wanted import Wanted, replicas
    from treadle.loop import built

    target = project.serving_target(place)
    assert isinstance(target, KubernetesTarget)
    ready = built.Ready("none", "")
    if not draft:
        assert release is not None
        if build:
            from treadle.loop import image

            ready = image.for_cluster(project, place, release, target)
        else:
            ready = built.known(project, place, release, target)
    least, most = replicas(target.replicas)
    settled = target.scale_down_stabilization
    return Wanted(
        project=project.spec.project, environment=place,
        namespace=target.namespace or project.spec.project.replace("_", "-"),
        image=ready.reference, image_digest=ready.digest,
        release=release.number if release else 0, content=model.content if model else "",
        run=release.run if release else "", least=least, most=most,
        scale_down_after_s=None if settled is None else int(duration_s(settled)),
        workers=target.workers,
        cpu=target.cpu, memory=target.memory, gpus=target.gpus, resources=target.resources,
        node_selector=target.node_selector, tolerations=target.tolerations,
        pull_secrets=target.pull_secrets, labels=target.labels, token_secret=target.token_secret,
        trust_pickle=project.spec.trust == "pickle", capture=project.spec.monitor.capture,
        route=target.route, prometheus=target.prometheus,
    )  # fmt: skip


def split(project: Project, place: str) -> Split | None:
    """The division of the requests between two releases that goes on; nobody is asked."""
    if not isinstance(project.serving_target(place), KubernetesTarget):
        return None
    from treadle.deploy.kubernetes import traffic

    return traffic.present(project.environment_folder(place))


def divide(
    project: Project, place: str, stable: tuple[Release, Model], number: int, weight: int,
    pods: int | None,
) -> Split:  # fmt: skip
    """How the requests would be divided with release `number`; looks at the cluster where there is
    a route."""
    from treadle.deploy.kubernetes import traffic, weights

    target = project.serving_target(place)
    assert isinstance(target, KubernetesTarget)
    wanted = wanted_objects(project, place, *stable, build=False)
    how = traffic.how(target.context, target.route)
    return weights.divide(wanted, number, weight, how, pods=pods)


def weigh(
    project: Project, place: str, stable: tuple[Release, Model],
    candidate: tuple[Release, Model], wanted: Split,
) -> tuple[str, str]:  # fmt: skip
    """Have the requests divided so: the candidate's instance and its image's digest."""
    from treadle.deploy.kubernetes import capture, traffic
    from treadle.deploy.kubernetes import service as kubernetes

    target = project.serving_target(place)
    assert isinstance(target, KubernetesTarget)
    other = wanted_objects(project, place, *candidate)
    folder = project.environment_folder(place)
    cluster = kubernetes.reach(target.context, place)
    with disk_errors(folder), capture.beside(folder, report=project.report, cluster=cluster):
        traffic.weigh(
            folder, target.context, wanted_objects(project, place, *stable, build=False), other,
            wanted, cluster=cluster, report=project.report,
        )  # fmt: skip
    return f"{other.serves}-candidate", other.image_digest


def _former_process(project: Project, place: str, port: int) -> bool:
    """Whether a server process of before `target: docker` is to be stopped when the container
    answers; one that has the container's own port is stopped now."""
    folder = project.environment_folder(place)
    seen = process.observe(folder)
    if seen.pid is None:
        return False
    if port != 0 and str(seen.address).endswith(f":{port}"):
        project.report("moving from a process to a container: the process is stopped first")
        process.stop(folder)
        return False
    return True


def stop(project: Project, place: str, *, everything: bool = False) -> bool:
    """Stop serving; False if nothing ran. On a cluster namespace and claims stay, but for
    `everything`."""
    folder = project.environment_folder(place)
    if isinstance(project.serving_target(place), DockerTarget):
        from treadle.deploy import docker

        return docker.stop(folder)
    if isinstance(project.serving_target(place), KubernetesTarget):
        from treadle.deploy.kubernetes import service as kubernetes

        _collect_pods(project, place)
        stopped = kubernetes.stop(folder, everything=everything, report=project.report)
        collect_leaving(project, place)
        return stopped
    return process.stop(folder)


def collect(project: Project, place: str, *, due: bool = True) -> None:
    """Have what was captured until now in the environment's folder.

    Where nobody needs it yet (not `due`) it may wait where it is, but for pods: what they captured
    goes when they do, so theirs is collected once in a while.
    """
    folder = project.environment_folder(place)
    if isinstance(project.serving_target(place), DockerTarget) and due:
        from treadle.deploy import docker

        docker.collect(folder)
    if isinstance(project.serving_target(place), KubernetesTarget):
        from treadle.deploy.kubernetes import capture

        if due:
            capture.collect(folder, report=project.report)
        elif capture.since_last_s(folder) > _SELDOM_S:
            _collect_pods(project, place)


def _collect_pods(project: Project, place: str) -> None:
    """Collect what pods captured; that it cannot be had is said, and keeps nobody from going on."""
    from treadle.deploy.kubernetes import capture

    try:
        capture.collect(project.environment_folder(place), report=project.report)
    except TreadleError as error:
        words = f"what the pods captured is not collected: {error.message}"
        project.report(words + (f" ({error.hint})" if error.hint else ""), warning=True)


def collect_leaving(project: Project, place: str) -> None:
    """Have what servers that were told to end capture until they have. Only pods take it along."""
    if not isinstance(project.serving_target(place), KubernetesTarget):
        return
    from treadle.deploy.kubernetes import capture

    try:
        capture.collect_leaving(project.environment_folder(place), report=project.report)
    except TreadleError as error:
        words = f"what the leaving pods captured last is not collected: {error.message}"
        project.report(words, warning=True)


def log_lines(project: Project, place: str, lines: int, *, follow: bool) -> Iterator[str]:
    """The last lines of the server's log, and with `follow` those to come."""
    folder = project.environment_folder(place)
    if isinstance(project.serving_target(place), DockerTarget):
        from treadle.deploy import docker

        found = docker.follow(folder, lines) if follow else docker.log_lines(folder, lines)
        yield from found
        return
    if isinstance(project.serving_target(place), KubernetesTarget):
        from treadle.deploy.kubernetes import service as kubernetes

        told = kubernetes.follow if follow else kubernetes.log_lines
        yield from told(folder, lines)
        return
    files = process.log_files(folder)
    if not files:
        raise UsageError(f"there is no log of `{place}` yet", hint="treadle up")
    last: list[str] = []
    for path in files:
        last += path.read_text(encoding="utf-8", errors="replace").splitlines()
    yield from last[-lines:] if lines else []
    if not follow:
        return
    path = files[-1]
    position, inode = path.stat().st_size, path.stat().st_ino
    while True:  # rotation included
        time.sleep(0.2)
        try:
            now = path.stat()
        except FileNotFoundError:
            continue
        if now.st_ino != inode or now.st_size < position:
            position, inode = 0, now.st_ino
        if now.st_size > position:
            with open(path, encoding="utf-8", errors="replace") as file:
                file.seek(position)
                text = file.read()
                position = file.tell()
            yield from text.splitlines()
