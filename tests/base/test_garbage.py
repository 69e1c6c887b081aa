"""Garbage is looked for seldom by commands and servers, and as usual while the user's functions run."""

from __future__ import annotations

import gzip
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


def test_a_process_that_ends_quickly_still_writes_what_it_was_told_to(tmp_path) -> None:
    """An open file of a module, one in a cycle of a module's, an exit handler, a temporary folder."""
    module = """
import atexit, gzip, tempfile
log = open("log.txt", "w")
log.write("written")
class Holder: pass
holder = Holder()
holder.me = holder
holder.file = open("cycle.txt", "w")
holder.file.write("written")
holder.packed = gzip.open("packed.gz", "wt")
holder.packed.write("written")
atexit.register(lambda: open("exit.txt", "w").write("written"))
folder = tempfile.TemporaryDirectory(dir=".")
open("folder.txt", "w").write(folder.name)
"""
    (tmp_path / "mine.py").write_text(module)
    code = """
import sys
from treadle.base import garbage
garbage.look_seldom()
garbage.look_as_usual()
import mine
print("out", flush=False)
sys.stderr.write("err")
garbage.never_again()
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert (done.stdout, done.stderr) == ("out\n", "err")
    assert (tmp_path / "log.txt").read_text() == "written"
    assert (tmp_path / "exit.txt").read_text() == "written"
    assert (tmp_path / "cycle.txt").read_text() == "written"
    assert gzip.open(tmp_path / "packed.gz", "rt").read() == "written"
    assert not (tmp_path / (tmp_path / "folder.txt").read_text()).exists()


SERVER = """
import gc, weakref
from treadle.base import garbage

class Node:
    pass

def cycles(count):
    for _ in range(count):
        one, two = Node(), Node()
        one.other, two.other = two, one
    return weakref.ref(one)

looked = []
old = [[number] for number in range(200_000)]
garbage.serve()
gc.callbacks.append(lambda phase, info: looked.append(info["generation"]))
"""


def served(program: str) -> str:
    """What a program prints that begins as a server does which has loaded its model."""
    words = [sys.executable, "-c", SERVER + program]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_a_server_does_not_look_at_rows_that_their_counts_free() -> None:
    """Sixteen clients with a hundred rows each, again and again."""
    rows = "[[float(number)] for number in range(1600)]"
    assert served(f"for _ in range(200):\n    rows = {rows}\nprint(looked)") == "[]"


def test_a_server_finds_cycles_all_the_same() -> None:
    made = "gone, rest = cycles(100), cycles(garbage.SELDOM)"
    assert served(f"{made}\nprint(gone() is None, bool(looked))") == "True True"


def test_a_server_never_looks_at_what_was_there_before() -> None:
    assert served("print(gc.get_freeze_count() >= 200_000)") == "True"
