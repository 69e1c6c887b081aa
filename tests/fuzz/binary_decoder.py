"""Fuzz the decoder of Open Inference requests, binary tensors included, with atheris.

`python tests/fuzz/binary_decoder.py [-runs=100000] [-max_total_time=60] [CORPUS]` (libFuzzer's
options); without atheris it says so and ends with 0. Whatever the bytes: a query whose arrays have
the shape they say and together are not larger than a body can make them, or WrongInput.
"""

from __future__ import annotations

import json
import sys
from typing import Any

try:
    import atheris
except ImportError:
    print("atheris is not installed: nothing was fuzzed")
    sys.exit(0)

with atheris.instrument_imports(include=["treadle.operate.codec"]):
    from treadle.operate.codec import v2

from treadle.operate.limits import Limits
from treadle.operate.model.signature import Field, Signature, WrongInput

CODECS = [
    v2.Inference(signature, Limits(max_rows=1000), model="m", version="1")
    for signature in (
        Signature(),
        Signature((Field("a", "binary"), Field("b", "double")), params=("p",)),
        Signature((Field("a", "tensor", True, "float32", (-1, 2)),)),
    )
]
KINDS = [*v2.binary.DTYPES, "BYTES", "NONE"]


def once(data: bytes) -> None:
    """Decode one input: as it is, and as the tensors of a document that says what they are."""
    source = atheris.FuzzedDataProvider(data)
    codec = CODECS[source.ConsumeIntInRange(0, len(CODECS) - 1)]
    if source.ConsumeBool():
        header, body = source.ConsumeInt(2), source.ConsumeBytes(1 << 16)
        for length in (None, header, header % (len(body) + 1)):
            decode(codec, body, length)
        return
    head = json.dumps(document(source)).encode()
    off = source.PickValueInList([0, 0, 0, 0, 0, 0, -1, 1])
    body = head + source.ConsumeBytes(1 << 16)
    decode(codec, body, len(head) + off)


def document(source: atheris.FuzzedDataProvider) -> dict[str, Any]:
    """A request with tensors of any datatype, shape and size."""
    inputs = []
    for number in range(source.ConsumeIntInRange(1, 3)):
        shape = source.ConsumeIntListInRange(source.ConsumeIntInRange(0, 4), -1, 5)
        if source.ConsumeIntInRange(0, 15) == 0:
            shape.append(source.ConsumeInt(9))
        item: dict[str, Any] = {
            "name": source.PickValueInList(["a", "b", str(number)]),
            "shape": shape, "datatype": source.PickValueInList(KINDS),
        }  # fmt: skip
        if source.ConsumeIntInRange(0, 7):
            item["parameters"] = {"binary_data_size": source.ConsumeIntInRange(-1, 40)}
        else:
            item["data"] = source.ConsumeIntListInRange(4, -1, 1)
        inputs.append(item)
    return {"inputs": inputs}


def decode(codec: v2.Inference, body: bytes, length: int | None) -> None:
    """A query, or wrong input; anything else is found."""
    try:
        request = codec.decode(body, length)
    except WrongInput as wrong:
        assert wrong.field and wrong.expected and wrong.got
        return
    tensors = request.query.tensors or {}
    assert all(array.shape[0] == request.query.rows for array in tensors.values())
    # An element takes a byte of the body at least, and 8 in memory at most.
    assert sum(array.nbytes for array in tensors.values()) <= 8 * len(body)


if __name__ == "__main__":
    bounded = any(argument.startswith(("-runs", "-max_total_time")) for argument in sys.argv)
    atheris.Setup(sys.argv if bounded else [*sys.argv, "-max_total_time=60"], once)
    atheris.Fuzz()
