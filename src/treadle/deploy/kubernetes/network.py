"""How the model is reached, and by whom."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from treadle.deploy.kubernetes.wanted import (
    MANAGER,
    PORT,
    SERVES,
    Wanted,
    label_selector,
    labels,
    meta,
)

if TYPE_CHECKING:
    from treadle.deploy.target import Split


def service(wanted: Wanted, *, every: bool = False) -> dict[str, Any]:
    """One name for all pods: of this version, or with `every` of whichever version.

    A Service's selector may change (a Deployment's never); the pods are the same on both sides of
    the change, so no connection notices it.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(wanted),
        "spec": {
            "type": "ClusterIP",
            "selector": {SERVES: wanted.serves} if every else label_selector(wanted),
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def stable_service(wanted: Wanted) -> dict[str, Any]:
    """The champion's pods alone, while `service` is for both versions'."""
    found = service(wanted)
    # Another component than `service`: a ServiceMonitor that found both would count pods twice.
    found["metadata"] = {
        **meta(wanted, f"{wanted.name}-stable"),
        "labels": labels(wanted, "stable"),
    }
    return found


def route(wanted: Wanted, candidate: Wanted | None, split: Split | None) -> dict[str, Any]:
    """From the gateway to the Service, or by weight to both versions' Services."""
    assert wanted.route is not None
    place, _, name = wanted.route.gateway.rpartition("/")
    targets: list[dict[str, Any]] = [{"name": wanted.name, "port": 80}]
    if split is not None and candidate is not None:
        targets[0]["weight"] = 100 - split.weight
        targets.append({"name": candidate.name, "port": 80, "weight": split.weight})
    path = wanted.route.path
    rule: dict[str, Any] = {
        "matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": targets,
    }  # fmt: skip
    if path != "/":  # the server knows its own paths, and no prefix
        rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}
        rule["filters"] = [{"type": "URLRewrite", "urlRewrite": rewrite}]
    spec: dict[str, Any] = {
        "parentRefs": [{"name": name, "namespace": place or wanted.namespace}], "rules": [rule],
    }  # fmt: skip
    if wanted.route.host is not None:
        spec["hostnames"] = [wanted.route.host]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": meta(wanted), "spec": spec,
    }  # fmt: skip


def deny_all(wanted: Wanted) -> dict[str, Any]:
    """Nothing in or out but for what `allow` lists."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(wanted, f"{wanted.name}-deny"),
        "spec": {
            "podSelector": {"matchLabels": label_selector(wanted)},
            "policyTypes": ["Ingress", "Egress"],
        },
    }


def allow(wanted: Wanted, kinds: Collection[str] = ()) -> dict[str, Any]:
    """Who may ask: pods that say so by a label, in any namespace; the gateway's, where there is a
    route; Prometheus', where there is a monitor. The model asks DNS alone."""
    names = {"matchLabels": {"k8s-app": "kube-dns"}}
    system = _within("kube-system")
    caller = {"matchLabels": {f"{MANAGER}.dev/calls-{wanted.serves}": "yes"}}
    sources: list[dict[str, Any]] = [{"namespaceSelector": {}, "podSelector": caller}]
    if "ServiceMonitor" in kinds:
        scraper = {"podSelector": {"matchLabels": dict(wanted.prometheus.labels)}}
        sources.append({**_within(wanted.prometheus.namespace), **scraper})
    if "HTTPRoute" in kinds and wanted.route is not None:
        place = wanted.route.gateway.rpartition("/")[0] or wanted.namespace
        sources.append(_within(wanted.route.proxies or place))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(wanted, f"{wanted.name}-allow"),
        "spec": {
            "podSelector": {"matchLabels": label_selector(wanted)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [one], "ports": [{"port": PORT, "protocol": "TCP"}]} for one in sources
            ],
            "egress": [
                {
                    "to": [system],
                    "ports": [
                        {"port": 53, "protocol": "UDP"},
                        {"port": 53, "protocol": "TCP"},
                    ],
                },
                # A policy sees the pod's own port, and a DNS server without privileges has another.
                {"to": [{**system, "podSelector": names}]},
            ],
        },
    }


def _within(namespace: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
