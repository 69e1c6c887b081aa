"""Who says how many replicas there are: the spec, or an autoscaler; and how one gives over to the other.

A Deployment without `replicas` is created with one, and one whose `replicas` are applied no longer
falls back to one: both would leave a service with less than it was to have until the autoscaler looks.
So the number is first said under a field manager of its own, which the autoscaler takes it from; and
when a spec says a number again, it is taken back from the autoscaler that was ours, and from nobody
else.

Source: Kubernetes documentation, Server-Side Apply, "Transferring ownership".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from treadle.clients.kube import MANAGER, Cluster, Object

SCALER = "treadle-scale"
"""The field manager of a number that an autoscaler is to take over."""
AUTOSCALER = "autoscaling/v2/HorizontalPodAutoscaler"


def without(wanted: Object) -> Object:
    """The Deployment with nothing said about its replicas."""
    spec = {name: value for name, value in wanted["spec"].items() if name != "replicas"}
    return {**wanted, "spec": spec}


def autoscaled(wanted: Object) -> bool:
    """Whether it is a Deployment that leaves its number to somebody else."""
    return wanted["kind"] == "Deployment" and "replicas" not in wanted["spec"]


def ours_to_take(wanted: Object, live: Object | None, *, scaled: bool) -> bool:
    """Whether the spec's number is to be taken from an autoscaler: `scaled` says that one of ours
    was there, and the number is its own, or still the one that it was given."""
    if live is None or wanted["kind"] != "Deployment" or autoscaled(wanted):
        return False
    return any(
        one.get("manager") == SCALER or (scaled and one.get("subresource") == "scale")
        for one in _managing(live)
    )


def apply(
    cluster: Cluster, wanted: Object, live: Object | None, *, least: int | None, scaled: bool
) -> Object:
    """Apply a Deployment so that its number is never one that nobody asked for.

    `least` is what the autoscaler begins with, `scaled` whether one of ours was there before.
    """
    if autoscaled(wanted):
        if live is not None and any(one.get("manager") == MANAGER for one in _managing(live)):
            cluster.apply(_number(wanted, live["spec"].get("replicas", 1)), manager=SCALER)
        done = cluster.apply(wanted)
        if live is None and least is not None:
            done = cluster.apply(_number(wanted, least), manager=SCALER)
        return done
    if not ours_to_take(wanted, live, scaled=scaled):
        return cluster.apply(wanted)
    cluster.apply(_number(wanted, wanted["spec"]["replicas"]), manager=SCALER, force=True)
    done = cluster.apply(wanted)
    if {one.get("manager") for one in _managing(done)} <= {MANAGER, SCALER}:
        return cluster.apply(_number(wanted, None), manager=SCALER)  # it manages nothing any more
    # Who had the same number manages it too: ours stays, so that the next one may be taken as well.
    return done


def least_of(objects: Sequence[Object], name: str) -> int | None:
    """The fewest replicas that the objects' autoscaler of a Deployment allows; None without one."""
    for one in objects:
        if (
            one["kind"] == "HorizontalPodAutoscaler"
            and one["spec"]["scaleTargetRef"]["name"] == name
        ):
            return int(one["spec"]["minReplicas"])
    return None


def _number(wanted: Object, replicas: int | None) -> Object:
    meta = {name: wanted["metadata"][name] for name in ("name", "namespace")}
    said = {} if replicas is None else {"spec": {"replicas": replicas}}
    return {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], "metadata": meta, **said}


def _managing(live: Object) -> list[Mapping[str, Any]]:
    """Who manages the number of a live Deployment."""
    return [
        one
        for one in live["metadata"].get("managedFields") or []
        if "f:replicas" in ((one.get("fieldsV1") or {}).get("f:spec") or {})
    ]
