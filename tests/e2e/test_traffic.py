"""A share of the requests for another release, on a real cluster."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import cluster
from tests.support.cluster import kubectl
from tests.support.on_cluster import NAME, Clients, OnCluster, projects

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
CANDIDATE = f"{NAME}-candidate"
FRESH = """
import http.client, json, sys, threading
hosts, number, each = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
body = json.dumps({"dataframe_records": [{"area": 100.0, "rooms": 3}]})
told = {host: {"versions": {}, "failures": []} for host in hosts}
lock = threading.Lock()
def run(host):
    for _ in range(each):
        try:  # a connection of its own for each request: each is given to a pod anew
            connection = http.client.HTTPConnection(host, 80, timeout=30)
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse(); data = answer.read(); connection.close()
            if answer.status != 200: raise RuntimeError(f"{answer.status}: {data[:200]}")
            version = answer.headers["X-Model-Version"]
            with lock: told[host]["versions"][version] = told[host]["versions"].get(version, 0) + 1
        except Exception as error:
            with lock: told[host]["failures"].append(repr(error))
for host in hosts:
    threads = [threading.Thread(target=run, args=(host,)) for _ in range(number)]
    [t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(tmp_path: Path, cache: Path) -> Iterator[Callable[..., OnCluster]]:
    with projects(tmp_path, cache, "routes") as one:
        yield one


def two_releases(project: OnCluster) -> OnCluster:
    project("up")
    project.more_data(41)
    project("up")
    return project


def ask(
    project: OnCluster, hosts: list[str], number: int, each: int, *,
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Requests on fresh connections, from a pod that may ask: host → versions that answered."""
    name = f"asking-{secrets.token_hex(3)}"
    kubectl("apply", "-f", "-", document={
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": project.namespace, "labels": labels or {f"treadle.dev/calls-{NAME}": "yes"}},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "asking", "image": project.image,
                "command": ["python", "-c", FRESH, ",".join(hosts), str(number), str(each)],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })  # fmt: skip
    kubectl("wait", f"pod/{name}", "-n", project.namespace, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=300s")  # fmt: skip
    told = json.loads(kubectl("logs", name, "-n", project.namespace))
    kubectl("delete", "pod", name, "-n", project.namespace, "--wait=false")
    return told


def names(project: OnCluster) -> set[str]:
    found = kubectl("get", "deployment,service,networkpolicy,hpa,pdb", "-n", project.namespace, "-o", "name")  # fmt: skip
    return set(found.split())


def test_37_weights_match_within_two_points_over_5000_requests(
    make: Callable[..., OnCluster],
) -> None:
    project = two_releases(make(", replicas: 5"))
    before = names(project)
    selector = project.live()["spec"]["selector"]
    said = project("traffic", "--release", "1", "--weight", "20", "--yes", "--reason", "a test")
    assert "release 1 gets 20 % (1 of 5 pods), release 2 the rest" in said.out
    told = ask(project, [NAME], 8, 625)[NAME]
    assert told["failures"] == []
    total = sum(told["versions"].values())
    assert total == 5_000
    assert abs(100 * told["versions"]["1"] / total - 20) <= 2, told["versions"]

    each = ask(project, [f"{NAME}-stable", CANDIDATE], 2, 20)
    assert list(each[f"{NAME}-stable"]["versions"]) == ["2"]
    assert list(each[CANDIDATE]["versions"]) == ["1"]
    assert project.live()["spec"]["selector"] == selector

    assert "release 1 gets 20 %" in project("status").out
    assert "release 1 gets 20 %" in project("plan").out
    assert "nothing to do" in project("up").out
    rendered = project("render").out
    assert CANDIDATE in rendered
    answered = project("predict", "houses.csv", "-n", "1", "--json").json
    links = {one["kind"] for one in project("lineage", answered["ids"][0], "--json").json["links"]}
    assert {"instance", "image", "data"} <= links

    project("traffic", "--weight", "0", "--yes")
    assert list(ask(project, [NAME], 2, 50)[NAME]["versions"]) == ["2"]
    assert names(project) == before
    entries = [(d["subject"], d["outcome"]) for d in project.ledger() if d["kind"] == "traffic"]
    assert entries == [("release 1", "ended"), ("release 1", "20 %")]


def test_rollback_ends_a_share_and_down_removes_it(make: Callable[..., OnCluster]) -> None:
    project = make(", replicas: 2")
    two_releases(project)
    project.more_data(51)
    project("up")
    ran = project("traffic", "--release", "2", "--weight", "10", "--yes")
    assert "50 % (1 of 2 pods); asked: 10 %" in ran.out
    assert "--pods 10" in ran.out
    project("rollback", "--yes", "--to", "1", "--reason", "by a test")
    assert f"deployment.apps/{CANDIDATE}" not in names(project)
    assert list(ask(project, [NAME], 2, 20)[NAME]["versions"]) == ["1"]
    assert [d["outcome"] for d in project.ledger() if d["kind"] == "traffic"] == ["ended", "50 %"]
    project("traffic", "--release", "2", "--weight", "50", "--yes")
    project("down")
    assert names(project) == set()


def test_share_on_an_autoscaled_environment_and_the_command_killed_on_the_way(
    make: Callable[..., OnCluster],
) -> None:
    project = two_releases(make(", replicas: 2..4"))
    ran = project(
        "traffic", "--release", "1", "--weight", "25", "--yes", code=None,
        env={"TREADLE_CRASH": "deploy.spawned"},
    )  # fmt: skip
    assert ran.code != 0
    project("traffic", "--release", "1", "--weight", "25", "--yes")
    assert project.live()["spec"]["replicas"] == 3
    assert project.live(name=CANDIDATE)["spec"]["replicas"] == 1
    killed = project("traffic", "--weight", "50", "--yes", code=None, env={"TREADLE_CRASH": "deploy.answered"})  # fmt: skip
    assert killed.code != 0
    project("up")
    outcomes = [d["outcome"] for d in project.ledger() if d["kind"] == "traffic"]
    assert outcomes == ["50 %", "25 %"]
    assert [project.live()["spec"]["replicas"], project.live(name=CANDIDATE)["spec"]["replicas"]] == [2, 2]  # fmt: skip
    project("traffic", "--weight", "0", "--yes")
    scaler = project.live("hpa")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 4)


def test_shares_that_move_lose_no_request_of_keep_alive_clients(
    make: Callable[..., OnCluster],
) -> None:
    project = two_releases(make(", replicas: 2"))
    clients = Clients(project, number=10, rate=100)
    project("traffic", "--release", "1", "--weight", "50", "--yes")
    time.sleep(15)  # the champion's pod that leaves has told its clients so by then
    project("traffic", "--weight", "0", "--yes")
    told = clients.done(stop=True)
    assert told["failures"] == []
    assert set(told["versions"]) == {"1", "2"}
    assert told["answered"] > 1_000


def test_12_prometheus_reaches_the_pods_where_a_monitor_is_rendered_and_no_other_does(
    make: Callable[..., OnCluster],
) -> None:
    project = make(", replicas: 1")
    project.edit("treadle.yaml", ("memory: 256Mi", f"memory: 256Mi, prometheus: {{namespace: {project.namespace}, labels: {{app: prom}}}}"))  # fmt: skip
    project("up")
    # The policy of a cluster with a Prometheus Operator, on one that has none.
    rendered = project("render", "--api-versions", "monitoring.coreos.com/v1").out
    (policy,) = [one for one in rendered.split("---\n") if f'name: "{NAME}-allow"' in one]
    done = subprocess.run(
        ["kubectl", "apply", "--server-side", "--force-conflicts", "-f", "-"],
        input=policy, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ask(project, [NAME], 1, 3, labels={"app": "prom"})[NAME]["versions"] == {"1": 3}
    told = ask(project, [NAME], 1, 1, labels={"app": "other"})[NAME]
    assert told["versions"] == {}
    assert told["failures"]


def test_release_of_another_environment_begins_with_a_share_and_becomes_champion(
    make: Callable[..., OnCluster],
) -> None:
    project = make(", replicas: 2")
    staging = "  staging: {target: process, port: 0}\n"
    project.edit("treadle.yaml", ("build: {base", f"{staging}build: {{base"))
    project("up")
    project.more_data(41)
    project("up", "--env", "staging")
    try:
        ran = project("promote", "--from", "staging", "--env", "local", "--weight", "50", "--yes", "--reason", "try it")  # fmt: skip
        assert "release 2 gets 50 % (1 of 2 pods), release 1 the rest" in ran.out
        told = ask(project, [NAME], 2, 50)[NAME]
        assert told["failures"] == []
        assert set(told["versions"]) == {"1", "2"}
        clients = Clients(project, number=4, rate=40)
        done = project("traffic", "--weight", "100", "--yes")
        assert "release 2 becomes champion instead of release 1" in done.out
        told = clients.done(stop=True)
        assert told["failures"] == []
        assert list(ask(project, [NAME], 2, 20)[NAME]["versions"]) == ["2"]
        assert f"deployment.apps/{CANDIDATE}" not in names(project)
        assert project.status()["champion"] == 2
        kinds = [d["kind"] for d in project.ledger()][:5]
        assert kinds == ["deploy", "traffic", "promote", "traffic", "release"]
        back = project("traffic", "--release", "1", "--weight", "100", "--yes", code=2)
        assert "treadle rollback --env local --to 1" in back.err
    finally:
        project("down", "--env", "staging", code=None)


# ---- where Gateway API is installed ----------------------------------------------------------------

ROUTES = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "httproutes.gateway.networking.k8s.io",
        "labels": {"treadle.dev/made-by": "tests"},
        # Without it the API server takes no definition of this protected group.
        "annotations": {"api-approved.kubernetes.io": "unapproved, a test's own"},
    },
    "spec": {
        "group": "gateway.networking.k8s.io", "scope": "Namespaced",
        "names": {"kind": "HTTPRoute", "plural": "httproutes", "singular": "httproute", "listKind": "HTTPRouteList"},
        "versions": [{
            "name": "v1", "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                "type": "object", "required": ["parentRefs", "rules"],
                "properties": {
                    "hostnames": {"type": "array", "items": {"type": "string"}},
                    "parentRefs": {"type": "array", "items": {
                        "type": "object", "required": ["name"],
                        "properties": {
                            "group": {"type": "string", "default": "gateway.networking.k8s.io"},
                            "kind": {"type": "string", "default": "Gateway"},
                            "name": {"type": "string"}, "namespace": {"type": "string"},
                        },
                    }},
                    "rules": {"type": "array", "items": {"type": "object", "properties": {
                        "matches": {"type": "array", "items": {"type": "object", "properties": {"path": {
                            "type": "object", "properties": {
                                "type": {"type": "string", "enum": ["Exact", "PathPrefix", "RegularExpression"]},
                                "value": {"type": "string"},
                            },
                        }}}},
                        "backendRefs": {"type": "array", "items": {
                            "type": "object", "required": ["name"],
                            "properties": {
                                "group": {"type": "string", "default": ""}, "kind": {"type": "string", "default": "Service"},
                                "name": {"type": "string"},
                                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                                "weight": {"type": "integer", "minimum": 0, "maximum": 1000000, "default": 1},
                            },
                        }},
                        "filters": {"type": "array", "items": {
                            "type": "object", "required": ["type"],
                            "properties": {
                                "type": {"type": "string"},
                                "urlRewrite": {"type": "object", "properties": {"path": {"type": "object", "properties": {
                                    "type": {"type": "string"}, "replacePrefixMatch": {"type": "string"},
                                }}}},
                            },
                        }},
                    }}},
                },
            }}}},
        }],
    },
}  # fmt: skip


GATEWAYS = f"crd/{ROUTES['metadata']['name']}"
OURS = "treadle.dev/made-by=tests"


@pytest.fixture
def gateway_api() -> Iterator[None]:
    """A definition with the fields that are used; no gateway stands behind it."""
    cluster.require()
    with cluster.alone("gateway-api"):
        if kubectl("get", GATEWAYS, "--ignore-not-found", "-o", "name"):
            yield  # the cluster's own
            return
        kubectl("apply", "-f", "-", document=ROUTES)
        kubectl("wait", GATEWAYS, "--for=condition=Established", "--timeout=30s")
        yield
        kubectl("delete", GATEWAYS)


@pytest.fixture
def no_gateway_api() -> Iterator[None]:
    """No such kind, as long as the test runs."""
    cluster.require()
    with cluster.alone("gateway-api"):
        kubectl("delete", "crd", "-l", OURS)  # of tests that were killed
        if kubectl("get", GATEWAYS, "--ignore-not-found", "-o", "name"):
            pytest.skip("this cluster has Gateway API")
        yield


@pytest.mark.usefixtures("no_gateway_api")
def test_13_route_is_left_out_aloud_where_there_is_no_such_kind(
    make: Callable[..., OnCluster],
) -> None:
    project = make(", replicas: 1, route: {gateway: infra/public}")
    said = project("up").err
    assert "no HTTPRoute" in said
    assert "route: has no effect" in said
    assert "nothing to do" in project("up").out
    ran = project("render", "--api-versions", "gateway.networking.k8s.io/v1")
    assert 'kind: "HTTPRoute"' in ran.out
    assert "no HTTPRoute" not in ran.err


@pytest.mark.usefixtures("gateway_api")
def test_weights_of_a_route_are_applied_changed_and_taken_back(
    make: Callable[..., OnCluster],
) -> None:
    project = two_releases(make(", replicas: 2, route: {gateway: infra/public, path: /houses}"))

    def weights() -> list[tuple[str, int]]:
        (rule,) = project.live("httproute")["spec"]["rules"]
        return [(one["name"], one["weight"]) for one in rule["backendRefs"]]

    assert weights() == [(NAME, 1)]
    assert "nothing to do" in project("up").out
    ran = project("traffic", "--release", "1", "--weight", "10", "--yes")
    assert "who asks the Service itself, within the cluster, gets the champion" in ran.out
    assert weights() == [(NAME, 90), (CANDIDATE, 10)]
    assert list(ask(project, [NAME], 1, 10)[NAME]["versions"]) == ["2"]
    assert list(ask(project, [CANDIDATE], 1, 10)[CANDIDATE]["versions"]) == ["1"]
    assert project("plan", "--exit-code").code == 0
    project("traffic", "--weight", "40", "--yes")
    assert weights() == [(NAME, 60), (CANDIDATE, 40)]
    project("traffic", "--weight", "0", "--yes")
    assert weights() == [(NAME, 1)]
    project("down")
    assert kubectl("get", "httproute", "-n", project.namespace, "-o", "name") == ""
