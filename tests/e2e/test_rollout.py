"""Roll-outs on a real cluster: no request is lost, and whatever is killed on the way is made good."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support import moves
from tests.support.on_cluster import OnCluster, projects

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCluster]:
    """Three replicas of release 1; each test adds releases to it."""
    with projects(tmp_path_factory.mktemp("rollout"), tmp_path_factory.mktemp("cache")) as make:
        found = make(", replicas: 3")
        found("up")
        yield found


def champion(project: OnCluster) -> int:
    return int(project.status()["champion"])


def test_30_31_update_scale_down_and_deleted_pod_lose_none_of_ten_thousand_requests(
    project: OnCluster,
) -> None:
    release = champion(project)
    told = moves.update_delete_and_scale_down(project, 70)
    moves.nothing_failed(told)
    assert set(told["versions"]) == {str(release), str(release + 1)}
    # Each connection was told to go elsewhere by the pods that went, and by none that stayed.
    assert told["told_to_close"] >= 20


MOMENTS = {
    "before anything is applied": lambda new, old, ready: True,
    "the first new pod starts": lambda new, old, ready: len(new) == 1 and ready == 0,
    "the first new pod answers": lambda new, old, ready: ready == 1,
    "half are new": lambda new, old, ready: len(new) >= 2 and len(old) <= 2,
    "the last old pod is to go": lambda new, old, ready: len(new) == 3 and len(old) <= 1,
}


@pytest.mark.parametrize("number", range(len(MOMENTS)), ids=[one.replace(" ", "-") for one in MOMENTS])  # fmt: skip
def test_28_pod_that_is_killed_in_a_rollout_is_made_good(project: OnCluster, number: int) -> None:
    """An old pod at every other moment, a new one (where there is one) at the others."""
    release = champion(project) + 1
    project.more_data(80 + number)
    process = moves.begin(project)
    true = list(MOMENTS.values())[number]
    victim = None
    while process.poll() is None and victim is None:
        new, old = by_release(project, release)
        ready = sum(one["ready"] for one in new)
        if true(new, old, ready):
            victim = (new if number % 2 and new else old or new)[0]["name"]
            moves.kill_pod(project, victim)
    out, err = process.communicate(timeout=120)
    assert victim is not None, (out, err)
    assert process.returncode in (0, 3), (out, err)
    moves.converges(project, release)


def by_release(project: OnCluster, release: int) -> tuple[list[dict], list[dict]]:
    """The pods of a release and those of others."""
    new, old = [], []
    for pod in project.pods():
        statuses = pod["status"].get("containerStatuses") or []
        one = {"name": pod["metadata"]["name"], "ready": any(s["ready"] for s in statuses)}
        mine = pod["metadata"]["labels"]["app.kubernetes.io/version"] == str(release)
        (new if mine else old).append(one)
    return new, old
