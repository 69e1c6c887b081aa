"""What the journal must withstand: damage, versions, crowds, no permission, kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import ClassVar

import pytest

from treadle.base.errors import StateBusy, StateCorrupt, StateError, StateVersion
from treadle.base.records import Decision
from treadle.clients import journal as module
from treadle.clients.journal import Changes, SqliteJournal


def decision(number: int, **changes) -> Decision:
    fields = {
        "id": f"d{number}",
        "at": f"2026-01-{number:02}",
        "environment": "local",
        "kind": "release",
        "subject": f"release {number}",
        "outcome": "promoted",
        "rule": "promote",
        "words": "w",
        "evidence": {"score": number / 10},
        "by": "treadle",
    }
    return Decision(**{**fields, **changes})


@pytest.fixture
def path(tmp_path):
    with_entries = SqliteJournal(tmp_path / "journal.db")
    for number in range(1, 6):
        with_entries.commit(
            Changes().decide(decision(number)).put("run", f"{number}", {"n": number})
        )
    with_entries.close()
    return tmp_path / "journal.db"


def by_hand(path, *statements):
    """What somebody with sqlite3 can do who also drops the triggers."""
    connection = sqlite3.connect(path)
    connection.executescript("DROP TRIGGER ledger_keep; DROP TRIGGER ledger_stay;")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (
            "UPDATE ledger SET entry = replace(entry, '\"promoted\"', '\"held\"') WHERE seq = 3",
            "entry 3",
        ),
        ("UPDATE ledger SET entry = 'nonsense' WHERE seq = 2", "entry 2"),
        ("UPDATE ledger SET environment = 'production' WHERE seq = 4", "entry 4"),
        ("DELETE FROM ledger WHERE seq = 3", "entry 3 is missing"),
        ("DELETE FROM ledger WHERE seq = 5", "5 entries were written"),
        ("DELETE FROM ledger", "5 entries were written"),
        ("UPDATE ledger SET seq = CASE seq WHEN 2 THEN -1 ELSE seq END", "entry"),
        ("UPDATE ledger SET seq = seq + 1 WHERE seq = 5", "entry 5 is missing"),
    ],
)
def test_an_entry_that_was_edited_deleted_or_moved_is_named(path, statement, named):
    by_hand(path, statement)
    journal = SqliteJournal(path)
    with pytest.raises(StateCorrupt, match=named) as error:
        journal.verify()
    assert error.value.hint
    journal.close()


def test_an_entry_edited_together_with_its_digest_breaks_the_chain_behind_it(path):
    journal = SqliteJournal(path)
    third = journal.ledger()[2]
    journal.close()
    forged = Decision(**{**json.loads(module.encode(module.to_plain(third))), "outcome": "held"})
    by_hand(
        path,
        f"UPDATE ledger SET digest = '{forged.digest}', "
        f"entry = '{module.encode(module.to_plain(forged))}' WHERE seq = 3",
    )
    with pytest.raises(StateCorrupt, match="entry 4 .* does not follow entry 3"):
        SqliteJournal(path).verify()


def test_the_ledger_refuses_update_and_delete(path):
    connection = sqlite3.connect(path)
    for statement in ("DELETE FROM ledger", "UPDATE ledger SET digest = ''"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("size", [0, 100, 4096, 9000])
def test_a_truncated_file_is_damaged_and_never_a_fresh_start(path, size):
    os.truncate(path, size)
    with pytest.raises(StateCorrupt, match=str(path)):
        SqliteJournal(path).verify()


def test_a_file_that_is_no_database_is_damaged(path):
    path.write_bytes(b"PK\x03\x04" * 5000)
    with pytest.raises(StateCorrupt, match="not a database"):
        SqliteJournal(path)


def test_a_wrong_page_is_found(path):
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 3] = os.urandom(4096)
    path.write_bytes(data)
    with pytest.raises(StateCorrupt):
        SqliteJournal(path).verify()


def test_another_database_is_not_taken_for_a_journal(tmp_path):
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StateCorrupt, match="no table of ours"):
        SqliteJournal(tmp_path / "other.db")


def test_a_log_without_its_journal_is_not_begun_anew(path):
    path.rename(path.with_suffix(".gone"))
    path.with_name("journal.db-wal").write_bytes(b"x" * 100)
    with pytest.raises(StateCorrupt, match="is gone"):
        SqliteJournal(path)


def test_without_create_an_absent_journal_is_an_error(tmp_path):
    with pytest.raises(StateError, match="no journal"):
        SqliteJournal(tmp_path / "journal.db", create=False)
    assert list(tmp_path.iterdir()) == []


class Next(SqliteJournal):
    """A journal as a later Treadle might have it."""

    schema_version: ClassVar[int] = 3
    migrations: ClassVar[dict[int, tuple[str, ...]]] = {
        1: ("CREATE TABLE labels (name TEXT PRIMARY KEY)", "INSERT INTO labels VALUES ('a;b')"),
        2: ("ALTER TABLE labels ADD COLUMN weight REAL DEFAULT 0.5",),
    }


def test_a_newer_journal_is_refused_naming_both_versions(path):
    Next(path).close()
    with pytest.raises(StateVersion, match=r"version 3.*version 1"):
        SqliteJournal(path)
    assert path.exists()


def test_an_older_journal_is_migrated_in_one_transaction(path):
    journal = Next(path)
    assert journal._read("SELECT * FROM labels") == [("a;b", 0.5)]
    assert journal._version() == 3
    assert len(journal.ledger()) == 5
    journal.verify()
    journal.close()


def test_a_migration_that_fails_leaves_the_older_journal_whole(path):
    class Broken(Next):
        migrations: ClassVar[dict[int, tuple[str, ...]]] = {
            1: Next.migrations[1],
            2: ("ALTER TABLE nothing RENAME TO x",),
        }

    with pytest.raises(sqlite3.OperationalError):
        Broken(path)
    journal = SqliteJournal(path)
    assert journal._version() == 1
    assert journal._read("SELECT name FROM sqlite_schema WHERE name = 'labels'") == []
    journal.close()


def test_a_version_without_a_way_up_is_refused(path):
    class Far(SqliteJournal):
        schema_version: ClassVar[int] = 2

    with pytest.raises(StateVersion, match="no migration from version 1"):
        Far(path)


def test_a_reader_does_not_migrate(path):
    with pytest.raises(StateVersion, match="must be migrated"):
        Next(path, read_only=True)


def test_a_reader_cannot_write(path):
    journal = SqliteJournal(path, read_only=True)
    assert journal.get("run", "1") == {"n": 1}
    with pytest.raises(StateError, match="reading only"):
        journal.commit(Changes().put("run", "x", 1))
    journal.verify()
    journal.close()


NOBODY = """
import os, sys
from pathlib import Path
from treadle.base.errors import StateError
from treadle.clients.journal import Changes, SqliteJournal
from treadle.clients.state import State
os.setgid(65534); os.setuid(65534)
folder = Path(sys.argv[1])
with State.open(folder, create=False, read_only=True) as state:
    print(state.journal.get("run", "1"), len(state.journal.ledger()), state.turn_holder())
try:
    with State.open(folder, create=True) as state:
        state.journal.commit(Changes().put("run", "2", 2))
except StateError as error:
    print("refused", error.message, "|", error.hint)
try:
    State.open(folder / "fresh", create=True)
except StateError as error:
    print("refused", error.message, "|", error.hint)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes nobody: needs root")
def test_a_read_only_folder_can_be_read_and_writing_is_refused_clearly(tmp_path):
    from treadle.clients.state import State

    with State.open(tmp_path, create=True) as state:
        state.journal.commit(Changes().put("run", "1", "one").decide(decision(1)))
    (tmp_path / "fresh").mkdir()
    for folder in [tmp_path, *tmp_path.parents][:4]:  # with xdist there is one more
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, str(tmp_path)], capture_output=True, text=True, check=False
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("nobody may not read the checkout")
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "one 1 None"
    assert "refused" in second
    assert "writ" in second
    assert "TREADLE_STATE" in second
    assert "no permission" in third


def test_a_writer_that_holds_the_journal_too_long_is_busy(path, monkeypatch):
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    journal = SqliteJournal(path)
    with pytest.raises(StateBusy, match="another process"):
        journal.commit(Changes().put("run", "x", 1))
    holder.execute("ROLLBACK")
    journal.commit(Changes().put("run", "x", 1))
    assert journal.get("run", "x") == 1
    journal.close()
    holder.close()


def test_threads_share_one_journal(path):
    journal = SqliteJournal(path)

    def write(name):
        for number in range(20):
            journal.commit(Changes().put("t", f"{name}/{number}", number).decide(decision(9)))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.list("t")) == 80
    journal.verify()
    journal.close()


OPEN = """
import sys
from pathlib import Path
from treadle.clients.journal import Changes
from treadle.clients.state import State
from treadle.base.records import Decision, Message
me = sys.argv[2]
with State.open(Path(sys.argv[1]), create=True) as state:
    for n in range(5):
        state.objects.put_bytes(b"shared %d" % n)
        state.journal.commit(Changes().put("run", f"{me}/{n}", n).tell(Message("run", {})).decide(
            Decision(f"{me}{n}", "2026", "local", "data", "s", "pass", "r", "w", {}, me)))
"""


def test_eight_processes_open_an_empty_project_at_once(tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(tmp_path), str(n)], stderr=subprocess.PIPE
        )
        for n in range(8)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    journal = SqliteJournal(tmp_path / ".treadle" / "journal.db", create=False)
    assert len(journal.list("run")) == len(journal.ledger()) == len(journal.pending()) == 40
    journal.verify()
    journal.close()


def test_a_reader_imports_and_opens_in_milliseconds_and_nothing_heavy(path):
    code = (
        "import sys, time; before = set(sys.modules); start = time.perf_counter()\n"
        "from pathlib import Path\n"
        "from treadle.clients.journal import SqliteJournal\n"
        f"journal = SqliteJournal(Path({str(path)!r}), create=False); journal.get('run', '1')\n"
        "heavy = {'pydantic', 'polars', 'pandas', 'numpy', 'pyarrow', 'mlflow', 'subprocess',\n"
        "         'socket', 'asyncio', 'inspect'} & (set(sys.modules) - before)\n"
        "sys.exit(f'{heavy}' if heavy - {'inspect'} else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- kill -9 -------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from treadle.clients.journal import Changes
from treadle.clients.state import State
from treadle.base.records import Decision, Message
with State.open(Path(sys.argv[1]), create=True) as state:
    begin = len(state.journal.list("n"))
    for n in range(begin, begin + int(sys.argv[2])):
        blob = state.objects.put_bytes(b"%d" % n * 1000)
        folder = Path(sys.argv[1]) / "tree"
        folder.mkdir(exist_ok=True)
        (folder / "file").write_text(str(n))
        tree, _ = state.objects.put_tree(folder)
        state.model_folder(tree)
        state.journal.commit(
            Changes().put("n", f"{n:06}", [blob, tree]).tell(Message("run", {"n": n})).decide(
            Decision(f"{n}", "2026", "local", "data", "s", "pass", "r", "w", {"n": n}, "t")))
        print(n, flush=True)
        state.journal.delivered([n + 1])
"""


def write_until_killed(folder, *, crash=None, after_s=None, count=1000):
    """The numbers that the writer acknowledged before it died."""
    environment = {**os.environ, **({"TREADLE_CRASH": crash} if crash else {})}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(count)],
        stdout=subprocess.PIPE,
        env=environment,
    )
    if after_s is not None:
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    return process.returncode, [int(line) for line in out.decode().split("\n")[:-1]]


def check(folder, acknowledged, kills=1):
    """All acknowledged is there, whole; nothing is half there."""
    from treadle.clients.state import State

    with State.open(folder, create=True) as state:
        state.journal.verify()
        records = state.journal.list("n")
        assert set(acknowledged) <= {int(key) for key, _ in records}
        assert len(records) == len(state.journal.ledger())
        for key, (blob, tree) in records:
            assert state.objects.read(blob) == b"%d" % int(key) * 1000
            model = state.model_folder(tree)
            assert (model / "file").read_text() == str(int(key))
        # Each kill may fall between a commit and the word that its message was delivered.
        assert len(state.journal.pending(10**6)) <= kills + 1
        for digest in state.objects.digests():
            state.objects.read(digest)  # every blob with a name is whole
        state.objects.sweep(older_s=0)
        assert list((state.objects.root / ".incoming").glob("*")) == []
        with state.turn_lock("test", wait=False):
            pass


STATE_POINTS = [
    "journal.create.before",
    "journal.create.after",
    "journal.commit.before",
    "journal.commit.after",
    "journal.delivered.before",
    "journal.delivered.after",
    "objects.write.before",
    "objects.rename.before",
    "objects.rename.after",
    "objects.tree.before",
    "objects.tree.after",
]


@pytest.mark.parametrize("name", STATE_POINTS)
def test_killed_at_a_commit_point_nothing_acknowledged_is_lost(tmp_path, name):
    nth = "" if name.startswith("journal.create") else ":3"
    code, acknowledged = write_until_killed(tmp_path, crash=name + nth, count=5)
    assert code == -signal.SIGKILL, "the point was never passed"
    check(tmp_path, acknowledged)
    code, more = write_until_killed(tmp_path, count=3)
    assert code == 0
    check(tmp_path, acknowledged + more)


def killed_at_random(tmp_path, times):
    seen = []
    for kills in range(1, times + 1):
        _, acknowledged = write_until_killed(tmp_path, after_s=random.uniform(0.05, 0.6))
        seen += acknowledged
        check(tmp_path, seen, kills)
    assert len(seen) == len(set(seen))
    assert seen


@pytest.mark.slow
def test_killed_at_twenty_random_moments_nothing_acknowledged_is_lost(tmp_path):
    killed_at_random(tmp_path, 20)


@pytest.mark.soak
def test_killed_at_five_hundred_random_moments_nothing_acknowledged_is_lost(tmp_path):
    killed_at_random(tmp_path, 500)
