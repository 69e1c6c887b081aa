"""What only pods of our own can find out: whether a node can pull an image, and whether
NetworkPolicies are enforced.

Whatever is made is deleted in the end, also after Ctrl-C; its containers end by themselves after
minutes, and what a killed command left behind is deleted by the next probe.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from treadle.base.errors import Refused, TreadleError, Unreachable
from treadle.base.log import Report, silent
from treadle.clients.kube import Cluster, Object
from treadle.deploy.kubernetes.wanted import MANAGER, Wanted

PULL_S, START_S, TAKE_EFFECT_S, FULL_S, AGAIN_S = 120.0, 40.0, 15.0, 10.0, 8.0
_POLICY = "networking.k8s.io/v1/NetworkPolicy"
_LOOK_S = 0.3
_LIFE_S = 300
_PORT = 8080
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_PASSING = re.compile(r"time-?out|deadline exceeded|connection reset|EOF|\b(429|50[0234])\b")
"""Of a pull's error: another attempt may well do, and the node makes one by itself."""
_NOT_YET = frozenset({"", "ContainerCreating", "PodInitializing"})
_LISTEN = f"""
import socket
try:
    server = socket.create_server(("::", {_PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
except (OSError, ValueError):
    server = socket.create_server(("", {_PORT}))
while True:
    server.accept()[0].close()
"""
_CALL = f"""
import socket, sys, time
while True:
    try:
        socket.create_connection((sys.argv[1], {_PORT}), 1).close()
        print("open", flush=True)
    except OSError:
        print("closed", flush=True)
    time.sleep(0.3)
"""


@dataclass(frozen=True)
class Clock:
    """Time, for tests to replace."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


_CLOCK = Clock()


def pull(cluster: Cluster, wanted: Wanted, *, always: bool, clock: Clock = _CLOCK) -> str | None:
    """Have a node pull `wanted.image`: a pod starts it and ends. None when it did; words where that
    could not be found out. Refused: the node says that it cannot.

    `always` asks the registry even where the node has the image; without, the node must have it.
    """
    with _probing(cluster, wanted) as probing:
        try:
            name = probing.pod("pull", "pass", policy="Always" if always else "Never")
        except Refused as error:
            return f"whether a node can pull the image was not looked at: {error.message}"
        began, failing = clock.now(), 0.0
        while clock.now() - began <= PULL_S:
            try:
                pod = cluster.get("v1/Pod", wanted.namespace, name)
            except Unreachable:  # an API server that restarts ends no roll-out
                clock.sleep(_LOOK_S)
                continue
            if pod is None:
                return "whether a node can pull the image is not known: the probe's pod was deleted"
            reason, message = _waiting(pod)
            failing = failing or (clock.now() if reason in _PULL else 0.0)
            passing = _PASSING.search(message) and clock.now() - failing < AGAIN_S
            if reason in _PULL and not passing:
                raise Refused(
                    f"no node can pull {wanted.image}: {message or reason}",
                    hint="can the cluster reach the registry, and may it (pull_secrets)?"
                    if always
                    else "is the image loaded into every node?",
                )
            if (reason not in _NOT_YET and reason not in _PULL) or _begun(pod):
                return None  # what keeps a container from starting comes after the pull
            full = _unschedulable(pod)
            if full and clock.now() - began > FULL_S:
                return f"no node takes the pod that would pull the image: {full}"
            clock.sleep(_LOOK_S)
    return f"the image was not pulled within {PULL_S:g} s; the roll-out waits longer"


def enforced(
    cluster: Cluster, wanted: Wanted, *, report: Report = silent, clock: Clock = _CLOCK
) -> tuple[bool | None, str]:
    """Whether NetworkPolicies take effect: two pods reach one another, and then a policy forbids it.
    None, and why, where that could not be found out."""
    with _probing(cluster, wanted) as probing:
        try:
            listener = probing.pod("listener", _LISTEN)
            address = _address(cluster, wanted, listener, clock)
            if not address:
                return None, f"the probe's pod did not start within {START_S:g} s"
            caller = probing.pod("caller", _CALL, address)
            if not _hears(cluster, wanted, caller, "open", START_S, clock):
                return None, "two pods do not reach one another without a policy of ours, either"
            report("two pods reach one another; now a policy forbids it", detail=True)
            probing.policy("listener")
            return _hears(cluster, wanted, caller, "closed", TAKE_EFFECT_S, clock), ""
        except TreadleError as error:
            return None, error.message


# ---- pods ----------------------------------------------------------------------------------------


@contextmanager
def _probing(cluster: Cluster, wanted: Wanted) -> Iterator[_Probing]:
    """Makes pods of the image; they are deleted in the end, and so is what an earlier probe left."""
    probing = _Probing(cluster, wanted)
    probing.sweep()
    try:
        yield probing
    finally:
        for kind, name in reversed(probing.made):
            with suppress(TreadleError):  # what stays is swept by the next
                cluster.delete(kind, wanted.namespace, name)


class _Probing:
    """What one probe makes; each is noted before it is made."""

    def __init__(self, cluster: Cluster, wanted: Wanted) -> None:
        self.made: list[tuple[str, str]] = []
        self._cluster, self._wanted, self._number = cluster, wanted, secrets.token_hex(3)

    def pod(self, role: str, code: str, *arguments: str, policy: str = "IfNotPresent") -> str:
        """A pod that runs Python code; its name."""
        name = f"{self._wanted.name}-{role}-{self._number}"
        self.made.append(("v1/Pod", name))
        self._cluster.apply(_pod(self._wanted, name, role, ["-c", code, *arguments], policy))
        return name

    def policy(self, role: str) -> None:
        """Nobody may ask the pod of this role."""
        name = f"{self._wanted.name}-{role}-{self._number}"
        self.made.append((_POLICY, name))
        self._cluster.apply(_policy(self._wanted, name, role))

    def sweep(self) -> None:
        """Delete what a killed probe left: pods that ended, and policies without a pod."""
        cluster, namespace, labels = self._cluster, self._wanted.namespace, _labels(self._wanted)
        with suppress(TreadleError):
            alive = set()
            for pod in cluster.list("v1/Pod", namespace, labels):
                name = str(pod["metadata"]["name"])
                if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                    cluster.delete("v1/Pod", namespace, name)
                else:
                    alive.add(name)
            for policy in cluster.list(_POLICY, namespace, labels):
                if policy["metadata"]["name"] not in alive:
                    cluster.delete(_POLICY, namespace, policy["metadata"]["name"])


def _labels(wanted: Wanted) -> dict[str, str]:
    """Of everything that a probe makes: no selector of the model's takes it for the model."""
    return {
        "app.kubernetes.io/name": f"{MANAGER}-probe",
        "app.kubernetes.io/instance": f"{wanted.name}-probe",
        "app.kubernetes.io/component": "probe",
        "app.kubernetes.io/part-of": wanted.project,
        "app.kubernetes.io/managed-by": MANAGER,
    }


def _pod(wanted: Wanted, name: str, role: str, arguments: list[str], policy: str) -> Object:
    """A pod like the model's, but small, and with Python's own words for its command."""
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _LIFE_S,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": role,
            "image": wanted.image,
            "imagePullPolicy": policy,
            "command": ["python", *arguments],
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }],
    }  # fmt: skip
    if wanted.node_selector:
        spec["nodeSelector"] = dict(wanted.node_selector)
    if wanted.tolerations:
        spec["tolerations"] = [dict(one) for one in wanted.tolerations]
    if wanted.pull_secrets:
        spec["imagePullSecrets"] = [{"name": one} for one in wanted.pull_secrets]
    labels = {**_labels(wanted), "treadle.dev/probe": role}
    meta = {"name": name, "namespace": wanted.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _policy(wanted: Wanted, name: str, role: str) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": wanted.namespace, "labels": _labels(wanted)},
        "spec": {
            "podSelector": {"matchLabels": {**_labels(wanted), "treadle.dev/probe": role}},
            "policyTypes": ["Ingress"],
        },
    }


# ---- what they say -------------------------------------------------------------------------------


def _state(pod: Object) -> dict[str, Any]:
    states = (pod.get("status") or {}).get("containerStatuses") or [{}]
    return dict(states[0].get("state") or {})


def _waiting(pod: Object) -> tuple[str, str]:
    waiting = _state(pod).get("waiting") or {}
    return str(waiting.get("reason") or ""), str(waiting.get("message") or "")


def _begun(pod: Object) -> bool:
    """Whether the container ran, runs, or could not for a reason of its own: the image is there."""
    return bool(_state(pod).keys() & {"running", "terminated"})


def _unschedulable(pod: Object) -> str:
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("reason") == "Unschedulable":
            return str(condition.get("message"))
    return ""


def _address(cluster: Cluster, wanted: Wanted, name: str, clock: Clock) -> str:
    until = clock.now() + START_S
    while clock.now() <= until:
        pod = cluster.get("v1/Pod", wanted.namespace, name) or {}
        if "running" in _state(pod):
            return str((pod.get("status") or {}).get("podIP") or "")
        clock.sleep(_LOOK_S)
    return ""


def _hears(
    cluster: Cluster, wanted: Wanted, caller: str, word: str, within_s: float, clock: Clock
) -> bool:
    """Whether the caller's last two attempts end so, in time: one may be a hiccup."""
    until = clock.now() + within_s
    while clock.now() <= until:
        if cluster.logs(wanted.namespace, caller, 2) == [word, word]:
            return True
        clock.sleep(_LOOK_S)
    return False
