"""What every target of a deployment can do. A target keeps its own facts in the environment's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from treadle.base.log import Report, silent

if TYPE_CHECKING:
    from treadle.base.records import Rollout
    from treadle.base.spec import Capture

How = Literal["replicas", "route"]
"""How requests are divided between two versions: by their numbers of pods, or at the gateway."""
Status = Literal["absent", "starting", "serving", "unhealthy", "restarting", "down", "failed"]
"""absent: nothing was deployed, or it was stopped on purpose; down: it should run and does not."""


@dataclass(frozen=True)
class Split:
    """Requests divided between the champion (stable) and another release (the candidate)."""

    release: int
    """The candidate."""
    weight: int
    """The percentage that was asked for."""
    how: How
    stable: int
    """Pods; by route as many as ever (the least, where the load decides)."""
    candidate: int
    """Pods."""

    @property
    def share(self) -> float:
        """The percentage that the candidate really gets."""
        if self.how == "route":
            return float(self.weight)
        return 100 * self.candidate / (self.stable + self.candidate)

    @property
    def words(self) -> str:
        """`release 7 gets 20 % (1 of 5 pods)`, and how that differs from what was asked."""
        if self.how == "route":
            return f"release {self.release} gets {self.weight} % of what comes through the gateway"
        total = self.stable + self.candidate
        told = f"release {self.release} gets {self.share:.3g} % ({self.candidate} of {total} pods)"
        return told if abs(self.share - self.weight) < 0.5 else f"{told}; asked: {self.weight} %"


@dataclass(frozen=True)
class Observed:
    """What runs at this moment, as it was asked and not as it was remembered."""

    status: Status
    pid: int | None = None
    """Of the supervisor."""
    server_pid: int | None = None
    address: str | None = None
    release: int | None = None
    model: str | None = None
    """Digest of the model directory that is served."""
    instance: str | None = None
    restarts: int = 0
    since: str | None = None
    error: str | None = None
    """Why the last roll-out was refused, or what is wrong now."""
    differs: tuple[str, ...] = ()
    """Where what is live is not what was applied, in words."""
    unfinished: bool = False
    """Whether a swap was cut off before the server of the release before was told to leave."""
    split: Split | None = None
    """Where another release gets a share of the requests."""

    @property
    def serves(self) -> bool:
        """Whether it answers."""
        return self.status == "serving"


class Target(Protocol):
    """A place that serves releases; `process` is the module that does it on this machine."""

    def observe(self, env_folder: Path, *, timeout_s: float = 1.0) -> Observed:
        """What runs now."""

    def roll_out(
        self,
        env_folder: Path,
        target: Any,
        release: int,
        model_folder: Path,
        *,
        environment: str,
        content: str,
        files: Mapping[str, str] | None = None,
        name: str = "model",
        run: str = "",
        capture: Capture | None = None,
        trust_pickle: bool = False,
        report: Report = silent,
    ) -> Rollout:
        """Serve a release; the one before goes on until the new one is ready."""

    def stop(self, env_folder: Path, *, timeout_s: float = 30.0) -> bool:
        """Stop serving; False if nothing ran."""

    def log_files(self, env_folder: Path) -> list[Path]:
        """Logs, oldest first."""
