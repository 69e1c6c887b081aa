"""Captured segments as one stream of bytes: how a container hands them to who collects them.

For each segment a line of JSON (`{"name", "size", "digest"}`) and its bytes; at the end a line with
`"end"`, so that a stream that was cut off is no shorter stream:

    segments  how many were sent
    writing   how many are still being written: the next time has them
    ended     whether the server has ended, so that nothing more will come
    full      requests that were not kept because there was no room for them

What comes out of a container is not trusted: a name is only a name of a segment, a size is what
follows, and the bytes are what the digest says (the reader of the stream compares it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from treadle.base.errors import StateCorrupt, Unreachable

_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[A-Za-z0-9_-]{1,128}-\d{6,12}\.msgpack")
_LINE = 1024


@dataclass(frozen=True)
class Sent:
    """A segment; its bytes follow."""

    name: str
    size: int
    digest: str
    """`sha256:…` of its bytes."""


@dataclass(frozen=True)
class End:
    """The end of a stream."""

    segments: int
    writing: int = 0
    ended: bool = False
    full: int = 0


def line(one: Sent | End) -> bytes:
    """What stands before a segment's bytes, or at the end."""
    told = asdict(one) if isinstance(one, Sent) else {"end": asdict(one)}
    return json.dumps(told).encode() + b"\n"


def read(pieces: Iterable[bytes]) -> Iterator[Sent | bytes | End]:
    """Each segment, then its bytes in pieces; the end last.

    Unreachable: the stream ends too early. StateCorrupt: it is not such a stream.
    """
    source = iter(pieces)
    held = b""
    left = 0
    while True:
        if left:
            if not held:
                held = _next(source)
            piece, held = held[:left], held[left:]
            left -= len(piece)
            if piece:
                yield piece
            continue
        while b"\n" not in held:
            if len(held) > _LINE:
                raise _strange(held)
            held += _next(source)
        text, _, held = held.partition(b"\n")
        one = _parse(text)
        yield one
        if isinstance(one, End):
            if held or any(source):
                raise StateCorrupt("captured requests: something comes after the stream's end")
            return
        left = one.size


def _next(source: Iterator[bytes]) -> bytes:
    try:
        return next(source)
    except StopIteration:
        raise Unreachable("captured requests: the stream was cut off; nothing is lost") from None


def _parse(text: bytes) -> Sent | End:
    try:
        told: Any = json.loads(text)
        end = told.get("end")
        found: Sent | End = Sent(**told) if end is None else End(**end)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise _strange(text) from None
    numbers = (
        (found.size,) if isinstance(found, Sent) else (found.segments, found.writing, found.full)
    )
    if any(type(number) is not int or number < 0 for number in numbers):
        raise _strange(text)
    if isinstance(found, Sent):
        texts = isinstance(found.name, str) and isinstance(found.digest, str)
        if not texts or _NAME.fullmatch(found.name) is None:
            raise _strange(text)
    return found


def _strange(text: bytes) -> StateCorrupt:
    return StateCorrupt(
        f"captured requests: {text[:80]!r} is not what a model server sends",
        hint="is the image of another version of Treadle? treadle up builds it anew",
    )
