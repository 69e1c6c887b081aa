"""Our own source as a layer: the model server (`operate` and `base`) or all of Treadle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import treadle
from treadle.base.digest import digest_file
from treadle.base.image import Purpose
from treadle.build import bytecode
from treadle.build.layer import Entry

_SERVER = ("__init__.py", "base", "operate")
_SERVING = frozenset({"serve", "batch"})


def files(purpose: Purpose) -> dict[str, Path]:
    """Path below site-packages → file: the model server, or for other purposes the whole package."""
    root, whole = Path(treadle.__file__).parent, purpose not in _SERVING
    found = {}
    for path in _walk(root, None if whole else _SERVER):
        found[f"treadle/{path.relative_to(root).as_posix()}"] = path
    return dict(sorted(found.items()))


def _walk(root: Path, only: tuple[str, ...] | None) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if "__pycache__" in relative.parts or not path.is_file() or path.suffix == ".pyc":
            continue
        if only is None or relative.parts[0] in only:
            yield path


def content(sources: dict[str, Path], python: str) -> dict[str, str]:
    """The layer by content, for a plan."""
    found = {name: digest_file(path) for name, path in sources.items()}
    if bytecode.possible(python):
        found["bytecode"] = bytecode.tag()
    return found


def entries(sources: dict[str, Path], under: str, python: str, interpreter: str) -> list[Entry]:
    """Source, bytecode, and the `python` that everything is started with."""
    root = under.strip("/")
    found = [Entry(f"{root}/{name}", path.read_bytes()) for name, path in sources.items()]
    if bytecode.possible(python):
        made = bytecode.compiled({one.path: _bytes(one) for one in found})
        found += [Entry(name, data) for name, data in made.items()]
    above = root.rpartition("/")[0]
    found.append(Entry(f"{above}/bin/python", link=interpreter))
    return found


def _bytes(entry: Entry) -> bytes:
    assert isinstance(entry.source, bytes)
    return entry.source
