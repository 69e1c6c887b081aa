"""Fuzz the decoder of Open Inference requests, binary tensors included, with atheris.

`python tests/fuzz/binary_decoder.py [-runs=100000] [-max_total_time=60] [CORPUS]` (libFuzzer's
options); without atheris it says so and ends with 0. Whatever the bytes: a query whose arrays have
the shape they say and together are not larger than a body can make them, or WrongInput.
"""

from __future__ import annotations

import json
import sys

try:
    import atheris
except ImportError:
    print("atheris is not installed: nothing was fuzzed")
    sys.exit(0)

with atheris.instrument_imports(include=["treadle.operate.codec"]):
    from treadle.operate.codec import v2

from treadle.operate.limits import Limits
from treadle.operate.signature import Field, Signature, WrongInput

CODECS = [
    v2.Inference(signature, Limits(max_rows=1000), model="m", version="1")
    for signature in (
        Signature(),
        Signature((Field("a", "binary"), Field("b", "double")), params=("p",)),
        Signature((Field("a", "tensor", True, "float32", (-1, 2)),)),
    )
]
SEEDS = [
    {"inputs": [{"name": "a", "shape": [1, 2], "datatype": "FP32",
                 "parameters": {"binary_data_size": 8}}]},
    {"id": "7", "inputs": [{"name": "a", "shape": [2], "datatype": "BYTES",
                            "parameters": {"binary_data_size": 10}}],
     "outputs": [{"name": "o", "parameters": {"binary_data": True}}]},
    {"inputs": [{"name": "b", "shape": [1], "datatype": "FP64", "data": [1.5]}],
     "parameters": {"binary_data_output": True}},
]  # fmt: skip


def once(data: bytes) -> None:
    """Decode one input: a byte that chooses, two of header length, the body."""
    if len(data) < 3:
        return
    codec = CODECS[data[0] % len(CODECS)]
    length = int.from_bytes(data[1:3], "little")
    body = data[3:]
    for header in (None, length, length % (len(body) + 1)):
        try:
            request = codec.decode(body, header)
        except WrongInput as wrong:
            assert wrong.field and wrong.expected and wrong.got
            continue
        tensors = request.query.tensors or {}
        assert all(array.shape[0] == request.query.rows for array in tensors.values())
        # An element takes a byte of the body at least, and 8 in memory at most.
        assert sum(array.nbytes for array in tensors.values()) <= 8 * len(body)


def seeds() -> list[bytes]:
    """Well-formed requests to begin with."""
    found = []
    for number, document in enumerate(SEEDS):
        head = json.dumps(document).encode()
        tail = bytes(8) if number == 0 else b"\x01\0\0\0a\x01\0\0\0b" if number == 1 else b""
        found.append(bytes([number]) + len(head).to_bytes(2, "little") + head + tail)
    return found


if __name__ == "__main__":
    for seed in seeds():
        once(seed)
    bounded = any(argument.startswith(("-runs", "-max_total_time")) for argument in sys.argv)
    atheris.Setup(sys.argv if bounded else [*sys.argv, "-max_total_time=60"], once)
    atheris.Fuzz()
