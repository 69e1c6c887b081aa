"""`treadle init`, what lies in a folder: data sets by their files, databases, git. Writes nothing."""

from __future__ import annotations

import fnmatch
import keyword
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.plan import template
from treadle.plan.template import Guess

if TYPE_CHECKING:
    import polars as pl

Query = Callable[[str, str], "pl.DataFrame"]
"""Reads (database URL, SQL) into a polars frame."""
SUFFIXES = {
    ".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv", ".tsv": "tsv", ".tsv.gz": "tsv",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
_SKIPPED = {"node_modules", "__pycache__", "mlruns", "mlartifacts", "venv", "site-packages"}
_DIGITS = re.compile(r"\d[\d\-_.T]*(?<![\-_.])")
_NOT_TRAINED_ON = ("truth", "actual", "outcome", "label", "test", "holdout", "later", "new")
_MAX_FILES = 20_000


@dataclass(frozen=True)
class Found:
    """One data set that was found: a pattern and what a sample of its rows says."""

    name: str
    pattern: str
    files: tuple[str, ...] = ()
    size_bytes: int = 0
    database: str | None = None
    """The URL, where `pattern` is a query."""


def project_name(folder: Path) -> str:
    """A name for the project by its folder's."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")
    name = name if name[:1].isalpha() else f"p-{name}".rstrip("-")
    return name[:63]


def identifier(text: str, fallback: str) -> str:
    """A text as a Python name; `fallback` where nothing of it is left."""
    word = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower() or fallback
    word = f"d{word}" if word[0].isdigit() else word
    return f"{word}_rows" if keyword.iskeyword(word) else word


def _walk(folder: Path) -> Iterable[Path]:
    seen = 0
    for here, folders, files in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = sorted(
            name for name in folders
            if depth < 5 and not name.startswith(".") and name not in _SKIPPED
            and not (Path(here) / name / "pyvenv.cfg").exists()
        )  # fmt: skip
        for name in sorted(files):
            seen += 1
            if seen > _MAX_FILES:
                return
            if not name.startswith("."):
                yield Path(here) / name


def suffix_of(name: str) -> str | None:
    """Which of SUFFIXES a file's name ends with."""
    lower = name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if lower.endswith(s)), None)


def data_sets(folder: Path) -> tuple[list[Found], list[str]]:
    """Data sets by their files, biggest first, and databases by their first bytes."""
    groups: dict[tuple[str, str], list[Path]] = {}
    databases: list[str] = []
    for path in _walk(folder):
        relative = path.relative_to(folder)
        suffix = suffix_of(path.name)
        if suffix is None:
            url = _database(path, relative)
            databases += [url] if url else []
            continue
        stem = path.name[: -len(suffix)]
        parent = _DIGITS.sub("*", relative.parent.as_posix())
        groups.setdefault((parent, _DIGITS.sub("*", stem) + suffix), []).append(path)
    names = [p.relative_to(folder).as_posix() for paths in groups.values() for p in paths]
    found: list[Found] = []
    taken: set[str] = set()
    for (parent, pattern), paths in groups.items():
        files = tuple(path.relative_to(folder).as_posix() for path in paths)
        whole = pattern if parent == "." else f"{parent}/{pattern}"
        if len(files) == 1:
            whole = files[0]
        elif sum(fnmatch.fnmatchcase(name, whole) for name in names) > len(files):
            whole = whole.replace("*", "[0-9]*")  # a sister such as flights-old.csv stays out
        stem = pattern[: -len(suffix_of(pattern) or "")].replace("*", " ")
        above = Path(parent).name
        fallback = above if above not in ("", "data") else identifier(project_name(folder), "rows")
        name = identifier(stem, identifier(fallback, "rows"))
        while name in taken:
            name += "_2"
        taken.add(name)
        found.append(Found(name, whole, files, sum(path.stat().st_size for path in paths)))
    found.sort(key=lambda one: (_is_other(one.name), -one.size_bytes, one.pattern))
    return found, databases


def _is_other(name: str) -> bool:
    """Whether a data set's name says that it is not what a model learns from."""
    return any(word in name.split("_") or word == name.rstrip("s") for word in _NOT_TRAINED_ON)


def _database(path: Path, relative: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return None
    if head.startswith(b"SQLite format 3\x00"):
        return f"sqlite:///{relative.as_posix()}"
    return f"duckdb:///{relative.as_posix()}" if head[8:12] == b"DUCK" else None


def tables(databases: list[str], query: Query, notes: list[Guess]) -> list[Found]:
    """The tables of databases, biggest first; one that cannot be read is added to `notes`."""
    found: list[Found] = []
    for url in databases:
        listing = "SELECT table_name AS name FROM information_schema.tables ORDER BY 1"
        if url.startswith("sqlite:"):
            listing = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
        try:
            for table in query(url, listing)["name"].to_list():
                quoted = '"' + str(table).replace('"', '""') + '"'
                rows = int(query(url, f"SELECT COUNT(*) AS n FROM {quoted}")["n"][0])
                name = identifier(str(table), "rows")
                found.append(Found(name, f"SELECT * FROM {quoted}", (), rows, url))
        except Exception as error:  # whatever a driver says about this file, it is only a guess
            notes.append(Guess("database", url, f"it cannot be read: {error}"))
    return sorted(found, key=lambda one: (_is_other(one.name), -one.size_bytes))


def git_files(folder: Path) -> tuple[dict[str, str], dict[str, str], bool]:
    """(new files, lines to append, whether it is a git work tree) for what git must not see."""
    at = folder.resolve()
    git = any((place / ".git").exists() for place in (at, *at.parents))
    path = folder / ".gitignore"
    if not path.exists():
        return {".gitignore": template.GITIGNORE}, {}, git
    try:
        lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines()]
    except OSError:
        return {}, {}, git
    known = any(line.strip("/") == ".treadle" for line in lines)
    return {}, ({} if known else {".gitignore": ".treadle/"}), git
