"""Giving a release a share of the requests beside the champion: applied, waited for, taken back if it
does not come up.

What grows comes first and is waited for, then what shrinks, so that there are never fewer pods than
before. Taking the weight away is an ordinary roll-out (`service`): of the champion, or of the
candidate when it has won.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.base import crash, supervision
from treadle.base.errors import Refused, UsageError
from treadle.base.log import Report, silent
from treadle.deploy.kubernetes import apply, manifest, wait, weights
from treadle.deploy.kubernetes.service import (
    STATE,
    Deployed,
    cluster_of,
    keep_good,
    last_good,
    reach,
    take_back,
)
from treadle.deploy.kubernetes.wanted import SERVES
from treadle.deploy.target import How, Split

if TYPE_CHECKING:
    from treadle.clients.kube import Cluster
    from treadle.deploy.kubernetes.wanted import Wanted

_SCALED_S = 90.0
"""An autoscaler looks every 15 seconds."""


def present(env_folder: Path) -> Split | None:
    """The division that was applied last and goes on; nobody is asked."""
    known = supervision.read(env_folder / STATE, Deployed)
    return None if known is None or not known.release else known.split


def how(context: str, wanted_route: object, *, cluster: Cluster | None = None) -> How:
    """By the gateway where there is a route and the cluster knows such a thing, else by replicas."""
    if wanted_route is None:
        return "replicas"
    cluster = cluster or cluster_of(context)
    return "route" if "HTTPRoute" in cluster.kinds() else "replicas"


def weigh(
    env_folder: Path,
    context: str,
    stable: Wanted,
    candidate: Wanted,
    split: Split,
    *,
    report: Report = silent,
    cluster: Cluster | None = None,
    deadline_s: float = wait.DEADLINE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Have requests divided so. UsageError where the champion is not what runs; Refused where the
    candidate's pods do not come up, after all is as it was before."""
    known = supervision.read(env_folder / STATE, Deployed)
    # The same command, killed on its way, is taken up.
    if known is None or known.release != stable.release or known.rolling not in (0, split.release):
        raise UsageError(
            f"release {stable.release} is the champion and is not what runs",
            hint=f"treadle up --env {stable.environment}",
        )
    if cluster is None:
        cluster = reach(context, stable.environment)
    kinds = cluster.kinds() & manifest.CUSTOM.keys()
    before = last_good(env_folder)
    supervision.write(env_folder / STATE, replace(known, rolling=split.release))
    report(f"dividing the requests: {split.words}")
    crash.point("deploy.wanted")
    try:
        _ready_to_share(cluster, stable, kinds, report, deadline_s)
        now = known.split or Split(split.release, 0, split.how, _pods(cluster, stable), 0)
        steps = [weights.larger(split, now.stable, now.candidate), split]
        for step in steps if steps[0] != split else [split]:
            objects = manifest.render(stable, kinds=kinds, candidate=candidate, split=step)
            apply.apply(cluster, objects, stable.name, stable.namespace, keep=True, report=report)
            crash.point("deploy.spawned")
            _settled(cluster, stable, step, report, deadline_s, sleep)
        apply.prune(cluster, objects, stable.name, stable.namespace, report=report)
    except Refused as error:
        words = take_back(cluster, stable, before, report)
        supervision.write(env_folder / STATE, replace(known, rolling=0))
        raise Refused(
            f"release {split.release} did not get its share: {error.message}; {words}",
            hint=error.hint,
        ) from error
    crash.point("deploy.swapped")
    keep_good(env_folder, objects)
    supervision.write(env_folder / STATE, replace(known, rolling=0, split=split))


def _ready_to_share(
    cluster: Cluster, stable: Wanted, kinds: set[str], report: Report, deadline_s: float
) -> None:
    """The champion's pods bear the label by which a Service finds both versions'; those that were
    made without it are replaced first, while the Service still finds them by the old ones."""
    live = _deployment(cluster, stable)
    if (live["spec"]["template"]["metadata"].get("labels") or {}).get(SERVES) == stable.serves:
        return
    objects = manifest.render(stable, kinds=kinds)
    apply.apply(cluster, objects, stable.name, stable.namespace, keep=True, report=report)
    wait.rolled_out(cluster, stable.namespace, stable.name, deadline_s=deadline_s, report=report)


def _settled(
    cluster: Cluster, stable: Wanted, split: Split, report: Report, deadline_s: float,
    sleep: Callable[[float], None],
) -> None:  # fmt: skip
    """Both versions have their pods, and all of them answer."""
    if split.how == "replicas" and stable.most is not None:
        until = time.monotonic() + _SCALED_S
        while _pods(cluster, stable) != split.stable:
            if time.monotonic() > until:
                raise Refused(
                    f"the autoscaler did not bring {stable.name} to {split.stable} pods in "
                    f"{_SCALED_S:g} s",
                    hint=f"kubectl describe hpa {stable.name}",
                )
            sleep(0.5)
    for name in (f"{stable.serves}-candidate", stable.name):
        wait.rolled_out(cluster, stable.namespace, name, deadline_s=deadline_s, report=report)


def _pods(cluster: Cluster, wanted: Wanted) -> int:
    return int(_deployment(cluster, wanted)["spec"].get("replicas", 1))


def _deployment(cluster: Cluster, wanted: Wanted) -> dict[str, Any]:
    live = cluster.get("apps/v1/Deployment", wanted.namespace, wanted.name)
    if live is None:
        raise Refused(
            f"Deployment {wanted.name} is gone from {wanted.namespace}",
            hint=f"treadle up --env {wanted.environment}",
        )
    return live
