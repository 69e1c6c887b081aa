"""The only source of now: every rule, cooldown, window and id takes the time from here.

A replay (the year's demo) writes its time into a file that `TREADLE_CLOCK` names; then every
process of that project, the model server too, lives in the replayed time.
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
import threading
import time

UTC = datetime.UTC
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def now() -> datetime.datetime:
    """The present time in UTC, or the replayed one."""
    replay = os.environ.get("TREADLE_CLOCK")
    if replay:
        with open(replay, encoding="ascii") as file:
            return datetime.datetime.fromisoformat(file.read().strip()).astimezone(UTC)
    return datetime.datetime.now(UTC)


def set_replay(path: str | os.PathLike[str], moment: datetime.datetime) -> None:
    """Move the replayed clock to `moment` (readers see the old or the new time, never half)."""
    temporary = f"{os.fspath(path)}.next"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(moment.astimezone(UTC).isoformat())
    os.replace(temporary, path)


def text(moment: datetime.datetime) -> str:
    """ISO 8601 in UTC with a Z, to the microsecond; sorts like time."""
    written = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return written.removesuffix("+00:00") + "Z"


def parse(value: str) -> datetime.datetime:
    """The moment that an ISO 8601 text names; a bare date is its midnight UTC."""
    moment = datetime.datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def duration_s(value: str) -> float:
    """Seconds of a duration such as `7d`, `12h`, `1h30m`, `500ms`. ValueError if it is none."""
    position, seconds = 0, 0.0
    for match in _DURATION.finditer(value):
        if match.start() != position:
            break
        seconds += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if position == 0 or position != len(value):
        raise ValueError(f"{value!r} is no duration; write a number and ms, s, m, h, d or w: 7d")
    return seconds


_lock = threading.Lock()
_last = (0, 0)


def ulid() -> str:
    """A ULID: 48 bits of now in milliseconds, 80 random bits; increasing within a process."""
    global _last
    with _lock:
        millis = int(now().timestamp() * 1000)
        if millis <= _last[0]:
            millis, random = _last[0], _last[1] + 1
        else:
            random = secrets.randbits(79)  # one bit of room for the increments above
        _last = (millis, random)
    number = (millis << 80) | random
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


_PAIRS = [a + b for a in _CROCKFORD for b in _CROCKFORD]
_BYTES = [pair.encode() for pair in _PAIRS]


class Ulids:
    """Many ULIDs of one moment, cheaply: one look at the clock and at the randomness for all.

    Increasing within each of these; none is given twice, by whichever of them or by `ulid`. Not
    thread-safe.
    """

    def __init__(self) -> None:
        self._next = self._end = 1 << 20
        self._head = ""

    def refresh(self) -> None:
        """Begin a new moment: what `take` gives from here on carries the present time."""
        global _last
        with _lock:
            millis = int(now().timestamp() * 1000)
            if millis <= _last[0]:
                millis, random = _last[0], _last[1] + 1
            else:
                random = secrets.randbits(79)
            block = (random >> 20) + 1  # a million of our own, which nobody else gets
            _last = (millis, (block << 20) | 0xFFFFF)
        number = (millis << 60) | block
        self._head = "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(105, -1, -5))
        self._next = 0

    def take(self) -> str:
        """The next ULID."""
        number = self._next
        if number == self._end:
            self.refresh()
            number = 0
        self._next = number + 1
        return self._head + _PAIRS[number >> 10] + _PAIRS[number & 1023]

    def several(self, prefix: str, count: int) -> list[bytes]:
        """The next so many (at most 2^20), each behind `prefix`."""
        if self._next + count > self._end:
            self.refresh()
        begin = self._next
        self._next = begin + count
        head = (prefix + self._head).encode()
        pairs, first = _BYTES, begin & 1023
        if first + count <= 1024:  # they differ in the last pair alone
            head += pairs[begin >> 10]
            return [head + pair for pair in pairs[first : first + count]]
        return [head + pairs[n >> 10] + pairs[n & 1023] for n in range(begin, begin + count)]


def elapsed() -> float:
    """Monotonic seconds, for durations; never for dates."""
    return time.perf_counter()
