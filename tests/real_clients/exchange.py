"""What goes between a test and a client's program: JSON lines, and arrays exact to the bit.

A program stays for all tests that need it (importing a client takes seconds): it answers each line
of its standard input with one of its output. Both sides import this file.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
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


def answer(work: Callable[[dict[str, Any]], Any]) -> None:
    """A program's whole life: each line is what `work` gets, each answer what it gives."""
    output, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        try:
            told = {"told": work(json.loads(line))}
        except Exception:
            told = {"failed": traceback.format_exc()}
        print(json.dumps(told), file=output, flush=True)
