"""Garbage is looked for seldom by commands, and as usual while the user's functions run."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import gc
usual = gc.get_threshold()
from treadle.base import garbage
garbage.look_seldom()
assert gc.get_threshold()[0] > 10 * usual[0]
garbage.look_as_usual()
assert gc.get_threshold() == usual
frozen = gc.get_freeze_count()
assert frozen > 0
class Cycle:
    gone = 0
    def __init__(self): self.me = self
    def __del__(self): Cycle.gone += 1
for _ in range(5000): Cycle()
assert Cycle.gone > 1000, Cycle.gone
garbage.look_seldom()
garbage.look_as_usual()
assert gc.get_freeze_count() <= frozen
"""


def test_the_thresholds_come_and_go() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)
