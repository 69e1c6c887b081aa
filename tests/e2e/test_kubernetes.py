"""The target `kubernetes` on a real cluster: the same life, and no request lost."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Project
from tests.e2e.test_docker import scenario
from tests.support import cluster
from tests.support.cluster import kubectl
from tests.support.on_cluster import NAME, Clients, projects
from tests.support.projects import houses_csv

from treadle.base.errors import Refused
from treadle.deploy.kubernetes import service as kubernetes
from treadle.deploy.kubernetes.wanted import Wanted

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(tmp_path: Path, cache: Path) -> Iterator[Callable[..., Project]]:
    with projects(tmp_path, cache) as one:
        yield one


@pytest.fixture
def project(make: Callable[[], Project]) -> Project:
    found = make()
    found("up")
    return found


def live(project: Project, kind: str = "deployment", name: str = NAME) -> dict:
    return json.loads(kubectl("get", kind, name, "-n", project.namespace, "-o", "json"))


def versions(project: Project) -> dict[str, str]:
    told = json.loads(
        kubectl(
            "get",
            "deployment,service,configmap,networkpolicy,serviceaccount,pdb",
            "-n",
            project.namespace,
            "-l",
            "app.kubernetes.io/managed-by=treadle",
            "-o",
            "json",
        )
    )
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for one in told["items"]
        if one["kind"] not in ("Deployment", "PodDisruptionBudget")  # their status moves
    }


def more_data(project: Project, seed: int) -> None:
    (project.folder / f"houses-{seed}.csv").write_text(houses_csv(200, seed))


# ---- up ------------------------------------------------------------------------------------------


def test_up_ends_with_two_replicas_that_answer_and_lead_back_to_the_data(project: Project) -> None:
    assert live(project)["status"]["availableReplicas"] == 2
    answer = project("predict", "houses.csv", "-n", "2", "--json").json
    links = project("lineage", answer["ids"][0], "--json").json["links"]
    found = {link["kind"]: link["id"] for link in links}
    assert found["instance"].startswith(f"{NAME}-")
    assert (
        found["image"]
        == live(project)["spec"]["template"]["spec"]["containers"][0]["image"].rpartition("@")[2]
    )
    assert {"release", "model", "run", "code", "data"} <= found.keys()
    said = json.loads(kubectl("get", "namespace", project.namespace, "-o", "json"))
    assert said["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_21_second_up_changes_no_resource_version(project: Project) -> None:
    before = versions(project)
    assert "nothing to do" in project("up").out
    assert versions(project) == before
    assert project("plan", "--exit-code").code == 0


def test_render_is_what_is_live_and_writes_a_file_for_each_object(
    project: Project, tmp_path: Path
) -> None:
    files = project("render", "--output", str(tmp_path / "gitops"), "--json").json["files"]
    assert len(files) == 7
    done = subprocess.run(
        [
            "kubectl",
            "diff",
            "--server-side",
            "--field-manager",
            "treadle",
            "-f",
            str(tmp_path / "gitops"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert project("render").out == project("render").out


def test_22_field_that_somebody_else_set_is_reported_and_not_forced(project: Project) -> None:
    kubectl("scale", f"deployment/{NAME}", "-n", project.namespace, "--replicas", "3")
    plan = project("plan").out
    assert "replicas" in plan
    ran = project("up", code=3)
    assert "somebody else manages" in ran.err
    assert ".spec.replicas" in ran.err
    assert live(project)["spec"]["replicas"] == 3


def test_24_what_is_not_wanted_any_more_is_pruned_and_a_claim_is_not(
    make: Callable[..., Project],
) -> None:
    project = make(", replicas: 2..3")
    project("up")
    assert kubectl("get", "pdb,hpa", "-n", project.namespace, "-o", "name").count("houses") == 2
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "mine", "namespace": project.namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }  # fmt: skip
    kubectl("apply", "-f", "-", document=claim)
    project.edit("treadle.yaml", ("replicas: 2..3", "replicas: 1"))
    project("up")
    assert kubectl("get", "pdb,hpa", "-n", project.namespace, "-o", "name") == ""
    assert live(project)["spec"]["replicas"] == 1
    out = project("down").out
    assert "is down" in out
    left = kubectl("get", "all,configmap,pvc", "-n", project.namespace, "-o", "name").split()
    assert "persistentvolumeclaim/mine" in left
    assert not [
        one for one in left if "houses" in one and "pod/" not in one and "inventory" not in one
    ]
    project("down", "--everything")


# ---- roll-outs -----------------------------------------------------------------------------------


@pytest.mark.soak  # test_rollout has the same with more requests
def test_30_rolling_update_and_rollback_lose_no_request_of_keep_alive_clients(
    project: Project,
) -> None:
    clients = Clients(project, 55)
    time.sleep(2)
    more_data(project, 41)
    project("up")
    began = time.monotonic()
    project("rollback", "--yes", "--reason", "by a test")
    assert time.monotonic() - began < 60
    told = clients.done()
    assert told["failures"] == []
    assert {"1", "2"} <= set(told["versions"])
    assert told["answered"] >= 5_000, told["answered"]


@pytest.mark.soak  # test_rollout has the same with more requests
def test_31_deleting_a_pod_and_scaling_down_lose_no_request(make: Callable[..., Project]) -> None:
    project = make(", replicas: 3")
    project("up")
    clients = Clients(project, 45)
    time.sleep(2)
    pods = kubectl(
        "get",
        "pods",
        "-n",
        project.namespace,
        "-l",
        f"app.kubernetes.io/instance={NAME}",
        "-o",
        "name",
    ).split()
    kubectl("delete", pods[0], "-n", project.namespace, "--wait=false")
    time.sleep(12)
    project.edit("treadle.yaml", ("replicas: 3", "replicas: 2"))
    project("up")
    told = clients.done()
    assert told["failures"] == []
    assert told["answered"] >= 4_000, told["answered"]


def test_27_release_that_does_not_come_up_is_taken_back(project: Project) -> None:
    more_data(project, 51)
    project.edit("treadle.yaml", ("memory: 256Mi", "memory: 20Mi"))
    ran = project("up", code=3)
    assert "did not get ready" in ran.err
    assert "the release before serves again" in ran.err
    answer = project("predict", "houses.csv", "-n", "1", "--json").json
    assert answer["release"] == "1"
    project.edit("treadle.yaml", ("memory: 20Mi", "memory: 256Mi"))
    project("up")
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "2"


def test_26_image_that_cannot_be_pulled_is_told_at_once(project: Project, tmp_path: Path) -> None:
    wanted = Wanted(
        "houses", "broken", project.namespace, f"127.0.0.1:1/nothing@sha256:{'0' * 64}", "", 1, "",
        least=1, cpu="10m", memory="64Mi",
    )  # fmt: skip
    began = time.monotonic()
    with pytest.raises(Refused, match=r"cannot pull its image.*what was applied is gone") as caught:
        kubernetes.roll_out(tmp_path, cluster.context(), wanted)
    assert time.monotonic() - began < 40
    assert "127.0.0.1:1/nothing" in caught.value.message
    assert "houses-broken" not in kubectl(
        "get", "deployment", "-n", project.namespace, "-o", "name"
    )


def test_pods_that_no_node_takes_are_told_and_fail_at_the_deadline(
    project: Project, tmp_path: Path
) -> None:
    image = live(project)["spec"]["template"]["spec"]["containers"][0]["image"]
    wanted = Wanted("houses", "big", project.namespace, image, "", 1, "", least=1, cpu="900")
    said: list[str] = []
    with pytest.raises(Refused, match="is not rolled out after 4 s"):
        kubernetes.roll_out(
            tmp_path,
            cluster.context(),
            wanted,
            report=lambda line, **_: said.append(line),
            deadline_s=4,
        )
    assert any("no node takes" in line for line in said)


def test_container_that_ends_again_and_again_is_told_with_its_last_words(
    project: Project, tmp_path: Path
) -> None:
    image = live(project)["spec"]["template"]["spec"]["containers"][0]["image"]
    wanted = Wanted(
        "houses", "wrong", project.namespace, image, "", 1, "sha256:" + "1" * 64, least=1, cpu="10m"
    )
    with pytest.raises(Refused, match=r"ends again and again \(exit code 1") as caught:
        kubernetes.roll_out(tmp_path, cluster.context(), wanted)
    assert "is not what was released" in caught.value.message


@pytest.mark.parametrize("point", ["deploy.begin", "deploy.wanted", "kubernetes.applied", "deploy.spawned", "deploy.swapped", "deploy.answered"])  # fmt: skip
def test_28_command_that_is_killed_on_the_way_is_made_good_by_the_next(
    project: Project, point: str
) -> None:
    more_data(project, 61)
    killed = project("up", code=None, env={"TREADLE_CRASH": point})
    assert killed.code != 0
    project("up")
    assert project("predict", "houses.csv", "-n", "1", "--json").json["release"] == "2"
    kinds = [d["kind"] for d in project.ledger()]
    assert kinds.count("promote") == 2
    assert kinds.count("release") <= 2
    assert "nothing to do" in project("up").out


# ---- who may ask -----------------------------------------------------------------------------------


def test_12_pod_without_the_label_does_not_reach_the_model(project: Project) -> None:
    allowed = Clients(project, 2, number=1)
    denied = Clients(project, 2, label=False, number=1)
    assert allowed.done()["answered"] > 0
    told = denied.done()
    assert told["answered"] == 0
    assert told["failures"]


def test_41_flipped_byte_in_the_model_keeps_a_pod_from_getting_ready(
    project: Project, tmp_path: Path
) -> None:
    image = live(project)["spec"]["template"]["spec"]["containers"][0]["image"]
    wanted = Wanted(
        "houses",
        "flipped",
        project.namespace,
        image,
        "",
        1,
        "sha256:" + "2" * 64,
        least=1,
        cpu="10m",
    )
    with pytest.raises(Refused):
        kubernetes.roll_out(tmp_path, cluster.context(), dataclasses.replace(wanted), deadline_s=60)


def test_29_context_that_does_not_exist_is_refused(make: Callable[..., Project]) -> None:
    project = make()
    project.edit("treadle.yaml", (f"context: {cluster.context()}", "context: elsewhere"))
    ran = project("up", code=2)
    assert "is for the cluster of elsewhere" in ran.err
    assert f"the current context is {cluster.context()}" in ran.err


def test_doctor_names_what_the_cluster_lacks(project: Project) -> None:
    ran = project("doctor", "--env", "local", "--json", code=None)
    found = {one["name"]: one["state"] for one in ran.json["checks"]}
    assert found["cluster"] == found["namespace"] == found["permissions"] == "ok"


# ---- promise 2 -------------------------------------------------------------------------------------


def test_one_scenario_leaves_equal_ledgers_in_a_process_and_on_kubernetes(
    make: Callable[..., Project],
) -> None:
    def masked(entries: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return [
            tuple(
                re.sub(r"http://\S+", "ADDRESS", re.sub(r"instance \S+", "instance X", text))
                for text in entry
            )
            for entry in entries
        ]

    by_process = masked(scenario(make(name="by-process", target="{target: process, port: 0}")))
    by_cluster = masked(scenario(make()))
    assert by_cluster == by_process
