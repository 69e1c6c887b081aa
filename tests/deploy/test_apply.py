"""deploy/apply.py, wait.py and kubernetes.py against the twin of a cluster."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from treadle.base.errors import Refused
from treadle.clients.kube import Conflict
from treadle.clients.memory_kube import MemoryCluster
from treadle.deploy.kubernetes import apply, manifest, preflight, wait
from treadle.deploy.kubernetes import service as kubernetes
from treadle.deploy.kubernetes.wanted import Wanted

WANTED = Wanted("flights", "production", "flights", f"r.io/flights@sha256:{'a' * 64}", f"sha256:{'a' * 64}", 1, f"sha256:{'b' * 64}")  # fmt: skip
SCALED = dataclasses.replace(WANTED, most=4)
NAME = "flights-production"
REVISION = "deployment.kubernetes.io/revision"


def healthy(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
    """A controller under which every roll-out ends well at once."""
    if changed.get("kind") != "Deployment":
        return
    number = changed["spec"].get("replicas", 1)
    changed["status"] = {
        "observedGeneration": changed["metadata"]["generation"], "replicas": number,
        "updatedReplicas": number, "readyReplicas": number, "availableReplicas": number,
    }  # fmt: skip


def broken(reason: str, **more: Any):
    """A controller under which releases but the first get pods that do not come up."""

    def grow(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        if changed.get("kind") != "Deployment":
            return
        labels = changed["spec"]["template"]["metadata"]["labels"]
        if labels["app.kubernetes.io/version"] == "1":
            return healthy(cluster, changed)
        changed["status"] = {"observedGeneration": changed["metadata"]["generation"], "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2}  # fmt: skip
        changed["metadata"].setdefault("annotations", {})[REVISION] = "2"
        labels = {**labels, "pod-template-hash": "second"}
        cluster.objects["apps/v1/ReplicaSet", "flights", "second"] = {
            "metadata": {"name": "second", "labels": labels, "annotations": {REVISION: "2"}}
        }
        cluster.objects["v1/Pod", "flights", "new"] = {
            "kind": "Pod", "metadata": {"name": "new", "namespace": "flights", "labels": labels},
            "status": {"containerStatuses": [{"image": "r.io/x", "ready": False, **({"state": {"waiting": {"reason": reason, "message": "because"}}} if reason else {}), **more}]},
        }  # fmt: skip
        return None

    return grow


def actions(found: list[apply.Applied]) -> dict[str, str]:
    return {one.object: one.action for one in found}


def test_first_apply_creates_and_the_second_changes_nothing() -> None:
    cluster = MemoryCluster(healthy)
    objects = manifest.render(WANTED)
    first = apply.apply(cluster, objects, NAME, "flights")
    assert set(actions(first).values()) == {"created"}
    before = {k: v["metadata"].get("resourceVersion") for k, v in cluster.objects.items()}
    again = apply.apply(cluster, objects, NAME, "flights")
    assert set(actions(again).values()) == {"unchanged"}
    assert {k: v["metadata"].get("resourceVersion") for k, v in cluster.objects.items()} == before


def test_difference_says_what_would_be_and_writes_nothing() -> None:
    cluster = MemoryCluster(healthy)
    assert set(
        actions(apply.difference(cluster, manifest.render(WANTED), NAME, "flights")).values()
    ) == {"created"}
    assert cluster.objects == {}
    apply.apply(cluster, manifest.render(WANTED), NAME, "flights")
    assert set(
        actions(apply.difference(cluster, manifest.render(WANTED), NAME, "flights")).values()
    ) == {"unchanged"}
    more = dataclasses.replace(WANTED, least=3)
    (changed,) = [
        one
        for one in apply.difference(cluster, manifest.render(more), NAME, "flights")
        if one.action != "unchanged"
    ]
    assert changed.fields == ("spec.replicas: 2 → 3",)


def test_24_only_what_is_in_the_inventory_and_ours_is_pruned() -> None:
    cluster = MemoryCluster(healthy)
    apply.apply(cluster, manifest.render(SCALED), NAME, "flights")
    stranger = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": "flights", "labels": {"app.kubernetes.io/managed-by": "treadle"}}, "data": {"a": "1"}}  # fmt: skip
    cluster.apply(stranger, manager="me")
    found = actions(apply.apply(cluster, manifest.render(WANTED), NAME, "flights"))
    assert found["PodDisruptionBudget flights-production"] == "pruned"
    assert cluster.get("v1/ConfigMap", "flights", "mine") is not None
    assert cluster.get("policy/v1/PodDisruptionBudget", "flights", NAME) is None


def test_24_settings_of_before_stay_until_no_pod_of_before_is_left(tmp_path: Path) -> None:
    """An old pod that ends in a roll-out is made anew, and needs them."""
    seen: list[int] = []

    def grow(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        healthy(cluster, changed)
        if changed.get("kind") == "Deployment":
            names = [name for kind, _, name in cluster.objects if kind == "v1/ConfigMap"]
            seen.append(sum("inventory" not in name for name in names))

    cluster = MemoryCluster(grow)
    roll(cluster, tmp_path, 1)
    roll(cluster, tmp_path, 2)
    assert seen == [1, 2]
    left = [name for kind, _, name in cluster.objects if kind == "v1/ConfigMap"]
    assert len(left) == 2  # the settings and the inventory


def test_what_is_not_ours_any_more_is_not_pruned() -> None:
    cluster = MemoryCluster(healthy)
    apply.apply(cluster, manifest.render(SCALED), NAME, "flights")
    cluster.objects["policy/v1/PodDisruptionBudget", "flights", NAME]["metadata"]["labels"][
        "app.kubernetes.io/managed-by"
    ] = "argo"
    apply.apply(cluster, manifest.render(WANTED), NAME, "flights")
    assert cluster.get("policy/v1/PodDisruptionBudget", "flights", NAME) is not None


def test_namespace_and_claims_stay_unless_everything_goes() -> None:
    cluster = MemoryCluster(healthy)
    apply.apply(cluster, manifest.render(WANTED), NAME, "flights")
    found = actions(apply.remove(cluster, NAME, "flights", everything=False))
    assert found["Namespace flights"] == "kept"
    left = {name for _, _, name in cluster.objects}
    assert left == {"flights", f"{NAME}-inventory"}
    apply.remove(cluster, NAME, "flights", everything=True)  # another day
    assert cluster.objects == {}


def test_namespace_that_was_there_before_is_never_deleted() -> None:
    cluster = MemoryCluster(healthy)
    theirs = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flights"}}
    cluster.apply(theirs, manager="them")
    apply.apply(cluster, manifest.render(WANTED), NAME, "flights")
    apply.remove(cluster, NAME, "flights", everything=True)
    assert [key[0] for key in cluster.objects] == ["v1/Namespace"]


def test_object_of_somebody_else_is_not_taken_over() -> None:
    cluster = MemoryCluster(healthy)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flights"}})
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": "flights"},
    }
    cluster.apply(theirs, manager="them")
    before = dict(cluster.objects)
    with pytest.raises(Refused, match="is not Treadle's"):
        apply.apply(cluster, manifest.render(WANTED), NAME, "flights")
    assert cluster.objects == before


def test_claim_that_is_not_wanted_any_more_is_remembered_until_everything_goes() -> None:
    cluster = MemoryCluster(healthy)
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "flights", "labels": {"app.kubernetes.io/managed-by": "treadle"}},
    }  # fmt: skip
    apply.apply(cluster, [*manifest.render(WANTED), claim], NAME, "flights")
    apply.apply(cluster, manifest.render(WANTED), NAME, "flights")
    assert cluster.get("v1/PersistentVolumeClaim", "flights", "data") is not None
    apply.remove(cluster, NAME, "flights", everything=True)
    assert cluster.objects == {}


def test_old_pods_of_the_same_release_do_not_end_a_roll_out() -> None:
    cluster = MemoryCluster(
        broken(
            "CrashLoopBackOff", lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        )
    )
    apply.apply(cluster, manifest.render(dataclasses.replace(WANTED, release=2)), NAME, "flights")
    live = cluster.objects["apps/v1/Deployment", "flights", NAME]
    live["metadata"]["annotations"][REVISION] = "3"  # the memory was raised: a new template
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 2:
            healthy(cluster, live)

    wait.rolled_out(cluster, "flights", NAME, now=clock, sleep=sleep)


def test_inventory_is_written_before_anything_new() -> None:
    seen: list[str] = []
    cluster = MemoryCluster(lambda _, one: seen.append(f"{one['kind']} {one['metadata']['name']}"))
    apply.apply(cluster, manifest.render(WANTED), NAME, "flights")
    assert seen[:2] == ["Namespace flights", f"ConfigMap {NAME}-inventory"]


def test_22_conflict_names_the_field_and_its_manager() -> None:
    cluster = MemoryCluster(healthy)
    apply.apply(cluster, manifest.render(WANTED), NAME, "flights")
    theirs = cluster.get("apps/v1/Deployment", "flights", NAME)
    assert theirs is not None
    cluster._owners["apps/v1/Deployment", "flights", NAME]["kubectl"] = {"\0spec\0replicas"}
    cluster.objects["apps/v1/Deployment", "flights", NAME]["spec"]["replicas"] = 9
    with pytest.raises(Conflict, match="kubectl"):
        apply.apply(cluster, manifest.render(WANTED), NAME, "flights")


# ---- waiting -------------------------------------------------------------------------------------


def deployment(**status: int) -> dict[str, Any]:
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 2, **status},
    }


@pytest.mark.parametrize(
    ("live", "done"),
    [
        ({**deployment(), "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}}, False),
        (deployment(replicas=2, updatedReplicas=1, availableReplicas=2), False),
        (deployment(replicas=3, updatedReplicas=2, availableReplicas=3), False),
        (deployment(replicas=2, updatedReplicas=2, availableReplicas=1), False),
        (deployment(replicas=2, updatedReplicas=2, availableReplicas=2), True),
        (deployment(), False),
    ],
)  # fmt: skip
def test_rolled_out_means_seen_updated_available_and_no_old_pod(live: dict, done: bool) -> None:
    words, found = wait.progress(live)
    assert found is done
    assert words


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def roll(cluster: MemoryCluster, folder: Path, release: int):
    wanted = dataclasses.replace(WANTED, release=release)
    return kubernetes.roll_out(folder, "here", wanted, cluster=cluster, deadline_s=3)


@pytest.mark.parametrize(
    ("reason", "more", "said"),
    [
        ("ImagePullBackOff", {}, "cannot pull its image r.io/x: because"),
        ("CrashLoopBackOff", {"lastState": {"terminated": {"exitCode": 7, "reason": "Error"}}}, r"exit code 7, Error\)\n  last words"),
    ],
)  # fmt: skip
def test_27_release_that_does_not_come_up_is_taken_back(
    tmp_path: Path, reason: str, more: dict[str, Any], said: str
) -> None:
    cluster = MemoryCluster(broken(reason, **more))
    cluster.log["new"] = ["last words"]
    roll(cluster, tmp_path, 1)
    with pytest.raises(Refused, match=said) as caught:
        roll(cluster, tmp_path, 2)
    assert "the release before serves again" in caught.value.message
    live = cluster.get("apps/v1/Deployment", "flights", NAME)
    assert live is not None
    assert live["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/version"] == "1"
    assert kubernetes.observe(tmp_path, cluster=cluster).release == 1


def test_first_release_that_does_not_come_up_leaves_nothing(tmp_path: Path) -> None:
    cluster = MemoryCluster(broken("ErrImagePull"))
    with pytest.raises(Refused, match="what was applied is gone"):
        roll(cluster, tmp_path, 2)
    assert {key[0] for key in cluster.objects} == {
        "v1/Namespace", "v1/ConfigMap", "v1/Pod", "apps/v1/ReplicaSet",
    }  # fmt: skip


def test_pod_that_no_node_takes_is_told_at_once_and_fails_at_the_deadline() -> None:
    said: list[str] = []
    cluster = MemoryCluster(broken(""))
    apply.apply(cluster, manifest.render(dataclasses.replace(WANTED, release=2)), NAME, "flights")
    cluster.objects["v1/Pod", "flights", "new"]["status"] = {"conditions": [{"reason": "Unschedulable", "message": "0/1 nodes"}]}  # fmt: skip
    clock = Clock()
    with pytest.raises(Refused, match="is not rolled out after 10 s.*0/1 nodes"):
        wait.rolled_out(cluster, "flights", NAME, deadline_s=10, now=clock, sleep=clock.sleep, report=lambda line, **_: said.append(line))  # fmt: skip
    assert sum("no node takes new" in line for line in said) == 1


def test_settings_that_a_node_has_not_seen_yet_are_waited_for() -> None:
    cluster = MemoryCluster(broken("CreateContainerConfigError"))
    apply.apply(cluster, manifest.render(dataclasses.replace(WANTED, release=2)), NAME, "flights")
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 2:
            cluster.objects["v1/Pod", "flights", "new"]["status"] = {}
            healthy(cluster, cluster.objects["apps/v1/Deployment", "flights", NAME])

    wait.rolled_out(cluster, "flights", NAME, now=clock, sleep=sleep)
    stuck = MemoryCluster(broken("CreateContainerConfigError"))
    apply.apply(stuck, manifest.render(dataclasses.replace(WANTED, release=2)), NAME, "flights")
    with pytest.raises(Refused, match="cannot be started: because"):
        wait.rolled_out(stuck, "flights", NAME, now=clock, sleep=clock.sleep)


def test_roll_out_that_was_cut_off_is_known_to_the_next(tmp_path: Path) -> None:
    cluster = MemoryCluster(healthy)
    roll(cluster, tmp_path, 1)
    assert not kubernetes.observe(tmp_path, cluster=cluster).unfinished

    class Cut(Exception):
        pass

    def cut(_: MemoryCluster, one: dict[str, Any]) -> None:
        if one["kind"] == "Deployment":
            raise Cut

    cluster._grow = cut
    with pytest.raises(Cut):
        roll(cluster, tmp_path, 2)
    assert kubernetes.observe(tmp_path, cluster=cluster).unfinished
    cluster._grow = healthy
    cluster.objects["apps/v1/Deployment", "flights", NAME]["metadata"]["generation"] = 1
    healthy(cluster, cluster.objects["apps/v1/Deployment", "flights", NAME])
    roll(cluster, tmp_path, 2)
    seen = kubernetes.observe(tmp_path, cluster=cluster)
    assert (seen.release, seen.status, seen.unfinished) == (2, "serving", False)


def test_live_objects_that_are_not_what_was_applied_are_seen(tmp_path: Path) -> None:
    cluster = MemoryCluster(healthy)
    roll(cluster, tmp_path, 1)
    assert kubernetes.observe(tmp_path, cluster=cluster).differs == ()
    cluster.objects["v1/Service", "flights", NAME]["spec"]["type"] = "LoadBalancer"
    (differs,) = kubernetes.observe(tmp_path, cluster=cluster).differs
    assert 'spec.type: "LoadBalancer" → "ClusterIP"' in differs


# ---- before --------------------------------------------------------------------------------------


def test_all_missing_permissions_are_named_with_the_role_that_gives_them() -> None:
    cluster = MemoryCluster()
    cluster.forbidden = {("create", "v1/Namespace"), ("patch", "apps/v1/Deployment"), ("delete", "v1/Service"), ("list", "v1/Pod")}  # fmt: skip
    found = {one.name: one for one in preflight.look(cluster, WANTED)}
    assert found["namespace"].state == "missing"
    told = found["permissions"]
    assert told.state == "missing"
    assert "Deployment: patch" in told.found
    assert "Service: delete" in told.found
    assert "Pod: list" in told.found
    assert 'kind: "Role"' in str(told.fix)
    assert '"deployments"' in str(told.fix)


def test_what_will_not_take_effect_is_a_warning() -> None:
    found = {
        one.name: one
        for one in preflight.look(MemoryCluster(), dataclasses.replace(WANTED, most=4))
    }
    assert found["autoscaling"].state == "warning"
    assert found["network policies"].state == "warning"
    assert found["monitoring"].state == "warning"
