"""Capture segments: what a model server appends and monitoring reads, one framed record a request.

A folder holds files `<start>-<instance>-<number>.msgpack`, while they are written with `.open`
appended. `<start>` is `20130501T060000.000000Z` (base/clock, so replayed), so names sort by time.
A file is the 8 bytes `MAGIC`, then records: length (uint32, little-endian), crc32 of the payload
(uint32), payload (msgpack, one `Record` as a map). A server killed in the middle leaves a torn last
record, which readers skip; it never appends to an old file (each process has its own instance id).
The writer holds the kernel's lock on its open file, so one that nobody will finish can be told from
one that is being written (`finish_left`).

Whole records are in the file at the latest 0.2 s after the answer, so readers read `.open` files
too. The cursor of a reader is `{segment: offset}`: the name without `.open`, and the offset after
the last record read. Several segments grow at once while a version is swapped, so one name and
offset would lose records.

A record (all columns have `rows` values; None is a missing value, floats may be NaN or infinite,
times are ISO 8601 texts):

    id           `ENV.RELEASE.INSTANCE.ULID`; the id of row i (from 0) is `<id>.<i>`
    time         when it was answered: ISO 8601, UTC, base/clock
    environment  `local`
    release      7
    instance     the server process that answered
    model        digest of the model directory, or "" where the server was started by hand
    latency_ms   from the parsed request to the prediction (real time, not the replayed clock)
    rows         rows of this request
    inputs       column → values as the model saw them (after conversion to the signature's types)
    extra        column → values that came along and are no features: key columns, event time …
    outputs      column → values: `prediction` for one value a row; for several (predict_proba)
                 `prediction_0`, `prediction_1` … in the order of the model's classes
    trace        the request's W3C `traceparent`, or ""
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from treadle.base import clock
from treadle.base.errors import StateCorrupt

MAGIC = b"TRDLCAP1"
SUFFIX = ".msgpack"
OPEN = ".msgpack.open"
_HEAD = struct.Struct("<II")
MAX_RECORD_BYTES = 1 << 30


class Record(msgspec.Struct, kw_only=True):
    """One captured request; the fields are described at the head of this file."""

    id: str
    time: str
    environment: str
    release: int
    instance: str
    model: str = ""
    latency_ms: float
    rows: int
    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]
    extra: dict[str, list[Any]] = {}  # msgspec copies an empty default for each record
    trace: str = ""


_decoder = msgspec.msgpack.Decoder(Record)
_encoder = msgspec.msgpack.Encoder()


def encode(record: Record) -> bytes:
    """The framed bytes of a record."""
    payload = _encoder.encode(record)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def hash_value(value: Any) -> str | None:
    """What is kept of a value whose field is hashed: the first 128 bits of its text's sha256.

    Equal values have equal hashes, so they can be counted, and joined with the same hash of the
    truth's key (1545 and 1545.0 are one value). It hides a value from who reads over a shoulder,
    not from who can try them all.
    """
    if value is None or value != value:  # noqa: PLR0124 - NaN, a missing number
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()[:32]


class SegmentWriter:
    """Appends records to the open segment; not thread-safe: one thread owns it.

    A segment is closed (renamed to its final name) when it is larger than `max_bytes` or older
    than `max_age_s` real seconds at the next `append` or `tick`, and by `close`.
    """

    def __init__(
        self, folder: Path, instance: str, *, max_bytes: int = 16 << 20, max_age_s: float = 300.0
    ) -> None:
        self._folder, self._instance = folder, instance
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._file: int | None = None
        self._path = folder
        self._number, self._size, self._since = 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, records: list[bytes]) -> None:
        """Hand framed records (`encode`) to the operating system: all of them, or OSError."""
        if not records:
            return
        self.tick()
        file = self._file if self._file is not None else self._begin()
        data = memoryview(b"".join(records))
        whole = self._size + len(data)
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError:
            # A full disk: cut the half record off, so that what follows can be read.
            os.ftruncate(file, self._size)
            raise
        self._size = whole

    def tick(self) -> None:
        """Close the segment if it is full or old."""
        if self._file is not None and (
            self._size >= self._max_bytes or clock.elapsed() - self._since >= self._max_age_s
        ):
            self.close()

    def close(self) -> None:
        """Finish the open segment: on disk, under its final name."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            os.fsync(file)
            os.rename(self._path, _finished(self._path))  # with its lock held: nobody else does it
        finally:
            os.close(file)

    def _begin(self) -> int:
        start = clock.now().strftime("%Y%m%dT%H%M%S.%fZ")
        while True:  # an instance that was started again in the same moment has its files here
            self._number += 1
            self._path = self._folder / f"{start}-{self._instance}-{self._number:06d}{OPEN}"
            if not self._path.exists() and not _finished(self._path).exists():
                break
        # Under another name until it is locked: nobody finds it unlocked while it is written.
        made = self._path.with_name(f"{self._path.name}.new")
        file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(file, MAGIC)
            os.rename(made, self._path)
        except OSError:
            os.close(file)
            raise
        self._file = file
        self._size, self._since = len(MAGIC), clock.elapsed()
        return file


def finish_left(folder: Path) -> None:
    """Give the open segments their final names that nobody writes any more: their writer was killed."""
    for path in folder.glob(f"*{OPEN}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            file = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(path, _finished(path))
            finally:
                os.close(file)


def _finished(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".open"))


@dataclass(frozen=True)
class Captured:
    """A record and where the next one begins."""

    record: Record
    segment: str
    offset: int


def segment_files(folder: Path) -> list[tuple[str, Path]]:
    """(segment name, file) in order of time; an open segment has its final name here too."""
    if not folder.is_dir():
        return []
    found: dict[str, Path] = {}
    for path in folder.iterdir():
        if path.name.endswith(OPEN):
            # The final file wins where both were seen because it was renamed meanwhile.
            found.setdefault(path.name.removesuffix(".open"), path)
        elif path.name.endswith(SUFFIX):
            found[path.name] = path
    return sorted(found.items())


def read_segments(folder: Path, cursor: Mapping[str, int] | None = None) -> Iterator[Captured]:
    """Every whole record after the cursor, segment by segment in order of time.

    A torn record at the end of a segment ends it in silence (it may be complete at the next
    reading). Bytes damaged before the end raise StateCorrupt.
    """
    for name, path in segment_files(folder):
        try:
            data = _open(path)
        except FileNotFoundError:
            continue  # deleted by gc between listing and opening
        with data as file:
            yield from _records(file, name, (cursor or {}).get(name, 0))


def read_new(
    folder: Path, cursor: Mapping[str, int] | None = None, *, limit: int | None = None
) -> tuple[list[Record], dict[str, int]]:
    """At most `limit` records after the cursor, and the cursor after them.

    Segments that no longer exist leave the cursor, so it does not grow for ever.
    """
    existing = {name for name, _ in segment_files(folder)}
    after = {name: offset for name, offset in (cursor or {}).items() if name in existing}
    records: list[Record] = []
    for captured in read_segments(folder, after):
        if limit is not None and len(records) >= limit:
            break
        records.append(captured.record)
        after[captured.segment] = captured.offset
    return records, after


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except FileNotFoundError:
        if not path.name.endswith(OPEN):
            raise
        return path.with_name(path.name.removesuffix(".open")).open("rb")  # renamed meanwhile


def _records(file: Any, name: str, offset: int) -> Iterator[Captured]:
    size = os.fstat(file.fileno()).st_size
    if size < len(MAGIC):
        return
    if file.read(len(MAGIC)) != MAGIC:
        raise StateCorrupt(
            f"capture segment {name} does not begin with {MAGIC.decode()}",
            hint="it is no capture segment, or damaged: move the file away to go on without it",
        )
    offset = max(offset, len(MAGIC))
    file.seek(offset)
    while size - offset >= _HEAD.size:
        length, crc = _HEAD.unpack(file.read(_HEAD.size))
        end = offset + _HEAD.size + length
        if end > size and length <= MAX_RECORD_BYTES:
            return  # torn, or being written
        payload = file.read(length) if end <= size else b""
        if zlib.crc32(payload) != crc or (not payload and length):
            if end == size:
                return  # the last record of a machine that lost power
            raise StateCorrupt(
                f"capture segment {name} is damaged at byte {offset}: crc32 of the record differs",
                hint="move the file away to go on without it; the records before it were read",
            )
        yield Captured(_decoder.decode(payload), name, end)
        offset = end
