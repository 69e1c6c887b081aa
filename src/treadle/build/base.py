"""What a base image has: which Python and where, found without unpacking it.

Its configuration says it (Docker's python images set PYTHON_VERSION), or the names in its layers do:
they are streamed once, and what was found is remembered by the base's digest.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from treadle.base.errors import MissingExtra, Refused, StateCorrupt
from treadle.base.image import LAYER_TAR, LAYER_ZSTD, Blob

_BINARY = re.compile(r"((?:usr/|usr/local/|opt/[^/]+/|)bin)/python3\.(\d+)")
_LIBRARY = re.compile(
    r"((?:usr/|usr/local/|opt/[^/]+/|)lib(?:64)?)/python3\.(\d+)/(os\.py|json/__init__\.py)"
)


@dataclass(frozen=True)
class Interpreter:
    """A base's Python."""

    python: str
    """Minor version, `3.11`."""
    path: str
    """Absolute, in the image."""


@dataclass(frozen=True)
class Found:
    """What a base has."""

    interpreters: tuple[Interpreter, ...]
    """Whole ones; a minimal Python without its library is none."""
    musl: bool = False


def told(config: Mapping[str, Any]) -> Found | None:
    """What the configuration alone says, or None.

    An image made of Alpine says the same and is built on musl: there its layers are asked.
    """
    variables = dict(
        item.partition("=")[::2] for item in (config.get("config") or {}).get("Env") or []
    )
    version = re.fullmatch(r"(3\.\d+)\.\d+\S*", variables.get("PYTHON_VERSION", ""))
    if version is None or "/usr/local/bin" not in variables.get("PATH", ""):
        return None
    steps = (str(entry.get("created_by", "")) for entry in config.get("history") or [])
    if any("alpine" in step or "apk add" in step for step in steps):
        return None
    return Found((Interpreter(version[1], f"/usr/local/bin/python{version[1]}"),))


def scanned(layers: Sequence[Blob]) -> Found:
    """What the names in the layers say; each is streamed to its end (its digest is checked)."""
    names: set[str] = set()
    musl = False
    for layer in layers:
        added, gone, opaque = _names(layer)
        for folder in opaque:
            names = {name for name in names if not name.startswith(folder)}
        names = {
            name
            for name in names
            if not any(name == one or name.startswith(one + "/") for one in gone)
        }
        musl = musl or any(re.fullmatch(r"(usr/)?lib/ld-musl-[^/]+", name) for name in added)
        names |= {name for name in added if _BINARY.fullmatch(name) or _LIBRARY.fullmatch(name)}
    found = []
    for name in sorted(names):
        match = _BINARY.fullmatch(name)
        if match is None:
            continue
        for lib in ("lib", "lib64"):  # Fedora and its kin have the library in lib64
            library = f"{match[1].removesuffix('bin')}{lib}/python3.{match[2]}"
            if {f"{library}/os.py", f"{library}/json/__init__.py"} <= names:
                found.append(Interpreter(f"3.{match[2]}", f"/{name}"))
                break
    return Found(tuple(found), musl)


def chosen(found: Found, python: str, base: str) -> Interpreter | None:
    """The base's interpreter of that version; None if it has no Python at all.

    Refused: it has other versions only, or it is not built on glibc.
    """
    if found.musl:
        raise Refused(
            f"{base} is built on musl (Alpine), and wheels for Linux are built for glibc",
            hint="choose a Debian, Ubuntu or Fedora base: build: {base: python:3.12-slim}",
        )
    for one in found.interpreters:
        if one.python == python:
            return one
    if found.interpreters:
        have = ", ".join(one.python for one in found.interpreters)
        raise Refused(
            f"{base} has Python {have}, and the model was made with Python {python}",
            hint=f"choose a base with Python {python} (build: {{base: python:{python}-slim}}), or "
            "train with the base's version",
        )
    return None


def _names(layer: Blob) -> tuple[set[str], set[str], set[str]]:
    """Names in a layer: what it adds, what it whites out, which folders it begins anew."""
    added: set[str] = set()
    gone: set[str] = set()
    opaque: set[str] = set()
    with layer.open() as raw, _readable(layer):
        stream = _uncompressed(raw, layer)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = member.name.removeprefix("./").strip("/")
                folder, _, file = name.rpartition("/")
                if file == ".wh..wh..opq":
                    opaque.add(f"{folder}/" if folder else "")
                elif file.startswith(".wh."):
                    gone.add(f"{folder}/{file[4:]}".strip("/"))
                elif not member.isdir():
                    added.add(name)
        while raw.read(1 << 20):
            pass  # to its end, where the digest is checked
    return added, gone, opaque


@contextlib.contextmanager
def _readable(layer: Blob) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StateCorrupt(
            f"{layer.title or layer.digest} is no layer that can be read: {error}",
            hint="choose another base, or have this one stored anew",
        ) from None


def _uncompressed(raw: BinaryIO, layer: Blob) -> BinaryIO:
    kind = layer.descriptor.media_type
    buffered = io.BufferedReader(cast("Any", _Raw(raw)), 1 << 20)
    if kind == LAYER_TAR or kind.endswith(".tar"):
        return cast("BinaryIO", buffered)
    if kind == LAYER_ZSTD or kind.endswith("zstd"):
        try:
            import zstandard
        except ImportError:
            raise MissingExtra("zstandard", "images", "reading a base with zstd layers") from None
        return cast("BinaryIO", zstandard.ZstdDecompressor().stream_reader(buffered))
    return cast("BinaryIO", gzip.GzipFile(fileobj=buffered))


class _Raw(io.RawIOBase):
    """Any stream with `read`, as Python's own."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
