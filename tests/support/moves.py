"""What happens to a served environment on a cluster: new releases, pods that go, commands that die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tests.crash.world import World
from tests.support.cluster import kubectl
from tests.support.on_cluster import Clients, OnCluster

ENOUGH = 10_000
RATE = 200
"""Requests a second: 10,000 take 50 s; the moves take about as long on a quiet machine."""


def update_delete_and_scale_down(project: OnCluster, seed: int) -> dict[str, Any]:
    """What clients of 200 keep-alive requests a second, 10,000 or more, find while a release is rolled
    out, a pod is deleted and a pod less is wanted; `project` begins and ends with three."""
    clients = Clients(project, rate=RATE)
    began = time.monotonic()
    project.more_data(seed)
    project("up")
    gone = project.pods()[0]["metadata"]["name"]
    kubectl("delete", "pod", gone, "-n", project.namespace, "--wait=false")
    until(lambda: ready(project) == 3 and gone not in names(project), 120)
    project.edit("treadle.yaml", ("replicas: 3", "replicas: 2"))
    project("up")
    # A pod that is told to end does so after the command: it is waited for like the requests.
    enough = began + (ENOUGH + 400) / RATE
    until(lambda: time.monotonic() > enough and not project.pods(leaving=True), 120)
    told = clients.done(stop=True)
    project.edit("treadle.yaml", ("replicas: 2", "replicas: 3"))
    project("up")
    return told


def nothing_failed(told: dict[str, Any], *, least: int = ENOUGH) -> None:
    """Every request had an answer, and there were enough of them."""
    assert told["failed"] == {}, told
    assert told["answered"] >= least, told


def names(project: OnCluster) -> list[str]:
    return [one["metadata"]["name"] for one in project.pods()]


def ready(project: OnCluster) -> int:
    return int(project.live()["status"].get("availableReplicas", 0))


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.2)


# ---- kills ---------------------------------------------------------------------------------------


def kill_pod(project: OnCluster, name: str) -> None:
    """Its processes are killed; nobody is asked."""
    kubectl("delete", "pod", name, "-n", project.namespace, "--force", "--grace-period=0", "--wait=false", check=False)  # fmt: skip


def begin(project: OnCluster) -> subprocess.Popen[str]:
    """`treadle up`, in a session of its own."""
    return World(project.folder, make=False).start("up", env=project.environ)


def kill(process: subprocess.Popen[str]) -> bool:
    """End a command as a power cut would; False if it had ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


def converges(project: OnCluster, release: int) -> None:
    """One more `up` has the release served; the ledger has no hole and nothing twice."""
    project("up")
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == str(release)
    assert "nothing to do" in project("up").out
    photo = World(project.folder, make=False).verify()
    for kind in ("release", "promote"):
        subjects = [one["subject"] for one in photo.ledger if one["kind"] == kind]
        assert len(subjects) == len(set(subjects)), (kind, subjects)
    promoted = [one for one in photo.ledger if one["kind"] == "promote"]
    assert len(promoted) == release, promoted
