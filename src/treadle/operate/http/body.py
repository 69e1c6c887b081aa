"""A body whose length its head told, as it comes. The other kind is in `chunked`."""

from __future__ import annotations

from typing import Protocol


class Reader(Protocol):
    """Takes the pieces of one body."""

    body: bytearray | bytes
    """What came so far."""

    def feed(self, data: bytes) -> bytes | None:
        """Read on; what follows the body once it is complete, else None."""


class Measured:
    """A body of a known length; no more memory is taken than has come."""

    __slots__ = ("_need", "body")

    def __init__(self, length: int) -> None:
        self.body: bytearray | bytes = b""
        self._need = length

    def feed(self, data: bytes) -> bytes | None:
        """Read on; what follows the body once it is complete, else None."""
        need = self._need
        if len(data) < need:
            if isinstance(self.body, bytes):
                self.body = bytearray()
            self.body += data
            self._need = need - len(data)
            return None
        if self.body:
            self.body += data[:need]
        else:
            self.body = data[:need]
        return data[need:]


class Skipped:
    """A body that nobody wants, read so that the next request is found."""

    __slots__ = ("_need", "body")

    def __init__(self, length: int) -> None:
        self.body: bytearray | bytes = b""
        self._need = length

    def feed(self, data: bytes) -> bytes | None:
        """Read on; what follows the body once it is complete, else None."""
        need = self._need
        self._need = max(0, need - len(data))
        return data[need:] if len(data) >= need else None
