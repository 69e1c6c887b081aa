"""Answers as bytes: status line, date, content type, length, what the service adds, body."""

from __future__ import annotations

import http
import time
from typing import Final

from treadle.operate.http.head import BODILESS, KEPT_1_0
from treadle.operate.request import Reply

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun",
                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # fmt: skip
_NO_BODY: Final = (204, 304)
"""These have no body, and no length either (RFC 9110, 8.6)."""


def date() -> bytes:
    """`Sun, 06 Nov 1994 08:49:37 GMT`: of this machine, a replayed clock does not concern HTTP."""
    now = time.gmtime()
    return (
        f"{_DAYS[now.tm_wday]}, {now.tm_mday:02} {_MONTHS[now.tm_mon - 1]} {now.tm_year} "
        f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} GMT"
    ).encode()


LENGTHS: Final = [b"\r\ncontent-length: %d\r\n" % length for length in range(1024)]
"""The line that tells a body's length, between the ends of two lines; made once for short bodies."""


class Answers:
    """Makes them of this second: what they begin with is made once."""

    def __init__(self) -> None:
        self.begin: dict[int, bytes] = {}
        """Status → all up to the content type; whoever is in a hurry looks here first."""
        self._date = b""
        self.tick()

    def tick(self) -> None:
        """To be called at least every second (RFC 9110, 6.6.1)."""
        today = date()
        if today != self._date:
            self._date = today
            self.begin.clear()

    def whole(self, reply: Reply, flags: int, *, close: bool) -> bytes:
        """Any answer; `flags` are those of the request's head."""
        status, body, kind, more, _ = reply
        if close:
            more += b"connection: close\r\n"
        elif flags & KEPT_1_0:
            more += b"connection: keep-alive\r\n"
        begin = self.begin.get(status) or self._begin(status)
        if status in _NO_BODY:
            return b"%b%b\r\n" % (begin, more)
        told = b"" if flags & BODILESS else body
        return b"%b%b\r\ncontent-length: %d\r\n%b\r\n%b" % (begin, kind, len(body), more, told)

    def _begin(self, status: int) -> bytes:
        try:
            phrase = http.HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        lines = f"HTTP/1.1 {status} {phrase}\r\ndate: ".encode() + self._date + b"\r\n"
        if status not in _NO_BODY:
            lines += b"content-type: "
            self.begin[status] = lines
        return lines
