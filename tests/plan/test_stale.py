from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from treadle.base.digest import digest
from treadle.base.records import Column, Part, Snapshot
from treadle.plan.stale import data_words, explain_changes

A, B = digest("a"), digest("b")


def snapshot(parts: dict[str, tuple[str, int]], **more) -> Snapshot:
    made = tuple(Part(path, digest(text), 1, rows) for path, (text, rows) in sorted(parts.items()))
    return Snapshot("flights", more.pop("kind", "files"), made, **more)


def test_each_kind_of_dependency_is_told_in_its_own_words():
    before = {
        "code model()": A, "param model.learning_rate": "0.1", "input train": A, "data flights": A,
        "package scikit-learn": "1.8", "source pipeline.py": A, "package old": "1",
        "param model.depth": "3", "code helper()": A, "python": "3.11",
    }  # fmt: skip
    after = {
        "code model()": B, "param model.learning_rate": "0.05", "input train": B, "data flights": B,
        "package scikit-learn": "1.9", "source pipeline.py": B, "input extra": A,
        "param model.trees": '{"$float":"0.5"}', "package new": "2", "code other()": A,
        "python": "3.12",
    }  # fmt: skip
    assert explain_changes(before, after) == (
        "no longer calls helper()",
        "code model(): body changed",
        "now calls other()",
        "source pipeline.py changed",
        "param model.depth is no longer used",
        "param model.learning_rate 0.1 → 0.05",
        "new param model.trees = 0.5",
        "data flights changed",
        "new input extra",
        "input train changed",
        "newly imports new 2",
        "no longer imports old",
        "package scikit-learn 1.8 → 1.9",
        "python 3.11 → 3.12",
    )


def test_the_first_run_and_no_change():
    assert explain_changes(None, {"code model()": A}) == ("first run",)
    assert explain_changes({"code model()": A}, {"code model()": A}) == ()


def test_a_new_month_is_told_with_its_rows():
    old = snapshot({"data/1.parquet": ("x", 27004)})
    new = snapshot({"data/1.parquet": ("x", 27004), "data/2.parquet": ("y", 26398)})
    assert data_words(old, new) == ("data flights: +26,398 rows in 1 new file",)
    assert data_words(old, new, moved=2) == (
        "data flights: +26,398 rows in 1 new file, 2 columns moved",
    )
    assert data_words(None, new) == ("data flights: first snapshot, 53,402 rows in 2 files",)
    assert data_words(new, new) == ()


def test_removed_changed_and_renamed_files():
    old = snapshot({"a": ("1", 10), "b": ("2", 10), "c": ("3", 10)})
    assert data_words(old, snapshot({"a": ("1", 10), "c": ("3", 10)})) == (
        "data flights: -10 rows in 1 removed file",
    )
    assert data_words(old, snapshot({"a": ("9", 12), "b": ("2", 10), "c": ("3", 10)})) == (
        "data flights: +2 rows in 1 changed file (a)",
    )
    assert data_words(old, snapshot({"z": ("1", 10), "b": ("2", 10), "c": ("3", 10)})) == (
        "data flights: 1 renamed file",
    )


def test_columns_key_and_kind_are_told():
    old = snapshot(
        {"a": ("1", 10)}, columns=(Column("x", "integer"), Column("y", "string")), key=("x",)
    )
    new = replace(
        old, columns=(Column("x", "float"), Column("z", "date")), key=("x", "z"), event_time="z"
    )
    assert data_words(old, new) == (
        "data flights: new column z (date)",
        "data flights: column y is gone",
        "data flights: column x integer → float",
        "data flights: key [x] → [x, z]",
        "data flights: event_time none → z",
    )


def test_images_and_batches_count_in_their_own_units():
    images = Snapshot("pictures", "paths", (Part("a.jpg", A, 1),))
    more = replace(images, parts=(*images.parts, Part("b.jpg", B, 1)))
    assert data_words(images, more) == ("data pictures: 1 new file",)
    query = Snapshot("orders", "query", (Part("rows/000000", A, 1, 5),))
    grown = replace(query, parts=(*query.parts, Part("rows/000001", B, 1, 7)))
    assert data_words(query, grown) == ("data orders: +7 rows in 1 new batch",)


DEPENDS = st.dictionaries(
    st.builds(lambda a, b: f"{a} {b}", st.sampled_from(["code", "param", "input", "data", "package", "x"]),
              st.text(max_size=3)),
    st.text(max_size=8) | st.sampled_from([A, B]), max_size=5,
)  # fmt: skip


@given(DEPENDS, DEPENDS)
def test_there_is_one_sentence_for_each_difference_and_none_without(before, after):
    words = explain_changes(before, after)
    assert len(words) == len({k for k in {*before, *after} if before.get(k) != after.get(k)})
    assert all(words)


PARTS = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.sampled_from("12"), st.integers(0, 9))
)


@given(PARTS, PARTS)
def test_different_snapshots_always_have_words(before, after):
    old, new = snapshot(before), snapshot(after)
    assert bool(data_words(old, new)) == (old != new)


def test_deciding_what_is_stale_imports_nothing_heavy():
    code = (
        "import sys, treadle.plan.stale, treadle.plan.trigger, treadle.plan.spec, treadle.plan.schedule\n"
        "print(sorted({'polars','pandas','pydantic','ruamel','numpy','cronsim','rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
