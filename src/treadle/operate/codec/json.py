"""JSON for all protocols: bytes in and out, with limits on what is believed.

In: bare `NaN`, `Infinity` and `-Infinity` (Python's clients write them) are taken as the floats.
Out: NaN and infinities become `null`, because JSON has no word for them; integers keep all digits,
float32 has the shortest text that gives it back, times are ISO 8601, bytes are base64.
"""

from __future__ import annotations

import base64
import json
import re
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from treadle.operate.model.signature import WrongInput

Array = np.ndarray[Any, Any]

BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder of msgspec raises; its words hold no values, but we tell our own."""
MAX_DEPTH = 32
_decoder = msgspec.json.Decoder()
_bare = re.compile(rb"NaN|Infinity")
_byte = re.compile(r"byte (\d+)")
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_FEW = 64
"""Up to so many values, texts one by one are quicker than vectors."""


def loads(body: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text. WrongInput names the position, never the text."""
    check_depth(body, max_depth)
    try:
        return _decoder.decode(body)
    except BROKEN as error:
        if _bare.search(body):
            found = _with_bare_numbers(body)
            if found is not None:
                return found[0]
        raise _mistake(error) from None


def _with_bare_numbers(body: bytes) -> tuple[Any] | None:
    try:
        value = json.loads(body)
        if b"\\u" in body:
            _encoder.encode(value)  # half a surrogate pair is no Unicode: refused here as well
    except (ValueError, RecursionError):
        return None
    return (value,)


def _mistake(error: Exception) -> WrongInput:
    text = str(error)
    where = _byte.search(text)
    if isinstance(error, msgspec.ValidationError) and "out of range" in text:
        got = "a number beyond the range of floats"
    elif isinstance(error, UnicodeDecodeError):
        got = "a text that is no UTF-8"
    elif where:
        got = f"a mistake at byte {where[1]}"
    else:
        got = "a text that ends too early" if "truncated" in text else "another text"
    return WrongInput("body", "a JSON document", got)


def check_depth(body: bytes, most: int) -> None:
    """WrongInput where arrays and objects are nested deeper, before anything recursive reads it.

    What lies outside of texts is reduced to its brackets; each turn takes the innermost pairs away.
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return
    rest = _brackets(body)
    for _ in range(most):
        if not rest:
            return
        shorter = rest.replace(b"[]", b"")
        if shorter == rest:
            return  # no JSON: the decoder finds the place
        rest = shorter
    if rest:
        raise WrongInput("body", f"JSON nested at most {most} deep", "deeper nesting")


def containers(body: bytes, most: int) -> int:
    """How many arrays and objects a JSON text holds; exact only where they seem to be too many."""
    found = body.count(b"[") + body.count(b"{")
    if found <= most:
        return found
    return _brackets(body).count(b"[")


def _brackets(body: bytes) -> bytes:
    if b"\\" in body:
        body = _STRINGS.sub(b"", body)
    rest = body.translate(_SQUARE, _ALL_BUT_BRACKETS).replace(b'""', b"")
    return _STRINGS.sub(b"", rest) if b'"' in rest else rest


def _other(value: Any) -> Any:
    """What JSON has no type for."""
    if isinstance(value, np.ndarray):
        return values(value)
    if isinstance(value, np.generic):
        return values(value.reshape(1))[0]
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(type(value).__name__)


_encoder = msgspec.json.Encoder(enc_hook=_other)
dumps = _encoder.encode
"""The JSON text of a plain value; arrays, bytes (base64) and times (ISO 8601) as well."""


def values(array: Array) -> list[Any]:
    """An array as (nested) lists for JSON; msgspec writes NaN and infinities as null."""
    kind = array.dtype.kind
    if kind == "f":
        size = array.dtype.itemsize
        if size > 8:
            array = array.astype(np.float64)
        elif size < 8:
            return _shaped(_shortest(array.ravel()), array.shape)
    elif kind == "M":
        return _shaped([None if text == "NaT" else _time(text)
                        for text in np.datetime_as_string(array.ravel()).tolist()],
                       array.shape)  # fmt: skip
    elif kind == "m":
        array = array.astype("timedelta64[us]")
    elif kind == "O":
        return _shaped([None if _is_nat(value) else value for value in array.ravel().tolist()],
                       array.shape)  # fmt: skip
    listed: list[Any] = array.tolist()
    return listed


def flat(array: Array) -> list[Any]:
    """The same, flat and row-major."""
    return values(array.ravel())


def flatten(nested: list[Any], dimensions: int) -> list[Any]:
    """Nested lists of so many dimensions as one list, row-major."""
    for _ in range(dimensions - 1):
        nested = list(chain.from_iterable(nested))
    return nested


def _is_nat(value: Any) -> bool:
    return type(value).__name__ in ("NaTType", "NAType")


def _time(text: str) -> str:
    """An ISO 8601 text without the zeros at the end of its fraction."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def _shortest(numbers: Array) -> list[Any]:
    """Doubles whose shortest texts give back the float32 (float16): 0.1, not 0.10000000149011612.

    Rounded to 6 digits (float16: 3), then to more where that does not give the number back (9 always do). The
    scaled number, its rounding and the division by an exact power of ten err at most in the last
    step, where the nearest double is what we want; beyond 1e±22, texts do it.
    """
    if len(numbers) <= _FEW:
        return [float(str(number)) for number in numbers]
    with np.errstate(all="ignore"):
        wide = numbers.astype(np.float64)
        magnitude = np.floor(np.log10(np.abs(wide)))
        simple = np.isfinite(magnitude) & (np.abs(magnitude) <= 12)
        found = np.where(np.isfinite(wide), 0.0, wide)
        found[wide == 0] = wide[wide == 0]
        left = np.flatnonzero(simple)
        for digits in range(6 if numbers.dtype.itemsize == 4 else 3, 10):
            if not len(left):
                break
            number = wide[left]
            places = digits - 1 - magnitude[left]
            up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
            rounded = np.rint(number * up / down) / up * down
            found[left] = rounded
            left = left[rounded.astype(numbers.dtype) != numbers[left]]
    for at in (*left, *np.flatnonzero(~simple & np.isfinite(wide) & (wide != 0))):
        found[at] = float(str(numbers[at]))
    listed: list[Any] = found.tolist()
    return listed


def _shaped(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) <= 1:
        return flat
    step = len(flat) // shape[0] if shape[0] else 0
    return [_shaped(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]
