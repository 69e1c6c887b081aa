"""plan/lint_rules.py, lint_references.py, lint_values.py: what no schema says."""

from __future__ import annotations

import dataclasses
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from tests.deploy.test_manifest import FIXED, KEEPS, RANGE
from tests.plan.test_lint import CLAIM, DEPLOYMENT, POD, SCHEMAS, SERVICE, found, one

from treadle.deploy.kubernetes import manifest, text
from treadle.deploy.kubernetes.wanted import Wanted
from treadle.plan import lint_values as values
from treadle.plan.lint import Finding, lint

pytest.importorskip("kubernetes_validate")
EXAMPLES = Path(__file__).parents[2] / "examples"
FULL = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  volumes:
    - name: data
      emptyDir: {sizeLimit: 1Gi}
  containers:
    - name: web
      image: nginx:1.27
      ports:
        - {name: http, containerPort: 80}
      resources:
        requests: {cpu: 100m, memory: 64Mi}
        limits: {cpu: "1", memory: 128Mi}
      readinessProbe:
        httpGet: {path: /, port: http}
      volumeMounts:
        - {name: data, mountPath: /data}
"""
EXPRESSIONS = DEPLOYMENT.replace(
    "    matchLabels: {app: web}\n",
    "    matchExpressions:\n      - {key: app, operator: In, values: [web, shop]}\n",
)
SCALER = """\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 4
"""
BUDGET = """\
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
"""
INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
    - http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
"""
STATEFUL = """\
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: nginx:1.27
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""
RIGHT = [FULL, EXPRESSIONS, SCALER, BUDGET, POLICY, INGRESS, STATEFUL]


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_objects_that_belong_together_are_left_alone() -> None:
    assert found(DEPLOYMENT, SERVICE, SCALER, BUDGET, POLICY, INGRESS) == []


@pytest.mark.parametrize(
    ("text", "line", "column", "words", "hint"),
    [
        (POD.partition("spec:")[0], 1, 1, "the Pod has no `spec`", "containers: [{name"),
        (DEPLOYMENT.partition("spec:")[0] + "spec:\n", 5, 1, "the Deployment has no `spec`", "template"),
        (SERVICE.partition("spec:")[0], 1, 1, "the Service has no `spec`", "ports"),
        (POD.partition("  containers:")[0] + "  containers: []\n", 7, 3, "at least one container", "name: …, image"),
        (DEPLOYMENT.replace("matchLabels: {app: web}", "{}"), 7, 3, "the selector is empty", "matchLabels"),
        (EXPRESSIONS.replace("[web, shop]", "[shop]"), 9, 9, "`app In` does not match the template's labels (app: web)", "change it"),
        (EXPRESSIONS.replace("In, values: [web, shop]", "DoesNotExist"), 9, 9, "`app DoesNotExist` does not match", ""),
        (EXPRESSIONS.replace("operator: In", "operator: in"), 9, 30, "there is no operator in", "did you mean `In`?"),
        (EXPRESSIONS.replace(", values: [web, shop]", ""), 9, 30, "In needs values", "values: ["),
        (EXPRESSIONS.replace("In,", "Exists,"), 9, 38, "Exists takes no values", "take them away"),
        (FULL.replace("{name: data, mountPath", "{name: date, mountPath"), 21, 18, "the pod has no volume `date`", "did you mean `data`?"),
        (POD + "      volumeMounts: [{name: data, mountPath: /d}]\n", 10, 29, "the pod has no volume `data`", "volumes: [{name: data"),
        (FULL + "        - {name: data, mountPath: /data}\n", 22, 35, "mounted at /data already", "of its own"),
        (FULL.replace("  containers:", "    - {name: data, emptyDir: {}}\n  containers:"), 10, 14, "another volume of this pod is named `data`", ""),
        (POD + "    - {name: web, image: 'a:1'}\n", 10, 14, "another container of this pod is named `web`", "of its own"),
        (POD + "  initContainers:\n    - {name: web, image: 'a:1'}\n", 11, 14, "another container of this pod is named `web`", ""),
        (FULL.replace("      resources:", "        - {name: http, containerPort: 81}\n      resources:"), 15, 18, "another port of this container is named `http`", ""),
        (FULL.replace("containerPort: 80", "containerPort: 0"), 14, 39, "there is no port 0", "1 to 65535"),
        (FULL.replace("containerPort: 80", "containerPort: 70000"), 14, 39, "there is no port 70000", "1 to 65535"),
        (FULL.replace("port: http", "port: 65536"), 19, 34, "there is no port 65536", ""),
        (FULL.replace("port: http", "port: htpp"), 19, 34, "no port named `htpp`", "did you mean `http`?"),
        (FULL.replace("port: http", "port: '80'"), 19, 34, "taken for a port's name", "remove the quotes"),
        (FULL.replace("{path: /, port: http}", "{path: /, port: http}\n        periodSeconds: 0"), 20, 24, "periodSeconds cannot be 0", "1 or more"),
        (FULL.replace("readinessProbe:", "livenessProbe:").replace("port: http}", "port: http}\n        successThreshold: 2"), 20, 27, "can only be 1", "take it away"),
        (POD.replace("spec:\n", "spec:\n  terminationGracePeriodSeconds: -1\n"), 7, 34, "cannot be -1", "0 or more"),
        (DEPLOYMENT.replace("replicas: 2", "replicas: -2"), 6, 13, "replicas cannot be -2", "0 or more"),
        (DEPLOYMENT.replace("  replicas: 2", "  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}"), 6, 14, "no pod can be replaced", "maxSurge: 1"),
        (DEPLOYMENT.replace("  replicas: 2", "  strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}"), 6, 30, "no meaning for the type Recreate", ""),
        (DEPLOYMENT.replace("  replicas: 2", "  minReadySeconds: 9\n  progressDeadlineSeconds: 9"), 7, 28, "not after minReadySeconds", ""),
        (SCALER.replace("maxReplicas: 4", "maxReplicas: 0"), 6, 16, "are none", "1 or more"),
        (SCALER + "  minReplicas: 5\n", 7, 16, "more than at most 4", ""),
        (SERVICE.replace("port: 80", "port: 80, nodePort: 99999"), 6, 32, "there is no port 99999", ""),
        (SERVICE.replace("{port: 80}", "{port: 80}, {port: 81, name: b}"), 6, 11, "each needs a name", "name: http"),
        (SERVICE.replace("{port: 80}", "{port: 80, name: a}, {port: 81, name: a}"), 6, 49, "another port of this Service is named `a`", ""),
        (SERVICE.replace("{port: 80}", "{port: 80, name: a}, {port: 80, name: b}"), 6, 39, "port 80 stands here a second time", ""),
        (SERVICE.replace("{port: 80}", "{port: 80, targetPort: '8080'}"), 6, 34, "taken for a port's name", "remove the quotes"),
        (SERVICE.replace("  ports: [{port: 80}]\n", ""), 4, 1, "the Service has no ports", "ports: [{port"),
        (SERVICE.replace("{name: web}", "{name: 1web}"), 3, 18, "no name of a Service", "a lower-case letter"),
        (SERVICE.replace("{name: web}", "{name: a.b}"), 3, 18, "no name of a Service", ""),
        (FULL.replace("    - name: web", "    - name: Web"), 11, 13, "'Web' is no name here", "lower-case"),
        (FULL.replace("name: http", "name: http_port").replace("port: http}", "port: http_port}"), 14, 18, "no name of a port", "at most 15"),
        (POD.replace("{app: web}", "{app: 'my web'}"), 5, 17, "cannot be a label's value", "annotations"),
        (POD.replace("{app: web}", "{'my app': web}"), 5, 12, "no name of a label", ""),
        (POD.replace("  labels", "  annotations: {a b: c}\n  labels"), 5, 17, "no name of an annotation", ""),
        (POD.replace("  labels", "  namespace: My_space\n  labels"), 5, 14, "is no name here", ""),
        (SERVICE.replace("{app: web}", "{app: -web}"), 5, 19, "cannot be a label's value", ""),
        (FULL.replace("memory: 64Mi", "memory: 64MB"), 16, 39, "'64MB' is no quantity", "write 64Mi"),
        (FULL.replace("cpu: 100m", "cpu: lots"), 16, 25, "'lots' is no quantity", "a number with"),
        (FULL.replace("memory: 64Mi", "memory: -1"), 16, 39, "less than nothing", "0 or more"),
        (FULL.replace("sizeLimit: 1Gi", "sizeLimit: 1 Gi"), 9, 29, "is no quantity", "write 1Gi"),
        (CLAIM.replace("1Gi", "1gb"), 4, 70, "'1gb' is no quantity", "write 1Gi"),
        (FULL.replace("memory: 64Mi", "memory: 1Gi"), 16, 39, "1Gi of memory are requested, and at most 128Mi", "a limit of 1Gi"),
        (FULL.replace("cpu: 100m", "cpu: 2"), 16, 25, "2 of cpu are requested, and at most 1 may", ""),
        (STATEFUL.replace("storage: 1Gi", "storage: 1GB"), 16, 76, "'1GB' is no quantity", "write 1Gi"),
    ],
)  # fmt: skip
def test_mistake_is_named_with_line_column_and_fix(
    text: str, line: int, column: int, words: str, hint: str
) -> None:
    (finding,) = [one for one in found(text) if not one.warning]
    assert words in finding.words
    assert hint in finding.hint
    assert (finding.line, finding.column) == (line, column), finding.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FULL.replace("      volumeMounts:\n        - {name: data, mountPath: /data}\n", ""), "no container mounts the volume `data`"),
        (FULL.replace("      resources:", "        - {name: b, containerPort: 80}\n      resources:"), "port 80 stands here a second time"),
        (FULL.replace("memory: 64Mi", "memory: 64m"), "64m of memory is 0.064 bytes"),
        (FULL.replace("cpu: 100m, ", "").replace('cpu: "1"', "cpu: 500M"), "500M is 500000000 processors"),
    ],
)  # fmt: skip
def test_what_may_be_meant_is_a_warning(text: str, words: str) -> None:
    finding = one(text)
    assert words in finding.words
    assert finding.warning
    assert "warning: " in finding.text


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        (SCALER.replace("Deployment, name: web", "Deployment, name: wob"), "there is no Deployment `wob`", "did you mean `web`?"),
        (SCALER.replace("{name: web}", "{name: web, namespace: shop}"), "there is no Deployment `web`", "in the namespace `default`"),
        (BUDGET.replace("app: web", "app: shop"), "the selector matches no pod", "app: web"),
        (BUDGET.replace("matchLabels: {app: web}", "matchExpressions: [{key: app, operator: NotIn, values: [web]}]"), "matches no pod", ""),
        (POLICY.replace("app: web", "app: shop"), "the selector matches no pod", "app: web"),
        (SERVICE.replace("{port: 80}", "{port: 80, targetPort: http}"), "no port of the selected pods is named `http`", "write its number"),
    ],
)  # fmt: skip
def test_object_that_refers_to_nothing_in_the_files_is_named(
    text: str, words: str, hint: str
) -> None:
    finding = one(text, DEPLOYMENT)
    assert words in finding.words
    assert hint in finding.hint


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        (INGRESS.replace("name: web, port", "name: wob, port"), "there is no Service `wob`", "did you mean `web`?"),
        (INGRESS.replace("number: 80", "number: 81"), "the Service `web` has no port 81", "there is `80`"),
        (INGRESS.replace("number: 80", "name: http"), "the Service `web` has no port http", ""),
    ],
)  # fmt: skip
def test_backend_that_is_not_among_the_services_of_the_files_is_named(
    text: str, words: str, hint: str
) -> None:
    finding = one(text, SERVICE)
    assert words in finding.words
    assert hint in finding.hint


@pytest.mark.parametrize("text", [SCALER, BUDGET, POLICY, INGRESS, SERVICE])
def test_partial_files_raise_no_false_alarm(text: str) -> None:
    assert found(text) == []
    assert found(text, "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n") == []


def test_budget_and_policy_of_a_namespace_without_pods_here_may_have_them_elsewhere() -> None:
    for text_ in (BUDGET, POLICY):
        assert found(text_.replace("{name: web}", "{name: web, namespace: shop}"), DEPLOYMENT) == []


def test_policy_for_all_pods_is_right() -> None:
    assert found(POLICY.replace("{matchLabels: {app: web}}", "{}"), DEPLOYMENT) == []


def test_service_without_selector_and_headless_ones_are_right() -> None:
    headless = SERVICE.replace("  ports: [{port: 80}]", "  clusterIP: None")
    outside = SERVICE.replace("  selector: {app: web}\n", "").replace("  ports: [{port: 80}]", "  type: ExternalName\n  externalName: a.b")  # fmt: skip
    assert found(headless, DEPLOYMENT) == found(outside) == []


def test_names_of_roles_are_parts_of_an_address() -> None:
    role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: 'system:A_b'}\nrules: []\n"
    assert found(role) == []
    assert "is no name" in one(role.replace("system:A_b", "a/b")).words


def test_spec_below_metadata_is_said_once() -> None:
    text_ = POD.replace("spec:\n", "  spec:\n").replace("  containers", "    containers")
    assert "nested under" in one(text_).words


@pytest.mark.parametrize(
    "wanted", [FIXED, RANGE, KEEPS, dataclasses.replace(KEEPS, most=9, labels={"a.b/c": "D_e"})]
)
def test_all_that_render_writes_is_right(wanted: Wanted) -> None:
    whole = found(text.text(manifest.render(wanted)))
    assert whole == []
    for single in manifest.render(wanted):
        assert found(text.text([single])) == []


def test_all_manifests_among_the_examples_are_right() -> None:
    files = {str(path): path.read_text() for path in EXAMPLES.rglob("kubernetes/*.yaml")}
    assert len(files) >= 5
    assert lint(files, SCHEMAS) == []
    for name, content in files.items():
        assert lint({name: content}, SCHEMAS) == []


# ---- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("500m", "0.5"), ("1Gi", 1 << 30), ("2", 2), ("1e3", 1000), ("1E", 10**18), (".5", "0.5"), ("5.", 5), ("1E3", 1000), ("128974848000m", "128974848"), (1.5, "1.5"), ("+1", 1), ("-1", -1)],
)  # fmt: skip
def test_quantity_is_the_number_that_kubernetes_reads(text: Any, wanted: Any) -> None:
    assert values.quantity(text) == Decimal(wanted)


@pytest.mark.parametrize("text", ["", "1GB", "1 Gi", "1gi", "1K", "Gi", "1e", "1.2.3", "one", "0x1", True, None, [], "1\n", "\u0661"])  # fmt: skip
def test_what_is_no_quantity_is_none(text: Any) -> None:
    assert values.quantity(text) is None


SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.sampled_from(
    ["", "web", "1Gi", "-1", "In", "http", "a/b", "Web", "1e999", "9" * 40, "0", "\u0661", "a" * 70, "Exists"]
)  # fmt: skip
KEYS = st.sampled_from(
    "apiVersion kind metadata name namespace labels annotations spec selector matchLabels matchExpressions key operator values template containers initContainers volumes volumeMounts ports port targetPort containerPort resources requests limits cpu memory emptyDir sizeLimit persistentVolumeClaim claimName readinessProbe httpGet lifecycle preStop replicas minReplicas maxReplicas scaleTargetRef strategy rollingUpdate maxSurge jobTemplate volumeClaimTemplates rules http paths backend service number podSelector app type".split()
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=5),
    max_leaves=25,
)
KINDS = st.sampled_from(
    [("v1", "Pod"), ("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("batch/v1", "CronJob"), ("v1", "Service"), ("autoscaling/v2", "HorizontalPodAutoscaler"), ("policy/v1", "PodDisruptionBudget"), ("networking.k8s.io/v1", "NetworkPolicy"), ("networking.k8s.io/v1", "Ingress"), ("v1", "PersistentVolumeClaim"), ("v1", "ResourceQuota")]
)  # fmt: skip


def placed(findings: list[Finding]) -> bool:
    return all(one.line >= 1 and one.column >= 1 and one.words for one in findings)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KINDS, TREES, TREES), min_size=1, max_size=3))
def test_any_tree_under_any_kind_is_judged_and_never_crashes(objects: list[Any]) -> None:
    documents = [
        json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
        for (version, kind), metadata, spec in objects
    ]
    assert placed(found("\n---\n".join(documents)))


GOOD = [DEPLOYMENT, SERVICE, *RIGHT]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GOOD), st.lists(st.integers(0, 60), min_size=1, max_size=8), TREES)
def test_good_object_with_one_wrong_value_is_judged_and_never_crashes(
    good: str, way: list[int], value: Any
) -> None:
    plain = YAML(typ="safe", pure=True).load(io.StringIO(good))
    at = plain
    for step in way:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = keys[step % len(keys)]
        if not isinstance(at[key], dict | list) or step == way[-1]:
            at[key] = value
            break
        at = at[key]
    assert placed(found(json.dumps(plain), DEPLOYMENT, SERVICE))
