"""How the model is reached, and by whom."""

from __future__ import annotations

from typing import Any

from treadle.deploy.kubernetes.wanted import MANAGER, PORT, Wanted, label_selector, meta


def service(wanted: Wanted) -> dict[str, Any]:
    """One name for all pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(wanted),
        "spec": {
            "type": "ClusterIP",
            "selector": label_selector(wanted),
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    }


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


def allow(wanted: Wanted) -> dict[str, Any]:
    """Who may ask: pods that say so by a label, in any namespace. The model asks DNS alone."""
    system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    names = {"matchLabels": {"k8s-app": "kube-dns"}}
    caller = {"matchLabels": {f"{MANAGER}.dev/calls-{wanted.name}": "yes"}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(wanted, f"{wanted.name}-allow"),
        "spec": {
            "podSelector": {"matchLabels": label_selector(wanted)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [{"namespaceSelector": {}, "podSelector": caller}],
                    "ports": [{"port": PORT, "protocol": "TCP"}],
                }
            ],
            "egress": [
                {
                    "to": [{"namespaceSelector": system}],
                    "ports": [
                        {"port": 53, "protocol": "UDP"},
                        {"port": 53, "protocol": "TCP"},
                    ],
                },
                # A policy sees the pod's own port, and a DNS server without privileges has another.
                {"to": [{"namespaceSelector": system, "podSelector": names}]},
            ],
        },
    }
