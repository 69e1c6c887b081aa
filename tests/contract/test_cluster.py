"""One contract for a real API server and its twin: what server-side apply means."""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from treadle.base.errors import Refused, TreadleError
from treadle.clients.kube import Access, Cluster, Conflict
from treadle.clients.memory_kube import MemoryCluster


@pytest.fixture(params=["memory", pytest.param("api", marks=pytest.mark.cluster)])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, str]]:
    """A cluster and a namespace of its own."""
    namespace = f"contract-{secrets.token_hex(4)}"
    if request.param == "memory":
        cluster: Cluster = MemoryCluster()
    else:
        from tests.support import cluster as real

        cluster = real.connect()
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    yield cluster, namespace
    cluster.delete("v1/Namespace", None, namespace)
    if not isinstance(cluster, MemoryCluster):
        cluster.close()


def settings(namespace: str, **data: str) -> dict:
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "data": data,
        "metadata": {"name": "settings", "namespace": namespace, "labels": {"of": "contract"}},
    }  # fmt: skip


def test_object_is_there_after_it_was_applied(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    assert cluster.get("v1/ConfigMap", namespace, "settings") is None
    cluster.apply(settings(namespace, a="1"))
    found = cluster.get("v1/ConfigMap", namespace, "settings")
    assert found is not None
    assert found["data"] == {"a": "1"}
    assert [
        one["metadata"]["name"]
        for one in cluster.list("v1/ConfigMap", namespace, {"of": "contract"})
    ] == ["settings"]
    assert cluster.list("v1/ConfigMap", namespace, {"of": "nobody"}) == []


def test_21_second_apply_changes_no_resource_version(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    first = cluster.apply(settings(namespace, a="1"))
    again = cluster.apply(settings(namespace, a="1"))
    assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]


def test_23_field_that_is_not_applied_any_more_is_gone(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    cluster.apply(settings(namespace, a="1", b="2"))
    assert cluster.apply(settings(namespace, a="1"))["data"] == {"a": "1"}


def test_25_dry_run_writes_nothing(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    cluster.apply(settings(namespace, a="1"))
    assert cluster.apply(settings(namespace, a="2"), dry_run=True)["data"] == {"a": "2"}
    found = cluster.get("v1/ConfigMap", namespace, "settings")
    assert found is not None
    assert found["data"] == {"a": "1"}


def test_22_field_of_somebody_else_is_a_conflict_by_name(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    cluster.apply(settings(namespace, a="1"))
    other = settings(namespace, a="theirs")
    if isinstance(cluster, MemoryCluster):
        key = ("v1/ConfigMap", namespace, "settings")
        cluster._owners[key]["them"] = {"\0data"}
        cluster.objects[key]["data"] = {"a": "theirs"}
    else:
        from tests.support import cluster as real

        real.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager", "them", "-f", "-", document=other)  # fmt: skip
    with pytest.raises(Conflict, match=r"data.*\n?.*them|them.*data") as caught:
        cluster.apply(settings(namespace, a="ours"))
    assert "somebody else manages" in caught.value.message
    found = cluster.get("v1/ConfigMap", namespace, "settings")
    assert found is not None
    assert found["data"] == {"a": "theirs"}


def test_namespace_that_is_not_there_is_refused(place: tuple[Cluster, str]) -> None:
    with pytest.raises((Refused, Exception), match="absent"):
        place[0].apply(settings("absent-namespace", a="1"))


def test_deleting_says_whether_there_was_anything(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    cluster.apply(settings(namespace, a="1"))
    assert cluster.delete("v1/ConfigMap", namespace, "settings")
    assert not cluster.delete("v1/ConfigMap", namespace, "settings")


def test_version_and_kinds_are_told(place: tuple[Cluster, str]) -> None:
    assert place[0].version() >= (1, 30)
    assert {"Deployment", "ConfigMap"} <= place[0].kinds()


def test_job_is_found_by_its_label_and_gone_when_it_was_deleted(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    pod = {
        "restartPolicy": "Never",
        "containers": [{"name": "one", "image": "none.invalid/none:1"}],
    }
    job = {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "once", "namespace": namespace, "labels": {"of": "contract"}},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }  # fmt: skip
    cluster.apply(job)
    (found,) = cluster.list("batch/v1/Job", namespace, {"of": "contract"})
    assert found["metadata"]["name"] == "once"
    assert cluster.list("v1/Pod", namespace, {"batch.kubernetes.io/job-name": "once"}) == []
    assert cluster.delete("batch/v1/Job", namespace, "once")
    assert cluster.get("batch/v1/Job", namespace, "once") is None


def test_field_that_is_taken_by_force_is_managed_by_who_took_it(
    place: tuple[Cluster, str],
) -> None:
    cluster, namespace = place

    def managers(name: str) -> set[str]:
        found = cluster.get("v1/ConfigMap", namespace, "settings")
        assert found is not None
        return {
            one["manager"]
            for one in found["metadata"]["managedFields"]
            if f"f:{name}" in one["fieldsV1"].get("f:metadata", {}).get("f:labels", {})
        }

    def labelled(**labels: str) -> dict:
        meta = {"name": "settings", "namespace": namespace} | ({"labels": labels} if labels else {})
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}

    cluster.apply(labelled(a="1", b="1"))
    with pytest.raises(Conflict):
        cluster.apply(labelled(a="2"), manager="another")
    cluster.apply(labelled(a="2"), manager="another", force=True)
    assert managers("a") == {"another"}
    assert managers("b") == {"treadle"}
    # Equal values are managed by both; a field that nobody applies any more is gone.
    cluster.apply(labelled(a="2", b="1"))
    assert managers("a") == {"another", "treadle"}
    cluster.apply(labelled(), manager="another")
    found = cluster.get("v1/ConfigMap", namespace, "settings")
    assert found is not None
    assert found["metadata"]["labels"] == {"a": "2", "b": "1"}
    assert managers("a") == {"treadle"}


def test_what_we_may_do_is_told_for_many_things_at_once(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    asked = {
        Access("v1/ConfigMap", "patch"), Access("apps/v1/Deployment", "create"),
        Access("v1/Pod", "get", "log"), Access("v1/Service", "create", "proxy"),
    }  # fmt: skip
    assert cluster.allowed(asked, namespace) == asked  # we are the administrator
    assert cluster.who()
    assert cluster.build().startswith("v1.")


SAYS = """
import time
print("first", flush=True); print("second", flush=True)
time.sleep(2)
print("third", flush=True)
"""


def speaking(cluster: Cluster, namespace: str) -> None:
    """A pod named `speaker` that says three lines, the last one later, and ends."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "speaker", "namespace": namespace},
    }
    if isinstance(cluster, MemoryCluster):
        cluster.apply(pod)
        cluster.log["speaker"] = ["first", "second"]

        def later() -> None:
            time.sleep(0.3)
            cluster.log["speaker"].append("third")
            cluster.objects["v1/Pod", namespace, "speaker"]["status"] = {"phase": "Succeeded"}

        threading.Thread(target=later).start()
        return
    from tests.support import cluster as real

    pod["spec"] = {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "speaker", "image": real.python_image(), "command": ["python3", "-c", SAYS]}],
    }  # fmt: skip
    cluster.apply(pod)
    real.kubectl("wait", "pod/speaker", "-n", namespace, "--for=condition=Ready", "--timeout=60s")


def test_log_is_followed_until_the_container_ends(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    assert list(cluster.follow(namespace, "nobody", 10)) == []
    speaking(cluster, namespace)
    began = time.monotonic()
    heard = []
    for moment, line in cluster.follow(namespace, "speaker", 10):
        heard.append((moment, line, time.monotonic() - began))
    assert [line for _, line, _ in heard] == ["first", "second", "third"]
    assert heard[2][2] - heard[1][2] > 0.2  # it came when it was said
    moments = [moment for moment, _, _ in heard]
    assert moments == sorted(moments)
    # From a moment on: what was heard since then, and perhaps a little before.
    again = [line for _, line in cluster.follow(namespace, "speaker", 0, since=moments[2])]
    assert again[-1] == "third"
    assert len(again) <= 3
    assert [line for _, line in cluster.follow(namespace, "speaker", 1)] == ["third"]


# ---- commands in containers ------------------------------------------------------------------------


def runs(place: tuple[Cluster, str]) -> str:
    """A pod with a shell in it that runs, in the namespace; its name."""
    cluster, namespace = place
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell", "namespace": namespace},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "shell", "command": ["sleep", "600"]}],
        },
    }  # fmt: skip
    if isinstance(cluster, MemoryCluster):

        def program(command: Sequence[str]) -> tuple[int, bytes, bytes]:
            done = subprocess.run(list(command), capture_output=True, check=False)
            return done.returncode, done.stdout, done.stderr

        cluster.programs["shell"] = program
        cluster.apply(pod)
        return "shell"
    from tests.support import base_image, images
    from tests.support import cluster as real

    images.require("base", "skopeo")
    image = f"{real.registry()}/contract-shell:1"
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{base_image.layout()}", f"docker://{image}"],
        check=True,
    )  # fmt: skip
    pod["spec"]["containers"][0]["image"] = image
    until = time.monotonic() + 60
    while True:
        try:  # the namespace's account comes a moment after the namespace
            cluster.apply(pod)
            break
        except TreadleError:
            assert time.monotonic() < until
            time.sleep(0.2)
    real.kubectl("wait", "pod/shell", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
    return "shell"


def shell(place: tuple[Cluster, str], program: str) -> bytes:
    cluster, namespace = place
    command = ["sh", "-c", program]
    return b"".join(cluster.execute(namespace, "shell", command, container="main"))


def test_output_of_a_command_in_a_container_comes_byte_for_byte(place: tuple[Cluster, str]) -> None:
    runs(place)
    assert shell(place, "printf 'a\\000\\377\\nb'; echo no >&2") == b"a\x00\xff\nb"
    assert shell(place, "true") == b""
    many = shell(place, "head -c 3000000 /dev/zero")
    assert many == bytes(3_000_000)


def test_command_that_fails_is_refused_with_its_code_and_its_words(
    place: tuple[Cluster, str],
) -> None:
    runs(place)
    with pytest.raises(Refused, match=r"in shell ended with 7: no such luck"):
        shell(place, "echo half; echo no such luck >&2; exit 7")


def test_many_commands_at_once_are_all_answered(place: tuple[Cluster, str]) -> None:
    runs(place)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda n: shell(place, f"printf {n}"), range(300)))
    assert said == [b"%d" % n for n in range(300)]


def test_command_where_nothing_runs_is_an_error(place: tuple[Cluster, str]) -> None:
    cluster, namespace = place
    with pytest.raises(TreadleError, match='pods "nobody" not found'):
        list(cluster.execute(namespace, "nobody", ["true"], container="main"))
    runs(place)
    with pytest.raises(Refused, match="container other is not valid for pod shell"):
        list(cluster.execute(namespace, "shell", ["true"], container="other"))


def test_permission_to_run_commands_is_told(place: tuple[Cluster, str]) -> None:
    asked = {Access("v1/Pod", "create", "exec"), Access("v1/Pod", "get", "exec")}
    assert place[0].allowed(asked, place[1]) == asked
