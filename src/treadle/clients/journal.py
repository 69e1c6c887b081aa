"""The journal: one SQLite file that is the truth about an environment's state.

Records (kind, key → value), an append-only ledger whose entries name the digest of the one
before, and an outbox of messages for MLflow, all changed together in one transaction by `commit`.

The file appears whole (made under another name, then renamed), so a journal without tables is not
a new one but a damaged one, and is never taken for a fresh start. WAL with `synchronous=FULL`: a
commit that returned survives a power cut. One chain runs over the whole journal, not one for each
environment: then an entry cannot be dropped from an environment without breaking the chain of the
others too; the head of the chain is kept beside it, so that a cut tail is noticed.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import quote

from treadle.base import clock, crash
from treadle.base.errors import StateBusy, StateCorrupt, StateError, StateVersion
from treadle.base.plain import to_plain
from treadle.base.records import Decision, Message
from treadle.clients.files import disk_errors, disk_full, flocked, flush, fsync_folder

SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0
"""How long a commit waits for another writer; commits take milliseconds."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
                      PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE ledger (seq INTEGER PRIMARY KEY, environment TEXT NOT NULL, at TEXT NOT NULL,
                     entry TEXT NOT NULL, digest TEXT NOT NULL);
CREATE INDEX ledger_of ON ledger (environment, seq);
CREATE TRIGGER ledger_keep BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_stay BEFORE UPDATE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, message TEXT NOT NULL,
                     delivered_at TEXT);
CREATE INDEX outbox_pending ON outbox (seq) WHERE delivered_at IS NULL;
"""


# ---- changes -------------------------------------------------------------------------------------


@dataclass
class Changes:
    """What one commit does, all of it or nothing. Deletes come first, then puts."""

    puts: list[tuple[str, str, Any]] = field(default_factory=list)
    """(kind, key, plain JSON value); replaces what was there."""
    deletes: list[tuple[str, str]] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    """Appended to the ledger; the journal fills `previous`."""
    messages: list[Message] = field(default_factory=list)
    """Appended to the outbox."""

    def put(self, kind: str, key: str, record: Any) -> Changes:
        """Store a dataclass or a plain value under (kind, key)."""
        self.puts.append((kind, key, to_plain(record)))
        return self

    def delete(self, kind: str, key: str) -> Changes:
        """Remove (kind, key), and what an earlier `put` of these changes wrote there."""
        self.puts = [entry for entry in self.puts if entry[:2] != (kind, key)]
        self.deletes.append((kind, key))
        return self

    def decide(self, decision: Decision) -> Changes:
        """Append to the ledger."""
        self.decisions.append(decision)
        return self

    def tell(self, message: Message) -> Changes:
        """Append to the outbox."""
        self.messages.append(message)
        return self

    def add(self, other: Changes) -> Changes:
        """Append everything of `other`, as if it had been done after this."""
        for kind, key in other.deletes:
            self.delete(kind, key)
        self.puts += other.puts
        self.decisions += other.decisions
        self.messages += other.messages
        return self

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes or self.decisions or self.messages)


class Journal(Protocol):
    """Few methods with one contract test for every implementation."""

    def get(self, kind: str, key: str) -> Any | None:
        """The value of (kind, key), or None."""

    def list(
        self, kind: str, prefix: str = "", *, newest_first: bool = False, limit: int | None = None
    ) -> builtins.list[tuple[str, Any]]:
        """(key, value) of a kind in the order of the keys, or in the reverse order."""

    def commit(self, changes: Changes) -> None:
        """Do all of `changes` or, with an error, nothing. When it returns, they are kept."""

    def ledger(
        self, environment: str | None = None, *, until: str | None = None, limit: int | None = None
    ) -> builtins.list[Decision]:
        """Decisions, newest first, made at `until` (ISO 8601 text in UTC) or before."""

    def verify(self) -> None:
        """StateCorrupt naming what is not as it was written."""

    def pending(self, limit: int = 100) -> builtins.list[tuple[int, Message]]:
        """Messages not yet delivered, oldest first, with their numbers."""

    def delivered(self, numbers: Sequence[int]) -> None:
        """These messages need not be delivered again."""

    def close(self) -> None:
        """No more use of this journal."""


# ---- what every implementation shares ------------------------------------------------------------


def encode(value: Any) -> str:
    """JSON text of a plain value; TypeError for what JSON would change without a word."""
    _check(value)
    return json.dumps(value, separators=(",", ":"))


def _check(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a stored mapping has text keys, not {key!r}")
            _check(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)


def check_key(kind: str, key: str) -> None:
    """Keys are Unicode text: a file name that is none (undecodable bytes) has no place here."""
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        raise StateError(
            f"{key!r} is no valid Unicode text and cannot name a {kind}",
            hint="rename the file so that its name is valid UTF-8",
        ) from None


def chained(decision: Decision, previous: str) -> Decision:
    """The decision as an entry that follows the one with the digest `previous`."""
    return dataclasses.replace(decision, previous=previous)


def verify_chain(entries: Iterator[tuple[int, str, str, str, str]], head: tuple[int, str]) -> None:
    """StateCorrupt naming the first entry that is edited, missing or out of place.

    `entries` are (number, environment, at, JSON of the decision, digest) in order, `head` is the
    number of entries and the digest of the last one as the last commit left them.
    """
    previous, count = "", 0
    for number, environment, at, entry, digest in entries:
        count += 1
        if number != count:
            raise _broken(f"entry {count} is missing: entry {number} follows entry {count - 1}")
        try:
            decision = Decision(**json.loads(entry))
            actual = decision.digest
        except (TypeError, ValueError) as error:
            raise _broken(f"entry {number} cannot be read ({error})") from error
        named = f"entry {number} ({decision.kind} {decision.subject}, {decision.at})"
        if actual != digest or (environment, at) != (decision.environment, decision.at):
            raise _broken(f"{named} was edited: its content is not what its digest says")
        if decision.previous != previous:
            raise _broken(f"{named} does not follow entry {number - 1}: one was edited or moved")
        previous = digest
    if (count, previous) != head:
        raise _broken(f"it ends with entry {count}, but {head[0]} entries were written")


def _broken(what: str) -> StateCorrupt:
    return StateCorrupt(
        f"the ledger is broken: {what}",
        hint="restore .treadle/journal.db from a backup; `treadle ledger` still shows what can be "
        "read, but nothing is decided on a ledger that was changed",
    )


def prefix_end(prefix: str) -> str | None:
    """The smallest text above every text that starts with `prefix`; None if there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)


# ---- SQLite --------------------------------------------------------------------------------------


class SqliteJournal:
    """The journal in one SQLite file. Safe for threads; not to be carried across a fork."""

    schema_version: ClassVar[int] = SCHEMA_VERSION
    migrations: ClassVar[dict[int, tuple[str, ...]]] = {}
    """From version → SQL statements that make the next one; all that are due are one transaction."""

    def __init__(self, path: Path, *, create: bool = True, read_only: bool = False) -> None:
        """Open `path`; make it if it is absent and `create` (eight processes may do so at once).

        Raises StateError if it is absent, StateVersion if its version is not ours and cannot be
        migrated, StateCorrupt, StateBusy, DiskFull. A reader writes nothing and needs no right to.
        """
        self.path = path
        self.read_only = read_only
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        if not os.path.exists(path):
            if not create or read_only:
                raise StateError(
                    f"there is no journal at {path}",
                    hint="`treadle up` begins one; on a runner, use the environment's own state",
                )
            self._create()
        with self._errors():
            self._connection = self._connect()
        try:
            self._check_version()
        except BaseException:
            self.close()
            raise

    # -- opening

    def _create(self) -> None:
        """Make the file under another name and rename it into place, one process at a time."""
        with flocked(self.path.with_name(self.path.name + ".lock")), disk_errors(self.path):
            if os.path.exists(self.path):
                return  # another process was first
            stray = self.path.with_name(self.path.name + "-wal")
            if stray.exists() and stray.stat().st_size > 0:
                raise StateCorrupt(
                    f"{self.path} is gone, but its log {stray.name} is still there",
                    hint=f"restore {self.path.name} from a backup, or delete {stray} to begin anew",
                )
            temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
            crash.point("journal.create.before")
            try:
                with self._errors():
                    connection = sqlite3.connect(temporary, isolation_level=None)
                    try:
                        # WAL is switched on last: what is committed before is in the file itself,
                        # and no checkpoint at the closing can fail on a full disk unseen.
                        connection.executescript(
                            f"BEGIN; {_SCHEMA} INSERT INTO meta VALUES "
                            f"('schema_version', '{SCHEMA_VERSION}'), "
                            "('ledger_count', '0'), ('ledger_head', ''); COMMIT;"
                        )
                        connection.execute("PRAGMA journal_mode=WAL")
                    finally:
                        connection.close()
                number = os.open(temporary, os.O_RDONLY)
                try:
                    flush(number)
                finally:
                    os.close(number)
                os.rename(temporary, self.path)
                fsync_folder(self.path.parent)
            finally:
                # With them whatever a process left that died here: the lock makes this one alone.
                for leftover in self.path.parent.glob(f".{self.path.name}.*"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(leftover)
            crash.point("journal.create.after")

    def _connect(self) -> sqlite3.Connection:
        # A journal file is never empty: sqlite would take an empty file for a new database.
        if os.path.getsize(self.path) == 0:
            raise self._corrupt("it is empty")
        if self.read_only:
            return self._connect_reader()
        connection = sqlite3.connect(
            f"file:{quote(os.fspath(self.path))}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA fullfsync=ON")  # macOS; nothing elsewhere
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        """A reader, also where SQLite cannot make its `-shm`: no right to write, or a full disk.

        Without a `-wal` file nothing is going on and the file alone is the whole journal: it is
        then read as it is (`immutable`), good for the moments that a command takes.
        """
        unmade = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)
        uri = f"file:{quote(os.fspath(self.path))}?mode=ro"
        for suffix in ("", "&immutable=1"):
            connection = sqlite3.connect(
                uri + suffix,
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
            except sqlite3.OperationalError as error:
                connection.close()
                code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
                log = f"{self.path}-wal"
                idle = not os.path.exists(log) or os.path.getsize(log) == 0
                if suffix or not idle or code not in unmade:
                    raise
            else:
                return connection
        raise AssertionError("unreachable: the loop returns or raises")

    def _check_version(self) -> None:
        version = self._version()
        if version == self.schema_version:
            return
        if version > self.schema_version:
            raise StateVersion(
                f"{self.path} has schema version {version}, written by a newer Treadle; "
                f"this one knows version {self.schema_version}",
                hint="install the newer Treadle (`pip install --upgrade treadle`)",
            )
        missing = [v for v in range(version, self.schema_version) if v not in self.migrations]
        if missing:
            raise StateVersion(
                f"{self.path} has schema version {version}; this Treadle knows version "
                f"{self.schema_version} and has no migration from version {missing[0]}",
                hint="open it once with an older Treadle that migrates it, then with this one",
            )
        if self.read_only:
            raise StateVersion(
                f"{self.path} has schema version {version} and must be migrated to "
                f"{self.schema_version} first",
                hint="run `treadle up` once where the state can be written",
            )
        with self._writing() as connection:
            version = self._version()  # another process may have migrated while we waited
            while version < self.schema_version:
                for statement in self.migrations[version]:
                    connection.execute(statement)
                version += 1
            connection.execute(
                "UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(version),)
            )

    def _version(self) -> int:
        return int(self._meta("schema_version"))

    def _meta(self, name: str) -> str:
        try:
            rows = self._read("SELECT value FROM meta WHERE name = ?", (name,))
        except sqlite3.OperationalError as error:
            raise self._corrupt(f"it has no table of ours ({error})") from error
        if not rows:
            raise self._corrupt(f"it does not say its {name}")
        return str(rows[0][0])

    # -- errors

    def _corrupt(self, what: str) -> StateCorrupt:
        return StateCorrupt(
            f"the journal {self.path} is damaged: {what}",
            hint="restore it from a backup; results and models are still in objects/",
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
            if code == sqlite3.SQLITE_FULL or (
                code == sqlite3.SQLITE_IOERR and _nothing_free(self.path)
            ):
                raise disk_full(self.path) from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or (
                "Could not decode to UTF-8" in str(error)
            ):
                raise self._corrupt(str(error)) from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StateBusy(
                    f"another process has held the journal {self.path} "
                    f"for more than {BUSY_SECONDS:.0f} s",
                    hint="see who has it open: `lsof` or `fuser` on that file",
                ) from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
                raise StateError(
                    f"the journal {self.path} cannot be opened for "
                    f"{'reading' if self.read_only else 'writing'} ({error})",
                    hint="make it and its folder writable, or set TREADLE_STATE to a folder that is",
                ) from error
            if code == sqlite3.SQLITE_IOERR:
                raise StateError(
                    f"the disk failed while the journal {self.path} was in use ({error})",
                    hint="see the system's log (dmesg); what was written before is intact",
                ) from error
            raise

    # -- reading

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StateError(f"the journal {self.path} is closed")
        return self._connection

    def _read(self, sql: str, arguments: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._errors():
            return self._open().execute(sql, arguments).fetchall()

    def _decode(self, text: str, what: str) -> Any:
        try:
            return json.loads(text)
        except (TypeError, ValueError) as error:
            raise self._corrupt(f"{what} cannot be read ({error})") from error

    def get(self, kind: str, key: str) -> Any | None:
        """See Journal."""
        check_key(kind, key)
        rows = self._read("SELECT value FROM records WHERE kind = ? AND key = ?", (kind, key))
        return self._decode(rows[0][0], f"record {kind} {key}") if rows else None

    def list(
        self, kind: str, prefix: str = "", *, newest_first: bool = False, limit: int | None = None
    ) -> builtins.list[tuple[str, Any]]:
        """See Journal."""
        check_key(kind, prefix)
        end = prefix_end(prefix)
        above = "" if end is None else "AND key < ? "
        arguments = [kind, prefix, *([] if end is None else [end]), -1 if limit is None else limit]
        rows = self._read(
            f"SELECT key, value FROM records WHERE kind = ? AND key >= ? {above}"
            f"ORDER BY key {'DESC' if newest_first else 'ASC'} LIMIT ?",
            arguments,
        )
        return [(key, self._decode(value, f"record {kind} {key}")) for key, value in rows]

    def ledger(
        self, environment: str | None = None, *, until: str | None = None, limit: int | None = None
    ) -> builtins.list[Decision]:
        """See Journal."""
        where, arguments = ["1"], []
        if environment is not None:
            where.append("environment = ?")
            arguments.append(environment)
        if until is not None:
            where.append("at <= ?")
            arguments.append(until)
        rows = self._read(
            f"SELECT entry FROM ledger WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?",
            [*arguments, -1 if limit is None else limit],
        )
        try:
            return [Decision(**self._decode(entry, "a ledger entry")) for (entry,) in rows]
        except TypeError as error:
            raise self._corrupt(f"a ledger entry cannot be read ({error})") from error

    def pending(self, limit: int = 100) -> builtins.list[tuple[int, Message]]:
        """See Journal."""
        rows = self._read(
            "SELECT seq, message FROM outbox WHERE delivered_at IS NULL ORDER BY seq LIMIT ?",
            (limit,),
        )
        return [
            (number, Message(**self._decode(message, f"message {number}")))
            for number, message in rows
        ]

    def verify(self) -> None:
        """See Journal: the pages of the file (`PRAGMA quick_check`), then the chain."""
        for (found,) in self._read("PRAGMA quick_check"):
            if found != "ok":
                raise self._corrupt(str(found).replace("\n", "; "))
        with self._lock, self._errors():
            connection = self._open()
            # One transaction: the head belongs to these entries, whoever commits meanwhile.
            connection.execute("BEGIN")
            try:
                head = (int(self._meta("ledger_count")), self._meta("ledger_head"))
                verify_chain(
                    connection.execute(
                        "SELECT seq, environment, at, entry, digest FROM ledger ORDER BY seq"
                    ),
                    head,
                )
            finally:
                connection.execute("ROLLBACK")

    # -- writing

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, the writer's lock taken at its start: nothing fails half-way."""
        with self._lock, self._errors():
            if self.read_only:
                raise StateError(f"the journal {self.path} was opened for reading only")
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk may have rolled it back already
                    connection.execute("ROLLBACK")
                raise

    def commit(self, changes: Changes) -> None:
        """See Journal."""
        if not changes:
            return
        for kind, key, _ in changes.puts:
            check_key(kind, key)
        puts = [(kind, key, encode(value)) for kind, key, value in changes.puts]
        crash.point("journal.commit.before")
        with self._writing() as connection:
            connection.executemany(
                "DELETE FROM records WHERE kind = ? AND key = ?", changes.deletes
            )
            connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", puts)
            if changes.decisions:
                self._append(connection, changes.decisions)
            connection.executemany(
                "INSERT INTO outbox (message) VALUES (?)",
                [(encode(to_plain(message)),) for message in changes.messages],
            )
        crash.point("journal.commit.after")

    def _append(self, connection: sqlite3.Connection, decisions: Sequence[Decision]) -> None:
        count, previous = int(self._meta("ledger_count")), self._meta("ledger_head")
        for decision in decisions:
            entry = chained(decision, previous)
            count, previous = count + 1, entry.digest
            connection.execute(
                "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)",
                (count, entry.environment, entry.at, encode(to_plain(entry)), previous),
            )
        connection.executemany(
            "UPDATE meta SET value = ? WHERE name = ?",
            [(str(count), "ledger_count"), (previous, "ledger_head")],
        )

    def delivered(self, numbers: Sequence[int]) -> None:
        """See Journal."""
        crash.point("journal.delivered.before")
        with self._writing() as connection:
            connection.executemany(
                "UPDATE outbox SET delivered_at = ? WHERE seq = ?",
                [(clock.text(clock.now()), number) for number in numbers],
            )
        crash.point("journal.delivered.after")

    def close(self) -> None:
        """See Journal."""
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):  # a failed checkpoint loses nothing
                    self._connection.close()
                self._connection = None


def _nothing_free(path: Path) -> bool:
    """Whether the file system of `path` is full (SQLite says only "I/O error" for its index)."""
    try:
        free = os.statvfs(path.parent)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < 65536
