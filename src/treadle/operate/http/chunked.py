"""A body that comes in chunks (RFC 9112, section 7.1), read strictly.

    5;name=value CRLF  hello CRLF  0 CRLF  trailer: x CRLF  CRLF

Chunk extensions and trailers mean nothing to us: they are held to their form, bounded and dropped.
"""

from __future__ import annotations

import re
from typing import Final

from treadle.operate.http.head import Refused

_MOST_LINE: Final = 4096
"""Bytes of a chunk's first line, or of one trailer."""
_MOST_ASIDE: Final = 16 << 10
"""Bytes of all extensions and trailers of one body."""
_HEX = b"0123456789ABCDEFabcdef"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SIZE = re.compile(
    rb"([0-9A-Fa-f]+)"
    rb"((?:[ \t]*;[ \t]*"
    + _TOKEN
    + rb"(?:[ \t]*=[ \t]*(?:"
    + _TOKEN
    + rb'|"[^"\x00-\x08\x0a-\x1f\x7f]*"))?)*)'
)
_TRAILER = re.compile(rb"(" + _TOKEN + rb"):[\t\x20-\x7e\x80-\xff]*")
_NOT_BEHIND = (b"content-length", b"transfer-encoding", b"host")
"""What says how a request is to be read has to stand before it (RFC 9110, 6.5.1)."""


class TooLarge(Exception):
    """The chunks together are longer than a body may be."""


class Chunks:
    """The chunks of one body, as they come."""

    __slots__ = ("_aside", "_line", "_most", "_need", "_state", "body")

    def __init__(self, most: int) -> None:
        self.body: bytearray | bytes = bytearray()
        """What the chunks held so far; one growing piece, however small the chunks are."""
        self._most = most
        self._need = 0
        """Bytes of the present chunk that are not here yet."""
        self._line = b""
        """The beginning of a line whose end is not here yet."""
        self._aside = 0
        self._state = self._size

    def feed(self, data: bytes) -> bytes | None:
        """Read on; what follows the body once it is complete, else None.

        Raises:
            Refused: it is not chunked as it should be.
            TooLarge: it is longer than allowed.
        """
        position: int | None = 0
        while position is not None and position < len(data):
            if self._need:
                piece = data[position : position + self._need]
                self.body += piece
                self._need -= len(piece)
                position += len(piece)
                continue
            found = data.find(b"\n", position)
            if found < 0:
                self._line += data[position:]
                if len(self._line) > _MOST_LINE:
                    raise Refused(400, "a line between the chunks is too long")
                if b"\r" in self._line[:-1]:
                    raise Refused(400, "a line between the chunks does not end with CRLF")
                if self._state == self._end and self._line != b"\r":
                    raise Refused(400, "a chunk is longer than its size")
                if self._state == self._size and self._line[0] not in _HEX:
                    raise Refused(400, "a chunk does not begin with its size")
                return None
            line = self._line + data[position : found + 1]
            self._line = b""
            position = found + 1
            if len(line) > _MOST_LINE:
                raise Refused(400, "a line between the chunks is too long")
            if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
                raise Refused(400, "a line between the chunks does not end with CRLF")
            if self._state(line[:-2]):
                return data[position:]
        return None

    def _size(self, line: bytes) -> bool:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise Refused(400, "a chunk does not begin with its size")
        self._set_aside(len(found[2]))
        size = int(found[1], 16)
        if len(self.body) + size > self._most:
            raise TooLarge
        self._need = size
        self._state = self._end if size else self._trailer
        return False

    def _end(self, line: bytes) -> bool:
        if line:
            raise Refused(400, "a chunk is longer than its size")
        self._state = self._size
        return False

    def _trailer(self, line: bytes) -> bool:
        if not line:
            return True
        found = _TRAILER.fullmatch(line)
        if found is None or found[1].lower() in _NOT_BEHIND:
            raise Refused(400, "a trailer is not a header")
        self._set_aside(len(line))
        return False

    def _set_aside(self, size: int) -> None:
        self._aside += size
        if self._aside > _MOST_ASIDE:
            raise Refused(400, "too much stands beside the chunks")
