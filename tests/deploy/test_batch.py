"""deploy/kubernetes/batch.py and jobs.py against the twin of a cluster."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from treadle.base.errors import DataRefused, Refused, Unreachable, UsageError
from treadle.clients.memory_kube import MemoryCluster
from treadle.deploy.kubernetes import apply, batch, jobs, manifest, preflight, scoring
from treadle.deploy.kubernetes.scoring import Scoring
from treadle.deploy.kubernetes.wanted import Wanted

OWN = Wanted("flights", "nightly", "flights", f"r.io/flights@sha256:{'a' * 64}", f"sha256:{'a' * 64}", 1, f"sha256:{'b' * 64}", least=1)  # fmt: skip
CRON = Scoring(OWN, "production", "claim://scores/in/*.csv", "claim://scores/out/", cron="0 5 * * *", size="1Gi")  # fmt: skip
JOB = dataclasses.replace(CRON, cron="", job="flights-nightly-1")
NAME = "flights-nightly"
CLAIM = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "scores", "namespace": "flights"}, "spec": {}}  # fmt: skip


def ending(code: int, told: dict[str, Any] | str, condition: str = ""):
    """A controller under which every Job ends at once, with one pod."""

    def grow(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        if changed.get("kind") != "Job":
            return
        name = changed["metadata"]["name"]
        kind = condition or ("Complete" if code == 0 else "Failed")
        changed["status"] = {
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z",
            "conditions": [{"type": kind, "status": "True", "reason": "PodFailurePolicy", "message": "said", "lastTransitionTime": "2026-01-01T00:01:00Z"}],
        }  # fmt: skip
        message = told if isinstance(told, str) else json.dumps(told)
        cluster.objects["v1/Pod", "flights", f"{name}-x"] = {
            "kind": "Pod",
            "metadata": {"name": f"{name}-x", "labels": scoring.jobs_label(name)},
            "status": {
                "phase": "Succeeded" if code == 0 else "Failed",
                "containerStatuses": [{"name": "batch", "state": {"terminated": {"exitCode": code, "message": message}}}],
            },
        }  # fmt: skip
        cluster.log[f"{name}-x"] = ["its last words"]

    return grow


def cluster_with(grow: Any = None, *objects: dict[str, Any]) -> MemoryCluster:
    made = MemoryCluster(grow)
    made.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flights"}}, manager="them")  # fmt: skip
    for one in objects:
        made.apply(one, manager="them")
    return made


# ---- claims and keys -------------------------------------------------------------------------------


def test_claim_that_is_not_there_is_told_before_anything_is_applied(tmp_path: Path) -> None:
    cluster = cluster_with()
    with pytest.raises(Refused, match="no claim scores in the namespace flights") as caught:
        batch.schedule(tmp_path, "c", dataclasses.replace(CRON, size=None), cluster=cluster)
    assert "PersistentVolumeClaim" in str(caught.value.hint)
    assert "managed-by" not in str(caught.value.hint)
    assert [kind for kind, *_ in cluster.objects] == ["v1/Namespace"]
    assert batch.observe(tmp_path, cluster=cluster).status == "absent"


def test_claim_of_somebody_else_is_used_as_it_is_and_stays(tmp_path: Path) -> None:
    cluster = cluster_with(None, CLAIM)
    before = dict(cluster.objects["v1/PersistentVolumeClaim", "flights", "scores"])
    batch.schedule(tmp_path, "c", CRON, cluster=cluster)
    batch.stop(tmp_path, everything=True, cluster=cluster)
    assert cluster.get("v1/PersistentVolumeClaim", "flights", "scores") == before


def test_24_claim_that_was_made_stays_unless_everything_goes(tmp_path: Path) -> None:
    cluster = cluster_with()
    batch.schedule(tmp_path, "c", CRON, cluster=cluster)
    batch.schedule(tmp_path, "c", dataclasses.replace(CRON, input="claim://scores/other/*.csv", size=None), cluster=cluster)  # fmt: skip
    batch.stop(tmp_path, cluster=cluster)
    left = {(kind, name) for kind, _, name in cluster.objects}
    assert left == {("v1/Namespace", "flights"), ("v1/PersistentVolumeClaim", "scores"), ("v1/ConfigMap", f"{NAME}-inventory")}  # fmt: skip
    batch.stop(tmp_path, everything=True, cluster=cluster)
    assert cluster.get("v1/PersistentVolumeClaim", "flights", "scores") is None


def test_secret_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    wanted = dataclasses.replace(CRON, input="s3://b/*.csv", output="s3://b/", secret="keys")
    with pytest.raises(Refused, match="no Secret keys") as caught:
        batch.schedule(tmp_path, "c", wanted, cluster=cluster_with())
    assert "kubectl create secret generic keys --namespace flights" in str(caught.value.hint)


def test_doctor_says_what_a_batch_lacks() -> None:
    cluster = cluster_with()
    wanted = dataclasses.replace(CRON, size=None, output="s3://b/", secret="keys")
    assert [(one.name, one.state) for one in batch.look(cluster, wanted)] == [("claims", "missing"), ("secret", "missing")]  # fmt: skip
    assert [one.state for one in batch.look(cluster, CRON)] == ["ok"]
    assert [one.state for one in batch.look(cluster_with(None, CLAIM), CRON)] == ["ok"]


def test_permissions_of_a_batch_are_told_with_the_role_that_gives_them() -> None:
    cluster = cluster_with()

    def permissions() -> preflight.Finding:
        found = preflight.look(cluster, OWN, objects=scoring.render(CRON))
        return next(one for one in found if one.name == "permissions")

    assert permissions().state == "ok"
    cluster.forbidden = {("create", "batch/v1/CronJob"), ("list", "batch/v1/Job")}
    assert permissions().found == "CronJob: create; Job: list"
    assert "cronjobs" in str(permissions().fix)


# ---- CronJob -------------------------------------------------------------------------------------


def test_21_second_apply_changes_nothing_and_a_new_release_updates(tmp_path: Path) -> None:
    cluster = cluster_with()
    first = batch.schedule(tmp_path, "c", CRON, cluster=cluster)
    assert {one.action for one in first} <= {"created", "configured"}
    before = json.dumps(list(cluster.objects.values()), sort_keys=True)
    again = batch.schedule(tmp_path, "c", CRON, cluster=cluster)
    assert {one.action for one in again} == {"unchanged"}
    assert json.dumps(list(cluster.objects.values()), sort_keys=True) == before
    assert batch.difference("c", CRON, cluster=cluster) == []
    newer = dataclasses.replace(CRON, wanted=dataclasses.replace(OWN, release=2))
    words = [f for one in batch.difference("c", newer, cluster=cluster) for f in one.fields]
    assert any("version" in one and '"1" → "2"' in one for one in words)
    batch.schedule(tmp_path, "c", newer, cluster=cluster)
    assert batch.observe(tmp_path, cluster=cluster).release == 2


def test_status_says_when_it_last_ran_and_how_it_ended(tmp_path: Path) -> None:
    cluster = cluster_with(ending(0, {"rows": 5, "output": "claim://scores/out/n.parquet"}))
    batch.schedule(tmp_path, "c", CRON, cluster=cluster)
    assert "never ran" in batch.observe(tmp_path, cluster=cluster).words
    cron = cluster.get("batch/v1/CronJob", "flights", NAME)
    assert cron is not None
    template = cron["spec"]["jobTemplate"]
    cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one", "namespace": "flights", "labels": template["metadata"]["labels"]}, "spec": template["spec"]}, manager="cron")  # fmt: skip
    seen = batch.observe(tmp_path, cluster=cluster)
    assert seen.status == "scheduled"
    assert "succeeded 2026-01-01T00:01Z: 5 rows into claim://scores/out/n.parquet" in seen.words
    assert list(batch.log_lines(tmp_path, 5, cluster=cluster)) == ["one-x its last words"]
    cluster.objects["batch/v1/CronJob", "flights", NAME]["spec"]["suspend"] = True
    assert batch.observe(tmp_path, cluster=cluster).status == "suspended"
    cluster.delete("batch/v1/CronJob", "flights", NAME)
    assert batch.observe(tmp_path, cluster=cluster).status == "gone"


def test_server_and_scorer_of_a_project_keep_out_of_each_others_way(tmp_path: Path) -> None:
    cluster = cluster_with()
    served = dataclasses.replace(OWN, environment="production")
    apply.apply(cluster, manifest.render(served), served.name, "flights")
    batch.schedule(tmp_path, "c", CRON, cluster=cluster)
    apply.apply(cluster, manifest.render(served), served.name, "flights")
    assert cluster.get("batch/v1/CronJob", "flights", NAME) is not None
    batch.stop(tmp_path, everything=True, cluster=cluster)
    assert cluster.get("apps/v1/Deployment", "flights", "flights-production") is not None


# ---- Job -----------------------------------------------------------------------------------------


def test_job_is_run_to_its_end_and_tells_what_it_did(tmp_path: Path) -> None:
    cluster = cluster_with(ending(0, {"rows": 5, "output": "o", "first_id": "production.1.x.0"}))
    ran = batch.run(tmp_path, "c", JOB, cluster=cluster)
    assert (ran.status, ran.told["rows"], ran.pod) == ("succeeded", 5, "flights-nightly-1-x")
    assert batch.unfinished(tmp_path, 1) == "flights-nightly-1"
    assert batch.unfinished(tmp_path, 2) == ""


def test_job_that_was_begun_is_taken_up_and_an_older_one_goes(tmp_path: Path) -> None:
    cluster = cluster_with(ending(0, {"rows": 5}))
    batch.run(tmp_path, "c", JOB, cluster=cluster)
    said: list[str] = []
    batch.run(tmp_path, "c", JOB, cluster=cluster, report=lambda line, **_: said.append(line))
    assert any("taken up" in line for line in said)
    batch.run(tmp_path, "c", dataclasses.replace(JOB, job="flights-nightly-2"), cluster=cluster)
    assert cluster.get("batch/v1/Job", "flights", "flights-nightly-1") is None


@pytest.mark.parametrize(
    ("code", "told", "kind", "words"),
    [
        (3, {"message": "a.csv lacks rooms", "hint": "it has area", "code": 3}, DataRefused, r"a.csv lacks rooms \(Job flights-nightly-1\)"),
        (2, {"message": "no such file", "code": 2}, UsageError, "no such file"),
        (4, {"message": "s3://b does not answer", "code": 4}, Unreachable, "does not answer"),
        (137, "", Refused, r"PodFailurePolicy: said, exit code 137\)\n  its last words"),
        (1, {"message": "flipped", "code": 1}, Refused, "its last words"),
    ],
)  # fmt: skip
def test_job_that_failed_tells_its_own_words(
    tmp_path: Path, code: int, told: Any, kind: type[Exception], words: str
) -> None:
    cluster = cluster_with(ending(code, told))
    with pytest.raises(kind, match=words):
        batch.run(tmp_path, "c", JOB, cluster=cluster)
    assert cluster.get("batch/v1/Job", "flights", "flights-nightly-1") is not None  # for its log


def test_26_job_that_can_never_begin_is_told_and_ended(tmp_path: Path) -> None:
    def grow(cluster: MemoryCluster, changed: dict[str, Any]) -> None:
        if changed.get("kind") == "Job":
            cluster.objects["v1/Pod", "flights", "p"] = {
                "kind": "Pod", "metadata": {"name": "p", "labels": scoring.jobs_label("flights-nightly-1")},
                "status": {"phase": "Pending", "containerStatuses": [{"image": "r.io/x", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "because"}}}]},
            }  # fmt: skip

    cluster = cluster_with(grow)
    with pytest.raises(Refused, match="cannot pull its image r.io/x: because"):
        batch.run(tmp_path, "c", JOB, cluster=cluster)
    assert cluster.get("batch/v1/Job", "flights", "flights-nightly-1") is None


def test_wait_says_what_happens_to_pods_and_gives_up_after_the_deadline() -> None:
    cluster = cluster_with()
    cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "flights"}, "spec": {}})  # fmt: skip
    for name, status, created in (
        ("a", {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]}, "1"),
        ("b", {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 143}}}]}, "2"),
        ("c", {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 1, "message": "{}", "reason": "Error"}}}]}, "3"),
        ("d", {"phase": "Pending", "conditions": [{"reason": "Unschedulable", "message": "no room"}]}, "4"),
    ):  # fmt: skip
        cluster.objects["v1/Pod", "flights", name] = {"metadata": {"name": name, "creationTimestamp": created, "labels": scoring.jobs_label("j")}, "status": status}  # fmt: skip
    said: list[str] = []
    moments = iter(range(0, 10_000, 30))
    with pytest.raises(Refused, match="Job j has not ended after 65 s: d is pending; no node takes d: no room"):  # fmt: skip
        jobs.finished(
            cluster, "flights", "j", deadline_s=5, report=lambda line, **_: said.append(line),
            now=lambda: float(next(moments)), sleep=lambda _: None,
        )  # fmt: skip
    assert any(line.startswith("a was taken from its node") for line in said)
    assert any(line.startswith("b was told to end") for line in said)
    assert any(line.startswith("c failed (exit code 1): Error") for line in said)
