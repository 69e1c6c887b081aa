"""plan/lint.py: Kubernetes YAML of people."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.clients import kube_schemas
from treadle.plan.lint import Finding, Schemas, lint

pytest.importorskip("kubernetes_validate")
HELLO = Path(__file__).parents[2] / "examples/hello/kubernetes"
SCHEMAS = Schemas(kube_schemas.problems, kube_schemas.api_versions, kube_schemas.kinds)
POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
    - name: web
      image: nginx:1.27
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        - name: web
          image: nginx:1.27
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
"""
CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""


def found(*texts: str) -> list[Finding]:
    return lint({f"f{number}.yaml": text for number, text in enumerate(texts)}, SCHEMAS)


def one(text: str, *others: str) -> Finding:
    (finding,) = found(text, *others)
    return finding


@pytest.mark.parametrize("text", [POD, DEPLOYMENT, "", "---\n", "# a remark\n---\n" + POD])
def test_what_is_right_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_examples_of_the_course_are_right() -> None:
    assert lint({path.name: path.read_text() for path in HELLO.iterdir()}, SCHEMAS) == []


@pytest.mark.parametrize(
    ("text", "line", "column", "words", "hint"),
    [
        (POD.replace("spec:\n  containers", "  spec:\n  containers").replace("  containers:", "    containers:"), 6, 3, "`spec` is nested under `metadata`", "move `spec:`"),
        (POD.replace("image:", "imagee:"), 9, 7, "there is no field `imagee`", "did you mean `image`?"),
        (POD.replace("    - name: web\n", "    - name: web\n      replicas: 3\n"), 9, 7, "there is no field `replicas`", "belongs in spec"),
        (POD.replace("nginx:1.27", "nginx"), 9, 14, "no tag", "nginx:1.0"),
        (POD.replace("nginx:1.27", "nginx:latest"), 9, 14, "`latest`", "nginx:1.0"),
        (POD.replace("nginx:1.27", "localhost:5000/nginx"), 9, 14, "no tag", "localhost:5000/nginx:1.0"),
        (POD.replace("  name: web\n  labels", "  labels"), 3, 1, "no name", "metadata: {name"),
        (POD.replace("name: web\n  labels", "name: Web\n  labels"), 4, 9, "'Web' is no name", "lower-case"),
        (POD.replace("v1", "apps/v1", 1), 1, 13, "no Pod in apps/v1", "apiVersion: v1"),
        (POD.replace("apiVersion: v1\n", ""), 1, 1, "`apiVersion` is missing", "apiVersion: v1"),
        (POD.replace("kind: Pod", "kind: Pood"), 2, 7, "no kind Pood", "did you mean `Pod`?"),
        (POD.replace("kind: Pod\n", ""), 1, 1, "`kind` is missing", "kind: Pod"),
        (DEPLOYMENT.replace("replicas: 2", 'replicas: "2"'), 6, 13, "expected a whole number", "remove the quotes"),
        (DEPLOYMENT.replace("replicas: 2", "replicas: many"), 6, 13, "expected a whole number", ""),
        (DEPLOYMENT.replace("labels: {app: web}", "labels: {app: wob}"), 8, 24, "does not match the template", "app: web under"),
        (DEPLOYMENT.replace("labels: {app: web}", "labels: {app: web, n: 1}"), 11, 29, "expected text", 'put it in quotes: "1"'),
        (POD.replace("      image", "\timage"), 9, 1, "a tab", "indent with spaces"),
        (POD + "kind: Pod\n", 10, 1, "a second time", "keep one"),
        ("- a\n", 1, 1, "is a mapping", "apiVersion"),
        ("a: [1\n", 1, 6, "YAML", ""),
    ],
)  # fmt: skip
def test_mistake_is_named_with_line_column_and_fix(
    text: str, line: int, column: int, words: str, hint: str
) -> None:
    finding = one(text)
    assert words in finding.words
    assert hint in finding.hint
    assert (finding.line, finding.column) == (line, column), finding.text
    assert finding.text.startswith(f"f0.yaml:{line}:{column}: ")


def test_every_mistake_of_a_file_is_named_at_once() -> None:
    text = DEPLOYMENT.replace("replicas: 2", "replica: 2").replace("nginx:1.27", "nginx")
    assert len(found(text + "---\n" + POD.replace("image:", "imago:"))) == 3


def test_service_that_selects_no_pod_of_the_files_is_named() -> None:
    assert found(DEPLOYMENT, SERVICE) == []
    finding = one(SERVICE.replace("app: web", "app: shop"), DEPLOYMENT)
    assert "matches no pod" in finding.words
    assert "app: web" in finding.hint
    assert found(SERVICE) == []  # alone, nobody knows what it is for


def test_claim_that_no_pod_uses_and_one_that_is_not_there_are_named() -> None:
    uses = DEPLOYMENT + (
        "          volumeMounts: [{name: d, mountPath: /d}]\n"
        "      volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]\n"
    )
    assert found(uses, CLAIM) == []
    assert "no pod uses the claim `data`" in one(CLAIM, DEPLOYMENT).words
    other = CLAIM.replace("name: data", "name: date")
    assert {f.words for f in found(uses, other)} == {
        "there is no claim `data` in these files", "no pod uses the claim `date`",
    }  # fmt: skip


def test_kind_of_somebody_elses_is_said_to_be_unchecked() -> None:
    finding = one("apiVersion: x.io/v1\nkind: Widget\nmetadata: {name: a}\nspec: {any: thing}\n")
    assert "not checked" in finding.words
    assert finding.warning


def test_anchors_merge_keys_and_lists_of_objects_are_read() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n" + "".join(
        f"  {'- ' if number == 0 else '  '}{line}\n" for number, line in enumerate(POD.splitlines())
    )
    assert found(text) == []
    merged = POD.replace("labels: {app: web}", "labels: &l {app: web}\n  annotations: {<<: *l}")
    assert found(merged) == []


@pytest.mark.parametrize("value", ["yes", "on", "Off", "012"])
def test_text_that_kubectl_takes_for_something_else_is_named(value: str) -> None:
    assert "expected text" in one(POD.replace("{app: web}", f"{{app: {value}}}")).words


def test_aliases_that_unfold_without_an_end_are_named() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "unfold too far" in one("\n".join(lines)).words


WORDS = st.sampled_from(
    ["apiVersion: v1", "kind: Pod", "metadata:", "  name: a", "spec:", "  containers:", "    - name: x", "\t", "---", "&a", "*a", "{", "}", "- ", ": ", "'", '"', "|", "? ", "<<: *a", "%YAML 1.1", "\x00", "é"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS | st.text(max_size=12), max_size=12).map("\n".join))
def test_any_text_is_read_or_named_and_never_crashes(text: str) -> None:
    for finding in found(text):
        assert finding.line >= 1
        assert finding.column >= 1
