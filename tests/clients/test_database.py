from __future__ import annotations

import datetime
import decimal
import importlib.util
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from treadle.base.environment import expand
from treadle.base.errors import DataRefused, MissingExtra, Unreachable, UsageError
from treadle.clients import database as module
from treadle.clients.database import connect

UTC = datetime.UTC
D = decimal.Decimal
MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5, 600000)


def read(database, query, **options):
    schema, batches = database.read(query, **options)
    return pa.Table.from_batches(batches, schema=schema)


def sqlite_file(folder, script, rows=()):
    path = folder / "s.db"
    connection = sqlite3.connect(path)
    connection.executescript(script)
    for sql, values in rows:
        connection.executemany(sql, values)
    connection.commit()
    connection.close()
    return path


# ---- ${NAME} -------------------------------------------------------------------------------------


def test_names_are_expanded_and_absent_ones_are_named_without_values():
    assert expand("a${X}b${Y_1}", {"X": "1", "Y_1": "2"}) == "a1b2"
    with pytest.raises(UsageError, match="not set: B, C") as caught:
        expand("${A}${B}${C}", {"A": "secret"})
    assert "secret" not in str(caught.value) and "export B" in caught.value.hint
    with pytest.raises(UsageError, match="names no environment variable"):
        expand("${1x}", {})
    assert expand("$X {Y}", {}) == "$X {Y}"


# ---- any -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "x.db", "sqlite://", "sqlite://x.db"])
def test_what_is_no_database_is_refused_with_the_forms(tmp_path, url):
    with pytest.raises(UsageError) as caught:
        connect(url, tmp_path)
    assert "sqlite:///path" in caught.value.hint and "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
def test_a_database_file_that_is_not_there_is_unreachable(tmp_path, scheme):
    with pytest.raises(Unreachable, match=r"no\.db"):
        connect(f"{scheme}:///no.db", tmp_path)
    with pytest.raises(Unreachable, match="/nowhere/no.db"):
        connect(f"{scheme}:////nowhere/no.db", tmp_path)


def test_postgres_that_is_down_is_unreachable_by_host_and_port_without_the_password(tmp_path):
    with socket.socket() as held:  # bound and not listening: the system refuses
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(Unreachable) as caught:
            connect(f"postgresql://ann:pa%73sw0rd@127.0.0.1:{port}/shop", tmp_path)
    assert f"127.0.0.1:{port}/shop" in caught.value.message and caught.value.exit_code == 4
    assert "pa%73sw0rd" not in caught.value.message and "passw0rd" not in caught.value.message


@pytest.mark.parametrize(
    "library, url, extra",
    [
        ("duckdb", "duckdb:///d.db", "treadle[duckdb]"),
        ("psycopg", "postgresql://127.0.0.1/x", "treadle[postgres]"),
    ],
)
def test_an_absent_library_names_the_pip_command(tmp_path, library, url, extra):
    """In a process of its own, where the import is refused as if the library were not installed."""
    (tmp_path / "d.db").write_bytes(b"")
    code = f"""
import sys; sys.modules[{library!r}] = None
from pathlib import Path
from treadle.base.errors import MissingExtra
from treadle.clients.database import connect
try: connect({url!r}, Path({str(tmp_path)!r}))
except MissingExtra as error: print(error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert extra in done.stdout
    assert MissingExtra("a", "b", "c").exit_code == 1


# ---- SQLite --------------------------------------------------------------------------------------


def test_sqlite_keeps_declared_types_and_missing_values(tmp_path):
    sqlite_file(
        tmp_path,
        "CREATE TABLE t (i INTEGER, r REAL, s VARCHAR(9), b BOOLEAN, d DATE, at TIMESTAMP, z DATETIME,"
        " m DECIMAL(10,2), raw BLOB, free)",
        [
            (
                "INSERT INTO t VALUES (?,?,?,?,?,?,?,?,?,?)",
                [
                    (
                        1,
                        1.5,
                        "x",
                        1,
                        "2024-01-02",
                        "2024-01-02 03:04:05.600",
                        "2024-01-02T04:04:05.600+01:00",
                        1.25,
                        b"\0",
                        7,
                    ),
                    (None,) * 10,
                ],
            )
        ],
    )
    database = connect("sqlite:///s.db", tmp_path)
    table = read(database, "SELECT *, i + 1 AS j, NULL AS none FROM t;")
    assert {field.name: str(field.type) for field in table.schema} == {
        "i": "int64",
        "r": "double",
        "s": "string",
        "b": "bool",
        "d": "date32[day]",
        "at": "timestamp[us]",
        "z": "timestamp[us, tz=UTC]",
        "m": "decimal128(10, 2)",
        "raw": "binary",
        "free": "int64",
        "j": "int64",
        "none": "null",
    }
    assert table.to_pylist()[0] == {
        "i": 1,
        "r": 1.5,
        "s": "x",
        "b": True,
        "d": datetime.date(2024, 1, 2),
        "at": MOMENT,
        "z": MOMENT.replace(tzinfo=UTC),
        "m": D("1.25"),
        "raw": b"\0",
        "free": 7,
        "j": 2,
        "none": None,
    }
    assert set(table.to_pylist()[1].values()) == {None}
    database.close()


def test_sqlite_names_the_value_that_does_not_fit(tmp_path):
    sqlite_file(
        tmp_path,
        "CREATE TABLE t (i INTEGER, d DATE); INSERT INTO t VALUES (1, '2024-01-01'), ('many', 'soon')",
    )
    database = connect("sqlite:///s.db", tmp_path)
    with pytest.raises(DataRefused, match="column i of the query is int64 and holds 'many'"):
        read(database, "SELECT i FROM t")
    with pytest.raises(DataRefused, match="column d .* holds 'soon'"):
        read(database, "SELECT d FROM t")


def test_sqlite_refuses_a_wrong_query_with_its_own_words_and_never_writes(tmp_path):
    path = sqlite_file(tmp_path, "CREATE TABLE t (i INTEGER)")
    before = path.read_bytes()
    database = connect("sqlite:///s.db", tmp_path)
    with pytest.raises(DataRefused, match="no such column: nope"):
        read(database, "SELECT nope FROM t")
    with pytest.raises(DataRefused):
        read(database, "DELETE FROM t")
    assert path.read_bytes() == before
    (tmp_path / "text.db").write_text("no database at all, but a long enough text" * 9)
    with pytest.raises(Unreachable, match="not a database"):
        connect("sqlite:///text.db", tmp_path)


def test_sqlite_reads_in_order_and_only_what_is_newer(tmp_path):
    sqlite_file(
        tmp_path,
        "CREATE TABLE t (n INTEGER, at TIMESTAMP)",
        [
            (
                "INSERT INTO t VALUES (?,?)",
                [(n, f"2024-01-{n:02} 00:00:00") for n in (3, 1, 2)] + [(9, None)],
            )
        ],
    )
    database = connect("sqlite:///s.db", tmp_path)
    query = "SELECT * FROM t -- the days"
    assert database.names(query) == ["n", "at"]
    assert read(database, query, order=["n"])["n"].to_pylist() == [1, 2, 3, 9]
    newer = ("at", datetime.datetime(2024, 1, 2))
    assert read(database, query, order=["n"], newer=newer)["n"].to_pylist() == [3, 9]
    assert read(database, query, newer=("n", 2))["n"].to_pylist() == [3, 9]


def test_sqlite_streams_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 10)
    sqlite_file(
        tmp_path,
        "CREATE TABLE t (n INTEGER)",
        [("INSERT INTO t VALUES (?)", [(n,) for n in range(25)])],
    )
    _, batches = connect("sqlite:///s.db", tmp_path).read("SELECT n FROM t")
    assert [batch.num_rows for batch in batches] == [10, 10, 5]


# ---- DuckDB --------------------------------------------------------------------------------------

needs_duckdb = pytest.mark.skipif(
    importlib.util.find_spec("duckdb") is None, reason="pip install 'treadle[duckdb]'"
)


@pytest.fixture
def duck(tmp_path):
    import duckdb

    with duckdb.connect(str(tmp_path / "d.db")) as connection:
        connection.execute("""CREATE TABLE t AS SELECT 1::INT i, true b, 1.5 :: DOUBLE r, 'x' s,
            TIMESTAMP '2024-01-02 03:04:05.6' at_, TIMESTAMPTZ '2024-01-02 03:04:05.6+00' z,
            DATE '2024-01-02' d, 1.25::DECIMAL(10,2) m, '\\xAA'::BLOB raw, 'u'::ENUM('u', 'v') e,
            INTERVAL 1 HOUR span, [1, 2] l""")
        connection.execute("INSERT INTO t SELECT " + ", ".join(["NULL"] * 12))
    return tmp_path


@needs_duckdb
def test_duckdb_keeps_types_and_missing_values(duck):
    database = connect("duckdb:///d.db", duck)
    table = read(database, "SELECT *, sum(i) OVER () AS total FROM t", order=["i"])
    assert {field.name: str(field.type) for field in table.schema} == {
        "i": "int32",
        "b": "bool",
        "r": "double",
        "s": "string",
        "at_": "timestamp[us]",
        "z": "timestamp[us, tz=UTC]",
        "d": "date32[day]",
        "m": "decimal128(10, 2)",
        "raw": "binary",
        "e": "string",
        "span": "duration[us]",
        "l": "list<l: int32>",
        "total": "int64",
    }
    row = next(row for row in table.to_pylist() if row["i"] == 1)
    assert row["z"] == MOMENT.replace(tzinfo=UTC) and row["m"] == D("1.25") and row["e"] == "u"
    assert row["span"] == datetime.timedelta(hours=1) and row["total"] == 1
    newer = read(database, "SELECT at_, i FROM t", newer=("at_", MOMENT))
    assert newer["i"].to_pylist() == [None]
    with pytest.raises(DataRefused, match="nope"):
        read(database, "SELECT nope FROM t")
    with pytest.raises(DataRefused):
        read(database, "DROP TABLE t")
    database.close()


@needs_duckdb
def test_a_duckdb_file_that_another_process_writes_is_unreachable(duck):
    code = f"import duckdb, sys; c = duckdb.connect({str(duck / 'd.db')!r}); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Unreachable, match=r"d\.db"):
            connect("duckdb:///d.db", duck)
        holder.stdin.close()


# ---- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres():
    pytest.importorskip("psycopg", reason="pip install 'treadle[postgres]'")
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    from postgres import server

    with server() as url:
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("""
                CREATE TYPE mood AS ENUM ('glad', 'sad');
                CREATE TABLE t (i int, big bigint, r real, f double precision, b boolean, s text,
                    c char(3), d date, at timestamp, z timestamptz, m numeric(10,2), free numeric,
                    raw bytea, u uuid, j jsonb, e mood, span interval, l int[], clock time);
                INSERT INTO t VALUES (1, 2^40, 1.5, 2.5, true, 'x', 'ab', '2024-01-02',
                    '2024-01-02 03:04:05.6', '2024-01-02 04:04:05.6+01', 1.25, 1.123456789012345678,
                    '\\xaa', '00000000-0000-0000-0000-000000000001', '{"b": 1, "a": 2}', 'glad',
                    '1 hour', '{1,2}', '10:00');
                INSERT INTO t (i) VALUES (NULL);
                CREATE TABLE many AS SELECT n, n * 1.5 AS x, 'text ' || n AS s,
                    timestamp '2024-01-01' + n * interval '1 second' AS at
                    FROM generate_series(1, 300000) n;
            """)
        yield url


@pytest.mark.slow
def test_postgres_keeps_types_and_missing_values(postgres, tmp_path):
    database = connect(postgres, tmp_path)
    table = read(database, "SELECT * FROM t", order=["i"])
    assert {field.name: str(field.type) for field in table.schema} == {
        "i": "int64",
        "big": "int64",
        "r": "double",
        "f": "double",
        "b": "bool",
        "s": "string",
        "c": "string",
        "d": "date32[day]",
        "at": "timestamp[us]",
        "z": "timestamp[us, tz=UTC]",
        "m": "decimal128(10, 2)",
        "free": "decimal128(38, 18)",
        "raw": "binary",
        "u": "string",
        "j": "string",
        "e": "string",
        "span": "duration[us]",
        "l": "list<item: int64>",
        "clock": "time64[us]",
    }
    first, second = table.to_pylist()
    assert first["z"] == MOMENT.replace(tzinfo=UTC) and first["at"] == MOMENT
    assert first["m"] == D("1.25") and first["free"] == D("1.123456789012345678")
    assert first["raw"] == b"\xaa" and first["u"].endswith("0001") and first["e"] == "glad"
    assert first["j"] == '{"a": 2, "b": 1}' and first["l"] == [1, 2] and first["c"] == "ab "
    assert first["span"] == datetime.timedelta(hours=1) and first["clock"] == datetime.time(10)
    assert set(second.values()) == {None}
    database.close()


@pytest.mark.slow
def test_postgres_streams_through_a_cursor_at_the_server(postgres, tmp_path):
    code = f"""
import resource
from pathlib import Path
from treadle.clients.database import connect
database = connect({postgres!r}, Path("."))
def peak(limit):
    schema, batches = database.read(f"SELECT * FROM many ORDER BY n LIMIT {{limit}}")
    assert sum(batch.num_rows for batch in batches) == limit
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small = peak(60000); large = peak(300000)
print(large - small)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 30  # MB; the 240,000 further rows held at once would be about 100


@pytest.mark.slow
def test_postgres_refuses_a_wrong_query_with_its_words_and_never_writes(postgres, tmp_path):
    database = connect(postgres, tmp_path)
    with pytest.raises(DataRefused, match='column "nope" does not exist'):
        read(database, "SELECT nope FROM t")
    database.close()
    database = connect(postgres, tmp_path)
    with pytest.raises(DataRefused):
        read(database, "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone")
    database.close()
    database = connect(postgres, tmp_path)
    with pytest.raises(DataRefused, match="free .* holds"):
        read(database, "SELECT 1.1234567890123456789012::numeric AS free")
    database.close()
    database = connect(postgres, tmp_path)
    assert read(database, "SELECT count(*) AS n FROM t WHERE s LIKE 'x%' OR s IS NULL")[
        "n"
    ].to_pylist() == [2]
    newer = read(
        database,
        "SELECT * FROM many",
        order=["at"],
        newer=("at", datetime.datetime(2024, 1, 4, 11, 19, 58)),
    )
    assert newer["n"].to_pylist() == [299999, 300000]
    database.close()


@pytest.mark.slow
def test_postgres_with_a_wrong_password_is_unreachable_and_tells_none(postgres, tmp_path):
    with pytest.raises(Unreachable) as caught:
        connect(postgres.replace("s3cret", "wr0ng"), tmp_path)
    assert (
        "wr0ng" not in caught.value.message
        and "password authentication failed" in caught.value.message
    )
