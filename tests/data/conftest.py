"""A project folder with real state; `taken` turns files into a snapshot as the loop does."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.base.log import silent
from treadle.base.spec import DataSection
from treadle.clients.journal import Changes, SqliteJournal
from treadle.clients.objects import DiskObjects
from treadle.data.snapshot import take


class Room:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        self.journal = SqliteJournal(folder / "journal.db")
        self.objects = DiskObjects(folder / "objects")
        self.lines: list[str] = []
        self.puts: list[tuple[str, str]] = []

    def report(self, line: str, **facts) -> None:
        self.lines.append(line)

    def take(self, section: DataSection, name: str = "d", *, dry: bool = False, environ=None):
        changes = Changes()
        self.lines.clear()
        snapshot = take(
            name,
            section,
            self.folder,
            self.journal,
            self.objects,
            changes,
            self.report if not dry else silent,
            dry=dry,
            environ=environ or {},
        )
        self.puts = [(kind, key) for kind, key, _ in changes.puts]
        if not dry:
            self.journal.commit(changes)
        return snapshot

    def write(self, path: str, content: str | bytes) -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        return place


@pytest.fixture
def room(tmp_path):
    made = Room(tmp_path)
    yield made
    made.journal.close()


FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
