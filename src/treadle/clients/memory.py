"""In-memory twins of the journal and the object store: same contract, nothing on the disk."""

from __future__ import annotations

import builtins
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from treadle.base.digest import canonical, digest_bytes
from treadle.base.errors import StateError
from treadle.base.plain import to_plain
from treadle.base.records import Decision, Message
from treadle.clients.journal import Changes, chained, check_key, encode, verify_chain
from treadle.clients.objects import damaged, manifest, materialize, missing


class MemoryJournal:
    """The journal as a dict and two lists; values pass through JSON as in the file."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], str] = {}
        self._ledger: builtins.list[tuple[int, str, str, str, str]] = []
        self._outbox: builtins.list[str | None] = []
        self._closed = False

    def _use(self) -> None:
        if self._closed:
            raise StateError("the journal is closed")

    def get(self, kind: str, key: str) -> Any | None:
        """See Journal."""
        self._use()
        check_key(kind, key)
        text = self._records.get((kind, key))
        return None if text is None else json.loads(text)

    def list(
        self, kind: str, prefix: str = "", *, newest_first: bool = False, limit: int | None = None
    ) -> builtins.list[tuple[str, Any]]:
        """See Journal."""
        self._use()
        check_key(kind, prefix)
        found = sorted(
            (key for of, key in self._records if of == kind and key.startswith(prefix)),
            reverse=newest_first,
        )
        return [(key, json.loads(self._records[kind, key])) for key in found[:limit]]

    def commit(self, changes: Changes) -> None:
        """See Journal."""
        self._use()
        for kind, key, _ in changes.puts:
            check_key(kind, key)
        puts = {(kind, key): encode(value) for kind, key, value in changes.puts}
        messages = [encode(to_plain(message)) for message in changes.messages]
        entries = []
        previous = self._ledger[-1][4] if self._ledger else ""
        for number, decision in enumerate(changes.decisions, len(self._ledger) + 1):
            entry = chained(decision, previous)
            previous = entry.digest
            text = encode(to_plain(entry))
            entries.append((number, entry.environment, entry.at, text, previous))
        for kind_key in changes.deletes:  # nothing can fail from here on
            self._records.pop(kind_key, None)
        self._records.update(puts)
        self._ledger += entries
        self._outbox += messages

    def ledger(
        self, environment: str | None = None, *, until: str | None = None, limit: int | None = None
    ) -> builtins.list[Decision]:
        """See Journal."""
        self._use()
        found = [
            Decision(**json.loads(text))
            for _, of, at, text, _ in reversed(self._ledger)
            if (environment is None or of == environment) and (until is None or at <= until)
        ]
        return found[:limit]

    def verify(self) -> None:
        """See Journal."""
        self._use()
        head = (len(self._ledger), self._ledger[-1][4] if self._ledger else "")
        verify_chain(iter(self._ledger), head)

    def pending(self, limit: int = 100) -> builtins.list[tuple[int, Message]]:
        """See Journal."""
        self._use()
        found = [
            (number, Message(**json.loads(text)))
            for number, text in enumerate(self._outbox, 1)
            if text is not None
        ]
        return found[:limit]

    def delivered(self, numbers: Sequence[int]) -> None:
        """See Journal."""
        self._use()
        for number in numbers:
            if 1 <= number <= len(self._outbox):
                self._outbox[number - 1] = None

    def close(self) -> None:
        """See Journal."""
        self._closed = True


class MemoryObjects:
    """Blobs in a dict; `path` writes one to a scratch folder, which is removed at the end."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._scratch: Path | None = None

    def put_bytes(self, data: bytes) -> str:
        """See Objects."""
        digest = digest_bytes(data)
        self._blobs[digest] = bytes(data)
        return digest

    def put_file(self, path: Path) -> tuple[str, int]:
        """See Objects."""
        data = path.read_bytes()
        return self.put_bytes(data), len(data)

    def put_tree(self, folder: Path) -> tuple[str, dict[str, str]]:
        """See Objects."""
        files = {
            path.relative_to(folder).as_posix(): self.put_file(path)[0]
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.put_bytes(canonical(files)), files

    def has(self, digest: str) -> bool:
        """See Objects."""
        return digest in self._blobs

    def read(self, digest: str) -> bytes:
        """See Objects."""
        if digest not in self._blobs:
            raise missing(digest)
        data = self._blobs[digest]
        if (seen := digest_bytes(data)) != digest:
            raise damaged(digest, seen)
        return data

    def path(self, digest: str, *, verify: bool = False) -> Path:
        """See Objects."""
        data = self.read(digest) if verify or digest not in self._blobs else self._blobs[digest]
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="treadle-objects-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        place = self._scratch / digest.removeprefix("sha256:")
        if not place.exists():
            place.write_bytes(data)
            place.chmod(0o444)
        return place

    def tree(self, digest: str, target: Path) -> Path:
        """See Objects."""
        return materialize(manifest(self.read(digest), digest), digest, target, self.path)

    def delete(self, digest: str) -> None:
        """See Objects."""
        self._blobs.pop(digest, None)

    def digests(self) -> Iterator[str]:
        """See Objects."""
        yield from sorted(self._blobs)
