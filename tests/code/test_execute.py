"""Steps run when they must, each is kept at once, and what a step does wrong is said clearly."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from treadle.base.errors import PipelineError, StepFailed
from treadle.code import cache, store

spec = importlib.util.spec_from_file_location(
    "code_project", Path(__file__).with_name("project.py")
)
project = importlib.util.module_from_spec(spec)
spec.loader.exec_module(project)
Turns, write = project.Turns, project.write

THREE = """
def a(n: int = 3): return list(range(n))
def b(a, k: int = 0): return [x + k for x in a]
def out(b): return sum(b)
"""


def test_a_turn_runs_what_must_run_and_nothing_twice(tmp_path):
    turns = Turns(write(tmp_path, pipeline=THREE))
    assert turns.stale() == {"a", "b", "out"}
    assert turns.run() == ["a", "b", "out"] and turns.value("out") == 3
    assert turns.stale() == set() and turns.run() == []
    assert turns.run(b__k=1) == ["b", "out"] and turns.value("out") == 6
    assert turns.run() == [] and turns.value("out") == 3, "the former parameters are still kept"


def test_what_comes_out_equal_makes_no_follower_run(tmp_path):
    turns = Turns(write(tmp_path, pipeline=THREE))
    turns.run()
    write(tmp_path, pipeline=THREE.replace("list(range(n))", "[x for x in range(n)]"))
    assert [s.why for s in turns.plan()] == ["", "waits for a", "waits for b"]
    assert turns.run() == ["a"]


def test_the_plan_has_before_and_after_of_what_a_step_depends_on(tmp_path):
    turns = Turns(write(tmp_path, pipeline=THREE))
    first = turns.plan()[0]
    assert first.why == "never run" and first.before is None
    turns.run()
    write(tmp_path, pipeline=THREE.replace("range(n)", "range(n + 1)"))
    step = turns.plan(a__n=4)[0]
    assert {k for k in step.depends if step.depends[k] != step.before[k]} == {
        "code a()",
        "param a.n",
    }
    assert (step.before["param a.n"], step.depends["param a.n"]) == ("3", "4")


def test_lost_and_damaged_results_are_made_again_and_said_aloud(tmp_path):
    three = THREE.replace("x + k", "x + k + 1")
    turns = Turns(write(tmp_path, pipeline=three))
    turns.run()
    turns.objects.delete(turns.steps["b"].results[0].content)
    assert {s.name: s.why for s in turns.plan() if s.hit is None} == {
        "b": "result b is lost",
        "out": "waits for b",
    }
    assert turns.run() == ["b"]
    write(tmp_path, pipeline=three.replace("sum(b)", "sum(b) + 1"))
    content = turns.steps["b"].results[0].content
    turns.objects.delete(content)
    real = turns.objects.has
    turns.objects.has = lambda digest: digest == content or real(digest)  # there, but damaged
    try:
        assert turns.run() == ["b", "out"]
    finally:
        del turns.objects.has
    assert any("damaged and is made again" in line for line in turns.lines)
    assert turns.value("out") == 7


def test_uncached_steps_always_run_and_followers_only_when_it_matters(tmp_path):
    turns = Turns(write(tmp_path, pipeline=THREE), uncached=("a",))
    turns.run()
    assert turns.plan()[0].why == "cache: false"
    assert turns.run() == ["a"]


def test_data_is_handed_over_fresh_and_changes_in_place_stay_inside(tmp_path):
    text = """
    from typing import NamedTuple
    import pandas as pd
    class Split(NamedTuple):
        train: pd.DataFrame
        array: object
        table: dict
    def split(rows: pd.DataFrame) -> Split:
        return Split(rows, rows["x"].to_numpy().copy(), {"a": [1]})
    def model(train, array, table):
        train["x"] = 0
        train.drop(train.index, inplace=True)
        array[:] = 0
        table["a"].append(2)
        return 1
    def out(model, train, array, table):
        return [int(train["x"].sum()), int(array.sum()), table]
    """
    turns = Turns(
        write(tmp_path, pipeline=text),
        datasets=("rows",),
        frames={"rows": pd.DataFrame({"x": [1, 2]})},
    )
    turns.run()
    assert turns.value("out") == [3, 3, {"a": [1]}]


def test_a_file_that_a_step_opens_makes_it_stale_when_it_changes(tmp_path):
    text = """
    from pathlib import Path
    def out(which: str = "lookup.txt"):
        with open("scratch.txt", "w") as f: f.write("x")
        open("scratch.txt").read()
        return Path(which).read_text()
    """
    turns = Turns(write(tmp_path, pipeline=text))
    (tmp_path / "lookup.txt").write_text("1")
    turns.run()
    assert any("out opened lookup.txt" in line for line in turns.lines)
    assert turns.stale() == set()
    assert "file scratch.txt" not in turns.steps["out"].depends
    (tmp_path / "lookup.txt").write_text("2")
    step = turns.plan()[0]
    assert step.hit is None and step.depends["file lookup.txt"] != step.before["file lookup.txt"]
    assert turns.run() == ["out"] and turns.value("out") == "2"
    (tmp_path / "lookup.txt").write_text("1")
    assert turns.run() == [] and turns.value("out") == "1"
    (tmp_path / "lookup.txt").unlink()
    assert turns.stale() == {"out"}


def test_a_step_that_raises_shows_its_own_traceback_only(tmp_path):
    text = "def _deep(x):\n    return 1 / x\ndef out():\n    return _deep(0)\n"
    turns = Turns(write(tmp_path, pipeline=text))
    with pytest.raises(
        StepFailed, match="step out failed: ZeroDivisionError: division by zero"
    ) as caught:
        turns.run()
    trace = caught.value.user_traceback
    assert (
        'pipeline.py", line 2, in _deep' in trace
        and "treadle/code" not in trace
        and "execute.py" not in trace
    )
    assert turns.journal.list("running") == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit(3)", r"it called sys.exit\(3\)"),
        ("raise MemoryError", "out of memory"),
        ("pass", "returned None where the result out is needed"),
        ("return object()", "result out is a object, for which there is no safe format"),
    ],
)
def test_what_a_step_does_wrong_is_said(tmp_path, body, message):
    with pytest.raises(PipelineError, match=message):
        Turns(write(tmp_path, pipeline=f"def out():\n    {body}\n")).run()


def test_a_broken_promise_of_a_named_tuple_is_said(tmp_path):
    text = "from typing import NamedTuple\nclass P(NamedTuple):\n    out: int\n    more: int\ndef p() -> P:\n    return (1, 2)\n"
    with pytest.raises(
        StepFailed, match="returned a tuple, where its annotation promises out, more"
    ):
        Turns(write(tmp_path, pipeline=text)).run()
    turns = Turns(write(tmp_path, pipeline=text.replace("(1, 2)", "P(None, 2)")))
    with pytest.raises(StepFailed, match="returned None where the result out"):
        turns.run()
    Turns(write(tmp_path, pipeline=text.replace("(1, 2)", "P(1, None)"))).run()


def test_an_interrupt_passes_through_and_leaves_no_record(tmp_path):
    turns = Turns(write(tmp_path, pipeline="def out():\n    raise KeyboardInterrupt\n"))
    with pytest.raises(KeyboardInterrupt):
        turns.run()
    assert turns.journal.list("running") == []


def test_a_step_is_kept_when_a_later_one_fails(tmp_path):
    turns = Turns(write(tmp_path, pipeline=THREE.replace("sum(b)", "b.nothing")))
    with pytest.raises(StepFailed):
        turns.run()
    assert turns.stale() == {"out"}


def test_an_edit_in_the_same_second_is_seen_and_bytecode_is_not_trusted(tmp_path):
    files = {"helpers": "K = 1\n", "pipeline": "from helpers import K\ndef out(): return K\n"}
    turns = Turns(write(tmp_path, **files))
    for value in (1, 2, 3):
        write(tmp_path, helpers=f"K = {value}\n")
        assert turns.run() == ["out"] and turns.value("out") == value
    assert not list(tmp_path.rglob("__pycache__")) and "helpers" not in sys.modules


def test_sources_edited_during_the_turn_stop_it(tmp_path):
    turns = Turns(write(tmp_path, pipeline="def out(): return 1\n"))
    plan, graph = turns.plan(), turns.graph()
    write(tmp_path, pipeline="def out(): return 2\n")
    turns.plan, turns.graph = lambda: plan, lambda: graph
    with pytest.raises(PipelineError, match="pipeline.py was edited while this turn was running"):
        turns.run()


def test_what_a_step_prints_goes_to_stderr_and_warnings_to_the_report(tmp_path, capfd):
    text = "import os, warnings\ndef out():\n    print('loud'); os.system('echo deep')\n    warnings.warn('odd')\n    return 1\n"
    turns = Turns(write(tmp_path, pipeline=text))
    turns.run()
    seen = capfd.readouterr()
    assert seen.out == "" and "loud" in seen.err
    assert any("UserWarning: odd (pipeline.py:4)" in line for line in turns.lines)


def test_pickled_results_follow_the_code_of_their_classes(tmp_path):
    text = """
    class _Box:
        def __init__(self, x): self.x = x
        def __len__(self): return self.x
    def box(): return _Box(2)
    def out(box): return len(box)
    """
    turns = Turns(write(tmp_path, pipeline=text))
    assert turns.run(trust=True) == ["box", "out"]
    assert turns.run(trust=True) == []
    write(tmp_path, pipeline=text.replace("return self.x", "return self.x + 1"))
    assert turns.run(trust=True) == ["box", "out"] and turns.value("out") == 3


DIES = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import project
from treadle.clients.state import State
turns = project.Turns(Path({folder!r}))
state = State.open(Path({folder!r}), create=True)
turns.journal, turns.objects = state.journal, state.objects
turns.run()
"""


def test_a_step_that_dies_by_a_signal_leaves_a_record_and_what_was_done_before(tmp_path):
    from treadle.clients.state import State

    write(
        tmp_path,
        pipeline="import os, signal\ndef a(): return 1\ndef out(a):\n    os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    script = DIES.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    died = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert died.returncode == -9, died.stderr
    state = State.open(tmp_path, create=False)
    assert state.journal.get("running", "R")["step"] == "out"
    turns = Turns(tmp_path)
    turns.journal, turns.objects = state.journal, state.objects
    assert turns.stale() == {"out"}


def test_an_input_depends_on_bytes_and_a_pickle_on_its_giver_too():
    from treadle.base.records import Result, Step

    step = Step("a", "k1", {}, ())
    assert cache.input_digest(Result("x", "json", "sha256:1"), step) == "sha256:1"
    pickled = Result("x", "pickle", "sha256:1")
    assert cache.input_digest(pickled, step) != cache.input_digest(pickled, Step("a", "k2", {}, ()))
    assert store.NotStorable.exit_code == 1


def test_garbage_is_collected_as_usual_while_a_step_runs(tmp_path):
    import gc

    from treadle.base import garbage

    code = "import gc\ndef out() -> list: return list(gc.get_threshold())"
    turns = Turns(write(tmp_path, pipeline=code))
    before = gc.get_threshold()
    try:
        turns.run()
        assert tuple(turns.value("out")) == garbage._USUAL != gc.get_threshold()
    finally:
        gc.set_threshold(*before)
