"""gRPC's messages: round trips of every type, raw and typed, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from treadle.operate.codec import binary, proto
from treadle.operate.limits import Limits
from treadle.operate.model import signature
from treadle.operate.model.signature import WrongInput
from treadle.operate.query import Answer, Outputs

CODEC = proto.Inference(
    signature.Signature((signature.Field("picture", "binary"),)),
    Limits(max_rows=1000),
    model="demo",
    version="7",
)
KINDS = sorted(binary.DTYPES)
FIELDS = dict(proto._CONTENTS)


def request(kind: str, array: Any, *, raw: bool, name: str = "x") -> Any:
    """What a client would send."""
    made = proto.message("ModelInferRequest")(model_name="demo", id="mine")
    tensor = made.inputs.add(name=name, datatype=kind, shape=array.shape)
    if raw:
        made.raw_input_contents.append(binary.encode(array))
    else:
        flat = binary.elements_of(array) if kind == "BYTES" else array.ravel().tolist()
        getattr(tensor.contents, FIELDS[kind]).extend(flat)
    return proto.parsed("ModelInferRequest", made.SerializeToString())


def answer(**outputs: Any) -> Answer:
    rows = len(next(iter(outputs.values())))
    return Answer("local.7.abc.ID", Outputs(outputs), 0, rows, 0.0)


def received(kind: str, response: Any) -> Any:
    """What a client reads from the first output."""
    output = response.outputs[0]
    assert output.datatype == kind
    if response.raw_output_contents:
        flat = binary.decode("x", kind, binary.size("x", list(output.shape)),
                             response.raw_output_contents[0])  # fmt: skip
    else:
        values = list(getattr(output.contents, FIELDS[kind]))
        flat = (
            binary.texts("x", values) if kind == "BYTES" else np.array(values, binary.DTYPES[kind])
        )
    return flat.reshape(list(output.shape))


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_come_back_as_they_went(kind: str, raw: bool) -> None:
    @given(arrays.arrays(binary.DTYPES[kind], arrays.array_shapes(max_dims=3, max_side=4)))
    def check(array: Any) -> None:
        decoded = CODEC.decode(request(kind, array, raw=raw))
        got = decoded.query.tensors["x"]
        assert got.dtype == array.dtype and got.shape == array.shape
        np.testing.assert_array_equal(got, array)
        response = CODEC.encode(answer(y=got), decoded)
        assert bool(response.raw_output_contents) is raw
        back = received(kind, response)
        np.testing.assert_array_equal(back, array)

    if kind == "FP16" and not raw:
        with pytest.raises(KeyError):  # there is no field for it
            request(kind, np.zeros(1, np.float16), raw=False)
    else:
        check()


@pytest.mark.parametrize("raw", [True, False])
@given(texts=st.lists(st.text(), min_size=1, max_size=5))
def test_texts_come_back_as_they_went(raw: bool, texts: list[str]) -> None:
    array = np.array(texts, dtype=object)
    decoded = CODEC.decode(request("BYTES", array, raw=raw))
    assert decoded.query.tensors["x"].tolist() == texts
    assert received("BYTES", CODEC.encode(answer(y=array), decoded)).tolist() == texts


@pytest.mark.parametrize("raw", [True, False])
def test_a_binary_column_keeps_bytes_that_are_no_text(raw: bool) -> None:
    array = np.array([b"\xff\x00", b""], dtype=object)
    decoded = CODEC.decode(request("BYTES", array, raw=raw, name="picture"))
    assert decoded.query.tensors["picture"].tolist() == [b"\xff\x00", b""]
    with pytest.raises(WrongInput, match="UTF-8"):
        CODEC.decode(request("BYTES", array, raw=raw))


def test_an_fp16_output_makes_the_whole_answer_raw() -> None:
    decoded = CODEC.decode(request("FP32", np.ones((2, 1), np.float32), raw=False))
    response = CODEC.encode(answer(a=np.ones(2), h=np.ones(2, np.float16)), decoded)
    assert [o.datatype for o in response.outputs] == ["FP64", "FP16"]
    assert len(response.raw_output_contents) == 2
    assert not any(output.HasField("contents") for output in response.outputs)


def test_requested_outputs_come_in_their_order_and_unknown_ones_are_refused() -> None:
    asked = request("FP32", np.ones(1, np.float32), raw=True)
    for name in ("b", "a"):
        asked.outputs.add(name=name)
    decoded = CODEC.decode(asked)
    response = CODEC.encode(answer(a=np.ones(1), c=np.ones(1), b=np.ones(1)), decoded)
    assert [output.name for output in response.outputs] == ["b", "a"]
    with pytest.raises(WrongInput, match="outputs: expected some of a, c"):
        CODEC.check(decoded, {"a": 1, "c": 1})


def test_who_answered_is_in_the_answer() -> None:
    asked = request("FP32", np.ones(1, np.float32), raw=True)
    response = CODEC.encode(answer(y=np.ones(1)), CODEC.decode(asked))
    assert (response.model_name, response.model_version, response.id) == ("demo", "7", "mine")
    told = {name: value.string_param for name, value in response.parameters.items()}
    assert told == {"prediction_id": "local.7.abc.ID", "model_version": "7"}
    asked.id = ""
    assert CODEC.encode(answer(y=np.ones(1)), CODEC.decode(asked)).id == "local.7.abc.ID"


def changed(**fields: Any) -> Any:
    """A right request of two numbers with some fields of its tensor changed."""
    made = request("FP32", np.ones((1, 2), np.float32), raw=fields.pop("raw", True))
    for name, value in fields.items():
        if name == "raws":
            made.raw_input_contents[:] = value
        elif name == "shape":
            made.inputs[0].shape[:] = value
        else:
            setattr(made.inputs[0], name, value)
    return made


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": []}, "inputs.0..shape: expected a list of lengths"),
        ({"shape": [-1, 2]}, "inputs.0..shape"),
        ({"shape": [1, 3]}, "expected 12 bytes for its shape, got 8"),
        ({"shape": [2**62, 2**62]}, "shape"),
        ({"shape": [10**9, 0], "raws": [b""]}, "at most 1000 rows"),
        ({"datatype": "FP99"}, "BYTES or one of"),
        ({"raws": [b"", b""]}, "1 of them, one an input, got 2"),
        ({"raw": False, "shape": [1, 3]}, "expected 3 values for its shape, got 2"),
        ({"raw": False, "datatype": "FP64"}, "expected FP64 in fp64_contents, got fp32_contents"),
        ({"raw": False, "datatype": "FP16"}, "expected FP16 in raw_input_contents"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongInput, match=words):
        CODEC.decode(changed(**fields))


def test_numbers_beyond_their_datatype_are_refused_not_wrapped() -> None:
    made = request("INT32", np.array([300, -5], np.int32), raw=False)
    made.inputs[0].datatype = "INT8"
    with pytest.raises(WrongInput, match="values of INT8, got a number beyond its range"):
        CODEC.decode(made)


def test_contents_beside_raw_contents_and_shared_memory_are_refused() -> None:
    both = changed()
    both.inputs[0].contents.fp32_contents.append(1)
    with pytest.raises(WrongInput, match="got both"):
        CODEC.decode(both)
    shared = changed()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "region"
    with pytest.raises(WrongInput, match="got shared memory"):
        CODEC.decode(shared)


def test_parameters_are_those_of_rest() -> None:
    made = changed()
    made.parameters["timeout"].int64_param = 1_500_000  # µs, as Triton's client sends it
    made.parameters["priority"].uint64_param = 1
    assert CODEC.decode(made).deadline_s == 1.5
    made.parameters["depth"].int64_param = 3
    with pytest.raises(WrongInput, match="this model takes no parameters"):
        CODEC.decode(made)
    deep = proto.Inference(
        signature.Signature(params=("depth", "fast")), Limits(), model="demo", version="7"
    )
    made.parameters["fast"].bool_param = True
    assert deep.decode(made).query.params == {"depth": 3, "fast": True}


def test_tensors_of_different_lengths_or_equal_names_are_refused() -> None:
    made = changed()
    made.inputs.add(name="z", datatype="INT8", shape=[2])
    made.raw_input_contents.append(b"ab")
    with pytest.raises(WrongInput, match="equal first dimension"):
        CODEC.decode(made)
    made.inputs[1].name = "x"
    with pytest.raises(WrongInput, match="one name twice"):
        CODEC.decode(made)
    with pytest.raises(WrongInput, match="one tensor or more"):
        CODEC.decode(proto.message("ModelInferRequest")())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_wrong_input(body: bytes) -> None:
    try:
        CODEC.decode(proto.parsed("ModelInferRequest", body))
    except WrongInput as wrong:
        assert wrong.message
