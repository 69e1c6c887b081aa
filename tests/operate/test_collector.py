"""operate/collector.py, in processes of their own: it changes the interpreter."""

from __future__ import annotations

import subprocess
import sys

COUNTED = """
import gc, weakref
from treadle.operate import collector

class Node:
    pass

def cycles(count):
    for _ in range(count):
        one, two = Node(), Node()
        one.other, two.other = two, one
    return weakref.ref(one)

searches = []
def searched(phase, info):
    if phase == "start":
        searches.append(info["generation"])

old = [[number] for number in range(200_000)]
collector.settle()
gc.callbacks.append(searched)
"""


def run(program: str) -> str:
    """What a program prints that begins with a settled collector."""
    words = [sys.executable, "-c", COUNTED + program]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_rows_that_are_freed_by_their_counts_are_never_searched() -> None:
    """Sixteen clients with a hundred rows each, again and again."""
    rows = "[[float(number)] for number in range(1600)]"
    assert run(f"for _ in range(200):\n    rows = {rows}\nprint(searches)") == "[]"


def test_cycles_are_found_all_the_same() -> None:
    made = "gone, rest = cycles(100), cycles(collector.YOUNG)"
    assert run(f"{made}\nprint(gone() is None, bool(searches))") == "True True"


def test_what_was_there_before_is_left_out() -> None:
    assert run("print(gc.get_freeze_count() >= 200_000, gc.collect())") == "True 0"
