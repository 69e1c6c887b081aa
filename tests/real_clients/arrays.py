"""Arrays between a test and a client's program, exact to the bit: dtype, shape and bytes in hex."""

from __future__ import annotations

from typing import Any

import numpy as np


def packed(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    if array.dtype.kind in "OSU":
        flat = [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()]
        return {"dtype": "text", "shape": list(array.shape), "values": flat}
    return {"dtype": str(array.dtype), "shape": list(array.shape), "hex": array.tobytes().hex()}


def unpacked(given: dict[str, Any]) -> Any:
    if given["dtype"] == "text":
        array = np.empty(len(given["values"]), dtype=object)
        array[:] = [value.encode() for value in given["values"]]
    else:
        array = np.frombuffer(bytes.fromhex(given["hex"]), dtype=given["dtype"])
    return array.reshape(given["shape"])
