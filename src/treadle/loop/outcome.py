"""What a turn made, for people and for `--json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from treadle.base.plain import to_plain
from treadle.base.records import Model, Release, Verdict

EXIT = {"pass": 0, "refuse": 3, "undecided": 5}


@dataclass
class TurnResult:
    """What a turn made."""

    environment: str
    turned: bool
    """False when nothing had to be done."""
    exit_code: int = 0
    run: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    model: Model | None = None
    verdict: Verdict | None = None
    release: Release | None = None
    promoted: bool = False
    address: str | None = None
    made: dict[str, str] = field(default_factory=dict)
    """What there is now and where, for people."""
    notes: list[str] = field(default_factory=list)
    next: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "environment": self.environment,
            "turned": self.turned,
            "exit_code": self.exit_code,
            "run": self.run,
            "parameters": self.parameters,
            "model": to_plain(self.model),
            "model_digest": self.model.digest if self.model else None,
            "verdict": to_plain(self.verdict),
            "release": to_plain(self.release),
            "promoted": self.promoted,
            "address": self.address,
            "made": self.made,
            "notes": self.notes,
            "next": self.next,
        }
