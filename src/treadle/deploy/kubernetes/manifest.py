"""A release and its environment as Kubernetes objects: plain dicts, a pure function of its arguments.

The same arguments give the same bytes on any machine (`text.text`). Every object can be read and applied
by hand; there is no operator and no custom resource. Quantities are written as the API server writes
them, so that nobody is said to have changed them.

Source: the checklist of the field notes on Kubernetes (restricted pods, three probes, drain, digests,
labels, budgets, default-deny policies); Kubernetes 1.30 and later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.deploy.kubernetes import model, monitoring, network
from treadle.deploy.kubernetes.wanted import Wanted


def render(wanted: Wanted, *, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The objects in the order in which they are applied.

    `kinds` are custom kinds that the cluster knows: a ServiceMonitor is made only where there is
    such a thing (`left_out` says so otherwise).
    """
    found = [
        model.namespace(wanted),
        model.account(wanted),
        network.deny_all(wanted),
        network.allow(wanted),
        model.settings(wanted),
        network.service(wanted),
        model.deployment(wanted),
    ]
    if wanted.most is not None:
        found.append(model.autoscaler(wanted))
        found.append(model.budget(wanted))
    if "ServiceMonitor" in kinds:
        found.append(monitoring.monitor(wanted))
    return found


def left_out(kinds: Sequence[str]) -> list[str]:
    """What is not made, and why, in words."""
    if "ServiceMonitor" in kinds:
        return []
    return [
        "no ServiceMonitor: the cluster has no such kind (Prometheus Operator is not installed)"
    ]
