"""A release and its environment as Kubernetes objects: plain dicts, a pure function of its arguments.

The same arguments give the same bytes on any machine (`text.text`). Every object can be read and applied
by hand; there is no operator and no custom resource. Quantities are written as the API server writes
them, so that nobody is said to have changed them.

Source: the checklist of the field notes on Kubernetes (restricted pods, three probes, drain, digests,
labels, budgets, default-deny policies); Kubernetes 1.30 and later.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from treadle.deploy.kubernetes import model, monitoring, network
from treadle.deploy.kubernetes.wanted import Wanted

if TYPE_CHECKING:
    from treadle.deploy.target import Split

CUSTOM = {
    "ServiceMonitor": ("monitoring.coreos.com/v1", "Prometheus Operator"),
    "PrometheusRule": ("monitoring.coreos.com/v1", "Prometheus Operator"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "Gateway API"),
}
"""Kinds that a cluster may lack: the API that has each, and what brings it."""


def render(
    wanted: Wanted,
    *,
    kinds: Collection[str] = (),
    candidate: Wanted | None = None,
    split: Split | None = None,
) -> list[dict[str, Any]]:
    """The objects in the order in which they are applied.

    `kinds` are custom kinds that the cluster knows: what is of one of `CUSTOM` is made only where
    there is such a thing (`left_out` says so otherwise). With a split (weights.divide) the
    candidate's objects are beside those of the champion.
    """
    if split is not None and split.how == "replicas":
        # An autoscaler is not taken away but held to the number: the field that it has set would be
        # its own, and nothing is forced.
        wanted = replace(wanted, pods=split.stable)
    found = [
        model.namespace(wanted),
        model.account(wanted),
        network.deny_all(wanted),
        network.allow(wanted, kinds),
        model.settings(wanted),
        network.service(wanted, every=split is not None and split.how == "replicas"),
        model.deployment(wanted),
    ]
    if wanted.most is not None:
        found.append(model.autoscaler(wanted))
        found.append(model.budget(wanted))
    if candidate is not None and split is not None:
        candidate = replace(candidate, track="candidate", pods=split.candidate)
        found += [
            network.deny_all(candidate),
            network.allow(candidate, kinds),
            model.settings(candidate),
            network.service(candidate),
            model.deployment(candidate),
        ]
        if split.how == "replicas":
            found.append(network.stable_service(wanted))
        elif "ServiceMonitor" in kinds:  # its pods are not behind the champion's Service
            found.append(monitoring.monitor(candidate))
    if "ServiceMonitor" in kinds:
        found.append(monitoring.monitor(wanted))
    if "PrometheusRule" in kinds:
        found.append(monitoring.rules(wanted))
    if "HTTPRoute" in kinds and wanted.route is not None:
        weighed = split if split is not None and split.how == "route" else None
        found.append(network.route(wanted, candidate, weighed))
    return found


def left_out(wanted: Wanted, kinds: Collection[str]) -> list[str]:
    """What is not made, and why, in words."""
    found = []
    for kind, (version, part) in CUSTOM.items():
        if kind in kinds or (kind == "HTTPRoute" and wanted.route is None):
            continue
        no_effect = "; route: has no effect" if kind == "HTTPRoute" else ""
        found.append(f"no {kind}: no such kind in {version} ({part} is not installed){no_effect}")
    return found
