"""Crash points: each has a name, each name has a place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import treadle
from treadle.base import crash

SOURCE = Path(treadle.__file__).parent
USE = re.compile(
    r"\bcrash\.point\(\s*[\"']([^\"']+)[\"']\s*\)|\bpoint\(\s*[\"']([a-z]+\.[a-z.]+)[\"']\s*\)"
)


def test_every_name_in_the_source_is_registered_and_every_registered_name_is_used():
    used = {
        match[1] or match[2]
        for path in SOURCE.rglob("*.py")
        if path.name != "crash.py"
        for match in USE.finditer(path.read_text(encoding="utf-8"))
    }
    assert used == set(crash.POINTS)
    assert len(set(crash.POINTS)) == len(crash.POINTS)


def passages(wanted: str | None, name: str = "journal.commit.before") -> tuple[int, int]:
    environment = {k: v for k, v in os.environ.items() if k != "TREADLE_CRASH"}
    if wanted:
        environment["TREADLE_CRASH"] = wanted
    code = f"from treadle.base.crash import point\nfor n in range(4): point({name!r}); print(n, flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=environment,
        check=False,
    )
    return done.returncode, len(done.stdout.split())


def test_a_point_kills_at_the_passage_asked_for_and_only_there():
    assert passages(None) == (0, 4)
    assert passages("objects.rename.before") == (0, 4)
    assert passages("journal.commit.before") == (-signal.SIGKILL, 0)
    assert passages("journal.commit.before:3") == (-signal.SIGKILL, 2)
    assert passages("journal.commit.before:9") == (0, 4)
