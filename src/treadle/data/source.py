"""Which files a data set is: globs to sorted paths, and formats by suffix.

On the fast path: standard library only.
"""

from __future__ import annotations

import glob
import os
import posixpath
from pathlib import Path
from stat import S_ISDIR
from typing import Literal

from treadle.base.errors import DataRefused, UsageError
from treadle.base.spec import DataSection

Format = Literal["parquet", "csv", "tsv", "jsonl"]

SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
}
_SHOWN = 5


def format_of(path: str) -> Format:
    """The format that a file's name tells. UsageError for a suffix that is none of `SUFFIXES`."""
    name = posixpath.basename(path).lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return SUFFIXES[suffix]
    if path.startswith("rows/"):  # a batch of a query
        return "parquet"
    raise UsageError(
        f"{path}: its suffix names no format that is read",
        hint=f"read are {', '.join(SUFFIXES)}; hand other files over as they are with `paths:`",
    )


def resolve(section: DataSection, folder: Path) -> list[Path]:
    """The files of a `files:` or `paths:` data set in `folder`, sorted; [] for a query.

    DataRefused if the pattern matches no file; UsageError for a pattern that leads out of the
    project and, with `files:`, for a suffix that names no format.
    """
    return [folder / path for path in listing(section, folder)]


def listing(section: DataSection, folder: Path) -> list[str]:
    """`resolve` as POSIX paths relative to `folder`.

    A symbolic link that matches (or a linked folder that the pattern names) is followed, wherever
    it leads: somebody put it there. `**` lists each file once, so that a link in a circle ends.
    """
    pattern = section.files if section.files is not None else section.paths
    if pattern is None:
        return []
    clean, base = posixpath.normpath(pattern), os.fspath(folder)
    if posixpath.isabs(clean) or clean.split("/", 1)[0] == "..":
        raise UsageError(
            f"{pattern!r} leads out of the project's folder {folder}",
            hint="lineage names files relative to the project: link the folder into it "
            "(`ln -s /big/disk/data data`) and name the link",
        )
    found = []
    for entry in glob.iglob(clean, root_dir=folder, recursive=True):
        path = entry.replace(os.sep, "/")
        try:
            is_folder = S_ISDIR(os.stat(f"{base}/{path}").st_mode)
        except OSError:
            raise DataRefused(
                f"{path} is a link to {os.readlink(f'{base}/{path}')}, which is not there"
                if os.path.islink(f"{base}/{path}")
                else f"{path} disappeared while it was looked at",
                hint="restore what it leads to, or remove the link",
            ) from None
        if not is_folder:
            found.append(path)
    if "**" in clean:
        found = _once(found, base)
    found.sort()
    if not found:
        raise _nothing(pattern, clean, folder)
    if section.files is not None:
        for path in found:
            format_of(path)
    return found


def _once(paths: list[str], base: str) -> list[str]:
    """Each file by its shortest path: `**` may reach one through several links."""
    seen: dict[tuple[int, int], str] = {}
    for path in sorted(paths, key=lambda text: (text.count("/"), text)):
        stat = os.stat(f"{base}/{path}")
        seen.setdefault((stat.st_dev, stat.st_ino), path)
    return list(seen.values())


def _nothing(pattern: str, clean: str, folder: Path) -> DataRefused:
    """The error for a pattern without files: what is there instead, and the nearest name."""
    place = clean
    while place and (glob.has_magic(place) or not os.path.isdir(os.path.join(folder, place))):
        place = posixpath.dirname(place)
    here = sorted(
        name + ("/" if os.path.isdir(os.path.join(folder, place, name)) else "")
        for name in os.listdir(os.path.join(folder, place))
        if not name.startswith(".")
    )
    where = f"{place}/" if place else "the project's folder"
    shown = ", ".join(here[:_SHOWN]) + (
        f" and {len(here) - _SHOWN} more" if len(here) > _SHOWN else ""
    )
    text = f"no file matches {pattern!r} in {folder}; {where} holds {shown or 'nothing'}"
    return DataRefused(text, hint=_nearest(clean, place, here))


def _nearest(clean: str, place: str, here: list[str]) -> str:
    """A hint: the name in `place` that is most like the pattern's next part."""
    import difflib

    wanted = clean[len(place) :].lstrip("/").split("/", 1)[0]
    bare = {name.rstrip("/"): name for name in here}
    near = difflib.get_close_matches(wanted.replace("*", ""), list(bare), n=1, cutoff=0.5)
    if not near and posixpath.splitext(wanted)[0]:
        stem = wanted.split("*", 1)[0].split(".", 1)[0]
        near = [name for name in bare if stem and name.startswith(stem)][:1]
    if near:
        return f"did you mean {posixpath.join(place, bare[near[0]])}?"
    return "put the file there, or correct the pattern in treadle.yaml"
