"""Wheels as layers: zip to tar directly, nothing is installed on the disk.

A layer's key is the hash of its wheels and how they are laid out, so that all models and projects
of a machine share it. Console scripts are not made: their first line would name a Python of this
machine, and everything in an image is started by `python -m`. RECORD stays as the wheel has it;
no INSTALLER is written.

Source: the binary distribution format (packaging.python.org), PEP 427.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from treadle.base.digest import digest
from treadle.base.errors import Refused, StateCorrupt
from treadle.base.image import Wheel
from treadle.build import bytecode
from treadle.build.layer import Entry

LAYOUT = 2
"""Raised when a wheel's files would be laid out otherwise."""
ALONE_BYTES = 1_000_000
"""A wheel from this size on has a layer of its own: it is shared, and it rarely changes."""
MOST = 30
"""At most so many layers of wheels."""
TESTED = frozenset({"numpy", "scipy", "scikit-learn", "pandas", "joblib", "skops", "narwhals"})
"""Packages whose own tests lie among their modules: a tenth of the bytes, and nothing imports them.
Of others the tests stay: somebody's may be a module that is used."""
_MOST_BYTES = 20 << 30
"""More than any wheel holds: a file that unpacks to more is an attack or a mistake."""
_MOST_TIMES = 100
"""A wheel unpacks to at most so many times its size, and 64 MiB: text packs to a tenth."""
_MOST_SOURCE_BYTES = 16 << 20
"""A module above this is data in disguise; it is copied and not compiled."""


def entries(wheel: Wheel, path: Path, under: str, *, python: str | None) -> list[Entry]:
    """The files of a wheel below `under`; with bytecode where `python` is given.

    Raises StateCorrupt if the file is not what the record says, Refused if it is no wheel.
    """
    _verify(wheel, path)
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise Refused(f"{wheel.filename} is no wheel: no zip file") from None
    root = under.strip("/")
    prefix = root.rpartition("/")[0]
    own = _own_data(archive)
    found: dict[str, Entry] = {}
    sources: dict[str, bytes] = {}
    members = [member for member in archive.infolist() if not member.is_dir()]
    _bounded(wheel, path, members)
    for member in members:
        name = _placed(member.filename, root, prefix, own)
        if name is None or (wheel.name in TESTED and "/tests/" in member.filename):
            continue
        if name in found:
            raise Refused(
                f"{wheel.filename} holds {name} twice: which one is meant, it does not say",
                hint="tell its authors; another version of the package may do",
            )
        runs = bool((member.external_attr >> 16) & 0o100)
        content = _opener(wheel, archive, member)
        found[name] = Entry(name, content, executable=runs, size=member.file_size)
        if python and name.endswith(".py") and member.file_size <= _MOST_SOURCE_BYTES:
            with content() as source:
                sources[name] = source.read()
            found[name] = Entry(name, sources[name], executable=runs)
    made = bytecode.compiled(sources) if python is not None else {}
    for name, data in made.items():
        found.setdefault(name, Entry(name, data))
    return list(found.values())


def _bounded(wheel: Wheel, path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Nothing is unpacked before this; later no member gives more than it says here."""
    whole = sum(member.file_size for member in members)
    packed = path.stat().st_size
    most = min(_MOST_BYTES, _MOST_TIMES * packed + (64 << 20))
    if whole > most or sum(member.compress_size for member in members) > packed:
        raise Refused(
            f"{wheel.filename} has {packed} bytes and unpacks to {whole}, which no wheel does",
            hint="tell its authors; another version of the package may do",
        )


def _opener(
    wheel: Wheel, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> Callable[[], BinaryIO]:
    """Opens one member; the archive is closed when no entry needs it any more."""

    def opened() -> BinaryIO:
        with _said(wheel, member.filename):
            return cast("BinaryIO", _Member(wheel, archive.open(member)))

    return opened


class _Member(io.RawIOBase):
    """A member of a wheel, with errors that name both."""

    def __init__(self, wheel: Wheel, source: IO[bytes]) -> None:
        self._wheel, self._source = wheel, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _said(self._wheel, self._source.name):
            data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._source.close()
        super().close()


@contextlib.contextmanager
def _said(wheel: Wheel, member: str) -> Iterator[None]:
    """Turns what a broken, encrypted or oddly packed member raises into Refused."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Refused(
            f"{member} in {wheel.filename} cannot be unpacked: {error}",
            hint="tell its authors; another version of the package may do",
        ) from None


def _verify(wheel: Wheel, path: Path) -> None:
    with open(path, "rb") as file:
        seen = hashlib.file_digest(file, "sha256").hexdigest()
    if seen != wheel.sha256:
        raise StateCorrupt(
            f"{wheel.filename} is not what was resolved: wanted sha256 {wheel.sha256[:12]}…, found "
            f"{seen[:12]}…",
            hint=f"delete {path} and build again; if it stays so, the index serves another file "
            "under this name: treadle build --update",
        )


def _own_data(archive: zipfile.ZipFile) -> str:
    """The folder of what does not go to site-packages, `NAME-VERSION.data`."""
    heads = {name.partition("/")[0] for name in archive.namelist() if "/" in name}
    infos = sorted(head for head in heads if head.endswith(".dist-info"))
    return f"{infos[0].removesuffix('.dist-info')}.data" if infos else ""


def _placed(name: str, root: str, prefix: str, own: str) -> str | None:
    """Where a member of a wheel goes, or None where it is not wanted."""
    head, _, rest = name.partition("/")
    if head != own:
        return f"{root}/{name}"
    kind, _, path = rest.partition("/")
    if kind in ("purelib", "platlib"):
        return f"{root}/{path}"
    if kind == "data":
        return f"{prefix}/{path}"
    return None  # scripts and headers


def group(wheels: Sequence[Wheel], most: int = MOST) -> list[tuple[Wheel, ...]]:
    """Which wheels share a layer: large ones alone, the others together; at most `most` groups.

    The same wheels give the same groups in the same order: largest first, the common one last.
    """
    ordered = sorted(wheels, key=lambda wheel: (-wheel.size_bytes, wheel.name, wheel.version))
    alone = [wheel for wheel in ordered if wheel.size_bytes >= ALONE_BYTES][: max(most - 1, 0)]
    rest = sorted(
        (wheel for wheel in ordered if wheel not in alone),
        key=lambda wheel: (wheel.name, wheel.version),
    )
    groups: list[tuple[Wheel, ...]] = [(wheel,) for wheel in alone]
    return [*groups, tuple(rest)] if rest else groups


def key(wheels: Sequence[Wheel], compressor: str, python: str | None, under: str) -> str:
    """What the layer of a group depends on."""
    made = bytecode.tag() if python is not None and bytecode.possible(python) else None
    return digest([LAYOUT, under, compressor, made, sorted(w.sha256 for w in wheels)])


def content(wheels: Sequence[Wheel], python: str | None) -> dict[str, str]:
    """A group by words, for a plan: distribution → version and hash."""
    found = {wheel.name: f"{wheel.version} sha256:{wheel.sha256}" for wheel in wheels}
    if python is not None and bytecode.possible(python):
        found["bytecode"] = bytecode.tag()
    return found


def located(
    wheels: Sequence[Wheel], files: Mapping[Wheel, Path], under: str, python: str | None
) -> list[Entry]:
    """The entries of a whole group. Of a file that two packages bring (a stray `tests/`, a shared
    namespace's `__init__`), the later name's is kept: an installer would let chance decide."""
    made = python if python is not None and bytecode.possible(python) else None
    found: dict[str, Entry] = {}
    for wheel in sorted(wheels, key=lambda one: one.name):
        for entry in entries(wheel, files[wheel], under, python=made):
            found[entry.path] = entry
    return list(found.values())
