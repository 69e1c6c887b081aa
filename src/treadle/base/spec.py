"""The sections of treadle.yaml as frozen dataclasses: the contract's words, defaults and units.

`plan/spec.py` reads the file into these (pydantic validates them, unknown keys are mistakes);
everybody else only sees them. Durations are text such as `7d` (see `clock.duration_s`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from treadle.base import quantity
from treadle.base.clock import duration_s

Task = Literal["binary", "multiclass", "regression"]
PLATFORMS = ("linux/amd64", "linux/arm64")
REMOTE = re.compile(
    r"(?P<kind>claim|s3)://(?P<name>[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?)/(?P<path>.*)"
)
"""Where a pod reads and writes: a path on a claim, a key in a bucket."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?/?")
_DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def _check_quantities(told: Mapping[str, str]) -> None:
    for name, text in told.items():
        if quantity.canonical(text) == "0":
            raise ValueError(f"{name} is more than nothing, not {text}")


def _section(cls: type) -> type:
    """A frozen section that refuses unknown keys and guessed types (read by pydantic, if at all)."""
    cls.__pydantic_config__ = {"extra": "forbid", "strict": True}  # type: ignore[attr-defined]
    return cls


def _check_duration(value: str | None) -> None:
    if value is not None:
        duration_s(value)


@_section
@dataclass(frozen=True)
class Incremental:
    """A query that reads only what is new."""

    by: str
    """The column that grows: rows above its highest stored value are new."""
    restated: str = "0s"
    """How far back rows may still change; that much is read again."""

    def __post_init__(self) -> None:
        _check_duration(self.restated)


@_section
@dataclass(frozen=True)
class DataSection:
    """One data set: exactly one of files, paths and query."""

    files: str | None = None
    """A path or glob of Parquet, CSV or JSON-lines files, relative to treadle.yaml."""
    paths: str | None = None
    """A path or glob whose files are handed over as paths (images, text)."""
    query: str | None = None
    database: str | None = None
    """`sqlite:///file`, `duckdb:///file` or `postgresql://…`; `${NAME}` reads the environment."""
    key: tuple[str, ...] = ()
    """Columns that together are unique."""
    event_time: str | None = None
    """Orders rows and makes honest splits."""
    known_later: tuple[str, ...] = ()
    """May be judged with, never learned from."""
    incremental: Incremental | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("files", "paths", "query") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"give exactly one of files, paths and query (found {found})")
        if (self.query is None) != (self.database is None):
            raise ValueError("query and database belong together")
        if self.incremental is not None and self.query is None:
            raise ValueError("incremental belongs to a query; files are always read incrementally")


@_section
@dataclass(frozen=True)
class StepSection:
    """Settings of one function, where a default will not do."""

    cache: bool = True
    """False: run every time (a step that reads the clock, the network, the environment)."""


@_section
@dataclass(frozen=True)
class ModelSection:
    """Which result is the model and what it predicts."""

    result: str
    task: Task
    label: str
    features: tuple[str, ...] | None = None
    """An allow-list of columns; by default the rest."""
    compile: Literal["auto"] | None = None
    """`auto`: answer by a faster form of the model (a matrix product, ONNX Runtime) where the
    comparison on the holdout shows the same answers; by default the model's own library answers."""


@_section
@dataclass(frozen=True)
class BuildSection:
    """How images of this project are built."""

    base: str | None = None
    """The image that everything is laid on: a reference in a registry, `oci:DIR` or
    `docker-archive:FILE`; by default the slim image of the Python that trained."""
    platforms: tuple[str, ...] = ()
    """`linux/amd64`, `linux/arm64`; by default this machine's processor."""
    interpreter: str | None = None
    """A folder with a Python for a base that has none."""

    def __post_init__(self) -> None:
        for platform in self.platforms:
            if platform not in PLATFORMS:
                raise ValueError(f"a platform is {' or '.join(PLATFORMS)}, not {platform}")


@_section
@dataclass(frozen=True)
class GateSection:
    """One gate: a floor, a ceiling or a comparison with the champion."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    versus: Literal["champion"] | None = None
    margin: float = 0.0
    """How much worse than the champion is still accepted, in the metric's own unit."""

    def __post_init__(self) -> None:
        given = [n for n in ("at_least", "at_most", "versus") if getattr(self, n) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"give exactly one of at_least, at_most and versus (found {found})")
        if self.margin < 0:
            raise ValueError("margin is how much worse is accepted: it cannot be negative")
        if self.margin and self.versus is None:
            raise ValueError("margin belongs to `versus: champion`")


@_section
@dataclass(frozen=True)
class TestSection:
    """On which rows and by which gates a model is judged."""

    __test__: ClassVar[bool] = False  # not a test class, whatever pytest thinks of its name
    holdout: str = "holdout"
    blocks: str | None = None
    """Rows within one block of event time are dependent; without it, rows are independent."""
    gates: tuple[GateSection, ...] = ()

    def __post_init__(self) -> None:
        _check_duration(self.blocks)


@_section
@dataclass(frozen=True)
class ProcessTarget:
    """A supervised server process on this machine."""

    target: Literal["process"]
    port: int = 8080
    """0 takes any free port; `treadle status` shows it."""
    host: str = "127.0.0.1"
    workers: int = 1
    """Processes that share the port; each holds the model and its share of the processors."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"a port is a number from 0 to 65535, not {self.port}")
        if not 1 <= self.workers <= 64:
            raise ValueError(f"workers are a number from 1 to 64, not {self.workers}")


@_section
@dataclass(frozen=True)
class DockerTarget:
    """A container on a Docker engine, here or elsewhere."""

    target: Literal["docker"]
    port: int = 8080
    """On the engine's machine; 0 takes any free one."""
    host: str = "127.0.0.1"
    """The address there: 0.0.0.0 for all of the machine's."""
    workers: int = 1
    """Server processes in the container."""
    context: str | None = None
    """A Docker context (`docker context ls`); by default the current one, or DOCKER_HOST's."""
    image: str | None = None
    """`registry/name` to push to and to run from; without it the image is loaded into the engine."""
    memory: str | None = None
    """The most that the container may take: 512m, 2g."""
    cpus: float | None = None
    gpus: str | int | None = None
    """`all` or a number."""
    network: str = "none"
    """Of the model server: `none` (it answers, and reaches nothing), `bridge` or a network's name."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"a port is a number from 0 to 65535, not {self.port}")
        if not 1 <= self.workers <= 64:
            raise ValueError(f"workers are a number from 1 to 64, not {self.workers}")
        if self.memory is not None and not re.fullmatch(r"[1-9]\d*[kmg]", self.memory):
            raise ValueError(f"memory is a number with k, m or g (512m), not {self.memory}")
        if self.cpus is not None and self.cpus <= 0:
            raise ValueError(f"cpus are more than 0, not {self.cpus}")
        if self.gpus is not None and self.gpus != "all" and not re.fullmatch(
            r"[1-9]\d*", str(self.gpus)
        ):  # fmt: skip
            raise ValueError(f"gpus are `all` or a number from 1 on, not {self.gpus}")


@_section
@dataclass(frozen=True)
class Route:
    """A way in from outside the cluster, through a gateway (an HTTPRoute of Gateway API)."""

    gateway: str
    """`NAMESPACE/NAME`, or the NAME of one in the environment's own namespace."""
    host: str | None = None
    """The name that clients ask for, such as flights.example.com; by default all of the gateway's."""
    path: str = "/"
    """What the paths begin with there; the server itself sees them without it."""
    proxies: str | None = None
    """The namespace of the gateway's own pods, which are let in; by default that of the gateway."""

    def __post_init__(self) -> None:
        if not re.fullmatch(rf"({_DNS_LABEL}/)?{_DNS_LABEL}(\.{_DNS_LABEL})*", self.gateway):
            raise ValueError(f"gateway is NAME or NAMESPACE/NAME, not {self.gateway}")
        if self.host is not None and not re.fullmatch(
            rf"(\*\.)?{_DNS_LABEL}(\.{_DNS_LABEL})*", self.host
        ):
            raise ValueError(f"host is a name such as flights.example.com, not {self.host}")
        if not re.fullmatch(r"/|(/[A-Za-z0-9._~-]+)+", self.path):
            raise ValueError(f"path begins with / and ends without one, not {self.path}")
        if self.proxies is not None and not re.fullmatch(_DNS_LABEL, self.proxies):
            raise ValueError(f"proxies is the name of a namespace, not {self.proxies}")


@_section
@dataclass(frozen=True)
class Prometheus:
    """Who reads the metrics of the pods, where the cluster has a Prometheus Operator."""

    namespace: str = "monitoring"
    """Where its pods run."""
    labels: dict[str, str] = field(default_factory=lambda: {"app.kubernetes.io/name": "prometheus"})
    """What its pods are known by."""

    def __post_init__(self) -> None:
        if not re.fullmatch(_DNS_LABEL, self.namespace):
            raise ValueError(f"namespace is a name in Kubernetes, not {self.namespace}")


@_section
@dataclass(frozen=True)
class KubernetesTarget:
    """Pods behind a Service on a cluster."""

    target: Literal["kubernetes"]
    context: str
    """The context in the kubeconfig: a cluster is never the one that happens to be current."""
    state: Literal["checkout"]
    """`checkout`: this checkout turns the loop and keeps its ledger; the cluster serves."""
    image: str | None = None
    """`registry/name` that the cluster pulls from; without it the image is loaded into the nodes of
    a local cluster (minikube, kind, k3d, k3s)."""
    namespace: str | None = None
    """By default the project's name."""
    replicas: int | str = 2
    """A number, or a range such as 2..8 that the load decides in."""
    scale_down_stabilization: str | None = None
    """How long load must have been less before replicas are taken away; by default 5m."""
    workers: int = 1
    """Server processes in each pod."""
    cpu: str = "250m"
    """What a pod is given at least."""
    memory: str = "512Mi"
    """What a pod is given, and the most that it may take."""
    gpus: int = 0
    resources: dict[str, str] = field(default_factory=dict)
    """Extended resources by name."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, str], ...] = ()
    pull_secrets: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    token_secret: str | None = None
    """A Secret whose key `token` every request must bear."""
    route: Route | None = None
    """How it is reached from outside the cluster; by default not at all."""
    prometheus: Prometheus = field(default_factory=Prometheus)
    """Let in to read metrics, where the cluster has a Prometheus Operator."""

    def __post_init__(self) -> None:
        text = str(self.replicas)
        match = re.fullmatch(r"([1-9]\d*)(?:\.\.([1-9]\d*))?", text)
        if match is None or (match[2] and int(match[2]) <= int(match[1])):
            raise ValueError(f"replicas are a number from 1 on or a range such as 2..8, not {text}")
        if self.scale_down_stabilization is not None:
            if not match[2]:
                raise ValueError("scale_down_stabilization is for a range of replicas such as 2..8")
            seconds = duration_s(self.scale_down_stabilization)
            if seconds > 3600 or seconds % 1:
                raise ValueError("scale_down_stabilization is whole seconds, at most 1h")
        if not 1 <= self.workers <= 64:
            raise ValueError(f"workers are a number from 1 to 64, not {self.workers}")
        if self.gpus < 0:
            raise ValueError(f"gpus are a number from 0 on, not {self.gpus}")
        _check_quantities({"cpu": self.cpu, "memory": self.memory, **self.resources})


@_section
@dataclass(frozen=True)
class S3Section:
    """How pods reach the object store of `s3://` names."""

    secret: str
    """A Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN)."""
    endpoint: str | None = None
    """`https://HOST[:PORT]` of a store that is not Amazon's."""
    region: str | None = None

    def __post_init__(self) -> None:
        if self.endpoint is not None and not _ENDPOINT.fullmatch(self.endpoint):
            raise ValueError(f"endpoint is http(s)://HOST[:PORT], not {self.endpoint}")


@_section
@dataclass(frozen=True)
class BatchTarget:
    """The champion of another environment over files, by `up` or on a schedule.

    Where input and output are `claim://NAME/PATH` or `s3://BUCKET/PATH`, a Job on the cluster of
    that environment scores, with `at:` a CronJob; else this machine does.
    """

    target: Literal["batch"]
    of: str
    input: str
    output: str
    at: str | None = None
    """Five cron fields or `HH:MM`, then a time zone: `05:00 Europe/Berlin`; by default each `up`."""
    size: str | None = None
    """On a cluster: claims that are not there are made, this large (`5Gi`)."""
    s3: S3Section | None = None
    deadline: str = "1h"
    """On a cluster: a scoring that takes longer is ended, and has failed."""
    cpu: str = "250m"
    memory: str = "1Gi"
    """On a cluster: what the pod is given, of memory also the most that it may take."""

    def __post_init__(self) -> None:
        _check_duration(self.deadline)
        if self.size is not None and not re.fullmatch(r"[1-9]\d*(Mi|Gi|Ti)", self.size):
            raise ValueError(f"size is a number with Mi, Gi or Ti (5Gi), not {self.size}")
        _check_quantities({"cpu": self.cpu, "memory": self.memory})

    @property
    def on_cluster(self) -> bool:
        """Whether a cluster scores, by where input and output are."""
        return REMOTE.match(self.input) is not None


ServingTarget = ProcessTarget | DockerTarget | KubernetesTarget
DeployTarget = ProcessTarget | DockerTarget | KubernetesTarget | BatchTarget


@_section
@dataclass(frozen=True)
class FalseAlarms:
    """How many alarms without a cause a person is willing to look at."""

    at_most: float = 1.0
    per: str = "90d"

    def __post_init__(self) -> None:
        _check_duration(self.per)
        if self.at_most <= 0:
            raise ValueError("a test that never raises a false alarm never raises one at all: > 0")


@_section
@dataclass(frozen=True)
class Truth:
    """What became known later, joined by the data set's key or by prediction id."""

    data: str
    matures: str = "0s"
    """How long after the event the truth is complete; younger rows are not judged."""

    def __post_init__(self) -> None:
        _check_duration(self.matures)


@_section
@dataclass(frozen=True)
class Capture:
    """How much of the traffic is kept for monitoring."""

    rate: float = 1.0
    """Share of requests, 0 to 1."""
    per_minute: int = 6000
    """At most so many requests a minute."""
    exclude: tuple[str, ...] = ()
    """Fields of a request that are not kept."""
    hash: tuple[str, ...] = ()
    """Fields of which only a hash is kept: they can be counted, and joined with the truth."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate is a share from 0 to 1, not {self.rate}")


@_section
@dataclass(frozen=True)
class MonitorSection:
    """Windows, the false-alarm budget and the truth."""

    window: str = "7d"
    false_alarms: FalseAlarms = field(default_factory=FalseAlarms)
    truth: Truth | None = None
    capture: Capture = field(default_factory=Capture)

    def __post_init__(self) -> None:
        _check_duration(self.window)


@_section
@dataclass(frozen=True)
class RetrainSection:
    """When the loop turns by itself."""

    when: tuple[Literal["decay", "drift"], ...] = ("decay", "drift")
    every: str | None = None
    new_rows: int | None = None
    cooldown: str = "7d"
    approve: Literal["auto", "person"] = "auto"

    def __post_init__(self) -> None:
        _check_duration(self.every)
        _check_duration(self.cooldown)


@_section
@dataclass(frozen=True)
class Spec:
    """A whole treadle.yaml."""

    project: str
    data: dict[str, DataSection]
    model: ModelSection
    pipeline: str = "pipeline.py"
    trust: Literal["pickle"] | None = None
    """`pickle` lets results and models be stored in a format that can run code when loaded."""
    steps: dict[str, StepSection] = field(default_factory=dict)
    build: BuildSection = field(default_factory=BuildSection)
    test: TestSection = field(default_factory=TestSection)
    deploy: dict[str, DeployTarget] = field(
        default_factory=lambda: {"local": ProcessTarget(target="process")}
    )
    monitor: MonitorSection = field(default_factory=MonitorSection)
    retrain: RetrainSection | None = None
    """None: the loop never turns by itself."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.project):
            raise ValueError(
                f"{self.project!r} is no project name: lower-case letters, digits, - and _, "
                "starting with a letter, at most 63"
            )

    @property
    def default_environment(self) -> str:
        """The first entry of `deploy:`."""
        return next(iter(self.deploy))

    def place(self, environment: str) -> str:
        """The environment whose champion and ledger `environment` uses (`of:` of a batch)."""
        target = self.deploy[environment]
        return target.of if isinstance(target, BatchTarget) else environment

    def training_data(self) -> str | None:
        """The data set that is not the truth, if there is exactly one."""
        truth = self.monitor.truth.data if self.monitor.truth else None
        names = [name for name in self.data if name != truth]
        return names[0] if len(names) == 1 else None


SECTIONS: tuple[type, ...] = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, type) and dataclasses.is_dataclass(value)
)
"""Every section type, for documentation and the JSON Schema."""

LATER: dict[str, Any] = {
    "targets": (),
    "top": ("dashboard", "alerts", "hub"),
    "step": ("resources",),
    "environment": ("canary",),
    "task": ("forecast", "ranking", "text"),
}
"""Words of the design that no issue has built yet: refused as "not supported yet"."""
