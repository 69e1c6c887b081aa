"""A Python as a layer, for a base that has none: from a folder with one (python-build-standalone, or
an installation that is not tied to its place).

What a program never needs stays behind: tests, IDLE, Tk, ensurepip, static libraries, headers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from treadle.base.digest import digest_file
from treadle.base.errors import UsageError
from treadle.base.image import Platform
from treadle.build import bytecode
from treadle.build.layer import Entry

_LEFT = re.compile(
    r"lib/python3\.\d+/(test|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|config-[^/]*"
    r"|turtle\.py|unittest/test|ctypes/test|distutils/tests|lib-dynload/(_test|_tkinter|xxlimited|_xxtest)[^/]*)(/.*)?"
)


_MACHINES = {0x3E: "linux/amd64", 0xB7: "linux/arm64"}
"""e_machine of ELF."""


def files(root: Path, python: str, platform: Platform) -> dict[str, Path]:
    """Relative path → file of an interpreter and its library. UsageError: that is none, or one
    for another platform."""
    root = root.resolve()
    binary = root / "bin" / f"python{python}"
    library = root / "lib" / f"python{python}"
    if not binary.is_file() or not (library / "os.py").is_file():
        raise UsageError(
            f"{root} holds no Python {python}: bin/python{python} or lib/python{python} is missing",
            hint="`uv python install` fetches one; name its folder in build: {interpreter: PATH}",
        )
    with open(binary, "rb") as file:
        head = file.read(20)
    runs_on = (
        _MACHINES.get(int.from_bytes(head[18:20], "little")) if head[:4] == b"\x7fELF" else None
    )
    if runs_on != str(platform):
        raise UsageError(
            f"{binary} is no program for {platform}, but for {runs_on or 'another system'}",
            hint="python-build-standalone has a Python for every platform: unpack that one",
        )
    found = {f"bin/python{python}": binary}
    for path in _walk(library):
        name = path.relative_to(root).as_posix()
        if not _LEFT.fullmatch(name):
            found[name] = path
    for path in sorted((root / "lib").glob("libpython*.so*")):
        found[path.relative_to(root).as_posix()] = path
    return dict(sorted(found.items()))


def _walk(folder: Path) -> Iterator[Path]:
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = Path(above, name)
            if path.is_file() and path.suffix not in (".a", ".pyc"):
                yield path


def content(found: dict[str, Path]) -> dict[str, str]:
    """The layer by content, for a plan."""
    return {**{name: digest_file(path) for name, path in found.items()}, "bytecode": bytecode.tag()}


def entries(found: dict[str, Path], under: str, python: str) -> list[Entry]:
    """The files below `under`, with bytecode."""
    root = under.strip("/")
    made, sources = [], {}
    for name, path in found.items():
        place = f"{root}/{name}"
        made.append(Entry(place, path, executable=name.startswith("bin/")))
        if name.endswith(".py"):
            sources[place] = path.read_bytes()
    if bytecode.possible(python):
        made += [Entry(name, data) for name, data in bytecode.compiled(sources).items()]
    return made
