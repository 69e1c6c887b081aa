"""deploy/kubernetes/scale.py against the twin: no number of replicas that nobody asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.deploy.test_apply import NAME, SCALED, WANTED, actions

from treadle.clients.kube import Conflict
from treadle.clients.memory_kube import MemoryCluster
from treadle.deploy.kubernetes import apply, manifest, scale

KEY = ("apps/v1/Deployment", "flights", NAME)


class Watched(MemoryCluster):
    """Keeps every number of replicas that there ever was; an API server's default is one."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        super().__init__(Watched.look)

    @staticmethod
    def look(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        if changed.get("kind") == "Deployment":
            changed["spec"].setdefault("replicas", 1)
            cluster.numbers.append(changed["spec"]["replicas"])  # type: ignore[attr-defined]

    def scale(self, replicas: int, manager: str) -> None:
        """As by the subresource `scale`: it takes the field from whoever had it."""
        live = self.objects[KEY]
        live["spec"]["replicas"] = replicas
        for held in self._owners[KEY].values():
            held.discard("\0spec\0replicas")
        self._owners[KEY][manager] = {"\0spec\0replicas"}
        own = {"manager": manager, "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}  # fmt: skip
        others = [one for one in live["metadata"]["managedFields"] if "f:replicas" not in one["fieldsV1"]["f:spec"]]  # fmt: skip
        live["metadata"]["managedFields"] = [*others, own]


def done(cluster: MemoryCluster, wanted: Any) -> dict[str, str]:
    return actions(apply.apply(cluster, manifest.render(wanted), NAME, "flights"))


def seen(cluster: MemoryCluster, wanted: Any) -> dict[str, tuple[str, ...]]:
    found = apply.difference(cluster, manifest.render(wanted), NAME, "flights")
    return {one.object: one.fields for one in found if one.action != "unchanged"}


def number(cluster: MemoryCluster) -> int:
    live = cluster.get(*KEY)
    assert live is not None
    return int(live["spec"]["replicas"])


def test_10_autoscaled_deployment_begins_with_the_least_and_not_with_one() -> None:
    cluster = Watched()
    done(cluster, SCALED)
    assert number(cluster) == 2
    assert set(done(cluster, SCALED).values()) == {"unchanged"}
    assert seen(cluster, SCALED) == {}


def test_10_number_given_over_to_an_autoscaler_never_falls_to_one() -> None:
    cluster = Watched()
    done(cluster, dataclasses.replace(WANTED, least=3))
    planned = seen(cluster, SCALED)
    assert f"Deployment {NAME}" not in planned
    done(cluster, SCALED)
    assert set(cluster.numbers) == {3}
    cluster.scale(4, "kube-controller-manager")
    assert set(done(cluster, SCALED).values()) == {"unchanged"}
    assert number(cluster) == 4


@pytest.mark.parametrize("scaled", [None, 4])
def test_number_is_taken_back_from_the_autoscaler_that_was_ours(scaled: int | None) -> None:
    cluster = Watched()
    done(cluster, SCALED)
    if scaled is not None:
        cluster.scale(scaled, "kube-controller-manager")
    wanted = dataclasses.replace(WANTED, least=3)
    planned = seen(cluster, wanted)
    assert planned[f"Deployment {NAME}"] == (f"spec.replicas: {scaled or 2} → 3",)
    found = done(cluster, wanted)
    assert found[f"HorizontalPodAutoscaler {NAME}"] == "pruned"
    assert list(found)[0] == f"HorizontalPodAutoscaler {NAME}"
    assert number(cluster) == 3
    # From then on it is the spec's alone: the next number needs nobody's leave.
    assert set(done(cluster, wanted).values()) == {"unchanged"}
    cluster.apply(manifest.render(dataclasses.replace(WANTED, least=5))[-1])
    assert number(cluster) == 5


def test_22_number_that_a_person_set_is_not_taken_from_them() -> None:
    cluster = Watched()
    done(cluster, WANTED)
    cluster.scale(5, "kubectl")
    with pytest.raises(Conflict, match="replicas"):
        done(cluster, WANTED)
    assert number(cluster) == 5


def test_taking_back_that_was_cut_off_is_finished_by_the_next() -> None:
    cluster = Watched()
    done(cluster, SCALED)
    cluster.scale(4, "kube-controller-manager")
    live = cluster.get(*KEY)
    wanted = manifest.render(dataclasses.replace(WANTED, least=3))[-1]
    # Cut after the number was taken: it is ours by the name of the one who gives it over.
    cluster.apply(scale._number(wanted, 3), manager=scale.SCALER, force=True)
    assert live is not None
    done(cluster, dataclasses.replace(WANTED, least=3))
    done(cluster, dataclasses.replace(WANTED, least=5))
    assert number(cluster) == 5
