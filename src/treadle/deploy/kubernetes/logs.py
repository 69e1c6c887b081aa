"""The logs of several pods as one, each line behind its pod's name; pods may come and go."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping

from treadle.base.errors import TreadleError, Unreachable, UsageError
from treadle.clients.kube import Cluster, Object

_LOOK_S = 1.0
_WHOLE = 1_000_000
"""Lines of a pod that came while we were looking: all it has said."""
_ENDED = ("Succeeded", "Failed")


def last(
    cluster: Cluster, namespace: str, labels: Mapping[str, str], lines: int
) -> Iterator[str]:  # fmt: skip
    """The last lines of every pod. UsageError: there is none."""
    for pod in _some(cluster, namespace, labels):
        name = str(pod["metadata"]["name"])
        for line in cluster.logs(namespace, name, lines):
            yield f"{name} {line}"


def follow(
    cluster: Cluster,
    namespace: str,
    labels: Mapping[str, str],
    lines: int,
    *,
    look_s: float = _LOOK_S,
) -> Iterator[str]:
    """The last lines of every pod and those to come, until the iterator is closed. UsageError: there
    is no pod to begin with."""
    pods = _some(cluster, namespace, labels)
    crowd = _Crowd(cluster, namespace)
    wanted = lines
    try:
        while True:
            crowd.join(pods, wanted)
            yield from crowd.said(look_s)
            wanted = _WHOLE
            try:
                pods = cluster.list("v1/Pod", namespace, labels)
            except Unreachable:
                pods = []  # what is being followed goes on by itself, or is taken up again
    finally:
        crowd.stopped.set()


def _some(cluster: Cluster, namespace: str, labels: Mapping[str, str]) -> list[Object]:
    pods = cluster.list("v1/Pod", namespace, labels)
    if not pods:
        named = next(iter(labels.values()), "this environment")
        raise UsageError(f"no pod of {named} runs", hint="treadle status")
    return sorted(pods, key=lambda one: str(one["metadata"]["name"]))


class _Crowd:
    """A thread for each pod that is listened to. They are daemons: one that waits for a line keeps
    no command from ending."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.stopped = threading.Event()
        self._cluster, self._namespace = cluster, namespace
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._moments: dict[str, str] = {}
        """Pod → moment of the last line that was heard: where a cut connection is taken up."""
        self._listening: set[str] = set()
        self._over: set[str] = set()

    def join(self, pods: list[Object], lines: int) -> None:
        """Listen to those that are not listened to yet."""
        for pod in pods:
            name = str(pod["metadata"]["name"])
            if name in self._listening or name in self._over:
                continue
            self._listening.add(name)
            # What has ended says nothing more after this time.
            if (pod.get("status") or {}).get("phase") in _ENDED:
                self._over.add(name)
            threading.Thread(target=self._listen, args=(name, lines), daemon=True).start()

    def said(self, within_s: float) -> Iterator[str]:
        """What is said within so long."""
        until = time.monotonic() + within_s
        while (left := until - time.monotonic()) > 0:
            try:
                yield self._lines.get(timeout=left)
            except queue.Empty:
                return

    def _listen(self, name: str, lines: int) -> None:
        heard = self._moments.get(name, "")
        try:
            told = self._cluster.follow(self._namespace, name, lines, since=heard)
            for moment, text in told:
                if self.stopped.is_set():
                    return
                if not moment[:1].isdigit():  # the node's own word about the log
                    self._lines.put(f"{name} {moment} {text}")
                elif moment > heard:  # the cluster counts from whole seconds
                    heard = self._moments[name] = moment
                    self._lines.put(f"{name} {text}")
        except TreadleError as error:
            self._lines.put(f"{name} ({error.message})")
        finally:
            self._listening.discard(name)
