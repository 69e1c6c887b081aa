"""The one notion of "same": canonical bytes and their sha256.

Two things are the same when their digests are equal, and nothing else. A digest is written
`sha256:` and 64 hex digits, as OCI registries write it.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

CHUNK_BYTES = 1 << 20


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """The digest of raw bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """The digest of a file's bytes, read in chunks (flat memory)."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """The digest of a plain value or a frozen record, by its canonical bytes."""
    return digest_bytes(canonical(value))


def canonical(value: object) -> bytes:
    """Canonical bytes: JSON with sorted keys, no spaces, UTF-8; equal values give equal bytes.

    Takes None, bool, int, float (NaN and infinities too), str, bytes, datetime, date, timedelta,
    paths, lists, tuples, sets, mappings with text keys and dataclasses (by their type's name).
    Raises TypeError for anything else: a digest never rests on a `repr`.
    """
    return json.dumps(
        plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8", "surrogatepass")


def plain(value: Any) -> Any:
    """`value` in JSON's own types, without loss: what JSON lacks becomes a tagged object."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        # 1.0 and 1 differ in Python's repr and so here; -0.0 equals 0.0 and must not differ.
        if math.isfinite(value):
            return {"$float": repr(float(value) + 0.0)}
        return {"$float": "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, datetime.datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"$date": value.isoformat()}
    if isinstance(value, datetime.timedelta):
        return {"$seconds": repr(value.total_seconds())}
    if isinstance(value, PurePath):
        return {"$path": value.as_posix()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return {"$set": sorted((plain(item) for item in value), key=json.dumps)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a canonical mapping has text keys, not {type(key).__name__}")
        return {_escaped(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"$record": type(value).__name__, "fields": fields}
    raise TypeError(f"no canonical bytes for {type(value).__module__}.{type(value).__qualname__}")


def _escaped(key: str) -> str:
    """A user's key that looks like a tag must not be taken for one."""
    return "$" + key if key.startswith("$") else key


def short(digest_text: str, length: int = 12) -> str:
    """The first hex digits of a digest, for people."""
    return digest_text.removeprefix("sha256:")[:length]


def digest_tree(folder: Path) -> tuple[str, dict[str, str]]:
    """The digest of a directory by its files' relative paths and contents, and the file digests."""
    files = {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return digest(files), files
