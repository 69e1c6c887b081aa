"""Wheels as layers: zip to tar directly, nothing is installed on the disk.

A layer's key is the hash of its wheels and how they are laid out, so that all models and projects
of a machine share it. Console scripts are not made: their first line would name a Python of this
machine, and everything in an image is started by `python -m`. RECORD stays as the wheel has it;
no INSTALLER is written.

Source: the binary distribution format (packaging.python.org), PEP 427.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

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
    found: list[Entry] = []
    sources: dict[str, bytes] = {}
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if sum(member.file_size for member in members) > _MOST_BYTES:
            raise Refused(f"{wheel.filename} unpacks to more than {_MOST_BYTES >> 30} GiB")
        for member in members:
            name = _placed(member.filename, root, prefix)
            if name is None or (wheel.name in TESTED and "/tests/" in member.filename):
                continue
            runs = bool((member.external_attr >> 16) & 0o100)
            if member.file_size < 1 << 20 or (python and name.endswith(".py")):
                data = archive.read(member)
                found.append(Entry(name, data, executable=runs))
                if name.endswith(".py"):
                    sources[name] = data
            else:
                found.append(
                    Entry(name, _opener(path, member.filename), runs, size=member.file_size)
                )
    if python is not None:
        present = {entry.path for entry in found}
        made = bytecode.compiled(sources)
        found += [Entry(name, data) for name, data in made.items() if name not in present]
    return found


def _opener(path: Path, name: str) -> Callable[[], BinaryIO]:
    """Opens one member of a zip file; the file is closed with the member."""

    def opened() -> BinaryIO:
        with zipfile.ZipFile(path) as archive:  # an open member keeps the file open
            return cast("BinaryIO", archive.open(name))

    return opened


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


def _placed(name: str, root: str, prefix: str) -> str | None:
    """Where a member of a wheel goes, or None where it is not wanted."""
    head, _, rest = name.partition("/")
    if not head.endswith(".data"):
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
