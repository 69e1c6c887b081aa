"""What pods captured on a real cluster: windows, lineage, and roll-outs that lose none of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Project
from tests.e2e.test_kubernetes import Clients, cache, live, make, more_data
from tests.support import cluster
from tests.support.cluster import kubectl

from treadle.base import segments

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
__all__ = ["cache", "make"]
NAME = "houses-local"
MONITOR = "monitor: {window: 20s, capture: {exclude: [year], hash: [rooms]}}\n"


@pytest.fixture
def project(make: Callable[..., Project]) -> Iterator[Project]:
    found = make()
    found.add_spec(MONITOR)
    found("up")
    yield found


def captured(project: Project) -> list[segments.Record]:
    folder = project.folder / ".treadle/environments/local/capture"
    return [one.record for one in segments.read_segments(folder)]


def pods(project: Project) -> list[str]:
    return kubectl(
        "get", "pods", "-n", project.namespace, "-l", f"app.kubernetes.io/instance={NAME}",
        "-o", "jsonpath={.items[*].metadata.name}",
    ).split()  # fmt: skip


def test_requests_become_a_window_and_lead_back_to_the_data(project: Project) -> None:
    ids = project("predict", "houses.csv", "-n", "30", "--json").json["ids"]
    # lineage collects by itself: the row is there at once
    links = project("lineage", ids[7], "--json").json["links"]
    found = {link["kind"]: link for link in links}
    facts = found["prediction"]["facts"]
    assert facts["inputs"]["area"] > 0
    assert facts["answer"]["prediction"] > 0
    assert len(facts["inputs"]["rooms"]) == 32, "hashed"
    assert "year" not in facts["with"], "excluded"
    assert {"instance", "release", "model", "run", "code", "data"} <= found.keys()
    (record,) = captured(project)
    assert ids[0].startswith(record.id)
    until = time.monotonic() + 90
    windows: list[dict] = []
    while not any(one["rows"] for one in windows) and time.monotonic() < until:
        time.sleep(3)
        windows = project("monitor", "--json").json["windows"]
    assert [one["rows"] for one in windows if one["rows"]] == [30]
    for name in pods(project):
        left = kubectl("exec", name, "-n", project.namespace, "--", "python", "-c", "import os; print(os.listdir('/var/lib/treadle/capture'))")  # fmt: skip
        assert ".msgpack" not in left, "what was collected is not there any more"


def test_roll_out_and_down_keep_every_request_that_was_answered(project: Project) -> None:
    clients = Clients(project, number=4, rate=16)
    time.sleep(3)
    more_data(project, 41)
    ran = project("up")
    assert "collected" in ran.err
    told = clients.done(stop=True)
    assert told["failures"] == []
    assert {"1", "2"} <= set(told["versions"])
    project("down")
    records = captured(project)
    assert len({one.id for one in records}) == len(records), "nothing is doubled"
    assert len(records) == told["answered"], "nothing is lost"
    assert {one.release for one in records} == {1, 2}


def test_shares_that_move_keep_what_both_releases_answered(project: Project) -> None:
    more_data(project, 41)
    project("up")
    clients = Clients(project, number=8, rate=16)
    said = project("traffic", "--release", "1", "--weight", "50", "--yes").err
    time.sleep(5)
    said += project("traffic", "--weight", "0", "--yes").err
    told = clients.done(stop=True)
    assert told["failures"] == []
    assert {"1", "2"} <= set(told["versions"])
    project("down")
    records = captured(project)
    assert len({one.id for one in records}) == len(records), "nothing is doubled"
    assert len(records) == told["answered"], said
    assert {one.release for one in records} == {1, 2}


def test_collection_that_is_killed_is_made_good_and_doubles_nothing(project: Project) -> None:
    ids = project("predict", "houses.csv", "-n", "5", "--json").json["ids"]
    killed = project("lineage", ids[0], code=None, env={"TREADLE_CRASH": "capture.stored"})
    assert killed.code != 0
    assert len(captured(project)) == 1
    project("predict", "houses.csv", "-n", "5")
    project("lineage", ids[0])
    assert len(captured(project)) == 2


def test_pods_keep_nothing_where_nothing_is_to_be_captured(make: Callable[..., Project]) -> None:
    project = make(", replicas: 1")
    project.add_spec("monitor: {capture: {rate: 0}}\n")
    project("up")
    spec = live(project)["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["volumes"]] == ["tmp"]
    ids = project("predict", "houses.csv", "-n", "1", "--json").json["ids"]
    links = project("lineage", ids[0], "--json").json["links"]
    assert "inputs" not in links[0]["facts"]
    assert captured(project) == []


def test_who_may_not_run_commands_in_pods_is_told_the_role_and_still_rolls_out(
    make: Callable[..., Project], tmp_path: Path
) -> None:
    project = make(", replicas: 1")
    kubectl("create", "namespace", project.namespace)
    config, name = _account(project.namespace, tmp_path)
    env = {"KUBECONFIG": str(config), "TREADLE_CACHE": os.environ.get("TREADLE_CACHE", "")}
    env = {key: value for key, value in env.items() if value}
    project.edit("treadle.yaml", (f"context: {cluster.context()}", f"context: {name}"))
    project("up", env=env)
    ran = project("doctor", "--env", "local", "--json", env=env, code=None)
    (found,) = [one for one in ran.json["checks"] if one["name"] == "permissions"]
    assert found["state"] == "warning"
    assert "Pod/exec: create, get" in found["found"]
    assert '"pods/exec"' in found["fix"]
    project("predict", "houses.csv", "-n", "1", env=env)
    more_data(project, 81)
    ran = project("up", env=env)
    assert "is not collected: not allowed" in ran.err
    ran = project("monitor", env=env, code=3)
    assert "pods/exec" in ran.err
    project("down", env=env)
    kubectl("delete", "namespace", project.namespace, "--wait=false")  # that account may not


def _account(namespace: str, folder: Path) -> tuple[Path, str]:
    """A kubeconfig of somebody who may all that is needed but run commands in pods."""
    rules = [
        {"apiGroups": groups, "resources": resources, "verbs": ["get", "list", "create", "patch", "delete"]}
        for groups, resources in (
            ([""], ["configmaps", "services", "serviceaccounts", "pods"]),
            (["apps"], ["deployments"]),
            (["networking.k8s.io"], ["networkpolicies"]),
        )
    ]  # fmt: skip
    rules += [
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get", "create"]},
    ]
    meta = {"name": "turner", "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    for one in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "turner"},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    ):  # fmt: skip
        kubectl("apply", "-f", "-", document=one)
    token = kubectl("create", "token", "turner", "-n", namespace).strip()
    view = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    view["users"] = [{"name": "turner", "user": {"token": token}}]
    view["contexts"] = [
        {"name": "turner", "context": {"cluster": view["clusters"][0]["name"], "user": "turner"}}
    ]
    view["current-context"] = "turner"
    path = folder / "kubeconfig.json"
    path.write_text(json.dumps(view))
    return path, "turner"
