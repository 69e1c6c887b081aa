"""deploy/kubernetes/weights.py and traffic.py: two versions that share the requests, against the twin."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.deploy.test_apply import broken, healthy

from treadle.base.errors import Refused, UsageError
from treadle.base.spec import Route
from treadle.clients.memory_kube import MemoryCluster
from treadle.deploy.kubernetes import apply, manifest, text, traffic, weights
from treadle.deploy.kubernetes import service as kubernetes
from treadle.deploy.kubernetes.wanted import SERVES, Wanted
from treadle.deploy.target import Split

STABLE = Wanted("flights", "production", "flights", f"r.io/flights@sha256:{'a' * 64}", f"sha256:{'a' * 64}", 1, f"sha256:{'b' * 64}", least=5)  # fmt: skip
OTHER = dataclasses.replace(STABLE, release=2, image=f"r.io/flights@sha256:{'c' * 64}", image_digest=f"sha256:{'c' * 64}", content=f"sha256:{'d' * 64}")  # fmt: skip
ROUTED = dataclasses.replace(STABLE, route=Route("infra/public"))
NAME, CANDIDATE = "flights-production", "flights-production-candidate"


# ---- numbers -------------------------------------------------------------------------------------


@given(st.integers(1, 99), st.integers(2, 100))
def test_division_is_the_nearest_that_the_pods_allow(weight: int, pods: int) -> None:
    split = weights.divide(STABLE, 2, weight, "replicas", pods=pods)
    assert split.stable + split.candidate == pods
    assert min(split.stable, split.candidate) >= 1
    nearest = min(abs(100 * number / pods - weight) for number in range(1, pods))
    assert abs(split.share - weight) == pytest.approx(nearest)


@given(st.integers(1, 99))
def test_pods_that_are_said_to_give_a_weight_give_it(weight: int) -> None:
    pods = weights.exact_pods(weight)
    assert weights.divide(STABLE, 2, weight, "replicas", pods=pods).share == weight


@pytest.mark.parametrize(
    ("wanted", "weight", "numbers"),
    [
        (STABLE, 20, (4, 1)),
        (dataclasses.replace(STABLE, least=2), 10, (1, 1)),
        (dataclasses.replace(STABLE, least=1), 50, (1, 1)),
        (dataclasses.replace(STABLE, least=2, most=8), 25, (6, 2)),
    ],
)
def test_pods_are_those_that_the_environment_may_have(
    wanted: Wanted, weight: int, numbers: tuple[int, int]
) -> None:
    split = weights.divide(wanted, 2, weight, "replicas")
    assert (split.stable, split.candidate) == numbers


def test_what_one_gets_is_said_where_it_is_not_what_was_asked() -> None:
    assert weights.divide(STABLE, 7, 20, "replicas").words == "release 7 gets 20 % (1 of 5 pods)"
    two = weights.divide(dataclasses.replace(STABLE, least=2), 7, 10, "replicas")
    assert two.words == "release 7 gets 50 % (1 of 2 pods); asked: 10 %"
    assert "10 % of what comes through the gateway" in weights.divide(STABLE, 7, 10, "route").words


@pytest.mark.parametrize(
    ("weight", "pods"), [(0, None), (100, None), (-1, None), (50, 1), (50, 101)]
)
def test_what_is_no_division_is_said(weight: int, pods: int | None) -> None:
    with pytest.raises(UsageError, match="two versions"):
        weights.divide(STABLE, 2, weight, "replicas", pods=pods)


# ---- objects -------------------------------------------------------------------------------------


def rendered(wanted: Wanted, split: Split | None = None, **more: Any) -> dict[str, dict[str, Any]]:
    candidate = OTHER if split is not None else None
    found = manifest.render(wanted, candidate=candidate, split=split, **more)
    assert len({apply.identity(one) for one in found}) == len(found)
    return {f"{one['kind']} {one['metadata']['name']}": one for one in found}


def by_replicas(wanted: Wanted = STABLE, weight: int = 20) -> dict[str, dict[str, Any]]:
    return rendered(wanted, weights.divide(wanted, 2, weight, "replicas"))


def selects(selector: dict[str, str], deployment: dict[str, Any]) -> bool:
    return selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_champions_deployment_stays_as_it_is_but_for_its_number() -> None:
    before = rendered(STABLE)[f"Deployment {NAME}"]
    after = by_replicas()[f"Deployment {NAME}"]
    assert after["spec"].pop("replicas") == 4
    assert before["spec"].pop("replicas") == 5
    assert after == before


def test_no_controller_selects_the_others_pods() -> None:
    found = by_replicas()
    one, other = found[f"Deployment {NAME}"], found[f"Deployment {CANDIDATE}"]
    assert not selects(one["spec"]["selector"]["matchLabels"], other)
    assert not selects(other["spec"]["selector"]["matchLabels"], one)
    for policy in (f"{CANDIDATE}-deny", f"{CANDIDATE}-allow"):
        assert selects(
            found[f"NetworkPolicy {policy}"]["spec"]["podSelector"]["matchLabels"], other
        )


def test_both_are_behind_the_service_and_each_behind_its_own() -> None:
    found = by_replicas()
    pods = [found[f"Deployment {NAME}"], found[f"Deployment {CANDIDATE}"]]

    def reached(service: str) -> list[bool]:
        selector = found[f"Service {service}"]["spec"]["selector"]
        return [selects(selector, one) for one in pods]

    assert reached(NAME) == [True, True]
    assert reached(f"{NAME}-stable") == [True, False]
    assert reached(CANDIDATE) == [False, True]


def test_who_may_ask_one_version_may_ask_the_other() -> None:
    found = by_replicas()
    allow = [found[f"NetworkPolicy {name}-allow"]["spec"]["ingress"] for name in (NAME, CANDIDATE)]
    assert allow[0] == allow[1]


def test_gateway_divides_by_weight_and_the_service_stays_with_the_champion() -> None:
    split = weights.divide(ROUTED, 2, 10, "route")
    found = rendered(ROUTED, split, kinds=["HTTPRoute"])
    (rule,) = found[f"HTTPRoute {NAME}"]["spec"]["rules"]
    assert rule["backendRefs"] == [
        {"name": NAME, "port": 80, "weight": 90}, {"name": CANDIDATE, "port": 80, "weight": 10},
    ]  # fmt: skip
    assert found[f"Service {NAME}"] == rendered(ROUTED)[f"Service {NAME}"]
    assert found[f"Deployment {NAME}"]["spec"]["replicas"] == 5
    assert found[f"Deployment {CANDIDATE}"]["spec"]["replicas"] == 1


def test_autoscaler_is_held_to_the_number_and_not_taken_away() -> None:
    wide = dataclasses.replace(STABLE, least=2, most=10)
    found = by_replicas(wide)
    scaler = found[f"HorizontalPodAutoscaler {NAME}"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (8, 8)
    assert "replicas" not in found[f"Deployment {NAME}"]["spec"]
    assert f"PodDisruptionBudget {NAME}" in found
    assert f"HorizontalPodAutoscaler {CANDIDATE}" not in found


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_20_objects_of_both_versions_are_valid(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for one in by_replicas().values():
        validate.validate(one, version, strict=True)


def test_09_candidates_objects_bear_every_label_and_its_own_version() -> None:
    names = {"name", "instance", "version", "component", "part-of", "managed-by"}
    for key, one in by_replicas().items():
        if CANDIDATE in key:
            labels = one["metadata"]["labels"]
            assert {f"app.kubernetes.io/{name}" for name in names} <= labels.keys()
            assert labels["app.kubernetes.io/version"] == "2"


def test_19_text_of_a_division_is_the_same_each_time() -> None:
    assert text.text(list(by_replicas().values())) == text.text(list(by_replicas().values()))


# ---- on a cluster --------------------------------------------------------------------------------


def autoscaled(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
    """`healthy`, and an autoscaler that keeps within its bounds."""
    healthy(cluster, changed)
    if changed.get("kind") == "HorizontalPodAutoscaler":
        place, name = changed["metadata"]["namespace"], changed["metadata"]["name"]
        live = cluster.objects["apps/v1/Deployment", place, name]
        least, most = changed["spec"]["minReplicas"], changed["spec"]["maxReplicas"]
        live["spec"]["replicas"] = min(max(live["spec"].get("replicas", 1), least), most)
        live["metadata"]["generation"] += 1
        healthy(cluster, live)


def served(folder: Path, wanted: Wanted = STABLE, grow: Any = autoscaled) -> MemoryCluster:
    cluster = MemoryCluster(grow)
    cluster.custom = {"HTTPRoute"} if wanted.route else set()
    kubernetes.roll_out(folder, "here", wanted, cluster=cluster, deadline_s=3)
    return cluster


def give(folder: Path, cluster: MemoryCluster, weight: int, wanted: Wanted = STABLE, how: Any = "replicas"):  # fmt: skip
    split = weights.divide(wanted, 2, weight, how)
    traffic.weigh(folder, "here", wanted, OTHER, split, cluster=cluster, deadline_s=3)
    return split


def numbers(cluster: MemoryCluster) -> list[int]:
    return [
        0 if live is None else live["spec"].get("replicas", 1)
        for live in (
            cluster.get("apps/v1/Deployment", "flights", name) for name in (NAME, CANDIDATE)
        )
    ]


@pytest.mark.parametrize("wanted", [STABLE, dataclasses.replace(STABLE, least=2, most=5)], ids=["number", "range"])  # fmt: skip
def test_share_is_given_changed_and_taken_back(tmp_path: Path, wanted: Wanted) -> None:
    cluster = served(tmp_path, wanted)
    plain = {key for key in cluster.objects if key[0] != "v1/ConfigMap"}
    for weight, pods in ((20, [4, 1]), (60, [2, 3]), (40, [3, 2])):
        split = give(tmp_path, cluster, weight, wanted)
        assert numbers(cluster) == pods
        seen = kubernetes.observe(tmp_path, cluster=cluster)
        assert (seen.split, seen.release, seen.differs, seen.unfinished) == (split, 1, (), False)
    kubernetes.roll_out(tmp_path, "here", wanted, cluster=cluster, deadline_s=3)
    assert {key for key in cluster.objects if key[0] != "v1/ConfigMap"} == plain
    assert cluster.objects["v1/Service", "flights", NAME]["spec"]["selector"] == {
        "app.kubernetes.io/name": "flights", "app.kubernetes.io/instance": NAME,
    }  # fmt: skip
    assert kubernetes.observe(tmp_path, cluster=cluster).split is None


def test_there_are_never_fewer_pods_than_before_while_shares_move(tmp_path: Path) -> None:
    cluster = served(tmp_path)
    seen: list[int] = []

    def watch(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        healthy(cluster, changed)
        seen.append(sum(numbers(cluster)))

    cluster._grow = watch
    for weight in (20, 80, 40):
        give(tmp_path, cluster, weight)
        assert sum(numbers(cluster)) == 5
    assert min(seen) >= 5


def test_candidate_that_has_won_answers_until_the_new_pods_do(tmp_path: Path) -> None:
    cluster = served(tmp_path)
    give(tmp_path, cluster, 80)
    seen: list[tuple[str, bool, bool]] = []

    def watch(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        healthy(cluster, changed)
        both = SERVES in cluster.objects["v1/Service", "flights", NAME]["spec"]["selector"]
        there = ("apps/v1/Deployment", "flights", CANDIDATE) in cluster.objects
        version = cluster.objects["apps/v1/Deployment", "flights", NAME]["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/version"]  # fmt: skip
        seen.append((version, both, there))

    cluster._grow = watch
    kubernetes.roll_out(tmp_path, "here", OTHER, cluster=cluster, deadline_s=3)
    assert all(both and there for version, both, there in seen if version == "1")
    assert numbers(cluster) == [5, 0]
    assert kubernetes.observe(tmp_path, cluster=cluster).release == 2


def test_38_weight_is_gone_with_the_first_write_when_it_is_taken_back(tmp_path: Path) -> None:
    cluster = served(tmp_path)
    give(tmp_path, cluster, 40)
    seen: list[str] = []

    def watch(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        healthy(cluster, changed)
        if changed["kind"] in ("Deployment", "Service"):
            seen.append(f"{changed['kind']} {changed['metadata']['name']}")

    cluster._grow = watch
    kubernetes.roll_out(tmp_path, "here", STABLE, cluster=cluster, deadline_s=3)
    assert seen == [f"Service {NAME}", f"Deployment {NAME}"]


def test_route_gets_weights_and_loses_them(tmp_path: Path) -> None:
    cluster = served(tmp_path, ROUTED)
    key = ("gateway.networking.k8s.io/v1/HTTPRoute", "flights", NAME)
    give(tmp_path, cluster, 30, ROUTED, "route")
    assert [one["weight"] for one in cluster.objects[key]["spec"]["rules"][0]["backendRefs"]] == [70, 30]  # fmt: skip
    assert numbers(cluster) == [5, 2]
    kubernetes.roll_out(tmp_path, "here", ROUTED, cluster=cluster, deadline_s=3)
    assert cluster.objects[key]["spec"]["rules"][0]["backendRefs"] == [{"name": NAME, "port": 80}]


@pytest.mark.parametrize(("custom", "route", "found"), [({"HTTPRoute"}, Route("public"), "route"), (set(), Route("public"), "replicas"), ({"HTTPRoute"}, None, "replicas")])  # fmt: skip
def test_gateway_divides_where_there_is_one_and_a_route(
    custom: set[str], route: Route | None, found: str
) -> None:
    cluster = MemoryCluster()
    cluster.custom = custom
    assert traffic.how("here", route, cluster=cluster) == found


def test_27_candidate_that_does_not_come_up_leaves_all_as_it_was(tmp_path: Path) -> None:
    cluster = served(tmp_path)
    before = {key for key in cluster.objects if key[0] not in ("v1/Pod", "apps/v1/ReplicaSet")}
    cluster._grow = broken("ErrImagePull")
    with pytest.raises(Refused, match=r"did not get its share.*cannot pull.*serves again"):
        give(tmp_path, cluster, 20)
    after = {key for key in cluster.objects if key[0] not in ("v1/Pod", "apps/v1/ReplicaSet")}
    assert after == before
    assert numbers(cluster) == [5, 0]
    seen = kubernetes.observe(tmp_path, cluster=cluster)
    assert (seen.split, seen.unfinished, seen.differs) == (None, False, ())


def test_pods_without_the_common_label_are_replaced_before_the_service_asks_for_it(
    tmp_path: Path,
) -> None:
    cluster = served(tmp_path)
    labels = cluster.objects["apps/v1/Deployment", "flights", NAME]["spec"]["template"]["metadata"]["labels"]  # fmt: skip
    del labels[SERVES]
    seen: list[str] = []

    def watch(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        healthy(cluster, changed)
        seen.append(f"{changed['kind']} {changed['metadata']['name']}")

    cluster._grow = watch
    give(tmp_path, cluster, 20)
    assert seen.index(f"Deployment {NAME}") < seen.index(f"Service {NAME}")


def test_candidate_that_falters_later_is_seen(tmp_path: Path) -> None:
    cluster = served(tmp_path)
    give(tmp_path, cluster, 20)
    assert kubernetes.observe(tmp_path, cluster=cluster).error is None
    cluster.objects["apps/v1/Deployment", "flights", CANDIDATE]["status"]["availableReplicas"] = 0
    seen = kubernetes.observe(tmp_path, cluster=cluster)
    assert (seen.status, seen.error) == ("serving", "release 2: 0 of 1 new pods are ready")


def test_champion_that_does_not_run_shares_nothing(tmp_path: Path) -> None:
    cluster = served(tmp_path)
    split = weights.divide(OTHER, 1, 20, "replicas")
    with pytest.raises(UsageError, match="is not what runs"):
        traffic.weigh(tmp_path, "here", OTHER, STABLE, split, cluster=cluster)


@pytest.mark.parametrize("again", [False, True], ids=["rolled out", "asked again"])
def test_28_division_that_was_cut_off_is_known_and_ended_or_taken_up(
    tmp_path: Path, again: bool
) -> None:
    cluster = served(tmp_path)

    class Cut(Exception):
        pass

    def cut(cluster: MemoryCluster, one: dict[str, Any]) -> None:
        healthy(cluster, one)
        if one["kind"] == "Deployment" and one["metadata"]["name"] == CANDIDATE:
            raise Cut

    cluster._grow = cut
    with pytest.raises(Cut):
        give(tmp_path, cluster, 20)
    assert kubernetes.observe(tmp_path, cluster=cluster).unfinished
    cluster._grow = healthy
    if again:
        split = give(tmp_path, cluster, 20)
        seen = kubernetes.observe(tmp_path, cluster=cluster)
        assert (seen.split, seen.unfinished, numbers(cluster)) == (split, False, [4, 1])
        return
    kubernetes.roll_out(tmp_path, "here", STABLE, cluster=cluster, deadline_s=3)
    assert numbers(cluster) == [5, 0]
    assert not kubernetes.observe(tmp_path, cluster=cluster).unfinished


def test_24_all_of_a_division_goes_when_the_environment_does(tmp_path: Path) -> None:
    cluster = served(tmp_path)
    give(tmp_path, cluster, 20)
    assert kubernetes.stop(tmp_path, cluster=cluster, everything=True)
    assert cluster.objects == {}
    assert traffic.present(tmp_path) is None
