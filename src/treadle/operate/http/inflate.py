"""A gzip body, decompressed (RFC 1952) without ever taking more memory than a body may have."""

from __future__ import annotations

import zlib
from typing import Final

QUICK_BYTES: Final = 1 << 20
"""So much is decompressed where it is asked for (1–3 ms); more is work for a thread."""
_MEMBERS: Final = 100
"""A file may be several gzip files in a row; nobody needs more of them in a request."""
_GZIP: Final = 31
"""zlib's window bits for a gzip header and the largest window."""


class NotGzip(Exception):
    """The bytes are no gzip file, or not all of one."""


class TooLarge(Exception):
    """Decompressed it would be longer than allowed."""


def gunzip(body: bytes, most: int) -> bytes:
    """The decompressed body, at most `most` bytes; never more than `most + 1` are made.

    Raises:
        NotGzip: it is broken or cut off.
        TooLarge: it is longer.
    """
    whole = b""
    for _ in range(_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        try:
            part = member.decompress(body, most + 1 - len(whole))
        except zlib.error:
            raise NotGzip from None
        whole = whole + part if whole else part
        if len(whole) > most:
            raise TooLarge
        if not member.eof:
            raise NotGzip
        body = member.unused_data
        if not body:
            return whole
    raise NotGzip
