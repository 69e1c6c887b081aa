"""What a cluster has and lacks for an environment, before anything is applied to it.

Each look gives a finding: ok, a warning (something will not take effect), or what stands in the way,
with the fix. Nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from treadle.base.errors import Refused, TreadleError
from treadle.clients.kube import Cluster
from treadle.deploy.kubernetes import manifest, text
from treadle.deploy.kubernetes.wanted import Wanted

OLDEST, NEWEST = (1, 30), (1, 37)
_NEEDED = ("get", "patch", "create", "delete")
_READ = {"v1/Pod": ("get", "list")}
_GROUPS = {
    "v1": "", "apps/v1": "apps", "batch/v1": "batch", "networking.k8s.io/v1": "networking.k8s.io",
    "autoscaling/v2": "autoscaling", "policy/v1": "policy",
    "monitoring.coreos.com/v1": "monitoring.coreos.com",
    "gateway.networking.k8s.io/v1": "gateway.networking.k8s.io",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    state: Literal["ok", "warning", "missing"]
    found: str
    fix: str | None = None


def look(cluster: Cluster, wanted: Wanted) -> list[Finding]:
    """Everything that can be known without writing; stops where the cluster cannot be reached."""
    try:
        version = cluster.version()
    except TreadleError as error:
        return [Finding("cluster", "missing", error.message, error.hint)]
    shown = ".".join(map(str, version))
    found = [Finding("cluster", "ok", f"Kubernetes {shown}")]
    if not OLDEST <= version <= NEWEST:
        low, high = (".".join(map(str, one)) for one in (OLDEST, NEWEST))
        found[0] = Finding("cluster", "warning", f"Kubernetes {shown}; {low} to {high} are tested")
    kinds = cluster.kinds()
    found.append(_namespace(cluster, wanted))
    found.append(_permissions(cluster, wanted, kinds & manifest.CUSTOM.keys()))
    found.append(_policies(cluster))
    if wanted.most is not None:
        found.append(_metrics(kinds))
    found += [
        Finding("route" if "HTTPRoute" in words else "monitoring", "warning", words)
        for words in manifest.left_out(wanted, kinds)
    ]
    return found


def _namespace(cluster: Cluster, wanted: Wanted) -> Finding:
    try:
        there = cluster.get("v1/Namespace", None, wanted.namespace) is not None
    except Refused:
        words = f"whether {wanted.namespace} is there may not be looked at by us: it is taken to be"
        return Finding("namespace", "warning", words)
    if there:
        return Finding("namespace", "ok", f"{wanted.namespace} is there")
    if cluster.may("create", "v1/Namespace", None):
        return Finding("namespace", "ok", f"{wanted.namespace} will be made")
    return Finding(
        "namespace", "missing", f"{wanted.namespace} is not there, and may not be made by us",
        f"have somebody run: kubectl create namespace {wanted.namespace}",
    )  # fmt: skip


def _permissions(cluster: Cluster, wanted: Wanted, custom: set[str]) -> Finding:
    """All that is missing at once, with the Role that gives it."""
    kinds = {
        f"{one['apiVersion']}/{one['kind']}": _NEEDED
        for one in manifest.render(wanted, kinds=custom)
        if one["kind"] != "Namespace"
    } | _READ
    missing: dict[str, list[str]] = {}
    for kind, verbs in sorted(kinds.items()):
        for verb in verbs:
            if not cluster.may(verb, kind, wanted.namespace):
                missing.setdefault(kind, []).append(verb)
    if not missing:
        return Finding("permissions", "ok", f"all that is needed in {wanted.namespace}")
    words = "; ".join(f"{kind.rpartition('/')[2]}: {', '.join(v)}" for kind, v in missing.items())
    return Finding("permissions", "missing", words, role(wanted, missing))


def role(wanted: Wanted, missing: dict[str, list[str]]) -> str:
    """The Role, as YAML, that gives what is missing."""
    rules = []
    for kind, verbs in missing.items():
        version, _, name = kind.rpartition("/")
        plural = f"{name.lower()[:-1]}ies" if name.endswith("y") else f"{name.lower()}s"
        rules.append(
            {"apiGroups": [_GROUPS.get(version, "")], "resources": [plural], "verbs": verbs}
        )
    return text.text([{
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "treadle", "namespace": wanted.namespace}, "rules": rules,
    }])  # fmt: skip


def _policies(cluster: Cluster) -> Finding:
    """Whether somebody enforces NetworkPolicies: by the name of the network's own pods."""
    enforcers = ("calico", "cilium", "antrea", "weave", "kube-router", "canal")
    try:
        pods = cluster.list("v1/Pod", "kube-system", {})
    except TreadleError:
        pods = []
    names = [str(one["metadata"]["name"]) for one in pods]
    for enforcer in enforcers:
        if any(enforcer in name for name in names):
            return Finding("network policies", "ok", f"{enforcer} enforces them")
    if any("kindnet" in name for name in names):
        words = "this network (kindnet) may ignore them: then everybody in the cluster may ask"
        return Finding("network policies", "warning", words, "minikube start --cni calico")
    return Finding(
        "network policies", "warning",
        "it is not known whether this cluster enforces them: if not, everybody in it may ask",
        "a token (token_secret:) holds everywhere",
    )  # fmt: skip


def _metrics(kinds: set[str]) -> Finding:
    if "PodMetrics" in kinds:
        return Finding("autoscaling", "ok", "the cluster measures its pods")
    return Finding(
        "autoscaling", "warning",
        "the cluster does not measure its pods: the number of replicas will not change",
        "install metrics-server (minikube addons enable metrics-server)",
    )  # fmt: skip
