"""The content of a data set at one moment; what did not change is neither read nor hashed.

The memo (journal kind `memo`, key `DATASET/path`) knows each file by size, mtime, ctime and inode:
    [size, mtime_ns, inode, digest, rows, columns digest, ctime_ns, racy]
and kind `memo_columns` holds each distinct set of columns once, by that digest. A file that was
modified so shortly before it was hashed that a later write could bear the same mtime is `racy`, as
in git's index: it is hashed again at the next turn, and then the memo holds.

On the fast path: no polars, pandas or pyarrow unless a file is new.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.base.digest import digest as digest_of
from treadle.base.digest import digest_file
from treadle.base.errors import DataRefused, StateError
from treadle.base.log import Report
from treadle.base.plain import to_plain
from treadle.base.records import Column, Part, Snapshot, Violation
from treadle.base.spec import DataSection
from treadle.clients.journal import Changes, Journal
from treadle.clients.objects import Objects
from treadle.data.source import listing
from treadle.data.stored import columns, latest, record, stored

_TICK_NS = 20_000_000  # kernels stamp files with the time of their last tick, up to 10 ms old
_COARSE_NS = 2_000_000_000  # FAT keeps even seconds; some network file systems whole ones
_ATTEMPTS = 3


@dataclass(frozen=True)
class _Known:
    """One file's memo."""

    size: int
    mtime_ns: int
    inode: int
    digest: str
    rows: int | None
    columns: str
    ctime_ns: int
    racy: bool

    def matches(self, stat: os.stat_result) -> bool:
        return (
            not self.racy
            and self.size == stat.st_size
            and self.mtime_ns == stat.st_mtime_ns
            and self.inode == stat.st_ino
            and self.ctime_ns == stat.st_ctime_ns
        )

    def plain(self) -> list[Any]:
        return [
            self.size,
            self.mtime_ns,
            self.inode,
            self.digest,
            self.rows,
            self.columns,
            self.ctime_ns,
            self.racy,
        ]


def take(
    name: str,
    section: DataSection,
    folder: Path,
    journal: Journal,
    objects: Objects,
    changes: Changes,
    report: Report,
    *,
    dry: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Snapshot:
    """The data set's snapshot now; new files are stored, and the journal's writes are in `changes`.

    With `dry` files that changed are hashed where they are and nothing is stored (the digest is the
    same). A dry snapshot of a *query* is the previous one (empty if there is none), because only
    reading tells: see `will_read`.
    Raises DataRefused with every file that cannot be read, UsageError for an impossible pattern,
    StateError for a file that keeps changing while it is read, Unreachable for a database.
    """
    if section.query is not None:
        previous = latest(name, journal)
        if dry:
            return previous or Snapshot(name, "query", (), (), section.key, section.event_time)
        from treadle.data import query  # brings pyarrow

        return query.take(
            name,
            section,
            folder,
            journal,
            objects,
            changes,
            report,
            previous=previous,
            environ=os.environ if environ is None else environ,
        )
    return _files(name, section, folder, journal, objects, changes, report, dry=dry)


def will_read(section: DataSection) -> bool:
    """Whether a dry snapshot cannot know the content: `plan` says "will be read"."""
    return section.query is not None


def _files(
    name: str,
    section: DataSection,
    folder: Path,
    journal: Journal,
    objects: Objects,
    changes: Changes,
    report: Report,
    *,
    dry: bool,
) -> Snapshot:
    tables = section.files is not None
    prefix = f"{name}/"
    memos = {
        key[len(prefix) :]: _Known(*value)
        for key, value in journal.list("memo", prefix)
        if len(value) == 8
    }
    known_columns: dict[str, tuple[Column, ...]] = {
        key: columns(value) for key, value in (journal.list("memo_columns") if tables else ())
    }
    places = listing(section, folder)
    base = os.fspath(folder)
    files: dict[str, _Known] = {}
    fresh: list[str] = []
    for place in places:
        memo = memos.get(place)
        try:
            stat = os.stat(f"{base}/{place}")
        except OSError as error:
            raise DataRefused(f"data set {name}: {place}: {error.strerror}") from error
        if (
            memo is not None
            and memo.matches(stat)
            and (not tables or memo.columns in known_columns)
        ):
            files[place] = memo
            # The blob may be gone (somebody emptied the store): then the file is stored again.
            if dry or objects.has(memo.digest):
                continue
        fresh.append(place)
    bad: list[Violation] = []
    for number, place in enumerate(fresh, 1):
        report(f"data {name}: reading {place} ({number} of {len(fresh)})", file=place)
        found = _read(name, folder / place, place, objects, known_columns, bad, tables, dry)
        if found is None:
            continue
        if memos.get(place) != found:
            changes.put("memo", prefix + place, found.plain())
            if tables:
                changes.put("memo_columns", found.columns, to_plain(known_columns[found.columns]))
        files[place] = found
    if bad:
        from treadle.data.types import refuse_text

        raise DataRefused(
            refuse_text(name, bad),
            bad,
            hint="correct or remove the files named; nothing was changed",
        )
    for place in memos.keys() - files.keys():
        changes.delete("memo", prefix + place)
    snapshot = _assemble(name, section, places, files, known_columns)
    before = journal.get("snapshot", name)
    if stored(before) != snapshot:
        record(snapshot, changes)
    return snapshot


def _assemble(
    name: str,
    section: DataSection,
    places: list[str],
    files: dict[str, _Known],
    known: dict[str, tuple[Column, ...]],
) -> Snapshot:
    if section.files is None:
        parts = tuple(Part(place, files[place].digest, files[place].size) for place in places)
        return Snapshot(name, "paths", parts, (), section.key, section.event_time)
    kinds = list(dict.fromkeys(files[place].columns for place in places))
    if len(kinds) == 1:
        columns = known[kinds[0]]
    else:
        from treadle.data.types import unify

        columns = unify([known[kind] for kind in kinds])
    shape = [(column.name, column.type) for column in columns]
    own = {
        kind: None if [(c.name, c.type) for c in known[kind]] == shape else known[kind]
        for kind in kinds
    }
    parts = tuple(
        Part(place, memo.digest, memo.size, memo.rows, own[memo.columns])
        for place, memo in ((place, files[place]) for place in places)
    )
    return Snapshot(name, "files", parts, columns, section.key, section.event_time)


def _read(
    dataset: str,
    path: Path,
    place: str,
    objects: Objects,
    known: dict[str, tuple[Column, ...]],
    bad: list[Violation],
    tables: bool,
    dry: bool,
) -> _Known | None:
    """Hash (and store) one file and learn its rows and columns; None where it is unreadable."""
    for attempt in range(_ATTEMPTS):
        try:
            # Not base/clock: files bear the machine's time, replayed or not.
            began = time.time_ns()
            stat = os.stat(path)
            if dry:
                digest, size, content = digest_file(path), stat.st_size, path
            else:
                digest, size = objects.put_file(path)
                content = objects.path(digest)
            rows: int | None = None
            columns: tuple[Column, ...] = ()
            if tables:
                from treadle.data.inspect import inspect
                from treadle.data.types import Unreadable

                try:
                    rows, columns = inspect(content, place)
                except Unreadable as error:
                    bad.append(
                        Violation(dataset, error.rule, None, f"{place}: {error.text}", examples=())
                    )
                    return None
            after = os.stat(path)
        except PermissionError as error:
            bad.append(
                Violation(
                    dataset,
                    "unreadable",
                    None,
                    f"{place}: no permission to read it ({error.strerror})",
                )
            )
            return None
        except StateError:
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        except FileNotFoundError:
            break
        if _identity(stat) == _identity(after) and size == stat.st_size:
            column_digest = digest_of([to_plain(column) for column in columns]) if tables else ""
            if tables:
                known[column_digest] = columns
            return _Known(
                size,
                stat.st_mtime_ns,
                stat.st_ino,
                digest,
                rows,
                column_digest,
                stat.st_ctime_ns,
                _racy(stat, began),
            )
    raise StateError(
        f"data set {dataset}: {place} changed while it was read ({_ATTEMPTS} times)",
        hint="whoever writes it should write another name and rename it when it is whole; "
        "then run the command again",
    )


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns


def _racy(stat: os.stat_result, began_ns: int) -> bool:
    """Whether a write after the hash could leave the same mtime (and ctime) on the file."""
    stamps = (stat.st_mtime_ns, stat.st_ctime_ns)
    coarse = all(stamp % 1_000_000_000 == 0 for stamp in stamps)
    return max(stamps) > began_ns - (_COARSE_NS if coarse else _TICK_NS)
