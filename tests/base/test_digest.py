from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base import digest as d
from treadle.base.records import Column, Part

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=8)
    | st.dates() | st.datetimes() | st.timedeltas()
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    """Equality that tells 1, 1.0 and True apart, and takes NaN for NaN and -0.0 for 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return a == b


@given(VALUES, VALUES)
def test_two_values_have_one_digest_if_and_only_if_they_are_the_same(a, b):
    assert (d.digest(a) == d.digest(b)) == same(a, b)


@given(VALUES)
def test_canonical_bytes_are_json_and_do_not_depend_on_the_order_of_keys(value):
    data = d.canonical(value)
    json.loads(data.decode("utf-8", "surrogatepass"))

    def turned(item):
        if isinstance(item, dict):
            return {k: turned(v) for k, v in reversed(item.items())}
        return [turned(i) for i in item] if isinstance(item, list) else item

    assert d.canonical(turned(value)) == data


@given(st.sets(st.text(max_size=3) | st.integers()))
def test_a_set_has_no_order(values):
    assert d.canonical(values) == d.canonical(frozenset(reversed(sorted(values, key=repr))))


def test_what_looks_alike_is_not_the_same():
    values = [
        1, 1.0, True, "1", b"1", None, "None", float("nan"), "nan", [], {}, set(), "", (1,), {"$float": "1.0"},
        {"$$float": "1.0"}, {"$set": []}, {"$bytes": "31"}, date(2013, 1, 1), datetime(2013, 1, 1), "2013-01-01",
        timedelta(days=1), PurePosixPath("a"), "a", Part("a", "b", 1), Column("a", "b"),
        {"$record": "Part", "fields": {}},
    ]  # fmt: skip
    assert len({d.digest(v) for v in values}) == len(values)


def test_lists_and_tuples_are_the_same_and_so_are_both_zeros():
    assert d.digest((1, [2])) == d.digest([1, (2,)])
    assert d.digest(-0.0) == d.digest(0.0)


def test_one_moment_in_two_zones_has_two_digests():
    # Code may ask for the local hour: a miss too many is harmless, a stale hit is not.
    berlin = datetime(2013, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert d.digest(berlin) != d.digest(datetime(2013, 1, 1, tzinfo=UTC))
    assert d.digest(datetime(2013, 1, 1)) != d.digest(datetime(2013, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "value", [object(), lambda: 0, {1: 2}, {("a",): 1}, Part, complex(1), range(3)]
)
def test_a_digest_never_rests_on_a_repr(value):
    with pytest.raises(TypeError):
        d.digest(value)


def test_subclasses_of_plain_types_are_digested_as_what_they_equal():
    import enum

    class Level(enum.IntEnum):
        LOW = 1

    assert d.digest(Level.LOW) == d.digest(1)

    class Name(str):
        __slots__ = ()

    assert d.digest(Name("x")) == d.digest("x")


def test_a_records_digest_covers_every_field():
    part = Part("data/a.parquet", d.digest("x"), 10, 3)
    for field, other in {"path": "b", "content": "y", "size_bytes": 11, "rows": 4}.items():
        assert dataclasses.replace(part, **{field: other}).digest != part.digest
    assert dataclasses.replace(part).digest == part.digest


def test_the_digest_is_equal_in_another_process_with_another_hash_seed():
    code = "from treadle.base.digest import digest; print(digest({'b': {'x', 'y', 'z'}, 'a': [1, 0.1]}))"
    seen = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert seen == {d.digest({"b": {"x", "y", "z"}, "a": [1, 0.1]}) + "\n"}


@given(st.binary(max_size=100))
def test_a_file_and_its_bytes_have_one_digest(data):
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert d.digest_file(file.name) == d.digest_bytes(data)


def test_a_trees_digest_is_names_and_contents_wherever_it_stands(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a").write_text("A")
        (tmp_path / name / "b").write_text("B")
    digest, files = d.digest_tree(tmp_path / "one")
    assert d.digest_tree(tmp_path / "two") == (digest, files)
    assert list(files) == sorted(files) == ["b", "sub/a"]
    (tmp_path / "two" / "sub" / "a").rename(tmp_path / "two" / "c")
    assert d.digest_tree(tmp_path / "two")[0] != digest


def test_short_is_for_people():
    assert d.short(d.digest("x")) == d.digest("x")[7:19]
    assert d.short("abcdef", 3) == "abc"
