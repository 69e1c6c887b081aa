"""Open Inference V2: tensors in, tensors out, as JSON and as bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operate.codec import tables
from tests.operate.codec.tables import Table

from treadle.operate.codec import v2
from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature, WrongInput
from treadle.operate.query import Answer, Outputs

DATATYPES = ["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
             "FP16", "FP32", "FP64", "BYTES"]  # fmt: skip
NUMPY = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"} | {
    f"{sign}INT{bits}": f"{'u' if sign else 'i'}{bits // 8}"
    for sign in ("", "U") for bits in (8, 16, 32, 64)
}  # fmt: skip


def codec(signature: Signature = Signature(), **limits: Any) -> v2.Inference:
    return v2.Inference(signature, Limits(**limits), model="m", version="3")


def decode(document: Any, tail: bytes | None = None, **more: Any) -> v2.Request:
    head = json.dumps(document).encode()
    if tail is None:
        return codec(**more).decode(head)
    return codec(**more).decode(head + tail, len(head))


def answer(**arrays: np.ndarray[Any, Any]) -> Answer:
    return Answer("pid", Outputs(arrays), 0, len(next(iter(arrays.values()))), 0.0)


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BYTES":
        return tables.TEXT
    if datatype == "BOOL":
        return st.booleans()
    if datatype[:2] == "FP":
        return st.floats(width=int(datatype[2:]))  # type: ignore[arg-type]
    info = np.iinfo(NUMPY[datatype])
    return st.integers(int(info.min), int(info.max))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    size = math.prod(shape)
    return datatype, shape, draw(st.lists(values_of(datatype), min_size=size, max_size=size))


def as_array(datatype: str, shape: list[int], values: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=NUMPY.get(datatype, object))
    array[:] = values
    return array.reshape(shape)


# ---- requests ------------------------------------------------------------------------------------


@given(tables.tables(), st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_table_arrives_as_the_client_had_it(table: Table, binary: bool, nested: bool) -> None:
    body, header = tables.v2_body(table, binary=binary, nested=nested)
    request = codec(table.signature).decode(body, header)
    assert request.id == "7" and request.requested is None and request.query.rows == table.rows
    found = tables.columns_of(request.query, table.signature)
    for name, values in table.columns.items():
        if table.kind(name) in ("double", "float"):  # null is a missing number
            values = [math.nan if value is None else value for value in values]
        assert tables.same(found[name], values), name


@given(tensors(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_each_datatype_and_shape_arrives_exactly(
    tensor: tuple[str, list[int], list[Any]], binary: bool
) -> None:
    datatype, shape, values = tensor
    expected = as_array(datatype, shape, values)
    item: dict[str, Any] = {"name": "x", "shape": shape, "datatype": datatype}
    if binary or datatype == "FP16":
        data = tables.v2_bytes(datatype, values)
        item["parameters"] = {"binary_data_size": len(data)}
        request = decode({"inputs": [item]}, data)
    else:
        request = decode({"inputs": [{**item, "data": values}]})
        nested = decode({"inputs": [{**item, "data": expected.tolist()}]})
        assert nested.query.tensors is not None
        np.testing.assert_array_equal(nested.query.tensors["x"], expected)
    assert request.query.tensors is not None and request.query.rows == shape[0]
    found = request.query.tensors["x"]
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@given(st.lists(tensors(), min_size=1, max_size=4), st.integers(0, 3), st.data())
@settings(max_examples=100, deadline=None)
def test_json_and_bytes_may_be_mixed_in_any_order(
    items: list[tuple[str, list[int], list[Any]]], rows: int, data: st.DataObject
) -> None:
    inputs, tail, expected = [], b"", {}
    for number, (datatype, shape, _) in enumerate(items):
        shape = [rows, *shape[1:]]
        size = math.prod(shape)
        values = data.draw(st.lists(values_of(datatype), min_size=size, max_size=size))
        item: dict[str, Any] = {"name": str(number), "shape": shape, "datatype": datatype}
        if datatype == "FP16" or data.draw(st.booleans()):
            part = tables.v2_bytes(datatype, values)
            item["parameters"] = {"binary_data_size": len(part)}
            tail += part
        else:
            item["data"] = values
        inputs.append(item)
        expected[str(number)] = as_array(datatype, shape, values)
    request = decode({"inputs": inputs}, tail)
    assert request.query.rows == rows and request.query.tensors is not None
    for name, array in expected.items():
        np.testing.assert_array_equal(request.query.tensors[name], array)


def test_bare_nan_in_json_is_taken() -> None:
    body = b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP64","data":[NaN,-Infinity]}]}'
    found = codec().decode(body).query.tensors
    assert found is not None and math.isnan(found["x"][0]) and found["x"][1] == -math.inf


def test_bytes_of_a_binary_column_stay_bytes_and_others_are_texts() -> None:
    signature = Signature((Field("b", "binary"), Field("s", "string")))
    parts = [b"\xff\x00", "ü".encode()]
    data = tables.v2_bytes("BYTES", parts[:1])
    text = tables.v2_bytes("BYTES", parts[1:])
    item = {"shape": [1], "datatype": "BYTES"}
    document = {"inputs": [
        {"name": "b", **item, "parameters": {"binary_data_size": len(data)}},
        {"name": "s", **item, "parameters": {"binary_data_size": len(text)}},
    ]}  # fmt: skip
    found = decode(document, data + text, signature=signature).query.tensors
    assert (
        found is not None and found["b"].tolist() == [b"\xff\x00"] and found["s"].tolist() == ["ü"]
    )
    with pytest.raises(WrongInput, match="texts in UTF-8"):
        decode(document, data + text)


def test_numbers_as_bytes_are_not_copied_where_they_lie_well() -> None:
    data = np.arange(1000.0)
    head = json.dumps({"inputs": [{"name": "x", "shape": [1000], "datatype": "FP64",
                                   "parameters": {"binary_data_size": 8000}}]})  # fmt: skip
    shared = set()
    for padding in range(8):
        body = (head + " " * padding).encode() + data.tobytes()
        found = codec().decode(body, len(head) + padding).query.tensors
        assert found is not None and found["x"].flags.aligned
        np.testing.assert_array_equal(found["x"], data)
        shared.add(found["x"].flags.owndata or found["x"].base.flags.owndata)
    assert shared == {True, False}


def test_what_real_clients_send_beside_the_specification_is_taken() -> None:
    item = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0], "parameters": None}
    request = decode({
        "id": "", "model_name": "m", "model_version": "1", "inputs": [item], "outputs": [],
        "parameters": {"binary_data_output": True, "priority": 1, "timeout": 2_500_000,
                       "sequence_id": 3, "sequence_start": True, "sequence_end": True,
                       "triton_enable_empty_final_response": True, "content_type": "pd"},
    })  # fmt: skip
    assert request.id == "" and request.requested is None and request.binary_output
    assert request.deadline_s == 2.5 and request.query.params == {}


def test_the_models_own_parameters_reach_it() -> None:
    signature = Signature((Field("x", "double"),), params=("top", "timeout"))
    item = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}
    request = decode({"inputs": [item], "parameters": {"top": 3, "timeout": "soon"}},
                     signature=signature)  # fmt: skip
    assert request.query.params == {"top": 3, "timeout": "soon"} and request.deadline_s is None


def test_outputs_are_asked_for_one_by_one_or_all_as_bytes() -> None:
    item = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}
    outputs = [{"name": "a", "parameters": {"binary_data": True}},
               {"name": "b", "parameters": {"binary_data": False}}, {"name": "c"}]  # fmt: skip
    request = decode({"inputs": [item], "outputs": outputs,
                      "parameters": {"binary_data_output": True}})  # fmt: skip
    assert request.requested == ("a", "b", "c")
    assert request.binary == {"a": True, "b": False} and request.binary_output


# ---- what is refused -----------------------------------------------------------------------------


X = {"name": "x", "shape": [1], "datatype": "FP64"}


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"shape": [2], "data": [1]}, "2 values for its shape, got 1"),
        ({"shape": [10**30], "data": []}, "memory"),
        ({"shape": [0, 2**62, 2], "data": []}, "memory"),
        ({"shape": [2**40], "data": [1]}, "values for its shape"),
        ({"shape": [-1], "data": [1]}, "shape"),
        ({"shape": [True], "data": [1]}, "shape"),
        ({"shape": [1.5], "data": [1]}, "shape"),
        ({"shape": [], "data": [1]}, "shape"),
        ({"shape": "secret", "data": [1]}, "shape"),
        ({"shape": [1] * 40, "data": [1]}, "at most 32 dimensions"),
        ({"datatype": "secret"}, "datatype"),
        ({"datatype": None}, "datatype"),
        ({"name": None}, "name"),
        ({}, "inputs[0].data: expected a list, got none"),
        ({"data": "secret"}, "data: expected a list"),
        ({"data": {"secret": 1}}, "data: expected a list"),
        ({"datatype": "INT8", "data": [300]}, "beyond its range"),
        ({"datatype": "UINT64", "data": [-1]}, "beyond its range"),
        ({"datatype": "INT8", "data": [True]}, "values of INT8"),
        ({"datatype": "INT8", "data": [1.0]}, "values of INT8"),
        ({"datatype": "BOOL", "data": [1]}, "values of BOOL"),
        ({"datatype": "FP32", "data": ["secret"]}, "values of FP32"),
        ({"datatype": "FP64", "data": [10**400]}, "beyond its range"),
        ({"datatype": "BYTES", "data": [1]}, "values of BYTES"),
        ({"datatype": "FP16", "data": [1.0]}, "FP16 as binary data"),
        ({"shape": [2], "data": [[1], 2]}, "equal length"),
        ({"shape": [3], "data": [[1], [2, 3]]}, "equal length"),
        ({"data": [1], "secret": 1}, "other fields"),
        ({"parameters": {"binary_data_size": 8}}, "Inference-Header-Content-Length"),
        ({"parameters": {"binary_data_size": "secret"}}, "a length"),
        ({"parameters": {"binary_data_size": True}}, "a length"),
        ({"parameters": {"binary_data_size": 8}, "data": [1]}, "both"),
        ({"parameters": {"shared_memory_region": "secret"}}, "shared memory"),
        ({"parameters": "secret"}, "parameters: expected an object"),
    ],
)  # fmt: skip
def test_mistakes_in_a_tensor_are_named_without_its_values(
    tensor: dict[str, Any], words: str
) -> None:
    with pytest.raises(WrongInput) as caught:
        decode({"inputs": [{**X, **tensor}]})
    assert words in caught.value.message and "secret" not in caught.value.message
    assert caught.value.field and caught.value.expected and caught.value.got


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "an object with inputs"),
        ({}, "a list of tensors"),
        ({"inputs": []}, "a list of tensors"),
        ({"inputs": ["secret"]}, "inputs[0]"),
        ({"inputs": [{**X, "data": [1]}], "secret": 1}, "other fields"),
        ({"inputs": [{**X, "data": [1]}], "id": 7}, "id: expected a text"),
        ({"inputs": [{**X, "data": [1]}] * 2}, "one name twice"),
        ({"inputs": [{**X, "data": [1]}, {**X, "name": "y", "shape": [0], "data": []}]},
         "equal first dimension"),
        ({"inputs": [{**X, "data": [1]}], "outputs": "secret"}, "outputs"),
        ({"inputs": [{**X, "data": [1]}], "outputs": [{"secret": 1}]}, "outputs[0]"),
        ({"inputs": [{**X, "data": [1]}], "outputs": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({"inputs": [{**X, "data": [1]}], "outputs": [{"name": "a", "secret": 1}]}, "outputs[0]"),
        ({"inputs": [{**X, "data": [1]}],
          "outputs": [{"name": "a", "parameters": {"binary_data": "secret"}}]}, "true or false"),
        ({"inputs": [{**X, "data": [1]}],
          "outputs": [{"name": "a", "parameters": {"classification": 3}}]}, "classification"),
        ({"inputs": [{**X, "data": [1]}], "parameters": {"secret": 1}}, "none (this model"),
        ({"inputs": [{**X, "data": [1]}], "parameters": "secret"}, "parameters"),
        ({"inputs": [{**X, "data": [1]}], "parameters": {"timeout": "secret"}}, "microseconds"),
        ({"inputs": [{**X, "data": [1]}], "parameters": {"binary_data_output": "secret"}},
         "true or false"),
    ],
)  # fmt: skip
def test_mistakes_in_a_request_are_named_without_its_values(document: Any, words: str) -> None:
    with pytest.raises(WrongInput) as caught:
        decode(document)
    assert words in caught.value.message and "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("tensor", "size", "tail", "words"),
    [
        ({"shape": [1]}, 8, b"1234567", "at most the 7 bytes that follow, got 8"),
        ({"shape": [1]}, 8, b"123456789", "8 bytes behind the JSON part, got 9"),
        ({"shape": [2]}, 8, b"12345678", "16 bytes for its shape, got 8"),
        ({"shape": [2**40]}, 8, b"12345678", "bytes for its shape"),
        ({"shape": [1], "datatype": "BOOL"}, 1, b"\x02", "bytes of 0 or 1"),
        ({"shape": [2], "datatype": "BYTES"}, 4, b"\0\0\0\0", "at least 8 bytes"),
        ({"shape": [1], "datatype": "BYTES"}, 4, b"\xff\xff\xff\xff", "goes beyond them"),
        ({"shape": [1], "datatype": "BYTES"}, 6, b"\x01\0\0\0ab", "more bytes"),
        ({"shape": [2], "datatype": "BYTES"}, 8, b"\x03\0\0\0abcd", "goes beyond them"),
        ({"shape": [1], "datatype": "BYTES"}, 5, b"\x01\0\0\0\xff", "texts in UTF-8"),
        ({"shape": [2**50], "datatype": "BYTES"}, 4, b"\0\0\0\0", "at least"),
    ],
)  # fmt: skip
def test_sizes_are_held_against_the_bytes_that_are_there(
    tensor: dict[str, Any], size: int, tail: bytes, words: str
) -> None:
    with pytest.raises(WrongInput) as caught:
        decode({"inputs": [{**X, **tensor, "parameters": {"binary_data_size": size}}]}, tail)
    assert words in caught.value.message


@pytest.mark.parametrize("length", [-1, 3, 10**9])
def test_a_header_length_that_the_body_has_not_is_refused(length: int) -> None:
    with pytest.raises(WrongInput, match="Inference-Header-Content-Length"):
        codec().decode(b"{}", length)


def one_input(dtype: str, shape: tuple[int, ...]) -> Signature:
    return Signature((Field("x", "tensor", dtype=dtype, shape=shape),))


@given(tensors(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_body_of_values_alone_is_the_one_input(
    tensor: tuple[str, list[int], list[Any]], data: st.DataObject
) -> None:
    """Triton's raw binary request: a JSON part of 0 bytes."""
    datatype, shape, values = tensor
    if not values:
        return
    known = list(shape)
    open_one = data.draw(st.integers(-1, len(shape) - 1))
    if open_one >= 0:
        known[open_one] = -1
    if datatype == "BYTES":
        shape, known, values = [1, 1], [-1, 1], values[:1]
        if not values[0]:
            return
        body = values[0].encode()
    else:
        body = tables.v2_bytes(datatype, values)
    dtype = NUMPY.get(datatype, "str")
    request = codec(one_input(dtype, tuple(known))).decode(body, 0)
    assert request.query.tensors is not None
    expected, found = as_array(datatype, shape, values), request.query.tensors["x"]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert request.query.rows == shape[0] and request.binary_output and request.requested is None


def test_values_alone_are_one_row_where_more_than_rows_are_open() -> None:
    request = codec(one_input("float32", (-1, 2, -1))).decode(bytes(32), 0)
    assert request.query.tensors is not None
    assert request.query.tensors["x"].shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        (one_input("float32", (-1, 3)), 13, "body: expected a multiple of 12 bytes for its shape, got 13"),
        (one_input("float32", (2, 3)), 28, "body: expected 24 bytes for its shape, got 28"),
        (one_input("float32", (-1, -1, -1)), 4, "leaves more than one length open"),
        (one_input("float32", (-1, 0)), 4, "holds no value"),
        (one_input("float32", (-1, 3)), 0, "the values of one tensor, got nothing"),
        (one_input("str", (-1, 2)), 4, "more than one text"),
        (one_input("float32", (-1, 1)), 12, "at most 2 rows, got 3"),
        (Signature((Field("a", "double"), Field("b", "double"))), 16, "only a model of one input"),
        (Signature(), 16, "only a model of one input"),
    ],
)  # fmt: skip
def test_values_alone_that_are_no_tensor_of_the_input_are_refused_in_words(
    signature: Signature, body: int, words: str
) -> None:
    with pytest.raises(WrongInput) as caught:
        codec(signature, max_rows=2).decode(bytes(body), 0)
    assert words in caught.value.message


def test_limits_of_rows_and_depth_hold() -> None:
    with pytest.raises(WrongInput, match="at most 2 rows, got 3"):
        decode({"inputs": [{**X, "shape": [3], "data": [1, 2, 3]}]}, max_rows=2)
    deep = json.loads("[" * 40 + "]" * 40)
    with pytest.raises(WrongInput, match="at most 32 deep"):
        decode({"inputs": [{**X, "data": deep}]})
    assert decode({"inputs": [{**X, "shape": [1] * 20, "data": [1]}]}).query.rows == 1


def test_an_output_that_the_model_has_not_is_refused_before_it_is_called() -> None:
    request = decode({"inputs": [{**X, "data": [1]}], "outputs": [{"name": "secret"}]})
    with pytest.raises(WrongInput, match="some of a, b, got another name"):
        codec().check(request, {"a": 1, "b": 2})
    with pytest.raises(WrongInput, match="some of a, got another name"):
        codec().encode(answer(a=np.zeros(1)), request)
    codec().check(request, {})


# ---- answers -------------------------------------------------------------------------------------


def read(body: bytes, header: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """An answer as a client reads it: its document, and its tensors by name."""
    document = json.loads(body[:header])
    at = header or 0
    found = {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        dtype = NUMPY.get(output["datatype"], object)
        if size is None:
            flat = output["data"]
        elif output["datatype"] == "BYTES":
            flat, part, start = [], body[at : at + size], 0
            while start < size:
                length = int.from_bytes(part[start : start + 4], "little")
                flat.append(part[start + 4 : start + 4 + length].decode())
                start += 4 + length
        else:
            flat = np.frombuffer(body[at : at + size], dtype=dtype)
        at += size or 0
        array = np.empty(len(flat), dtype=dtype)
        array[:] = flat
        found[output["name"]] = array.reshape(output["shape"])
    assert header is None or at == len(body)
    return document, found


@given(st.lists(tensors(), min_size=1, max_size=3), st.integers(1, 3), st.data())
@settings(max_examples=150, deadline=None)
def test_outputs_of_every_datatype_come_back_as_the_model_gave_them(
    items: list[tuple[str, list[int], list[Any]]], rows: int, data: st.DataObject
) -> None:
    arrays, outputs = {}, []
    for number, (datatype, shape, _) in enumerate(items):
        shape = [rows, *shape[1:]]
        size = math.prod(shape)
        values = data.draw(st.lists(values_of(datatype), min_size=size, max_size=size))
        arrays[str(number)] = as_array(datatype, shape, values)
        wanted = datatype == "FP16" or data.draw(st.booleans())
        outputs.append({"name": str(number), "parameters": {"binary_data": wanted}})
    request = decode({"id": "7", "inputs": [{**X, "data": [1]}], "outputs": outputs})
    document, found = read(*codec().encode(answer(**arrays), request))
    assert document["model_name"] == "m" and document["model_version"] == "3"
    assert document["id"] == "7" and document["parameters"] == {"prediction_id": "pid"}
    for number, (datatype, _, _) in enumerate(items):
        name, expected = str(number), arrays[str(number)]
        if not outputs[number]["parameters"]["binary_data"] and datatype[:2] == "FP":
            expected = np.where(np.isfinite(expected), expected, np.nan)  # null in JSON
        assert document["outputs"][number]["datatype"] == datatype
        np.testing.assert_array_equal(found[name], expected)


def test_requested_outputs_come_alone_in_the_order_asked_for_and_of_these_rows() -> None:
    outputs = Outputs({"a": np.arange(6), "b": np.arange(12.0).reshape(6, 2)})
    request = decode({"inputs": [{**X, "data": [1]}], "outputs": [{"name": "b"}, {"name": "a"}]})
    body, header = codec().encode(Answer("pid", outputs, 2, 4, 0.0), request)
    document = json.loads(body)
    assert header is None and document["id"] == "pid" and "parameters" not in document
    assert document["outputs"] == [
        {"name": "b", "datatype": "FP64", "shape": [2, 2], "data": [4, 5, 6, 7]},
        {"name": "a", "datatype": "INT64", "shape": [2], "data": [2, 3]},
    ]


def test_tensors_without_named_outputs_are_all_bytes_if_asked_for() -> None:
    request = decode({"inputs": [{**X, "data": [1]}], "parameters": {"binary_data_output": True}})
    body, header = codec().encode(answer(a=np.array([math.nan, math.inf])), request)
    _, found = read(body, header)
    np.testing.assert_array_equal(found["a"], [math.nan, math.inf])


def test_half_floats_have_no_json() -> None:
    request = decode({"inputs": [{**X, "data": [1]}]})
    half = np.zeros(1, dtype="float16")
    with pytest.raises(WrongInput, match="binary_data: true, as FP16 has no JSON"):
        codec().encode(answer(a=half), request)
    with pytest.raises(WrongInput, match="binary_data: true, as FP16 has no JSON"):
        codec().check(request, {"a": half})


def test_other_types_come_as_texts() -> None:
    arrays = {
        "t": np.array(["2013-01-01T00:00"], dtype="datetime64[ns]"),
        "b": np.array([b"ab"], dtype=object),
        "m": np.array([None], dtype=object),
        "o": np.array([{"a": [1, "x"]}], dtype=object),
        "big": np.array([1.5], dtype=">f8"),
    }
    request = decode({"inputs": [{**X, "data": [1]}]})
    document, found = read(*codec().encode(answer(**arrays), request))
    assert {n: a.tolist() for n, a in found.items()} == {
        "t": ["2013-01-01T00:00:00"], "b": ["YWI="], "m": [None], "o": ['{"a":[1,"x"]}'],
        "big": [1.5],
    }  # fmt: skip
    assert [o["datatype"] for o in document["outputs"]] == ["BYTES"] * 4 + ["FP64"]
    _, found = read(*codec().encode(answer(**arrays), request._replace(binary_output=True)))
    assert {n: a.tolist() for n, a in found.items()} == {
        "t": ["2013-01-01T00:00:00"], "b": ["ab"], "m": [""], "o": ['{"a":[1,"x"]}'], "big": [1.5],
    }  # fmt: skip


# ---- metadata ------------------------------------------------------------------------------------


def test_metadata_name_every_input_and_output() -> None:
    signature = Signature(
        (
            Field("s", "string"),
            Field("i", "integer"),
            Field("t", "tensor", True, "float16", (-1, 2)),
        ),
        (Field("o", "double"),),
    )
    told = v2.metadata(signature, model="m", version="3", platform="p", outputs={})
    assert told == {
        "name": "m", "versions": ["3"], "platform": "p",
        "inputs": [{"name": "s", "datatype": "BYTES", "shape": [-1]},
                   {"name": "i", "datatype": "INT32", "shape": [-1]},
                   {"name": "t", "datatype": "FP16", "shape": [-1, 2]}],
        "outputs": [{"name": "o", "datatype": "FP64", "shape": [-1]}],
    }  # fmt: skip
    warm = {"p": np.zeros((3, 2), dtype="float32")}
    told = v2.metadata(signature, model="m", version="3", platform="p", outputs=warm)
    assert told["outputs"] == [{"name": "p", "datatype": "FP32", "shape": [-1, 2]}]


def test_the_server_tells_its_extensions() -> None:
    assert v2.server("1.2") == {
        "name": "treadle", "version": "1.2", "extensions": ["binary_tensor_data", "parameters"],
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": false}', b'{"repository_name": ""}'])
def test_the_repositorys_index_has_the_one_model(body: bytes) -> None:
    assert v2.index(body, model="m", version="3", ready=True) == [
        {"name": "m", "version": "3", "state": "READY", "reason": ""}
    ]
    (found,) = v2.index(body, model="m", version="3", ready=False)
    assert found["state"] == "UNAVAILABLE" and found["reason"]


def test_the_index_of_what_is_ready_may_be_empty() -> None:
    assert v2.index(b'{"ready": true}', model="m", version="3", ready=False) == []
    assert len(v2.index(b'{"ready": true}', model="m", version="3", ready=True)) == 1
    for body in (b"[]", b'{"ready": 1}', b'{"ready": null}', b"{", b'{"secret": 1}'):
        with pytest.raises(WrongInput):
            v2.index(body, model="m", version="3", ready=True)


def test_an_error_has_the_protocols_shape() -> None:
    assert v2.encode_error("ü") == '{"error":"ü"}'.encode()
