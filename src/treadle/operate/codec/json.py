"""JSON for both protocols: bytes in and out, with limits on what is believed.

In: bare `NaN`, `Infinity` and `-Infinity` (Python's clients write them) are taken as the floats.
Out: NaN and infinities become `null`, because JSON has no word for them; integers keep all digits.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import msgspec
import numpy as np

from treadle.operate.signature import WrongInput

_decoder = msgspec.json.Decoder()
_bare = re.compile(rb"NaN|Infinity")


def loads(body: bytes) -> Any:
    """The value of a JSON text. WrongInput names the position, never the text."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _bare.search(body):
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass
        where = re.search(r"byte (\d+)", str(error))
        raise WrongInput(
            "body", "a JSON document", f"a mistake at byte {where[1]}" if where else "another text"
        ) from None


def _other(value: Any) -> Any:
    """What JSON has no type for."""
    if isinstance(value, np.ndarray):
        return values(value)
    if isinstance(value, np.generic):
        return values(value.reshape(1))[0]
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(type(value).__name__)


_encoder = msgspec.json.Encoder(enc_hook=_other)


def dumps(value: Any) -> bytes:
    """The JSON text of a plain value; arrays, bytes (base64) and times (ISO 8601) as well."""
    return _encoder.encode(value)


def values(array: np.ndarray[Any, Any]) -> list[Any]:
    """An array as (nested) lists for JSON; msgspec writes NaN and infinities as null."""
    if array.dtype.kind == "M":
        return [None if text == "NaT" else text
                for text in np.datetime_as_string(array.ravel()).tolist()]  # fmt: skip
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        # The shortest text that gives back the same float32, not the 17 digits of its double.
        flat = [None if not np.isfinite(v) else float(str(v)) for v in array.ravel()]
        return _shaped(flat, array.shape)
    listed: list[Any] = array.tolist()
    return listed


def _shaped(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) <= 1:
        return flat
    step = len(flat) // shape[0] if shape[0] else 0
    return [_shaped(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]
