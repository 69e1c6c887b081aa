"""What an exported program may hold, without torch: nothing here is ever loaded."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.torch_models import archive, needs_torch, records

from treadle.base import pt2
from treadle.base.errors import Refused, TreadleError

GRAPH = "models/model.json"


def node(parts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parts[GRAPH]["graph_module"]["graph"]["nodes"][0]
    return found


def test_a_plain_program_is_read_with_its_type_and_shape() -> None:
    found = pt2.read(archive(records()))
    assert (found.dtype, found.shape, found.outputs) == ("float32", (-1, 2), 1)


def test_equal_programs_are_equal_bytes_wherever_and_whenever_they_were_traced() -> None:
    other = records()
    node(other)["metadata"] = {"stack_trace": "elsewhere", "torch_fn": "linear_9"}
    other[".data/serialization_id"] = b"17"
    other["data/sample_inputs/model.pt"] = b"another pickle"
    other = dict(reversed(other.items()))
    one = pt2.read(archive(records())).data
    assert one == pt2.read(archive(other, top="upload-7")).data == pt2.read(one).data
    assert b"somebody" not in one
    assert b"pickle" not in one.replace(b"use_pickle", b"")
    with zipfile.ZipFile(io.BytesIO(one)) as file:
        assert json.loads(file.read(f"model/{GRAPH}"))["guards_code"] == []
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_tensor_may_be_called_metadata_or_target() -> None:
    text = json.dumps(records()[GRAPH])
    for name in ("metadata", "target", "in_spec"):
        parts = records() | {GRAPH: json.loads(text.replace('"x"', f'"{name}"'))}
        with zipfile.ZipFile(io.BytesIO(pt2.read(archive(parts)).data)) as file:
            graph = json.loads(file.read(f"model/{GRAPH}"))["graph_module"]["graph"]
            assert graph["tensor_values"][name]["dtype"] == 7


@pytest.mark.parametrize(
    "context",
    [
        '{"__enum__": true, "fqn": "antigravity:x", "name": "y"}',
        '[{"__enum__": true, "fqn": "antigravity:x", "name": "y"}]',
        "7", "text", 7, ["a"], {"fqn": "antigravity:x"},
    ],
)  # fmt: skip
def test_a_nesting_that_names_more_than_keys_is_refused(context: Any) -> None:
    parts = records()
    signature = parts[GRAPH]["graph_module"]["module_call_graph"][0]["signature"]
    nesting = json.loads(signature["in_spec"])
    nesting[1]["children_spec"][1]["context"] = context
    signature["in_spec"] = json.dumps(nesting)
    with pytest.raises(Refused, match="takes or gives an object"):
        pt2.read(archive(parts))


@pytest.mark.parametrize("wrong", [7, [1], "s77", [["s77"]]])
def test_constraints_that_are_no_mapping_are_unreadable(wrong: Any) -> None:
    parts = records()
    parts[GRAPH]["range_constraints"] = wrong
    with pytest.raises(TreadleError, match="cannot be read"):
        pt2.read(archive(parts))


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system", "torch.hub.load", "torch.load", "_operator.call", "_operator.attrgetter",
        "_operator.methodcaller", "torch.ops.aten.from_file.default", "torch.ops.aten.save.default",
        "torch.ops.load_library", "torch.ops.aten.linear.default.__init__", "#namespace:op",
        "math.__loader__.load_module",
        "torch.ops.aten.__class__.mro", "torch.ops.aten.linear.__call__", "torch.ops.aten.name.format", "torch.ops.mine.op.default", "print", "",
    ],
)  # fmt: skip
def test_an_operator_off_the_list_is_refused_by_name(target: str) -> None:
    parts = records()
    node(parts)["target"] = target
    with pytest.raises(Refused, match="not on the list"):
        pt2.read(archive(parts))
    parts = records()
    node(parts)["inputs"][0]["arg"] = {"as_operator": target}
    with pytest.raises(Refused, match="not on the list"):
        pt2.read(archive(parts))


@pytest.mark.parametrize(
    "shape",
    [
        "__import__('os').system('id')", "exec(chr(105))", "(lambda: 1)()", "s77.__class__", "open",
        "Symbol('a b')", "[1 for s0 in s1]", "s0 if s1 else s2", "f'{s0}'", "s0; s1", "", "'s0'[0]",
        "Function('eval')(1)", "s77" * 5000, 7, ["exec(1)"],
    ],
)  # fmt: skip
def test_a_shape_that_is_more_than_arithmetic_is_refused(shape: Any) -> None:
    parts = records()
    sizes = parts[GRAPH]["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = shape
    with pytest.raises(Refused, match="shape"):
        pt2.read(archive(parts))


@pytest.mark.parametrize(
    "shape", ["s77", "2*s77 + 1", "Mul(Integer(2), Symbol('s77', integer=True))", "Max(1, s0//2)"]
)
def test_a_shape_of_arithmetic_is_read(shape: str) -> None:
    parts = records()
    sizes = parts[GRAPH]["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = shape
    assert pt2.read(archive(parts)).shape == (-1, 2)


def test_pickles_and_objects_and_libraries_are_refused_by_name() -> None:
    weight = "data/weights/model_weights_config.json"
    for change, words in (
        (lambda parts: parts[weight]["config"]["weight"].update(use_pickle=True), "is a pickle"),
        (lambda parts: parts[weight]["config"]["weight"].pop("use_pickle"), "is a pickle"),
        (lambda parts: parts[weight]["config"]["weight"].update(path_name="../x"), "of its own"),
        (
            lambda parts: parts[weight]["config"]["weight"].update(path_name="opaque_obj_0"),
            "of its",
        ),
        (lambda parts: parts.update({"data/weights/model.pt": b"pickle"}), "model.pt"),
        (lambda parts: parts.update({"data/aotinductor/model/a.so": b"\x7fELF"}), "a.so"),
        (lambda parts: parts.update({"byteorder": b"cos\nsystem\n(S'id'\ntR."}), "no plain text"),
        (
            lambda parts: parts[GRAPH]["graph_module"]["graph"].update(custom_obj_values={"o": 1}),
            "objects of its own",
        ),
        (
            lambda parts: parts[GRAPH]["graph_module"]["module_call_graph"][0]["signature"].update(
                in_spec='[1, {"type": "collections.namedtuple", "children_spec": []}]'
            ),
            "takes or gives",
        ),
        (lambda parts: parts[GRAPH]["range_constraints"].update({"exec(1)": {}}), "plain symbol"),
    ):
        parts = records()
        change(parts)
        with pytest.raises(Refused, match=words):
            pt2.read(archive(parts))


def test_a_compressed_archive_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(Refused, match="compressed"):
        pt2.read(archive(records(), compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("source", [b"", b"PK\x03\x04", b"no archive at all"])
def test_what_is_no_archive_is_said_to_be_none(source: bytes) -> None:
    with pytest.raises(TreadleError, match="no exported program"):
        pt2.read(source)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless_and_never_another_error(data: st.DataObject) -> None:
    source = bytearray(archive(records()))
    for _ in range(data.draw(st.integers(1, 4))):
        source[data.draw(st.integers(0, len(source) - 1))] = data.draw(st.integers(0, 255))
    try:
        pt2.read(bytes(source))
    except TreadleError:
        pass


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["graph", "target", "expr_str", "in_spec", "nodes", "signature"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_for_a_graph_is_refused_or_unreadable(graph: Any) -> None:
    with pytest.raises(TreadleError):
        pt2.read(archive(records() | {GRAPH: graph}))


@needs_torch
def test_torch_loads_the_program_that_was_written_by_hand() -> None:
    import torch

    program = torch.export.load(io.BytesIO(pt2.read(archive(records())).data))
    answer = program.module(check_guards=False).forward(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert answer.tolist() == [[0.0], [2.0]]
