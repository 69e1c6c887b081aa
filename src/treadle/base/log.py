"""Progress for people on stderr and events for files: one function type, passed in.

Phases never print: they are given a `Report` and call it with a line and facts.
"""

from __future__ import annotations

from typing import Any, Protocol


class Report(Protocol):
    """Called with what happens now; `facts` are plain values for `--json` event lines."""

    def __call__(self, line: str, **facts: Any) -> None:
        """Say a line."""


def silent(line: str, **facts: Any) -> None:
    """A report that goes nowhere."""
