"""The records that phases exchange: frozen, plain, each with a digest.

Content records (Snapshot, Model, Verdict, Plan) hold nothing that differs from turn to turn, so
equal content has equal digests. Event records (Run, Release, Rollout, Window, Finding, Decision)
hold their id and time. Times are ISO 8601 texts in UTC (`clock.text`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from treadle.base.digest import digest as digest_of

Outcome = Literal["pass", "refuse", "undecided"]


class Digested:
    """A record whose `digest` is the sha256 of its canonical bytes."""

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits over every field."""
        return digest_of(self)


# ---- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part(Digested):
    """One file (or one batch of a query) of a snapshot."""

    path: str
    """Relative to the project, POSIX; for a query `rows/NNNNNN`."""
    content: str
    """Digest of the bytes; also the blob's name in the object store."""
    size_bytes: int
    rows: int | None = None
    """None for `paths:`."""
    columns: tuple[Column, ...] | None = None
    """Its own columns, only where they differ from the snapshot's (the union of all parts)."""


@dataclass(frozen=True)
class Column(Digested):
    """A column's name and logical type: integer, float, string, boolean, timestamp, date, …"""

    name: str
    type: str
    nullable: bool = True


@dataclass(frozen=True)
class Snapshot(Digested):
    """The content of one data set at one moment: parts sorted by path."""

    dataset: str
    kind: Literal["files", "paths", "query"]
    parts: tuple[Part, ...]
    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()
    event_time: str | None = None

    @property
    def rows(self) -> int:
        """Rows in all parts; for `paths:` the number of files."""
        return sum(1 if part.rows is None else part.rows for part in self.parts)


@dataclass(frozen=True)
class Violation(Digested):
    """One broken rule: how many rows, and a few of them."""

    dataset: str
    rule: str
    """missing_column, type_changed, duplicate_key, empty, unreadable, range, category, missing, volume…"""
    column: str | None
    text: str
    """What was seen and what was wanted, in a sentence."""
    rows: int = 0
    examples: tuple[str, ...] = ()
    severity: Literal["refuse", "warn"] = "refuse"


# ---- code ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result(Digested):
    """A stored result of a step."""

    name: str
    format: Literal["parquet", "npy", "json", "model", "pickle", "paths", "bytes"]
    content: str
    """Digest of the blob, or of the tree for a model directory."""
    size_bytes: int = 0
    type: str = ""
    """The Python type's qualified name, to give back the same kind of thing."""


@dataclass(frozen=True)
class Step(Digested):
    """One function that ran, or was found done: its key and where its results are."""

    name: str
    key: str
    """Digest of all that the results depend on."""
    depends: dict[str, str]
    """What went into the key, by words: `code model()`, `param model.learning_rate`, `input train`…"""
    results: tuple[Result, ...]
    seconds: float = 0.0
    cache: bool = True


@dataclass(frozen=True)
class Run(Digested):
    """One execution of the pipeline with one set of parameters: what MLflow calls a run."""

    id: str
    project: str
    environment: str
    started: str
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
    ended: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    """By `function.parameter`."""
    snapshots: dict[str, str] = field(default_factory=dict)
    """Data set → digest of its snapshot."""
    code: str = ""
    """Digest of the fingerprints of all steps."""
    commit: str | None = None
    """Git commit, with `+` when the tree had changes."""
    steps: dict[str, str] = field(default_factory=dict)
    """Step name → step key."""
    model: str | None = None
    """Digest of the Model record."""
    verdict: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    by: str = ""
    reason: str = ""
    process: str = ""
    """Host, pid and start time, so that a dead run is recognised."""
    error: str | None = None


# ---- build, test ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model(Digested):
    """A canonical MLflow model directory."""

    content: str
    """Digest of the tree."""
    files: dict[str, str]
    """Relative path → digest."""
    flavor: str
    """sklearn, xgboost, lightgbm, onnx, pyfunc."""
    task: str
    label: str
    features: tuple[str, ...]
    classes: tuple[Any, ...] = ()
    requirements: tuple[str, ...] = ()
    profile: str | None = None
    """Digest of the training profile's blob (JSON), which drift compares with."""
    size_bytes: int = 0


@dataclass(frozen=True)
class GateResult(Digested):
    """One gate's answer with its numbers."""

    gate: str
    """`roc_auc at_least 0.62`, `log_loss versus champion`, `leak`, `time_order`, `baseline` …"""
    outcome: Outcome
    value: float | None
    wanted: float | None
    low: float | None = None
    high: float | None = None
    """The 95 % interval of the value or of the difference."""
    text: str = ""
    """One line of plain words."""


@dataclass(frozen=True)
class Verdict(Digested):
    """May this model be released? With every gate's numbers."""

    outcome: Outcome
    model: str
    champion: str | None
    holdout: str
    """Digest of the holdout result."""
    gates: tuple[GateResult, ...]
    metrics: dict[str, float]
    champion_metrics: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    """Judged rows: those with a label."""
    unlabelled: int = 0
    blocks: int = 0
    blocks_needed: int | None = None
    """For undecided: about how many blocks would decide."""
    attempts: int = 1
    """How many different models were judged on this holdout, this one included."""


# ---- release, deploy, operate --------------------------------------------------------------------


@dataclass(frozen=True)
class Release(Digested):
    """A numbered model in one environment's journal."""

    number: int
    environment: str
    model: str
    content: str
    """Digest of the model directory."""
    run: str
    verdict: str
    created: str
    by: str
    reason: str = ""
    compiled: dict[str, Any] | None = None
    """Of `model: {compile: auto}`: accepted or not and why, tolerance, worst difference, rows (see
    build/compile); None where no compiled form was asked for."""


@dataclass(frozen=True)
class Image(Digested):
    """A built image: what it is made of, platform by platform, and the digest it is pulled by."""

    reference: str
    """Digest of the manifest, or of the index where there are several platforms."""
    purpose: str
    plans: dict[str, Any]
    """Platform → the plan (build/image.ImagePlan) as plain values: from it the digest follows."""
    model: str | None = None
    """Digest of the model directory's content, for `serve`."""
    size_bytes: int = 0
    """Of all blobs as they are sent, every platform together."""


@dataclass(frozen=True)
class Rollout(Digested):
    """A deployment of a release: wanted against actual."""

    id: str
    environment: str
    release: int
    started: str
    status: Literal["running", "done", "failed"]
    ended: str | None = None
    instance: str = ""
    """The model server's instance id, part of every prediction id."""
    address: str = ""
    error: str | None = None
    image: str = ""
    """Digest of the container image that was rolled out; empty for a process."""


# ---- monitor -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window(Digested):
    """A closed span of traffic of one release, as Parquet."""

    id: str
    environment: str
    start: str
    end: str
    releases: tuple[int, ...]
    rows: int
    content: str
    """Digest of the Parquet blob: inputs, prediction, prediction_id, release, event time, key."""
    coverage: float = 0.0
    """Share of rows whose truth is known, 0 to 1."""
    estimated: dict[str, float] = field(default_factory=dict)
    """Quality estimated without truth."""
    realised: dict[str, float] = field(default_factory=dict)
    """Quality on the truth."""


@dataclass(frozen=True)
class Finding(Digested):
    """One thing that monitoring saw."""

    id: str
    environment: str
    window: str
    kind: Literal["drift", "decay", "coverage", "volume"]
    subject: str
    """A column, `prediction` or a metric."""
    effect: float
    threshold: float
    p_value: float | None
    alpha: float | None
    alarm: bool
    text: str
    found: str
    value: float | None = None
    """The metric's value now, or the drift's effect size."""
    reference: float | None = None
    """The metric's value at release, or the effect size that is worth an alarm."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of `value`."""


# ---- the ledger ----------------------------------------------------------------------------------

DecisionKind = Literal[
    "data",
    "verdict",
    "release",
    "promote",
    "hold",
    "rollback",
    "approve",
    "retrain",
    "deploy",
    "traffic",
    "accept",
    "conflict",
]


@dataclass(frozen=True)
class Decision(Digested):
    """One entry of the append-only ledger."""

    id: str
    at: str
    environment: str
    kind: DecisionKind
    subject: str
    """What was decided on: `flights`, `release 3`, a model's digest …"""
    outcome: str
    """pass, refuse, undecided, promoted, held, yes, no, accepted …"""
    rule: str
    """The rule's name, as `treadle explain` prints it."""
    words: str
    """The reason in one or two plain sentences."""
    evidence: dict[str, Any]
    by: str
    """A person (user name), or `treadle`."""
    previous: str = ""
    """Digest of the entry before: the chain."""


@dataclass(frozen=True)
class Message(Digested):
    """One thing to be told to MLflow; delivered at least once, applied idempotently."""

    kind: Literal["run", "model", "release", "alias", "windows"]
    payload: dict[str, Any]


# ---- plan ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedAction(Digested):
    """What one phase would do, and why."""

    phase: str
    """data, code, build, test, release, deploy, operate, monitor"""
    subject: str
    action: Literal["run", "keep", "check", "refuse", "wait"]
    reason: str
    changed: tuple[str, ...] = ()
    """Which digests changed, in words."""


@dataclass(frozen=True)
class Plan(Digested):
    """All actions of a turn, in order."""

    project: str
    environment: str
    actions: tuple[PlannedAction, ...]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return any(action.action != "keep" for action in self.actions)
