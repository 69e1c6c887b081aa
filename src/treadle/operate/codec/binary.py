"""Tensors as bytes: the binary tensor extension of Open Inference, and its datatypes.

Triton's document "Binary Tensor Data Extension" says how: little-endian, row-major, without gaps;
BOOL is a byte of 0 or 1; an element of BYTES is its length in 4 bytes and then itself. Every size is
checked against the bytes that are there before anything is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from treadle.operate.codec import json
from treadle.operate.codec.nested import MOST_DIMENSIONS
from treadle.operate.model.signature import WrongInput

Array = np.ndarray[Any, Any]
Buffer = bytes | memoryview

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1",
        "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4",
        "FP64": "<f8",
    }.items()
}  # fmt: skip
"""Datatype → numpy's; BYTES are objects."""
_NAMES = {(kind.kind, kind.itemsize): name for name, kind in DTYPES.items()}
_MOST_VALUES = 1 << 62


def name_of(dtype: np.dtype[Any]) -> str:
    """The datatype that an array of this dtype is sent as; whatever is no number is BYTES."""
    if dtype.kind == "f" and dtype.itemsize > 8:
        return "FP64"
    return _NAMES.get((dtype.kind, dtype.itemsize), "BYTES")


def size(where: str, shape: Sequence[Any]) -> int:
    """How many values a shape holds. WrongInput where it is none that an array can have."""
    if not shape or any(type(length) is not int or length < 0 for length in shape):
        raise WrongInput(f"{where}.shape", "a list of lengths", "something else")
    if len(shape) > MOST_DIMENSIONS:
        raise WrongInput(f"{where}.shape", f"at most {MOST_DIMENSIONS} dimensions", f"{len(shape)}")
    product, bound = 1, 1
    for length in shape:
        product *= length  # Python's integers: no overflow, and nothing is allocated by the shape
        bound *= length or 1
    if bound > _MOST_VALUES:
        raise WrongInput(f"{where}.shape", "a shape that memory can hold", "a larger one")
    return product


def deduced(where: str, kind: str, shape: Sequence[int], length: int) -> list[int]:
    """The shape of a tensor of `length` bytes, where `shape` leaves one length open (-1). WrongInput.

    As in Triton a value of BYTES is alone, and where more than rows are open, it is one row.
    """
    found = list(shape)
    if kind == "BYTES":
        if any(known not in (-1, 1) for known in found):
            raise WrongInput(where, "JSON, as its input is more than one text", "bytes alone")
        return [1] * len(found)
    if found.count(-1) > 1 and found[0] == -1:
        found[0] = 1
    if found.count(-1) > 1:
        raise WrongInput(
            where, "JSON, as its input leaves more than one length open", "bytes alone"
        )
    unit = math.prod(known for known in found if known != -1) * DTYPES[kind].itemsize
    if -1 not in found:
        return found
    if not unit:
        raise WrongInput(where, "JSON, as its input holds no value", "bytes alone")
    if length % unit:
        raise WrongInput(where, f"a multiple of {unit} bytes for its shape", f"{length}")
    found[found.index(-1)] = length // unit
    return found


def decode(where: str, kind: str, count: int, data: Buffer, *, raw: bool = False) -> Array:
    """A flat array of `count` values of a datatype. WrongInput.

    Numbers are a view of `data` (read-only) where that lies well in memory. Elements of BYTES are
    texts, or bytes where `raw`.
    """
    if kind == "BYTES":
        return _elements(where, count, memoryview(data), raw=raw)
    dtype = DTYPES[kind]
    if len(data) != count * dtype.itemsize:
        raise WrongInput(where, f"{count * dtype.itemsize} bytes for its shape", f"{len(data)}")
    if kind == "BOOL":
        flags = np.frombuffer(data, dtype=np.uint8)
        if count and int(flags.max()) > 1:
            raise WrongInput(where, "bytes of 0 or 1 for BOOL", "another byte")
        return flags.view(np.bool_)
    array = np.frombuffer(data, dtype=dtype)
    return array if array.flags.aligned else array.copy()


def _elements(where: str, count: int, data: memoryview, *, raw: bool) -> Array:
    total = len(data)
    if count * 4 > total:
        raise WrongInput(where, f"at least {count * 4} bytes for its shape", f"{total}")
    elements: list[bytes] = []
    at = 0
    for _ in range(count):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if start > total or at > total:
            raise WrongInput(where, "elements within its bytes", "a length that goes beyond them")
        elements.append(bytes(data[start:at]))
    if at != total:
        raise WrongInput(where, f"{count} elements for its shape", "more bytes")
    return texts(where, elements, raw=raw)


def texts(where: str, elements: Sequence[bytes], *, raw: bool = False) -> Array:
    """Elements of BYTES as an array of objects: texts, or bytes where `raw`. WrongInput."""
    array = np.empty(len(elements), dtype=object)
    if raw:
        array[:] = elements
        return array
    try:
        array[:] = [str(element, "utf-8") for element in elements]
    except UnicodeDecodeError:
        raise WrongInput(where, "texts in UTF-8", "other bytes") from None
    return array


def encode(array: Array) -> bytes:
    """An array of any type as bytes; values that are no numbers as elements of BYTES."""
    kind = name_of(array.dtype)
    if kind != "BYTES":
        return np.ascontiguousarray(array, dtype=DTYPES[kind]).tobytes()
    parts: list[bytes] = []
    for element in elements_of(array):
        parts.append(len(element).to_bytes(4, "little"))
        parts.append(element)
    return b"".join(parts)


def elements_of(array: Array) -> Iterable[bytes]:
    """The elements of an array that is sent as BYTES: bytes as they are, a missing one empty."""
    for value in array.ravel().tolist() if array.dtype.kind in "OS" else json.flat(array):
        if isinstance(value, bytes):
            yield value
        else:
            yield as_text(value).encode("utf-8")


def as_text(value: Any) -> str:
    """A value of BYTES as a text: JSON where it is none."""
    if isinstance(value, str):
        return value
    text = json.dumps(value).decode()
    if text == "null":
        return ""
    return text[1:-1] if text[0] == '"' and "\\" not in text else text
