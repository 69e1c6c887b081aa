"""The autoscaler on a real cluster: more pods under load, fewer after it, and no request lost."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import moves
from tests.support.cluster import kubectl
from tests.support.on_cluster import NAME, Clients, OnCluster, projects

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., OnCluster]]:
    with projects(tmp_path, tmp_path / "cache") as one:
        yield one


def number(project: OnCluster) -> int:
    return int(project.live()["spec"]["replicas"])


def test_10_two_pods_become_four_under_load_and_two_again_without_a_lost_request(
    make: Callable[..., OnCluster],
) -> None:
    project = make(", replicas: 2..4, scale_down_stabilization: 15s")
    # So little is asked for that 500 requests a second are more than twice as much on any machine, and
    # enough that four idle pods on a busy one are not taken for loaded ones.
    project.edit("treadle.yaml", ("cpu: 50m", "cpu: 30m"))
    project("up")
    assert moves.ready(project) == 2, "an autoscaler begins with its least"
    steady = Clients(project, number=5, rate=10)
    load = Clients(project, number=20, rate=500)
    moves.until(lambda: moves.ready(project) == 4, 150)
    moves.nothing_failed(load.done(stop=True), least=1000)
    moves.until(lambda: number(project) == 2 and len(moves.names(project)) == 2, 240)
    time.sleep(12)  # the pods that were told to end do so, and the clients still ask
    moves.nothing_failed(steady.done(stop=True), least=500)
    assert "nothing to do" in project("up").out
    assert number(project) == 2


def test_10_number_and_range_are_given_over_without_a_pod_less(
    make: Callable[..., OnCluster],
) -> None:
    project = make(", replicas: 3")
    project("up")
    watch = subprocess.Popen(
        ["kubectl", "get", "deployment", NAME, "-n", project.namespace, "--watch", "-o", "jsonpath={.spec.replicas}{'\\n'}"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        project.edit("treadle.yaml", ("replicas: 3", "replicas: 3..4"))
        assert "replicas: 3" not in project("plan").out
        project("up")
        scaler = json.loads(kubectl("get", "hpa", NAME, "-n", project.namespace, "-o", "json"))
        assert scaler["spec"]["minReplicas"] == 3
        # As the autoscaler does it, so that the number is no longer ours.
        kubectl("scale", f"deployment/{NAME}", "-n", project.namespace, "--replicas", "4")
        assert "nothing to do" in project("up").out
        project.edit("treadle.yaml", ("replicas: 3..4", "replicas: 4"))
        project("up")
        assert kubectl("get", "hpa,pdb", "-n", project.namespace, "-o", "name") == ""
        project.edit("treadle.yaml", ("replicas: 4", "replicas: 3"))
        project("up")
    finally:
        watch.terminate()
        numbers = [int(line) for line in watch.communicate()[0].split()]
    assert set(numbers) == {3, 4}
    assert numbers[-1] == 3
