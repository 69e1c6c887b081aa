from __future__ import annotations

import dataclasses
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.base import records
from treadle.base.plain import from_plain, to_plain
from treadle.base.spec import SECTIONS, BatchTarget, ProcessTarget, Spec

RECORDS = [
    value for value in vars(records).values()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
]  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
# Any stands for JSON's own values; a tuple that went through JSON comes back as a list there.
st.register_type_strategy(object, JSON)


def made(cls: type) -> st.SearchStrategy:
    hints = typing.get_type_hints(cls)

    def of(kind: object) -> st.SearchStrategy:
        if kind is typing.Any:
            return JSON
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if dataclasses.is_dataclass(kind):
            return made(typing.cast("type", kind))
        if origin is tuple:
            return st.lists(of(arguments[0]), max_size=2).map(tuple)
        if origin is dict:
            return st.dictionaries(st.text(max_size=3), of(arguments[1]), max_size=2)
        if arguments and origin is not typing.Literal:
            return st.one_of([of(argument) for argument in arguments])
        if kind is float:
            return st.floats(allow_nan=False, allow_infinity=False)
        return st.from_type(typing.cast("type", kind))

    return st.fixed_dictionaries({f.name: of(hints[f.name]) for f in dataclasses.fields(cls)}).map(
        lambda values: cls(**values)
    )


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_every_record_survives_json(cls):
    @given(made(cls))
    def survives(record):
        again = from_plain(cls, json.loads(json.dumps(to_plain(record))))
        assert again == record
        assert again.digest == record.digest

    survives()


def spec() -> Spec:
    return from_plain(Spec, {
        "project": "x", "data": {"d": {"files": "d.csv", "key": ["a"]}},
        "model": {"result": "m", "task": "binary", "label": "y", "features": ["a", "b"]},
        "test": {"gates": [{"metric": "roc_auc", "at_least": 0.5}]},
        "deploy": {"z": {"target": "process"}, "a": {"target": "batch", "of": "z", "input": "i", "output": "o"}},
        "monitor": {"truth": {"data": "d"}}, "retrain": {"when": ["drift"]}, "steps": {"m": {"cache": False}},
    })  # fmt: skip


def test_a_spec_survives_json_with_each_target_as_its_own_type_and_in_order():
    again = from_plain(Spec, json.loads(json.dumps(to_plain(spec()))))
    assert again == spec()
    assert list(again.deploy) == ["z", "a"]
    assert isinstance(again.deploy["z"], ProcessTarget)
    assert isinstance(again.deploy["a"], BatchTarget)
    assert isinstance(again.data["d"].key, tuple)


def test_a_field_that_nobody_knows_is_refused_not_dropped():
    for cls in (*RECORDS, *SECTIONS):
        with pytest.raises(TypeError):
            from_plain(cls, {"a field of a newer version": 1})
    plain = to_plain(spec())
    plain["deploy"]["z"]["new"] = 1
    with pytest.raises(TypeError):
        from_plain(Spec, plain)


def test_a_record_of_an_older_version_takes_the_defaults_of_what_it_lacks():
    part = from_plain(records.Part, {"path": "a", "content": "b", "size_bytes": 1})
    assert part.rows is None
