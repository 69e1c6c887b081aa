"""deploy/kubernetes/scoring.py: the checklist, by number, as far as it concerns jobs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from treadle.deploy.kubernetes import manifest, scoring, text
from treadle.deploy.kubernetes.scoring import Scoring
from treadle.deploy.kubernetes.wanted import Wanted

OWN = Wanted(
    "flights", "nightly", "flights", "registry.example.com/flights@sha256:" + "a" * 64,
    "sha256:" + "a" * 64, 3, "sha256:" + "b" * 64, "RUN", least=1,
    pull_secrets=("pull",), node_selector={"disk": "ssd"}, tolerations=({"key": "gpu", "operator": "Exists"},),
    labels={"team": "a"}, gpus=1,
)  # fmt: skip
CRON = Scoring(OWN, "production", "claim://in/flights/*.parquet", "claim://out/scores/", cron="0 5 * * *", zone="Europe/Berlin", record="sha256:" + "c" * 64, features=("carrier", "a,b"), size="5Gi")  # fmt: skip
JOB = dataclasses.replace(CRON, cron="", zone="UTC", job="flights-nightly-1", input="s3://bucket/in/*.parquet", output="s3://bucket/out/", secret="keys", endpoint="https://minio.example.com:9000", region="eu", size=None, deadline_s=60)  # fmt: skip
BOTH = pytest.mark.parametrize("wanted", [CRON, JOB], ids=["CronJob", "Job"])


def objects(wanted: Scoring, kind: str) -> list[dict[str, Any]]:
    return [one for one in scoring.render(wanted) if one["kind"] == kind]


def job(wanted: Scoring) -> dict[str, Any]:
    if wanted.cron:
        return objects(wanted, "CronJob")[0]["spec"]["jobTemplate"]["spec"]
    return objects(wanted, "Job")[0]["spec"]


def pod(wanted: Scoring) -> dict[str, Any]:
    return job(wanted)["template"]["spec"]


def container(wanted: Scoring) -> dict[str, Any]:
    (one,) = pod(wanted)["containers"]
    return one


@BOTH
def test_01_namespace_asks_for_restricted_pods(wanted: Scoring) -> None:
    (one,) = objects(wanted, "Namespace")
    assert one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@BOTH
def test_02_every_container_is_hardened(wanted: Scoring) -> None:
    assert pod(wanted)["securityContext"]["runAsNonRoot"]
    assert pod(wanted)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = container(wanted)["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}


@BOTH
def test_03_no_token_is_mounted(wanted: Scoring) -> None:
    assert pod(wanted)["automountServiceAccountToken"] is False
    assert objects(wanted, "ServiceAccount")[0]["automountServiceAccountToken"] is False


@BOTH
def test_04_every_container_says_what_it_takes(wanted: Scoring) -> None:
    assert {"cpu", "memory"} <= container(wanted)["resources"]["requests"].keys()
    assert "memory" in container(wanted)["resources"]["limits"]


@BOTH
def test_08_all_images_are_by_digest(wanted: Scoring) -> None:
    assert "@sha256:" in container(wanted)["image"]


@BOTH
def test_09_labels_are_everywhere_and_no_service_selects_a_scoring_pod(wanted: Scoring) -> None:
    names = {"name", "instance", "version", "component", "part-of", "managed-by"}
    for one in scoring.render(wanted):
        if one["kind"] not in ("Namespace", "PersistentVolumeClaim"):
            told = one["metadata"]["labels"]
            assert {f"app.kubernetes.io/{name}" for name in names} <= told.keys()
            assert told["app.kubernetes.io/component"] == "batch"
    served = dataclasses.replace(OWN, environment="production")
    bears = job(wanted)["template"]["metadata"]["labels"]
    for one in manifest.render(served):
        spec = one.get("spec") or {}
        for selector in (spec.get("selector"), spec.get("podSelector")):
            chosen = (selector or {}).get("matchLabels", selector)
            assert not chosen or not chosen.items() <= bears.items(), one["kind"]


@BOTH
def test_14_job_has_limits_and_what_is_not_its_fault_costs_no_try(wanted: Scoring) -> None:
    spec = job(wanted)
    assert spec["backoffLimit"] == 2
    assert spec["activeDeadlineSeconds"] == wanted.deadline_s
    assert spec["ttlSecondsAfterFinished"] > 0
    assert pod(wanted)["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed"
    ignored = [r for r in spec["podFailurePolicy"]["rules"] if r["action"] == "Ignore"]
    assert {"type": "DisruptionTarget", "status": "True"} in ignored[0]["onPodConditions"]
    assert ignored[1]["onExitCodes"]["values"] == [143]


@BOTH
def test_15_bad_input_fails_the_job_at_once(wanted: Scoring) -> None:
    rule = job(wanted)["podFailurePolicy"]["rules"][0]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container(wanted)["name"], "operator": "In", "values": [2, 3],
    }  # fmt: skip


def test_16_cron_job_forbids_two_at_a_time() -> None:
    spec = objects(CRON, "CronJob")[0]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] >= 10
    assert (spec["schedule"], spec["timeZone"]) == ("0 5 * * *", "Europe/Berlin")
    assert spec["successfulJobsHistoryLimit"] == spec["failedJobsHistoryLimit"] == 3


@BOTH
def test_19_text_is_the_same_bytes_in_another_process(wanted: Scoring) -> None:
    program = (
        "import sys, json; from treadle.deploy.kubernetes import scoring, text\n"
        "from treadle.deploy.kubernetes.wanted import Wanted\n"
        "told = json.loads(sys.argv[1]); own = told.pop('wanted')\n"
        "for name in ('tolerations', 'pull_secrets'): own[name] = tuple(own[name])\n"
        "told['features'] = tuple(told['features'])\n"
        "print(text.text(scoring.render(scoring.Scoring(Wanted(**own), **told))), end='')"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, json.dumps(dataclasses.asdict(wanted))],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "7")
    }  # fmt: skip
    assert found == {text.text(scoring.render(wanted))}


@BOTH
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_20_objects_are_valid_on_the_oldest_and_the_newest_kubernetes(
    wanted: Scoring, version: str
) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for one in scoring.render(wanted):
        validate.validate(one, version, strict=True)


def test_12_claims_alone_reach_nothing_and_a_store_is_reached_beside_dns() -> None:
    (deny,) = objects(CRON, "NetworkPolicy")
    assert set(deny["spec"]) == {"podSelector", "policyTypes"}
    _, allow = objects(JOB, "NetworkPolicy")
    assert allow["spec"]["policyTypes"] == ["Egress"]
    assert [p["port"] for out in allow["spec"]["egress"] for p in out["ports"]] == [53, 53, 9000]
    assert allow["spec"]["podSelector"]["matchLabels"].items() <= job(JOB)["template"]["metadata"]["labels"].items()  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "to", "port"),
    [
        ("http://10.1.2.3:9000", {"ipBlock": {"cidr": "10.1.2.3/32"}}, 9000),
        ("http://minio.storage.svc:9000", {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}, None),
        ("https://minio.storage.svc.cluster.local", {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}, None),
        ("https://s3.example.com/", {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}, 443),
        (None, {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}, 443),
    ],
)  # fmt: skip
def test_12_only_the_store_is_reached(endpoint: str | None, to: dict, port: int | None) -> None:
    allow = objects(dataclasses.replace(JOB, endpoint=endpoint), "NetworkPolicy")[1]
    rule = allow["spec"]["egress"][1]
    assert rule["to"][0] == to
    assert [p["port"] for p in rule.get("ports", [])] == ([] if port is None else [port])


@BOTH
def test_45_keys_come_by_reference_alone(wanted: Scoring) -> None:
    assert 'kind: "Secret"' not in text.text(scoring.render(wanted))
    told = {e["name"]: e.get("valueFrom") for e in container(wanted)["env"]}
    if wanted.secret:
        ref = {"secretKeyRef": {"name": "keys", "key": "AWS_SECRET_ACCESS_KEY"}}
        assert told["AWS_SECRET_ACCESS_KEY"] == ref
    else:
        assert "AWS_SECRET_ACCESS_KEY" not in told


def test_claims_are_made_where_a_size_is_given_and_mounted_where_they_are_read() -> None:
    made = {one["metadata"]["name"]: one for one in objects(CRON, "PersistentVolumeClaim")}
    assert set(made) == {"in", "out"}
    assert made["in"]["spec"]["resources"] == {"requests": {"storage": "5Gi"}}
    mounts = {m["mountPath"]: m for m in container(CRON)["volumeMounts"]}
    assert mounts["/claims/in"]["readOnly"] is True
    assert "readOnly" not in mounts["/claims/out"]
    assert objects(JOB, "PersistentVolumeClaim") == []
    one = dataclasses.replace(CRON, output="claim://in/scores/")
    assert [m["mountPath"] for m in container(one)["volumeMounts"]] == ["/tmp", "/claims/in"]
    assert "readOnly" not in container(one)["volumeMounts"][1]


@BOTH
def test_what_is_said_of_nodes_and_gpus_is_passed_through(wanted: Scoring) -> None:
    assert pod(wanted)["nodeSelector"] == {"disk": "ssd"}
    assert pod(wanted)["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert pod(wanted)["imagePullSecrets"] == [{"name": "pull"}]
    assert container(wanted)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert job(wanted)["template"]["metadata"]["labels"]["team"] == "a"


def test_every_setting_is_an_option_of_the_scorer() -> None:
    import argparse

    from treadle.operate.scoring import command

    for wanted in (CRON, JOB):
        (settings,) = objects(wanted, "ConfigMap")
        parser = argparse.ArgumentParser()
        command.add_arguments(parser.add_subparsers(dest="command"))
        told = {**settings["data"], "TREADLE_MODEL": "/models"}
        known = {one.variable for one in command.SETTINGS.values()}
        assert set(told) <= known
        options = command.read(parser.parse_args(["score"]), told)
        assert options.features == ("carrier", "a,b")
        assert options.environment == "production"
        assert options.force
