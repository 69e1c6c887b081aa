"""Crash points: places where a test may kill this process, as a power cut would.

`TREADLE_CRASH=journal.commit.before` kills at the first passage, `journal.commit.before:3` at the
third. Unset (always, outside tests), a point is one comparison.
"""

from __future__ import annotations

import os
import signal

POINTS: tuple[str, ...] = (
    "journal.create.before",
    "journal.create.after",
    "journal.commit.before",
    "journal.commit.after",
    "journal.delivered.before",
    "journal.delivered.after",
    "objects.write.before",
    "objects.rename.before",
    "objects.rename.after",
    "objects.tree.before",
    "objects.tree.after",
    "files.write.before",
    "files.write.after",
    "data.learned",
    "build.packaged",
    "capture.stored",
    "deploy.begin",
    "deploy.wanted",
    "deploy.spawned",
    "deploy.swapped",
    "deploy.answered",
    "kubernetes.applied",
    "batch.wanted",
    "batch.applied",
    "batch.ended",
    "gc.delete",
    "monitor.stored",
    "recorder.spawn.before",
    "recorder.spawn.after",
    "recorder.deliver.before",
    "recorder.deliver.after",
)
"""Every name that the source passes to `point`; a test compares the two."""

_wanted, _, _nth = os.environ.get("TREADLE_CRASH", "").partition(":")
_left = int(_nth or 1)


def point(name: str) -> None:
    """Die here by SIGKILL if the environment asks for it: no cleanup, no flush, no goodbye."""
    if not _wanted or name != _wanted:
        return
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
