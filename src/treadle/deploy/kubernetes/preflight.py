"""What a cluster has and lacks for an environment, before anything is applied to it.

Each look gives a finding: ok, a warning (something will not take effect), or what stands in the way,
with the fix. Nothing is written to the cluster; what only pods can find out is in `probe`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from treadle.base import supervision
from treadle.base.errors import Refused, TreadleError
from treadle.base.log import Report, silent
from treadle.clients.kube import Cluster, Object
from treadle.deploy.kubernetes import access, manifest
from treadle.deploy.kubernetes.wanted import Wanted

OLDEST, NEWEST = (1, 30), (1, 37)
SEEN = "preflight.json"
_LEFT_OUT = {"ServiceMonitor": "monitoring", "PrometheusRule": "alerts", "HTTPRoute": "route"}
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_ENFORCERS = ("calico", "cilium", "antrea", "weave", "kube-router", "canal")


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    state: Literal["ok", "warning", "missing"]
    found: str
    fix: str | None = None


@dataclass(frozen=True)
class Seen:
    """What was found out about a cluster before, in the environment's folder."""

    context: str
    said: dict[str, str] = field(default_factory=dict)
    """Warnings that were said, by name: once is enough until they change."""
    enforced: bool | None = None
    """What the probe of NetworkPolicies came to; None where there was none."""
    pulled: tuple[str, ...] = ()
    """Images that a node has pulled."""


def seen(env_folder: Path, context: str) -> Seen:
    """What is known of this cluster; nothing where the environment was on another."""
    found = supervision.read(env_folder / SEEN, Seen)
    return found if found is not None and found.context == context else Seen(context)


def keep(env_folder: Path, found: Seen) -> None:
    """Remember it."""
    env_folder.mkdir(parents=True, exist_ok=True)
    supervision.write(env_folder / SEEN, found)


# ---- all looks -----------------------------------------------------------------------------------


def look(
    cluster: Cluster,
    wanted: Wanted,
    *,
    objects: Sequence[Object] | None = None,
    enforced: bool | None = None,
) -> list[Finding]:
    """Everything that can be known without writing; stops where the cluster cannot be reached.

    `objects` are what would be applied (by default the model's); `enforced` is what a probe of
    NetworkPolicies found.
    """
    try:
        version = cluster.version()
        kinds = cluster.kinds()
    except TreadleError as error:
        return [Finding("cluster", "missing", error.message, error.hint)]
    if objects is None:
        objects = manifest.render(wanted, kinds=kinds & manifest.CUSTOM.keys())
    found = [_version(version), _namespace(cluster, wanted)]
    found.append(_permissions(cluster, wanted, objects))
    found.append(_policies(cluster, wanted, enforced))
    found += _storage(cluster, wanted, objects)
    found += _secrets(cluster, wanted)
    if any(one["kind"] == "HorizontalPodAutoscaler" for one in objects):
        found.append(_metrics(kinds))
    found += [
        Finding(_LEFT_OUT[words.split()[1].rstrip(":")], "warning", words)
        for words in manifest.left_out(wanted, kinds)
    ]
    return found


def before_apply(
    cluster: Cluster,
    wanted: Wanted,
    env_folder: Path,
    context: str,
    *,
    found: Callable[[Seen], Sequence[Finding]] | None = None,
    more: Sequence[Finding] = (),
    report: Report = silent,
) -> None:
    """Refused, with all that stands in the way, before anything is built, sent or applied; warnings
    are said once. `found` looks instead of `look`; `more` was found elsewhere. Unreachable: the
    cluster does not answer."""
    cluster.version()
    known = seen(env_folder, context)
    looks = look(cluster, wanted, enforced=known.enforced) if found is None else found(known)
    findings = [*looks, *more]
    doctor = f"treadle doctor --env {wanted.environment}"
    wrong = [one for one in findings if one.state == "missing"]
    if wrong:
        lines = "".join(f"\n  {one.name}: {one.found}" for one in wrong)
        hints = [one.fix for one in wrong if one.fix and one.name != "permissions"]
        raise Refused(
            f"the cluster of {context} cannot take {wanted.environment}; nothing was applied:{lines}",
            hint="; ".join(hints) if len(hints) == len(wrong)
            else f"{doctor} (it prints the Role, too)",
        )  # fmt: skip
    warnings = {one.name: one.found for one in findings if one.state == "warning"}
    for one in findings:
        if one.state == "warning" and known.said.get(one.name) != one.found:
            fix = one.fix if "\n" not in (one.fix or "") else f"{doctor} prints the Role"
            report(f"{one.name}: {one.found}" + (f" ({fix})" if fix else ""), warning=True)
    if warnings != known.said:
        keep(env_folder, replace(known, said=warnings))


# ---- one by one ----------------------------------------------------------------------------------


def _version(version: tuple[int, int]) -> Finding:
    shown, low, high = (".".join(map(str, one)) for one in (version, OLDEST, NEWEST))
    if OLDEST <= version <= NEWEST:
        return Finding("cluster", "ok", f"Kubernetes {shown}")
    return Finding("cluster", "warning", f"Kubernetes {shown}; {low} to {high} are tested")


def _namespace(cluster: Cluster, wanted: Wanted) -> Finding:
    name = wanted.namespace
    try:
        there = cluster.get("v1/Namespace", None, name) is not None
    except Refused:
        words = (
            f"{name} alone is ours: it may not be looked at or labelled, and is taken to be there"
        )
        return Finding("namespace", "ok", words)
    if there:
        return Finding("namespace", "ok", f"{name} is there")
    if cluster.may("create", "v1/Namespace", None):
        return Finding("namespace", "ok", f"{name} will be made")
    return Finding(
        "namespace", "missing", f"{name} is not there, and may not be made by us",
        f"have somebody run: kubectl create namespace {name}",
    )  # fmt: skip


def _permissions(cluster: Cluster, wanted: Wanted, objects: Sequence[Object]) -> Finding:
    """All that is missing at once, with the Role that gives it."""
    needed = access.needed(objects)
    missing = set(needed) - cluster.allowed(needed, wanted.namespace)
    if not missing:
        return Finding("permissions", "ok", f"all that is needed in {wanted.namespace}")
    role = access.role(wanted.namespace, wanted.environment, needed, cluster.who())
    if missing <= access.COLLECTS:  # releases go out all the same
        words = f"{access.words(missing)} (what pods capture is not collected)"
        return Finding("permissions", "warning", words, role)
    return Finding("permissions", "missing", access.words(missing), role)


def _policies(cluster: Cluster, wanted: Wanted, enforced: bool | None) -> Finding:
    """Whether somebody enforces NetworkPolicies: by a probe, else by the names of the network's own
    pods."""
    if enforced is not None:
        return policies(enforced)
    try:
        pods = cluster.list("v1/Pod", "kube-system", {})
    except TreadleError:
        pods = []
    names = [str(one["metadata"]["name"]) for one in pods]
    for enforcer in _ENFORCERS:
        if any(enforcer in name for name in names):
            return Finding("network policies", "ok", f"{enforcer} enforces them")
    return Finding(
        "network policies", "warning",
        "it is not known whether this cluster enforces them: if not, everybody in it may ask",
        f"treadle doctor --env {wanted.environment} finds out, once something runs there",
    )  # fmt: skip


def policies(enforced: bool) -> Finding:
    """What a probe came to."""
    if enforced:
        return Finding("network policies", "ok", "a policy of ours took effect: they are enforced")
    return Finding(
        "network policies", "warning",
        "this cluster ignores them: everybody in it may ask the model",
        "minikube start --cni calico; a token (token_secret:) holds everywhere",
    )  # fmt: skip


def _storage(cluster: Cluster, wanted: Wanted, objects: Sequence[Object]) -> Iterator[Finding]:
    """Whether each claim that would be made gets a volume, and each that is mounted is there."""
    made = [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
    names = {one["metadata"]["name"] for one in made}
    for name in sorted(set(_mounted(list(objects))) - names):
        try:
            there = cluster.get("v1/PersistentVolumeClaim", wanted.namespace, name) is not None
        except Refused:
            yield Finding("storage", "warning", f"the claim {name} may not be looked at by us")
            continue
        if not there:
            words = f"there is no claim {name} in {wanted.namespace}, which a pod mounts"
            yield Finding("storage", "missing", words, "kubectl apply a PersistentVolumeClaim")
        else:
            yield Finding("storage", "ok", f"claim {name} is there")
    if not made:
        return
    try:
        classes = cluster.list("storage.k8s.io/v1/StorageClass", None, {})
    except Refused:
        yield Finding("storage", "warning", "storage classes may not be looked at by us")
        return
    known = {str(one["metadata"]["name"]) for one in classes}
    default = [
        str(one["metadata"]["name"])
        for one in classes
        if (one["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
    ]
    for claim in made:
        asked, own = claim["spec"].get("storageClassName"), claim["metadata"]["name"]
        has = ", ".join(sorted(known)) or "none"
        if asked == "":
            yield Finding("storage", "ok", f"claim {own} takes a volume that somebody made")
        elif asked is not None and asked not in known:
            words = f"claim {own} asks for the storage class {asked}; there is: {has}"
            yield Finding("storage", "missing", words, "name one that there is")
        elif asked is None and not default:
            words = f"claim {own} asks for the default storage class, and there is none ({has})"
            yield Finding("storage", "missing", words, "name a class, or have one made the default")
        else:
            yield Finding("storage", "ok", f"claim {own} is of the class {asked or default[0]}")


def _mounted(value: Any) -> Iterator[str]:
    """Names of the claims that pods below mount."""
    if isinstance(value, Mapping):
        claim = value.get("persistentVolumeClaim")
        if isinstance(claim, Mapping) and "claimName" in claim:
            yield str(claim["claimName"])
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _mounted(one)


def _secrets(cluster: Cluster, wanted: Wanted) -> Iterator[Finding]:
    """Whether the Secrets that the spec names are there, where we may look at all."""
    names = [*wanted.pull_secrets, *([wanted.token_secret] if wanted.token_secret else [])]
    for name in names:
        try:
            found = cluster.get("v1/Secret", wanted.namespace, name)
        except Refused:
            continue  # a Role that reads no Secrets is a good one
        if found is None:
            words = f"there is no Secret {name} in {wanted.namespace}, which treadle.yaml names"
            yield Finding("secret", "missing", words, f"kubectl create secret generic {name} …")
        elif name == wanted.token_secret and "token" not in (found.get("data") or {}):
            words = f"the Secret {name} has no key `token`"
            yield Finding("secret", "missing", words, "its key `token` is the bearer token")


def _metrics(kinds: set[str]) -> Finding:
    if "PodMetrics" in kinds:
        return Finding("autoscaling", "ok", "the cluster measures its pods")
    return Finding(
        "autoscaling", "warning",
        "the cluster does not measure its pods: the number of replicas will not change",
        "install metrics-server (minikube addons enable metrics-server)",
    )  # fmt: skip
