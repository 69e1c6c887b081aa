"""The quick dataclass is told from the standard one by nothing but its time at import."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base import quick


def make(decorator: Any) -> tuple[type, type, type]:
    @decorator(frozen=True)
    class Point:
        """A point."""

        x: int
        y: tuple[int, ...] = ()
        note: str = field(default="", compare=False, repr=False)
        tags: dict[str, int] = field(default_factory=dict, compare=False)
        kind: ClassVar[str] = "point"

        @property
        def far(self) -> bool:
            return self.x > 10

    @decorator
    class Basket:
        items: list[int] = field(default_factory=list)
        size: int = 3

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("size")

    @decorator(frozen=True)
    class Nothing:
        """No field."""

    return Point, Basket, Nothing


QUICK, STANDARD = make(quick.dataclass), make(dataclasses.dataclass)

VALUES = st.one_of(st.integers(), st.text(max_size=3), st.tuples(st.integers()))
CALLS = st.tuples(
    st.lists(VALUES, max_size=5),
    st.dictionaries(st.sampled_from(["x", "y", "note", "tags", "z"]), VALUES, max_size=4),
)


def outcome(act: Any) -> Any:
    try:
        return act()
    except Exception as error:
        return type(error)


@given(CALLS, CALLS)
def test_every_call_ends_as_the_standard_ones_does(one: Any, other: Any) -> None:
    results = []
    for cls in (QUICK[0], STANDARD[0]):
        a, b = (
            outcome(lambda call=call, cls=cls: cls(*call[0], **call[1])) for call in (one, other)
        )
        if isinstance(a, type) or isinstance(b, type):
            results.append((a if isinstance(a, type) else 0, b if isinstance(b, type) else 0))
            continue
        results.append((
            repr(a).partition("(")[2], dataclasses.astuple(a), a == b, a != b, a == 1,
            outcome(lambda a=a: hash(a)), a.far if isinstance(a.x, int) else None,
            dataclasses.astuple(dataclasses.replace(a, x=7)),
            copy.deepcopy(a) == a,
        ))  # fmt: skip
    assert results[0] == results[1]


@pytest.mark.parametrize("classes", [QUICK, STANDARD], ids=["quick", "standard"])
def test_frozen_ones_are_not_changed_and_others_are_not_hashed(classes: Any) -> None:
    point, basket, nothing = classes
    one = point(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.x
    assert one.kind == "point"
    assert [f.name for f in dataclasses.fields(point)] == ["x", "y", "note", "tags"]
    assert point.__match_args__ == ("x", "y", "note", "tags")
    assert point(1).tags is not point(1).tags
    assert nothing() == nothing()
    assert hash(nothing()) == hash(nothing())
    with pytest.raises(TypeError):
        hash(basket())
    with pytest.raises(ValueError, match="size"):
        basket(size=-1)
    changed = basket()
    changed.size = 9
    assert changed == basket([], 9)


@quick.dataclass(frozen=True)
class Stored:
    """Found by pickle."""

    name: str


@quick.dataclass(frozen=True)
class Longer(Stored):
    """One more field."""

    more: int = 0


def test_pickle_and_inheritance_work() -> None:
    assert pickle.loads(pickle.dumps(Stored("a"))) == Stored("a")
    assert Longer("a", 2) == Longer(more=2, name="a")
    assert Longer("a") != Stored("a")


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(TypeError, match="standard"):

        @quick.dataclass
        class A:
            x: int = field(init=False)

    with pytest.raises(TypeError, match="standard"):

        @quick.dataclass
        class B:
            x: int = field(kw_only=True)

    with pytest.raises(TypeError, match="standard"):

        @quick.dataclass
        class D:
            x: dataclasses.InitVar[int]

    with pytest.raises(TypeError, match="default"):

        @quick.dataclass
        class C:
            x: int = 0
            y: int


def test_pydantic_reads_into_it() -> None:
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(QUICK[0])
    assert adapter.validate_python({"x": 1, "y": [2, 3]}).y == (2, 3)
    with pytest.raises(ValidationError):
        adapter.validate_python({"y": [2]})
