"""What two versions of a model answer to the same input example, when one takes over from the other.

A version that is ready tells its supervisor its example and its answer; the next one is handed both,
answers the old example and says how far it is off. That is news for a person, never a verdict:
a new model is meant to answer differently, and gates have judged it before. Standard library only.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 1 << 20
"""Of an example with its answer; a larger one is not compared."""
Values = Mapping[str, Sequence[Any]]
"""Output → one value (or list of values) for each row, as JSON has them."""


@dataclass(frozen=True)
class Comparison:
    """How two versions answered the same example."""

    rows: int
    worst: float | None
    """Largest absolute difference of two numbers; None where none could be compared."""
    words: str
    """`3 rows, worst difference 0.25 in probability`."""


def pack(body: bytes, answer: Values) -> dict[str, Any] | None:
    """An example and its answer as plain values; None if they are too large to be kept."""
    try:
        packed = {"body": body.decode("utf-8"), "answer": {k: list(v) for k, v in answer.items()}}
        return packed if len(json.dumps(packed)) <= MOST_BYTES else None
    except (UnicodeDecodeError, TypeError, ValueError):
        return None  # no JSON, or values that JSON has no word for


def hand_over(packed: Mapping[str, Any]) -> int:
    """A descriptor to be given to the next version; nothing is left behind on disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("treadle-example")
    else:
        with tempfile.TemporaryFile(buffering=0) as file:
            descriptor = os.dup(file.fileno())
    with open(descriptor, "wb", closefd=False) as file:
        file.write(json.dumps(packed).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def take_over(descriptor: int, predict: Callable[[bytes], Values]) -> str:
    """Answer the old version's example with the new one and say how they differ. Never raises."""
    try:
        with open(descriptor, "rb") as file:
            before = json.loads(file.read())
        after = predict(before["body"].encode())
    except Exception as error:
        # The class alone: a library's message may hold rows of the example.
        said = getattr(error, "message", None) or type(error).__name__
        return f"cannot be compared with the version before: {said}"
    return compare_examples(before["answer"], after).words


def compare_examples(before: Values, after: Values) -> Comparison:
    """Compare what two versions answered to the same rows, number by number."""
    shared = [name for name in before if name in after]
    if not shared and len(before) == len(after) == 1:
        (old,), (new,) = before.values(), after.values()  # one output each: only its name changed
        pairs = [(next(iter(after)), old, new)]
    else:
        pairs = [(name, before[name], after[name]) for name in shared]
    if not pairs:
        return _cannot(f"outputs {_names(before)} became {_names(after)}")
    rows, worst, where, changed, other = len(pairs[0][1]), None, "", 0, False
    for name, old, new in pairs:
        if len(old) != len(new):
            return _cannot(f"{name} had {len(old)} rows and has {len(new)}")
        for one, two in zip(old, new, strict=True):
            left, right = list(_flat(one)), list(_flat(two))
            if len(left) != len(right):
                return _cannot(f"a row of {name} had {len(left)} values and has {len(right)}")
            differs = False
            for a, b in zip(left, right, strict=True):
                off = _distance(a, b)
                if off is None:
                    other = True
                    differs = differs or a != b
                elif worst is None or off > worst:
                    worst, where = off, name
            changed += differs
    words = [f"{rows} rows"]
    if worst is not None:
        words.append(f"worst difference {worst:g} in {where or 'the output'}")
    if other:
        words.append(f"{changed} other answers differ")
    only = sorted(set(before) ^ set(after)) if shared else []
    if only:
        words.append(f"{', '.join(only)} in one of them only")
    return Comparison(rows, worst, ", ".join(words))


def _cannot(why: str) -> Comparison:
    return Comparison(0, None, f"cannot be compared with the version before: {why}")


def _names(values: Values) -> str:
    return ", ".join(values) or "none"


def _flat(value: Any) -> Any:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _distance(a: Any, b: Any) -> float | None:
    """|a - b|; None where they are not both numbers. Two that are the same are 0 apart, NaN too."""
    if isinstance(a, bool) or isinstance(b, bool):
        return None
    if not (isinstance(a, int | float) and isinstance(b, int | float)):
        return None
    if a == b or (a != a and b != b):  # noqa: PLR0124 - NaN differs from itself
        return 0.0
    try:
        off = abs(float(a) - float(b))
    except OverflowError:
        return math.inf
    return math.inf if math.isnan(off) else off
