"""How requests are divided between the champion and another release: pure functions.

Without a gateway a Service gives each pod the same share of the new connections, so a share is a
number of pods: both versions' pods are behind the one Service, found by a label that all of an
environment's pods bear. Where there is a route (Gateway API), two Services get their weights at the
gateway, and numbers of pods only follow the load. Each version has a Service of its own either way.

What exists keeps its Deployment: the candidate is another one, with another selector, and neither
controller sees the other's pods.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from treadle.base.errors import UsageError
from treadle.deploy.kubernetes.wanted import SERVES, Wanted
from treadle.deploy.target import How, Split

MOST_PODS = 100
_INSTANCE = "app.kubernetes.io/instance"


def divide(
    wanted: Wanted, release: int, weight: int, how: How, *, pods: int | None = None
) -> Split:
    """The nearest division to `weight` percent for `release`; UsageError for what cannot be.

    By replicas the total is `pods`, else what the environment may have (the most of a range), but
    two at least. Each version has one pod at least: what is asked may not be what one gets.
    """
    if not 0 < weight < 100:
        raise UsageError(
            f"a weight between two versions is a percentage from 1 to 99, not {weight}"
        )
    if how == "route":
        if pods is not None:
            raise UsageError(
                "the gateway divides the requests: pods are no part of it", hint="without --pods"
            )
        return Split(release, weight, how, wanted.least, max(1, math.ceil(wanted.least * weight / 100)))  # fmt: skip
    total = max(wanted.most or wanted.least, 2) if pods is None else pods
    if not 2 <= total <= MOST_PODS:
        raise UsageError(f"two versions need from 2 to {MOST_PODS} pods, not {total}")
    candidate = min(max(round(total * weight / 100), 1), total - 1)
    return Split(release, weight, how, total - candidate, candidate)


def exact_pods(weight: int) -> int:
    """The least number of pods with which a weight is met exactly."""
    return 100 // math.gcd(weight, 100)


def larger(one: Split, stable: int, candidate: int) -> Split:
    """The split with no fewer pods of either version: what grows comes before what shrinks."""
    return Split(
        one.release, one.weight, one.how, max(one.stable, stable), max(one.candidate, candidate)
    )


def of_candidate(objects: Iterable[Mapping[str, Any]], wanted: Wanted) -> list[dict[str, Any]]:
    """Of objects that were applied, those of the candidate."""
    name = f"{wanted.serves}-candidate"
    return [
        dict(one) for one in objects if (one["metadata"].get("labels") or {}).get(_INSTANCE) == name
    ]


def meanwhile(
    objects: Sequence[dict[str, Any]], kept: Sequence[dict[str, Any]], *, both: bool, name: str
) -> list[dict[str, Any]]:
    """A roll-out's objects while it ends a split: the candidate's pods are still there.

    With `both` they go on answering until the new pods do (the candidate won); without, the Service
    leaves them at once (it is taken back).
    """
    found = []
    for one in objects:
        if both and one["kind"] == "Service" and one["metadata"]["name"] == name:
            found.append({**one, "spec": {**one["spec"], "selector": {SERVES: name}}})
        else:
            found.append(one)
    return [*found, *kept]
