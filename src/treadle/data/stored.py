"""Snapshots as the journal keeps them: the latest of each data set, and each by its digest."""

from __future__ import annotations

from typing import Any

from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Column, Part, Snapshot
from treadle.clients.journal import Changes, Journal


def latest(name: str, journal: Journal) -> Snapshot | None:
    """The last snapshot of the data set `name`, if there was one."""
    return stored(journal.get("snapshot", name))


def by_digest(digest: str, journal: Journal) -> Snapshot | None:
    """The snapshot with that digest, if it was ever taken."""
    return stored(journal.get("snapshot_by", digest))


def stored(data: Any) -> Snapshot | None:
    """A Snapshot from its plain value; built by hand, for a thousand parts in a millisecond."""
    if data is None:
        return None
    return Snapshot(
        dataset=data["dataset"],
        kind=data["kind"],
        parts=tuple(
            Part(
                part["path"],
                part["content"],
                part["size_bytes"],
                part["rows"],
                None if part.get("columns") is None else columns(part["columns"]),
            )
            for part in data["parts"]
        ),
        columns=columns(data["columns"]),
        key=tuple(data["key"]),
        event_time=data["event_time"],
    )


def columns(data: list[Any]) -> tuple[Column, ...]:
    """Columns from their plain values."""
    return tuple(from_plain(Column, column) for column in data)


def record(snapshot: Snapshot, changes: Changes) -> None:
    """Put a snapshot into `changes` as the data set's latest."""
    value = to_plain(snapshot)
    changes.put("snapshot", snapshot.dataset, value)
    changes.put("snapshot_by", snapshot.digest, value)
