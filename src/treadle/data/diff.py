"""What differs between two snapshots of one data set: files, rows, columns, distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from treadle.base.records import Digested, Snapshot
from treadle.base.spec import DataSection
from treadle.clients.objects import Objects
from treadle.data.profile import Profile, distances


@dataclass(frozen=True)
class ColumnDiff(Digested):
    """One column, in both snapshots; shares are 0 to 1."""

    name: str
    change: str
    """same, added, removed, type (another logical type)"""
    before: str | None
    """The logical type, or None."""
    after: str | None
    psi: float | None = None
    ks: float | None = None
    """Kolmogorov–Smirnov distance; numeric columns only."""
    missing_before: float | None = None
    missing_after: float | None = None
    new_values: tuple[str, ...] = ()
    """Categories (of at most 50 named ones) that only the later snapshot has."""


@dataclass(frozen=True)
class DataDiff(Digested):
    """From snapshot `before` to snapshot `after`."""

    dataset: str
    before: str
    after: str
    rows_before: int
    rows_after: int
    parts_added: tuple[str, ...]
    parts_removed: tuple[str, ...]
    parts_changed: tuple[str, ...]
    columns: tuple[ColumnDiff, ...]

    @property
    def words(self) -> str:
        """One line: `+26,398 rows, 1 file added, 2 columns moved (PSI above .1)`."""
        said = [f"{self.rows_after - self.rows_before:+,} rows"]
        for count, word in (
            (len(self.parts_added), "added"),
            (len(self.parts_changed), "changed"),
            (len(self.parts_removed), "removed"),
        ):
            if count:
                said.append(f"{count} file{'s' if count > 1 else ''} {word}")
        shape = [column.name for column in self.columns if column.change != "same"]
        if shape:
            said.append(f"columns changed: {', '.join(shape)}")
        moved = [
            column.name for column in self.columns if column.psi is not None and column.psi > 0.1
        ]
        if moved:
            said.append(f"moved (PSI above .1): {', '.join(moved)}")
        return ", ".join(said)


def diff(
    before: Snapshot,
    after: Snapshot,
    objects: Objects,
    *,
    profiles: tuple[Profile, Profile] | None = None,
) -> DataDiff:
    """The difference; distributions are compared on the edges and categories of `before`.

    `profiles`: of the two snapshots, the second made with `like` the first, if they are at hand;
    else both are scanned.
    """
    old = {part.path: part.content for part in before.parts}
    new = {part.path: part.content for part in after.parts}
    first, second = profiles or _profiles(before, after, objects)
    earlier = {column.name: column.type for column in before.columns}
    later = {column.name: column.type for column in after.columns}
    columns = tuple(
        _column(name, earlier.get(name), later.get(name), first, second)
        for name in dict.fromkeys([*earlier, *later])
    )
    return DataDiff(
        after.dataset, before.digest, after.digest, before.rows, after.rows,
        tuple(sorted(new.keys() - old.keys())),
        tuple(sorted(old.keys() - new.keys())),
        tuple(sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
        columns,
    )  # fmt: skip


def _profiles(before: Snapshot, after: Snapshot, objects: Objects) -> tuple[Profile, Profile]:
    from treadle.data.scan import scan

    section = DataSection(files="*")  # keys and rules are not what is asked here
    first = scan(before, objects, section, None).profile
    return first, scan(after, objects, section, None, like=first).profile


def _column(
    name: str, before: str | None, after: str | None, first: Profile, second: Profile
) -> ColumnDiff:
    change = (
        "same"
        if before == after
        else "added"
        if before is None
        else "removed"
        if after is None
        else "type"
    )
    left, right = first["columns"].get(name), second["columns"].get(name)
    between = distances(left, right) if left and right else None
    new: tuple[str, ...] = ()
    if left and right and left["kind"] == right["kind"] == "category" and not left["other"]:
        new = tuple(sorted(right["counts"].keys() - left["counts"].keys()))
    return ColumnDiff(
        name, change, before, after,
        None if between is None else between[0],
        None if between is None else between[1],
        _share(left, first), _share(right, second), new,
    )  # fmt: skip


def _share(entry: Any, profile: Profile) -> float | None:
    return entry["missing"] / profile["rows"] if entry and profile["rows"] else None
