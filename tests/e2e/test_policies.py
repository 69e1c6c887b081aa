"""Who may do what in a namespace of ours, as the cluster enforces it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from tests.support import moves
from tests.support.cluster import kubectl
from tests.support.on_cluster import NAME, Clients, OnCluster, projects

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
REACHES = """
import json, socket, sys
told = {}
for where in sys.argv[1:]:
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        told[where] = True
    except OSError:
        told[where] = False
told["names"] = bool(socket.getaddrinfo("kubernetes.default.svc.cluster.local", 443))
print(json.dumps(told))
"""
PRIVILEGED = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "privileged"},
    "spec": {"containers": [{"name": "one", "image": "x", "securityContext": {"privileged": True}}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCluster]:
    with projects(tmp_path_factory.mktemp("policies"), tmp_path_factory.mktemp("cache")) as make:
        found = make()
        found("up")
        yield found


def test_01_pods_pass_an_admission_that_refuses_others(project: OnCluster) -> None:
    assert moves.ready(project) == 2
    done = subprocess.run(
        ["kubectl", "apply", "-n", project.namespace, "-f", "-"],
        input=json.dumps(PRIVILEGED), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 'violates PodSecurity "restricted' in done.stderr


def address(kind: str, name: str, namespace: str, path: str) -> str:
    return kubectl("get", kind, name, "-n", namespace, "-o", f"jsonpath={{{path}}}")


def test_12_model_pod_reaches_the_names_and_nothing_else(project: OnCluster) -> None:
    """Tried within the cluster: what a pod may send to its own node is the network's to say."""
    one, other = project.pods()
    names = kubectl("get", "service", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[0].spec.clusterIP}")  # fmt: skip
    metrics = address("service", "metrics-server", "kube-system", ".spec.clusterIP")
    service = address("service", NAME, project.namespace, ".spec.clusterIP")
    others = [f"{metrics}:443", f"{service}:80", f"{other['status']['podIP']}:8080"]

    def reached(pod: str) -> dict[str, bool]:
        told = kubectl("exec", pod, "-n", project.namespace, "--", "python", "-c", REACHES, f"{names}:53", *others)  # fmt: skip
        return json.loads(told)

    asking = {f"{names}:53": True, "names": True}
    model = reached(one["metadata"]["name"])
    assert model == {**asking, **dict.fromkeys(others, False)}
    clients = Clients(project, 60, number=1, rate=1)
    assert reached(clients.name) == {**asking, **dict.fromkeys(others, True)}
    moves.nothing_failed(clients.done(stop=True), least=1)


def test_12_loop_still_turns_through_the_policies(project: OnCluster) -> None:
    assert project("predict", "houses.csv", "-n", "2", "--json").json["release"] == "1"
    project.more_data(5)
    project("up")
    assert project("predict", "houses.csv", "-n", "2", "--json").json["release"] == "2"
