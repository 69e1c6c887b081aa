"""deploy/kubernetes: preflight, access, probe, image and logs against the twin of a cluster."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from treadle.base.errors import Refused, Unreachable, UsageError
from treadle.base.spec import Capture
from treadle.clients.memory_kube import MemoryCluster
from treadle.deploy.kubernetes import access, image, logs, manifest, preflight, probe, service
from treadle.deploy.kubernetes.service import STATE
from treadle.deploy.kubernetes.wanted import Wanted

WANTED = Wanted("flights", "production", "flights", f"r.io/flights@sha256:{'a' * 64}", f"sha256:{'a' * 64}", 1, f"sha256:{'b' * 64}")  # fmt: skip
POD = "v1/Pod"


def with_namespace(grow: Any = None) -> MemoryCluster:
    cluster = MemoryCluster(grow)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flights"}})
    return cluster


def found(cluster: MemoryCluster, wanted: Wanted = WANTED, **more: Any) -> dict:
    return {one.name: one for one in preflight.look(cluster, wanted, **more)}


class Time:
    """Seconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.at = 0.0

    def clock(self) -> probe.Clock:
        return probe.Clock(lambda: self.at, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.at += seconds


# ---- looks ---------------------------------------------------------------------------------------


def test_role_gives_all_that_is_needed_and_is_bound_to_who_we_are() -> None:
    cluster = with_namespace()
    cluster.forbidden = {("get", "v1/Pod/log"), ("patch", "apps/v1/Deployment")}
    cluster.who = lambda: "system:serviceaccount:ci:deployer"  # type: ignore[method-assign]
    told = found(cluster)["permissions"]
    assert told.found == "Deployment: patch; Pod/log: get"
    role, binding = yaml.safe_load_all(told.fix)
    given = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {("apps", "deployments", "patch"), ("", "pods/log", "get"), ("", "services/proxy", "create"), ("networking.k8s.io", "networkpolicies", "delete")} <= given  # fmt: skip
    assert not any("*" in one for one in given)
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "namespace": "ci", "name": "deployer"}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"] == "treadle-production"


def test_03_permissions_are_within_the_namespace_and_without_wildcards() -> None:
    needed = access.needed(manifest.render(dataclasses.replace(WANTED, most=3)))
    role = yaml.safe_load(access.role("flights", "production", needed, ""))
    assert role["kind"] == "Role"
    assert role["metadata"]["namespace"] == "flights"
    assert "*" not in str(role["rules"])
    assert "namespaces" not in str(role["rules"])


def test_commands_in_pods_are_asked_for_only_where_pods_capture_and_stand_in_no_way(
    tmp_path: Path,
) -> None:
    cluster = with_namespace()
    cluster.forbidden = {("get", "v1/Pod/exec"), ("create", "v1/Pod/exec")}
    assert found(cluster)["permissions"].state == "ok"
    assert "pods/exec" not in access.role("n", "e", access.needed(manifest.render(WANTED)), "")
    keeps = dataclasses.replace(WANTED, capture=Capture())
    told = found(cluster, keeps)["permissions"]
    assert told.state == "warning"
    assert told.found == "Pod/exec: create, get (what pods capture is not collected)"
    assert "pods/exec" in told.fix
    said: list[str] = []

    def report(line: str, **facts: Any) -> None:
        said.append(line)

    preflight.before_apply(cluster, keeps, tmp_path, "here", report=report)
    (line,) = [one for one in said if one.startswith("permissions")]
    assert line.endswith("(treadle doctor --env production prints the Role)")
    cluster.forbidden.add(("patch", "v1/Pod"))
    assert found(cluster, keeps)["permissions"].found == "Pod/exec: create, get; Pod: patch"
    with pytest.raises(Refused, match="Pod: patch"):
        preflight.before_apply(cluster, keeps, tmp_path, "here")


def test_namespace_that_may_not_be_looked_at_is_taken_to_be_there() -> None:
    cluster = MemoryCluster()

    def refuse(kind: str, namespace: str | None, name: str) -> None:
        if kind == "v1/Namespace":
            raise Refused("not allowed")

    cluster.get = refuse  # type: ignore[method-assign]
    assert found(cluster)["namespace"].state == "ok"
    assert "alone is ours" in found(cluster)["namespace"].found


def storage_class(name: str, default: bool) -> dict:
    note = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name, "annotations": note}}  # fmt: skip


def claim(**spec: Any) -> dict:
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "flights"}, "spec": spec}  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "spec", "state", "words"),
    [
        ([("standard", True)], {}, "ok", "of the class standard"),
        ([("fast", False)], {}, "missing", "the default storage class, and there is none"),
        ([("fast", False)], {"storageClassName": "fast"}, "ok", "of the class fast"),
        ([("fast", False)], {"storageClassName": "slow"}, "missing", "there is: fast"),
        ([], {"storageClassName": ""}, "ok", "that somebody made"),
        ([], {}, "missing", "none"),
    ],
)
def test_claim_gets_a_class_that_there_is(classes, spec, state: str, words: str) -> None:
    cluster = with_namespace()
    for name, default in classes:
        one = storage_class(name, default)
        cluster.objects["storage.k8s.io/v1/StorageClass", None, name] = one
    told = found(cluster, objects=[claim(**spec)])["storage"]
    assert told.state == state
    assert words in told.found


def test_claim_that_a_pod_mounts_must_be_there() -> None:
    cluster = with_namespace()
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}  # fmt: skip
    assert found(cluster, objects=[pod])["storage"].state == "missing"
    cluster.apply(claim())
    assert found(cluster, objects=[pod])["storage"].state == "ok"
    assert "storage" not in found(cluster)  # nothing of a model wants one


def test_secret_that_the_spec_names_must_be_there_with_its_key() -> None:
    cluster = with_namespace()
    wanted = dataclasses.replace(WANTED, token_secret="token")
    assert "no Secret token" in found(cluster, wanted)["secret"].found
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": "flights"}, "data": {"other": "x"}}  # fmt: skip
    cluster.apply(secret)
    assert "no key `token`" in found(cluster, wanted)["secret"].found
    cluster.apply({**secret, "data": {"token": "x"}})
    assert "secret" not in found(cluster, wanted)


def test_what_a_probe_of_policies_found_is_what_is_told() -> None:
    assert found(with_namespace(), enforced=True)["network policies"].state == "ok"
    told = found(with_namespace(), enforced=False)["network policies"]
    assert told.state == "warning"
    assert "ignores them" in told.found


# ---- before each apply ---------------------------------------------------------------------------


def test_all_that_stands_in_the_way_is_refused_at_once(tmp_path: Path) -> None:
    cluster = MemoryCluster()
    cluster.forbidden = {("create", "v1/Namespace"), ("patch", "apps/v1/Deployment")}
    more = [preflight.Finding("images", "missing", "no minikube here", "install minikube")]
    with pytest.raises(Refused, match="nothing was applied") as caught:
        preflight.before_apply(cluster, WANTED, tmp_path, "prod", more=more)
    for words in ("namespace: flights is not there", "Deployment: patch", "images: no minikube"):
        assert words in caught.value.message
    assert "treadle doctor --env production" in str(caught.value.hint)
    assert cluster.objects == {}


def test_warnings_are_said_once_until_they_change(tmp_path: Path) -> None:
    cluster, said = with_namespace(), []

    def report(line: str, **facts: Any) -> None:
        said.append(line)
        assert facts == {"warning": True}

    preflight.before_apply(cluster, WANTED, tmp_path, "prod", report=report)
    assert any("network policies" in line for line in said)
    before = len(said)
    preflight.before_apply(cluster, WANTED, tmp_path, "prod", report=report)
    assert len(said) == before
    known = preflight.seen(tmp_path, "prod")
    preflight.keep(tmp_path, dataclasses.replace(known, enforced=False))
    preflight.before_apply(cluster, WANTED, tmp_path, "prod", report=report)
    assert "ignores them" in said[-1]
    preflight.before_apply(cluster, WANTED, tmp_path, "other", report=report)  # another cluster
    assert len(said) > before + 1


def test_cluster_that_does_not_answer_is_unreachable_not_refused(tmp_path: Path) -> None:
    cluster = MemoryCluster()

    def away() -> tuple[int, int]:
        raise Unreachable("no answer")

    cluster.version = away  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        preflight.before_apply(cluster, WANTED, tmp_path, "prod")


def test_environment_that_moved_to_another_cluster_is_refused_first(tmp_path: Path) -> None:
    service.refuse_moved(tmp_path, "prod", "flights")
    image.look(MemoryCluster(pulls(running={})), WANTED, tmp_path, "prod", loaded=False)
    service.refuse_moved(tmp_path, "prod", "flights")
    with pytest.raises(Refused, match="runs in prod, namespace flights, and is now wanted in dev"):
        service.refuse_moved(tmp_path, "dev", "flights")


def test_cluster_that_is_away_for_a_moment_ends_no_look() -> None:
    cluster, answers = with_namespace(pulls(running={})), [False, True]
    get = cluster.get

    def sometimes(*arguments: Any) -> Any:
        if not answers.pop(0):
            raise Unreachable("restarting")
        return get(*arguments)

    cluster.get = sometimes  # type: ignore[method-assign]
    assert probe.pull(cluster, WANTED, always=True, clock=Time().clock()) is None


# ---- probes --------------------------------------------------------------------------------------


def pulls(**state: Any):
    """A node that treats each pod's image so."""

    def grow(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        if changed.get("kind") == "Pod":
            changed["status"] = {"containerStatuses": [{"state": state}]}

    return grow


def pods(cluster: MemoryCluster) -> list:
    return [key for key in cluster.objects if key[0] in (POD, probe._POLICY)]


@pytest.mark.parametrize("state", [{"terminated": {"exitCode": 0}}, {"running": {}}, {"waiting": {"reason": "CreateContainerError"}}])  # fmt: skip
def test_image_that_a_node_has_pulled_is_good_and_the_pod_is_gone(tmp_path: Path, state) -> None:
    cluster = with_namespace(pulls(**state))
    image.look(cluster, WANTED, tmp_path, "prod", loaded=False)
    assert pods(cluster) == []
    assert preflight.seen(tmp_path, "prod").pulled == (WANTED.image,)


def test_26_image_that_no_node_can_pull_is_refused_before_anything_is_applied(
    tmp_path: Path,
) -> None:
    cluster = with_namespace(pulls(waiting={"reason": "ErrImagePull", "message": "not found"}))
    with pytest.raises(Refused, match=r"no node can pull r.io/flights.*not found; nothing of it was applied"):  # fmt: skip
        image.look(cluster, WANTED, tmp_path, "prod", loaded=False)
    assert [key[0] for key in cluster.objects] == ["v1/Namespace"]
    assert preflight.seen(tmp_path, "prod").pulled == ()


def test_pull_that_failed_by_chance_is_given_a_second_attempt(tmp_path: Path) -> None:
    time_ = Time()
    message = 'failed to do request: Head "https://r.io/v2/": net/http: TLS handshake timeout'
    cluster = with_namespace(pulls(waiting={"reason": "ErrImagePull", "message": message}))

    def later(seconds: float) -> None:
        time_.sleep(seconds)
        for key, one in cluster.objects.items():
            if key[0] == POD and time_.at > 5:
                one["status"] = {"containerStatuses": [{"state": {"running": {}}}]}

    assert (
        probe.pull(cluster, WANTED, always=True, clock=probe.Clock(lambda: time_.at, later)) is None
    )
    began = time_.at
    with pytest.raises(Refused, match="handshake timeout"):
        probe.pull(cluster, WANTED, always=True, clock=probe.Clock(lambda: time_.at, time_.sleep))
    assert time_.at - began < 10  # and it is told in time


def test_image_that_was_pulled_before_is_not_looked_at_again(tmp_path: Path) -> None:
    cluster = with_namespace(pulls(running={}))
    image.look(cluster, WANTED, tmp_path, "prod", loaded=False)
    cluster._grow = pulls(waiting={"reason": "ErrImagePull"})
    image.look(cluster, WANTED, tmp_path, "prod", loaded=False)
    with pytest.raises(Refused):
        image.look(cluster, dataclasses.replace(WANTED, image="r.io/x:2"), tmp_path, "prod", loaded=False)  # fmt: skip


def test_loaded_image_must_be_in_the_node_and_one_of_a_registry_is_asked_for(
    tmp_path: Path,
) -> None:
    seen = []

    def grow(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        if changed.get("kind") == "Pod":
            seen.append(changed["spec"]["containers"][0]["imagePullPolicy"])
            pulls(running={})(cluster, changed)

    for loaded in (True, False):
        image.look(with_namespace(grow), WANTED, tmp_path / str(loaded), "prod", loaded=loaded)
    assert seen == ["Never", "Always"]


def test_namespace_is_made_for_the_first_look_and_known_to_down(tmp_path: Path) -> None:
    cluster = MemoryCluster(pulls(waiting={"reason": "ErrImagePull"}))
    with pytest.raises(Refused):
        image.look(cluster, WANTED, tmp_path, "prod", loaded=False)
    assert (tmp_path / STATE).exists()
    assert {key[2] for key in cluster.objects} == {"flights", "flights-production-inventory"}
    assert service.stop(tmp_path, everything=True, cluster=cluster)
    assert cluster.objects == {}


def test_full_cluster_is_told_and_stops_nothing(tmp_path: Path) -> None:
    said: list[str] = []

    def grow(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        if changed.get("kind") == "Pod":
            condition = {"reason": "Unschedulable", "message": "0/1 nodes are available"}
            changed["status"] = {"conditions": [condition]}

    image.look(
        with_namespace(grow), WANTED, tmp_path, "prod", loaded=False, clock=Time().clock(),
        report=lambda line, **_: said.append(line),
    )  # fmt: skip
    assert "0/1 nodes are available" in said[-1]
    assert preflight.seen(tmp_path, "prod").pulled == ()


def test_pod_that_a_policy_refuses_is_told_and_stops_nothing(tmp_path: Path) -> None:
    cluster, said = with_namespace(), []
    cluster.forbidden = {("patch", POD)}
    image.look(cluster, WANTED, tmp_path, "prod", loaded=False, report=lambda line, **_: said.append(line))  # fmt: skip
    assert "was not looked at" in said[-1]


def network(enforces: bool, reaches: bool = True):
    """Pods that run at once; what the caller logs depends on the policies of the moment."""

    def grow(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        if changed.get("kind") == "Pod":
            changed["status"] = {"podIP": "10.0.0.9", "containerStatuses": [{"state": {"running": {}}}]}  # fmt: skip
        shut = enforces and any(key[0] == probe._POLICY for key in cluster.objects)
        word = "open" if reaches and not shut else "closed"
        for key in cluster.objects:
            if "caller" in key[2]:
                cluster.log[key[2]] = [word, word]

    return grow


@pytest.mark.parametrize("enforces", [True, False])
def test_12_policies_are_probed_and_nothing_is_left(enforces: bool) -> None:
    cluster = with_namespace(network(enforces))
    told, why = probe.enforced(cluster, WANTED, clock=Time().clock())
    assert (told, why) == (enforces, "")
    assert pods(cluster) == []


def test_network_in_which_nobody_reaches_anybody_proves_nothing() -> None:
    told, why = probe.enforced(
        with_namespace(network(True, reaches=False)), WANTED, clock=Time().clock()
    )
    assert told is None
    assert "do not reach one another" in why


def test_probe_cleans_up_after_ctrl_c() -> None:
    cluster = with_namespace(network(False))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe.enforced(cluster, WANTED, clock=probe.Clock(lambda: 0.0, interrupt))
    assert pods(cluster) == []


def test_what_a_killed_probe_left_is_swept_by_the_next() -> None:
    cluster = with_namespace(pulls(running={}))
    left = probe._pod(WANTED, "flights-production-pull-dead", "pull", [], "Always")
    cluster.apply(left)
    cluster.objects[POD, "flights", left["metadata"]["name"]]["status"] = {"phase": "Failed"}
    cluster.apply(probe._policy(WANTED, "flights-production-listener-dead", "listener"))
    probe.pull(cluster, WANTED, always=True)
    assert pods(cluster) == []


def test_01_02_probe_pods_are_restricted_and_match_no_selector_of_the_model() -> None:
    pod = probe._pod(WANTED, "p", "pull", ["-c", "pass"], "Always")
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert not spec["automountServiceAccountToken"]
    labels = pod["metadata"]["labels"].items()
    for one in manifest.render(dataclasses.replace(WANTED, most=3)):
        selectors = [
            (one.get("spec") or {}).get("selector") or {},
            (one.get("spec") or {}).get("podSelector") or {},
        ]
        for selector in selectors:
            wanted = selector.get("matchLabels", selector)
            assert not wanted or not wanted.items() <= labels, one["kind"]


# ---- logs ----------------------------------------------------------------------------------------

LABELS = {"app.kubernetes.io/instance": "flights-production"}


def speaker(cluster: MemoryCluster, name: str, *lines: str) -> None:
    cluster.log[name] = list(lines)
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "flights", "labels": LABELS}})  # fmt: skip


def test_pods_that_come_and_go_are_heard_and_no_line_twice() -> None:
    cluster = with_namespace()
    speaker(cluster, "a", "a1", "a2", "a3")
    told = logs.follow(cluster, "flights", LABELS, 2, look_s=0.05)

    def life() -> None:
        time.sleep(0.1)
        cluster.log["a"].append("a4")
        speaker(cluster, "b", "b1", "b2", "b3")
        time.sleep(0.2)
        cluster.objects[POD, "flights", "a"]["status"] = {"phase": "Succeeded"}
        time.sleep(0.2)
        cluster.delete(POD, "flights", "a")
        cluster.log["b"].append("b4")

    thread = threading.Thread(target=life)
    thread.start()
    heard = []
    for line in told:
        heard.append(line)
        if line == "b b4":
            break
    told.close()
    thread.join()
    assert [one for one in heard if one.startswith("a ")] == ["a a2", "a a3", "a a4"]
    assert [one for one in heard if one.startswith("b ")] == ["b b1", "b b2", "b b3", "b b4"]


def test_cut_connection_is_taken_up_where_it_was() -> None:
    cluster = with_namespace()
    speaker(cluster, "a", "a1", "a2")
    whole = cluster.follow

    def cut(*arguments: Any, **more: Any):
        for number, one in enumerate(whole(*arguments, **more)):
            if number == 1:
                return  # the second line is lost with its connection
            yield one

    cluster.follow = cut  # type: ignore[method-assign]
    told = logs.follow(cluster, "flights", LABELS, 10, look_s=0.02)
    first = next(told)
    cluster.follow = whole  # type: ignore[method-assign]
    assert (first, next(told)) == ("a a1", "a a2")
    told.close()


def test_following_nothing_is_an_error_in_words() -> None:
    with pytest.raises(UsageError, match="no pod of flights-production runs"):
        next(logs.follow(with_namespace(), "flights", LABELS, 10))
