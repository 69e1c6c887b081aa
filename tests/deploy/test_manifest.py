"""deploy/kubernetes/manifest.py: the checklist of the field notes, by number, as far as it concerns models."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from treadle.base.errors import UsageError
from treadle.base.spec import Capture, Route
from treadle.deploy.kubernetes import manifest, model, text
from treadle.deploy.kubernetes.wanted import Wanted, replicas
from treadle.operate.options import Options, add_arguments, read, size

FIXED = Wanted(
    "flights", "production", "flights", "registry.example.com/flights@sha256:" + "a" * 64,
    "sha256:" + "a" * 64, 3, "sha256:" + "b" * 64, "RUN",
)  # fmt: skip
RANGE = dataclasses.replace(FIXED, most=8, gpus=1, token_secret="flights-token", pull_secrets=("pull",), node_selector={"disk": "ssd"}, tolerations=({"key": "gpu", "operator": "Exists"},), labels={"team": "a"}, route=Route("infra/public", "flights.example.com"))  # fmt: skip
KEEPS = dataclasses.replace(FIXED, capture=Capture(rate=0.5, per_minute=1001, exclude=("a", "b"), hash=("c",)))  # fmt: skip
BOTH = pytest.mark.parametrize("wanted", [FIXED, RANGE, KEEPS], ids=["number", "range", "capture"])


def objects(wanted: Wanted, kind: str) -> list[dict[str, Any]]:
    return [one for one in manifest.render(wanted, kinds=["ServiceMonitor"]) if one["kind"] == kind]


def deployment(wanted: Wanted) -> dict[str, Any]:
    return objects(wanted, "Deployment")[0]


def pod(wanted: Wanted) -> dict[str, Any]:
    return deployment(wanted)["spec"]["template"]["spec"]


def containers(wanted: Wanted) -> list[dict[str, Any]]:
    return [*pod(wanted)["containers"], *pod(wanted).get("initContainers", [])]


@BOTH
def test_01_namespace_asks_for_restricted_pods(wanted: Wanted) -> None:
    (one,) = objects(wanted, "Namespace")
    assert one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@BOTH
def test_02_every_container_is_hardened(wanted: Wanted) -> None:
    assert pod(wanted)["securityContext"]["runAsNonRoot"]
    assert pod(wanted)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in containers(wanted):
        context = one["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"name": "tmp", "mountPath": "/tmp"} in one["volumeMounts"]


@BOTH
def test_03_no_token_is_mounted(wanted: Wanted) -> None:
    assert pod(wanted)["automountServiceAccountToken"] is False
    assert objects(wanted, "ServiceAccount")[0]["automountServiceAccountToken"] is False


@BOTH
def test_04_every_container_says_what_it_takes(wanted: Wanted) -> None:
    for one in containers(wanted):
        assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
        assert "memory" in one["resources"]["limits"]


@BOTH
def test_05_three_probes_ask_three_things(wanted: Wanted) -> None:
    (one,) = containers(wanted)
    paths = {
        one[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
    }
    assert len(paths) == 3


@BOTH
def test_07_grace_is_longer_than_hold_linger_and_a_request(wanted: Wanted) -> None:
    hold = containers(wanted)[0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    rest = model.LINGER_S + model.REQUEST_S + 10 + (model.COLLECT_S if wanted.captures else 0)
    assert pod(wanted)["terminationGracePeriodSeconds"] >= hold + rest


@BOTH
def test_08_all_images_are_by_digest(wanted: Wanted) -> None:
    assert all("@sha256:" in one["image"] for one in containers(wanted))


@BOTH
def test_09_labels_are_everywhere_and_selectors_leave_the_version_out(wanted: Wanted) -> None:
    for one in manifest.render(wanted):
        if one["kind"] != "Namespace":
            names = {"name", "instance", "version", "component", "part-of", "managed-by"}
            assert {f"app.kubernetes.io/{name}" for name in names} <= one["metadata"][
                "labels"
            ].keys()
    selectors = [
        deployment(wanted)["spec"]["selector"]["matchLabels"],
        objects(wanted, "Service")[0]["spec"]["selector"],
    ]
    for selector in selectors:
        assert "app.kubernetes.io/version" not in selector
        assert (
            selector.items() <= deployment(wanted)["spec"]["template"]["metadata"]["labels"].items()
        )


def test_10_no_replicas_where_an_autoscaler_decides() -> None:
    assert deployment(FIXED)["spec"]["replicas"] == 2
    assert "replicas" not in deployment(RANGE)["spec"]
    (scaler,) = objects(RANGE, "HorizontalPodAutoscaler")
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 8)
    assert objects(FIXED, "HorizontalPodAutoscaler") == []


def test_stabilization_of_a_scale_down_is_said_only_where_somebody_asked() -> None:
    (scaler,) = objects(RANGE, "HorizontalPodAutoscaler")
    assert "behavior" not in scaler["spec"]
    (scaler,) = objects(dataclasses.replace(RANGE, scale_down_after_s=0), "HorizontalPodAutoscaler")
    assert scaler["spec"]["behavior"] == {"scaleDown": {"stabilizationWindowSeconds": 0}}


def test_environments_of_a_project_with_a_long_name_stay_apart() -> None:
    names = {
        dataclasses.replace(FIXED, project="p" * 60, environment=environment).name
        for environment in ("staging", "production")
    }
    assert len(names) == 2
    assert all(len(name) <= 50 for name in names)


def test_11_budget_with_an_autoscaler_and_it_lets_a_node_be_drained() -> None:
    assert objects(FIXED, "PodDisruptionBudget") == []
    (one,) = objects(RANGE, "PodDisruptionBudget")
    assert one["spec"]["maxUnavailable"] == 1


@BOTH
def test_12_everything_is_denied_but_callers_with_a_label_and_dns(wanted: Wanted) -> None:
    deny, allow = objects(wanted, "NetworkPolicy")
    assert set(deny["spec"]) == {"podSelector", "policyTypes"}
    callers, prometheus = allow["spec"]["ingress"]
    assert callers["from"][0]["podSelector"]["matchLabels"]
    (scraper,) = prometheus["from"]
    assert scraper == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    }
    system, names = allow["spec"]["egress"]
    assert {port["port"] for port in system["ports"]} == {53}
    (pods,) = names["to"]
    assert pods["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
    for one in (*system["to"], *names["to"]):
        namespace = one["namespaceSelector"]["matchLabels"]
        assert namespace == {"kubernetes.io/metadata.name": "kube-system"}


@pytest.mark.parametrize("kind", manifest.CUSTOM)
def test_13_custom_kinds_only_where_they_exist_and_each_is_said_aloud(kind: str) -> None:
    def made(kinds: list[str]) -> bool:
        return kind in {one["kind"] for one in manifest.render(RANGE, kinds=kinds)}

    def said(kinds: list[str]) -> bool:
        return any(line.startswith(f"no {kind}:") for line in manifest.left_out(RANGE, kinds))

    others = [one for one in manifest.CUSTOM if one != kind]
    assert made([kind])
    assert not said([kind])
    assert not made(others)
    assert said(others)


def test_13_route_is_missed_only_by_who_asked_for_it() -> None:
    assert not any("HTTPRoute" in line for line in manifest.left_out(FIXED, []))
    assert any("route: has no effect" in line for line in manifest.left_out(RANGE, []))
    assert not [one for one in manifest.render(FIXED, kinds=["HTTPRoute"]) if one["kind"] == "HTTPRoute"]  # fmt: skip


@BOTH
def test_19_text_is_the_same_bytes_in_another_process_and_language(wanted: Wanted) -> None:
    program = (
        "import sys, json; from treadle.deploy.kubernetes import manifest, text\n"
        "from treadle.base.plain import from_plain\n"
        "from treadle.deploy.kubernetes.wanted import Wanted\n"
        "told = from_plain(Wanted, json.loads(sys.argv[1]))\n"
        "print(text.text(manifest.render(told, kinds=manifest.CUSTOM)), end='')"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, json.dumps(dataclasses.asdict(wanted))],
            capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": language},
        ).stdout
        for seed, language in (("0", "C.UTF-8"), ("7", "POSIX"))
    }  # fmt: skip
    assert found == {text.text(manifest.render(wanted, kinds=manifest.CUSTOM))}


@BOTH
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_20_objects_are_valid_on_the_oldest_and_the_newest_kubernetes(
    wanted: Wanted, version: str
) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for one in manifest.render(wanted):
        validate.validate(one, version, strict=True)


def test_rendering_imports_nothing_that_builds_or_asks_a_cluster() -> None:
    program = (
        "import sys; from treadle.loop import manifests\n"
        "heavy = ('treadle.loop.image', 'treadle.clients.kube', 'treadle.build', 'lightkube', 'pydantic')\n"
        "print([one for one in heavy if one in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@BOTH
def test_45_no_secret_is_rendered(wanted: Wanted) -> None:
    assert 'kind: "Secret"' not in text.text(manifest.render(wanted))
    if wanted.token_secret:
        (told,) = [e for e in containers(wanted)[0]["env"] if e["name"] == "TREADLE_TOKEN"]
        assert told["valueFrom"] == {"secretKeyRef": {"name": "flights-token", "key": "token"}}


def test_what_a_project_says_of_nodes_and_gpus_is_passed_through() -> None:
    spec = pod(RANGE)
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert containers(RANGE)[0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert deployment(RANGE)["metadata"]["labels"]["team"] == "a"


def test_what_is_captured_lies_in_a_volume_with_a_size_and_less_than_that_is_written() -> None:
    (volume,) = [one for one in pod(KEEPS)["volumes"] if one["name"] == "capture"]
    (mount,) = [m for m in containers(KEEPS)[0]["volumeMounts"] if m["name"] == "capture"]
    (told,) = [one["data"] for one in objects(KEEPS, "ConfigMap")]
    assert told["TREADLE_CAPTURE"] == mount["mountPath"]
    options = settings_of(told)
    assert options.capture_rate == 0.5
    assert options.capture_per_minute == 501, "two pods share it"
    assert (options.capture_exclude, options.capture_hash) == (("a", "b"), ("c",))
    assert options.capture_wait_s == model.COLLECT_S
    assert options.capture_most is not None
    assert options.capture_most < size(volume["emptyDir"]["sizeLimit"])


def settings_of(environ: dict[str, str]) -> Options:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read(parser.parse_args([]), {**environ, "TREADLE_MODEL": "/m"})


@pytest.mark.parametrize(
    "capture", [None, Capture(rate=0), Capture(per_minute=0)], ids=["none", "rate", "minute"]
)
def test_where_nothing_is_captured_there_is_no_volume(capture: Capture | None) -> None:
    wanted = dataclasses.replace(FIXED, capture=capture)
    assert [one["name"] for one in pod(wanted)["volumes"]] == ["tmp"]
    (told,) = [one["data"] for one in objects(wanted, "ConfigMap")]
    assert not [name for name in told if "CAPTURE" in name]


def test_quantities_are_written_as_the_server_writes_them() -> None:
    odd = dataclasses.replace(FIXED, cpu="0.5", memory="1024Mi", resources={"example.com/fpga": "2000m"})  # fmt: skip
    told = containers(odd)[0]["resources"]
    assert told["requests"] == {"cpu": "500m", "memory": "1Gi", "example.com/fpga": "2"}
    assert told["limits"] == {"memory": "1Gi", "example.com/fpga": "2"}


@pytest.mark.parametrize(("text", "wanted"), [(3, (3, None)), ("3", (3, None)), ("2..8", (2, 8))])
def test_replicas_are_a_number_or_a_range(text: int | str, wanted: tuple) -> None:
    assert replicas(text) == wanted


@pytest.mark.parametrize("text", ["8..2", "0", "", "2..", "a", "2...8", "-1", 0])
def test_what_are_no_replicas_is_said(text: int | str) -> None:
    with pytest.raises(UsageError, match="replicas"):
        replicas(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200)
@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, min_size=1, max_size=4))
def test_any_object_comes_back_from_its_text(value: dict[str, Any]) -> None:
    try:
        found = YAML(typ="safe", pure=True).load(io.StringIO(text.text([value])))
    except Exception as error:
        # YAML 1.2 has no way to write these characters; no name in Kubernetes holds one.
        assert "unacceptable character" in str(error) or "special characters" in str(error), error
        return
    assert found == json.loads(json.dumps(value))
