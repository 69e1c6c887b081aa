"""What of an environment and a release becomes objects, and the names and labels they all bear."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from treadle.base.digest import digest
from treadle.base.errors import UsageError
from treadle.base.spec import Capture, Prometheus, Route

MANAGER = "treadle"
SERVES = f"{MANAGER}.dev/serves"
"""A label of pods: the environment that they answer for, whichever version they are."""
PORT = 8080
"""Of the model server in its pod."""


@dataclass(frozen=True)
class Wanted:
    """What of an environment and a release becomes objects."""

    project: str
    environment: str
    namespace: str
    image: str
    """By digest."""
    image_digest: str
    release: int
    content: str
    """Digest of the model directory."""
    run: str = ""
    least: int = 2
    most: int | None = None
    """With a most, a HorizontalPodAutoscaler decides between; without, `least` is the number."""
    pods: int | None = None
    """While two versions share the requests: the number of this one's, whatever else is said."""
    scale_down_after_s: int | None = None
    """How long load must have been less before replicas are taken away; None: the cluster's 300 s."""
    workers: int = 1
    cpu: str = "250m"
    memory: str = "512Mi"
    gpus: int = 0
    resources: dict[str, str] = field(default_factory=dict)
    """Extended resources: name → quantity."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, str], ...] = ()
    pull_secrets: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    token_secret: str | None = None
    """A Secret whose key `token` is the bearer token."""
    trust_pickle: bool = False
    capture: Capture | None = None
    """How much of the traffic is kept for monitoring; None: nothing."""
    route: Route | None = None
    prometheus: Prometheus = field(default_factory=Prometheus)
    track: Literal["", "candidate"] = ""
    """`candidate`: the other version, beside the champion, with objects of its own."""

    @property
    def captures(self) -> bool:
        """Whether pods keep anything of their traffic."""
        return self.capture is not None and self.capture.rate > 0 and self.capture.per_minute > 0

    @property
    def name(self) -> str:
        """Of every object: the project and the environment (and the track)."""
        return f"{self.serves}-{self.track}" if self.track else self.serves

    @property
    def serves(self) -> str:
        """What both versions answer for: the project and the environment."""
        whole = f"{self.project}-{self.environment}".replace("_", "-").lower().strip("-")
        if len(whole) <= 50:
            return whole
        # Cut, two environments of a project with a long name would be one.
        return f"{whole[:41].strip('-')}-{digest(whole)[7:15]}"


def replicas(text: int | str) -> tuple[int, int | None]:
    """`2` is a number, `2..8` a range. UsageError for anything else."""
    if isinstance(text, int):
        least, most = text, None
    else:
        left, dots, right = text.partition("..")
        if not left.isdigit() or (dots and not right.isdigit()):
            raise UsageError(f"replicas are a number or a range such as 2..8, not {text!r}")
        least, most = int(left), int(right) if dots else None
    if least < 1 or (most is not None and most <= least):
        raise UsageError(f"replicas are from 1 on, and a range grows: {text}")
    return least, most


def label_selector(wanted: Wanted) -> dict[str, str]:
    """What never changes for one environment: selectors cannot be changed later."""
    return {"app.kubernetes.io/name": wanted.project, "app.kubernetes.io/instance": wanted.name}


def labels(wanted: Wanted, component: str = "model") -> dict[str, str]:
    """On everything, so that everything can be found and pruned."""
    return {
        **wanted.labels,
        **label_selector(wanted),
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": wanted.project,
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/version": str(wanted.release),
    }


def meta(wanted: Wanted, name: str | None = None, **more: Any) -> dict[str, Any]:
    """Name, namespace and labels of an object."""
    return {
        "name": name or wanted.name, "namespace": wanted.namespace, "labels": labels(wanted), **more,
    }  # fmt: skip
