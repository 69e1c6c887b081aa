"""Queries as Arrow batches with flat memory: SQLite, DuckDB files and PostgreSQL.

Types are kept: booleans, decimals, dates, times with and without zone, bytes and missing values
come out as what the database declares them to be. Every connection only reads. What a database
cannot be reached for is Unreachable, what it says against a query is DataRefused with its words.
"""

from __future__ import annotations

import datetime
import decimal
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from treadle.base.errors import DataRefused, MissingExtra, TreadleError, Unreachable, UsageError

BATCH_ROWS = 20_000
FORMS = "sqlite:///path, duckdb:///path or postgresql://user@host/name"
_UTC = datetime.UTC


class Database(Protocol):
    """A connection that reads; close it."""

    address: str
    """Where it is, without a password: `host:5432/name` or a path."""

    def names(self, query: str) -> list[str]:
        """The columns that the query gives, without its rows."""

    def read(
        self,
        query: str,
        *,
        order: Sequence[str] = (),
        newer: tuple[str, Any] | None = None,
        schema: pa.Schema | None = None,
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The rows, sorted by `order` (nothing: as the query says).

        `newer`: only rows whose column is above a value, or null. `schema`: the types that earlier
        batches had. DataRefused while reading names a value that does not fit its column's type.
        """

    def close(self) -> None:
        """Hang up."""


def connect(url: str, folder: Path) -> Database:
    """Open `sqlite:///path`, `duckdb:///path` (relative to `folder`, `////` absolute) or PostgreSQL."""
    scheme, _, rest = url.partition("://")
    if scheme in ("postgresql", "postgres"):
        return Postgres(url)
    if scheme in ("sqlite", "duckdb") and rest.startswith("/") and len(rest) > 1:
        path = folder / unquote(rest[1:])
        if not path.is_file():
            raise Unreachable(
                f"there is no {scheme} database at {path}",
                hint="correct `database:` in treadle.yaml",
            )
        return Sqlite(path) if scheme == "sqlite" else DuckDB(path)
    shown = _safe(url) if scheme and rest else "it"
    raise UsageError(f"`database:` is {shown}, which names no database", hint=f"write {FORMS}")


def _safe(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _selected(query: str, order: Sequence[str], newer: tuple[str, str] | None) -> str:
    """The user's query, wrapped where rows are to be chosen or sorted; `newer`'s value is SQL."""
    inner = query.strip().rstrip(";").rstrip()
    if not order and newer is None:
        return inner
    # The line break ends a comment that the query may close with.
    text = f"SELECT * FROM ({inner}\n) AS treadle_query"
    if newer is not None:
        column = _quoted(newer[0])
        text += f" WHERE {column} > {newer[1]} OR {column} IS NULL"
    if order:
        text += " ORDER BY " + ", ".join(map(_quoted, order))
    return text


def _literal(value: Any) -> str:
    """A value that was read from the database, as standard SQL."""
    if isinstance(value, bool):
        raise UsageError("`incremental: by` needs a column that grows, not a boolean")
    if isinstance(value, int | float | decimal.Decimal):
        return str(value)
    if isinstance(value, datetime.datetime):
        kind = "TIMESTAMP" if value.tzinfo is None else "TIMESTAMP WITH TIME ZONE"
        return f"{kind} '{value.isoformat(sep=' ')}'"
    if isinstance(value, datetime.date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise UsageError(f"`incremental: by` cannot follow a column of {type(value).__name__} values")


def _refused(address: str, error: BaseException) -> DataRefused:
    text = str(error).strip()
    return DataRefused(
        f"{address} refused the query: {text}", hint="correct `query:` in treadle.yaml"
    )


def _batch(
    schema: pa.Schema, rows: Sequence[Sequence[Any]], convert: Sequence[Any] = ()
) -> pa.RecordBatch:
    """Rows of Python values as one batch; DataRefused names the value that does not fit."""
    arrays = []
    for index, (field, values) in enumerate(zip(schema, zip(*rows, strict=True), strict=True)):
        column: Sequence[Any] = values
        try:
            if convert and convert[index] is not None:
                column = [None if value is None else convert[index](value) for value in values]
            arrays.append(pa.array(column, type=field.type))
        except (pa.ArrowException, TypeError, ValueError, ArithmeticError) as error:
            raise _misfit(field, values, convert[index] if convert else None, error) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _misfit(field: pa.Field, values: Sequence[Any], convert: Any, error: Exception) -> DataRefused:
    for value in values:
        try:
            pa.array(
                [value if convert is None or value is None else convert(value)], type=field.type
            )
        except (pa.ArrowException, TypeError, ValueError, ArithmeticError):
            return DataRefused(
                f"column {field.name} of the query is {field.type} and holds {value!r}",
                hint=f"convert it in the query, such as CAST({field.name} AS …)",
            )
    return DataRefused(f"column {field.name} of the query does not fit {field.type}: {error}")


# ---- SQLite --------------------------------------------------------------------------------------


class Sqlite:
    """A SQLite file, opened read-only."""

    def __init__(self, path: Path) -> None:
        self.address = os.fspath(path)
        try:
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None
            )
            self._connection.execute("PRAGMA query_only = 1")
            self._connection.execute("SELECT count(*) FROM sqlite_master")
            # Without it, the temporary view below (which only tells the types) could not be made.
            self._connection.execute("PRAGMA query_only = 0")
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error) -> TreadleError:
        text = str(error)
        if "unable to open" in text or "locked" in text or "not a database" in text:
            return Unreachable(f"the SQLite database {self.address} cannot be read: {text}")
        return _refused(self.address, error)

    def names(self, query: str) -> list[str]:
        """The columns that the query gives."""
        found = [name for name, _ in self._declared(query)]
        # A second column n comes out as `n:1`.
        return [
            match[1] if (match := re.fullmatch(r"(.+):\d+", name)) and match[1] in found else name
            for name in found
        ]

    def _declared(self, query: str) -> list[tuple[str, str]]:
        """Each column's name and declared type ("" for an expression), by way of a temporary view."""
        try:
            self._connection.execute(
                f"CREATE TEMP VIEW treadle_types AS SELECT * FROM ({_selected(query, (), None)}\n)"
            )
            try:
                found = self._connection.execute("PRAGMA temp.table_info(treadle_types)").fetchall()
            finally:
                self._connection.execute("DROP VIEW temp.treadle_types")
        except sqlite3.Error as error:
            raise self._error(error) from error
        return [(row[1], str(row[2] or "").upper()) for row in found]

    def read(
        self,
        query: str,
        *,
        order: Sequence[str] = (),
        newer: tuple[str, Any] | None = None,
        schema: pa.Schema | None = None,
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """See Database."""
        declared = self._declared(query)
        low = None if newer is None else (newer[0], self._low(query, *newer))
        sql = _selected(query, order, low)
        try:
            cursor = self._connection.execute(sql)
            first = cursor.fetchmany(BATCH_ROWS)
        except sqlite3.Error as error:
            raise self._error(error) from error
        if schema is None:
            inner = _selected(query, (), None)
            fields = [
                pa.field(name, self._type(name, kind, [row[index] for row in first], inner))
                for index, (name, kind) in enumerate(declared)
            ]
            schema = pa.schema(fields)
        converters = [_from_sqlite(field.type) for field in schema]
        return schema, self._batches(cursor, first, schema, converters)

    def _batches(
        self, cursor: sqlite3.Cursor, rows: list[Any], schema: pa.Schema, converters: list[Any]
    ) -> Iterator[pa.RecordBatch]:
        while rows:
            yield _batch(schema, rows, converters)
            try:
                rows = cursor.fetchmany(BATCH_ROWS)
            except sqlite3.Error as error:
                raise self._error(error) from error

    def _low(self, query: str, by: str, value: Any) -> str:
        """A time in the form in which this column's text has it: SQLite compares texts."""
        if not isinstance(value, datetime.date):
            return _literal(value)
        sql = f"SELECT {_quoted(by)} FROM ({_selected(query, (), None)}\n) WHERE {_quoted(by)} IS NOT NULL LIMIT 1"
        row = self._connection.execute(sql).fetchone()
        sample = str(row[0]) if row else ""
        if not isinstance(value, datetime.datetime):
            return _literal(value.isoformat())
        text = value.isoformat(sep="T" if "T" in sample else " ")
        text = text.removesuffix("+00:00") + (
            "Z" if sample.endswith("Z") else "+00:00" if sample.endswith("+00:00") else ""
        )
        return _literal(text)

    def _type(self, name: str, declared: str, values: list[Any], query: str) -> pa.DataType:
        """The Arrow type of a column: as declared where its first values agree, else as stored."""
        first = next((value for value in values if value is not None), None)
        if "BOOL" in declared and (first is None or first in (0, 1)):
            return pa.bool_()
        if ("DATE" in declared or "TIME" in declared) and (first is None or isinstance(first, str)):
            if declared == "DATE":
                return pa.date32()
            if declared != "TIME":
                zoned = first is not None and _moment(first).tzinfo is not None
                return pa.timestamp("us", "UTC" if zoned else None)
        match = re.fullmatch(r"(?:DECIMAL|NUMERIC) *\( *(\d+) *(?:, *(\d+) *)?\)", declared)
        if match:
            return pa.decimal128(min(int(match[1]), 38), int(match[2] or 0))
        if "INT" in declared:
            return pa.int64()
        if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
            return pa.string()
        if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
            return pa.float64()
        if "BLOB" in declared:
            return pa.binary()
        column = _quoted(name)
        found = {
            row[0]
            for row in self._connection.execute(
                f"SELECT DISTINCT typeof({column}) FROM ({query}\n) WHERE {column} IS NOT NULL"
            )
        }
        if found <= {"integer"}:
            return pa.int64() if found else pa.null()
        if found <= {"integer", "real"}:
            return pa.float64()
        return pa.binary() if found == {"blob"} else pa.string()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _moment(text: Any) -> datetime.datetime:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no ISO time")
    return datetime.datetime.fromisoformat(text)


def _from_sqlite(kind: pa.DataType) -> Any:
    """What makes a value of SQLite one of `kind`; None where it is one already."""
    if pa.types.is_boolean(kind):
        return _boolean
    if pa.types.is_date(kind):
        return lambda value: _moment(value).date()
    if pa.types.is_timestamp(kind):
        return _zoned if kind.tz else _naive
    if pa.types.is_decimal(kind):
        unit = decimal.Decimal(1).scaleb(-kind.scale)
        return lambda value: _exact(decimal.Decimal(str(value)), unit)
    return None


def _boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError(f"{value!r} is no boolean")
    return bool(value)


def _naive(value: Any) -> datetime.datetime:
    moment = _moment(value)
    if moment.tzinfo is not None:
        raise ValueError("a time with a zone among times without")
    return moment


def _zoned(value: Any) -> datetime.datetime:
    moment = _moment(value)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone among times with one")
    return moment.astimezone(_UTC)


def _exact(value: decimal.Decimal, unit: decimal.Decimal) -> decimal.Decimal:
    fitted = value.quantize(unit)
    if fitted != value:
        raise ValueError(f"{value} has more digits than declared")
    return fitted


# ---- DuckDB --------------------------------------------------------------------------------------


class DuckDB:
    """A DuckDB file, opened read-only."""

    def __init__(self, path: Path) -> None:
        try:
            import duckdb
        except ImportError as error:
            raise MissingExtra("duckdb", "duckdb", "reading a DuckDB file") from error
        self.address = os.fspath(path)
        self._module: Any = duckdb
        try:
            self._connection = duckdb.connect(os.fspath(path), read_only=True)
            self._connection.execute("SET TimeZone = 'UTC'")
        except duckdb.Error as error:
            raise Unreachable(
                f"the DuckDB database {path} cannot be read: {str(error).splitlines()[0]}",
                hint="a DuckDB file has one writer: end the process that holds it",
            ) from error

    def names(self, query: str) -> list[str]:
        """The columns that the query gives."""
        try:
            return list(self._connection.sql(_selected(query, (), None)).columns)
        except self._module.Error as error:
            raise _refused(self.address, error) from error

    def read(
        self,
        query: str,
        *,
        order: Sequence[str] = (),
        newer: tuple[str, Any] | None = None,
        schema: pa.Schema | None = None,
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """See Database."""
        low = None if newer is None else (newer[0], _literal(newer[1]))
        try:
            relation = self._connection.sql(_selected(query, order, low))
            reader = relation.to_arrow_reader(BATCH_ROWS)
        except self._module.Error as error:
            raise _refused(self.address, error) from error
        wanted = schema or pa.schema([_plain_field(field) for field in reader.schema])
        return wanted, self._batches(reader, wanted)

    def _batches(self, reader: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        try:
            for batch in reader:
                if batch.num_rows:
                    yield _fitted(batch, schema)
        except (self._module.Error, OSError) as error:
            raise _refused(self.address, error) from error

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _plain_field(field: pa.Field) -> pa.Field:
    """A column of DuckDB in the types that parts have: no dictionaries, whole sums as integers."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    elif pa.types.is_decimal(kind) and kind.scale == 0 and kind.precision == 38:
        kind = pa.int64()  # HUGEINT: what sum() of integers gives
    elif pa.types.is_timestamp(kind):
        kind = pa.timestamp("us", "UTC" if kind.tz else None)
    elif pa.types.is_interval(kind):
        kind = pa.duration("us")
    return pa.field(field.name, kind)


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field, array in zip(schema, batch.columns, strict=True):
        try:
            arrays.append(array if array.type == field.type else _converted(array, field.type))
        except pa.ArrowException as error:
            raise DataRefused(
                f"column {field.name} of the query is {array.type} and does not fit {field.type}: {error}",
                hint=f"convert it in the query, such as CAST({field.name} AS …)",
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _converted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_interval(array.type):
        for value in array.to_pylist():
            if value is not None and value.months:
                raise pa.ArrowInvalid(f"{value} has months, which are no fixed span of time")
        spans = [
            None
            if value is None
            else datetime.timedelta(days=value.days, microseconds=value.nanoseconds // 1000)
            for value in array.to_pylist()
        ]
        return pa.array(spans, type=kind)
    return array.cast(kind)


# ---- PostgreSQL ----------------------------------------------------------------------------------

_OIDS: dict[int, pa.DataType] = {
    16: pa.bool_(),
    17: pa.binary(),
    20: pa.int64(),
    21: pa.int64(),
    23: pa.int64(),
    26: pa.int64(),
    700: pa.float64(),
    701: pa.float64(),
    1082: pa.date32(),
    1083: pa.time64("us"),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
    1186: pa.duration("us"),
    1000: pa.list_(pa.bool_()),
    1005: pa.list_(pa.int64()),
    1007: pa.list_(pa.int64()),
    1016: pa.list_(pa.int64()),
    1021: pa.list_(pa.float64()),
    1022: pa.list_(pa.float64()),
    1009: pa.list_(pa.string()),
    1015: pa.list_(pa.string()),
}
_NUMERIC = 1700
_FREE_NUMERIC = pa.decimal128(38, 18)  # a numeric without declared digits, such as avg() gives


class Postgres:
    """A PostgreSQL database: one read-only transaction that sees one moment of it."""

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtra("psycopg", "postgres", "reading PostgreSQL") from error
        self._module: Any = psycopg
        try:
            parts = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error as error:
            raise UsageError(
                f"`database:` {_safe(url)} cannot be read", hint=f"write {FORMS}"
            ) from error
        host = parts.get("host") or "the local socket"
        self.address = f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"
        self._password = urlsplit(url).password or str(parts.get("password") or "")
        if "connect_timeout" not in parts:
            parts["connect_timeout"] = "10"
        try:
            self._connection = psycopg.connect(
                psycopg.conninfo.make_conninfo(**parts), application_name="treadle"
            )
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._connection.read_only = True
            self._connection.execute("SET TIME ZONE 'UTC'")
        except psycopg.Error as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> Unreachable:
        text = " ".join(str(error).split())
        for secret in {self._password, unquote(self._password)} - {""}:
            text = text.replace(secret, "***")
        return Unreachable(
            f"PostgreSQL at {self.address} is not reachable: {text}",
            hint="start it, or correct `database:` in treadle.yaml; nothing was changed",
        )

    def _error(self, error: Any) -> TreadleError:
        if isinstance(error, self._module.OperationalError) and (
            self._connection.closed or self._connection.broken or error.sqlstate is None
        ):
            return self._unreachable(error)
        return _refused(self.address, error)

    def names(self, query: str) -> list[str]:
        """The columns that the query gives."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT * FROM ({_selected(query, (), None)}\n) AS treadle_query LIMIT 0"
                )
                return [column.name for column in cursor.description or ()]
        except self._module.Error as error:
            raise self._error(error) from error

    def read(
        self,
        query: str,
        *,
        order: Sequence[str] = (),
        newer: tuple[str, Any] | None = None,
        schema: pa.Schema | None = None,
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """See Database."""
        low = None if newer is None else (newer[0], _literal(newer[1]))
        cursor = self._connection.cursor(name="treadle")  # the rows stay at the server
        try:
            cursor.execute(_selected(query, order, low))
            rows = cursor.fetchmany(BATCH_ROWS)
            described = list(cursor.description or ())
        except self._module.Error as error:
            cursor.close()
            raise self._error(error) from error
        own = pa.schema([pa.field(column.name, self._type(column)) for column in described])
        wanted = schema or own
        return wanted, self._batches(cursor, rows, wanted)

    def _type(self, column: Any) -> pa.DataType:
        if column.type_code == _NUMERIC:
            if column.precision is not None and column.precision <= 38 and (column.scale or 0) >= 0:
                return pa.decimal128(column.precision, column.scale or 0)
            return _FREE_NUMERIC
        return _OIDS.get(column.type_code, pa.string())

    def _batches(self, cursor: Any, rows: list[Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        converters = [_from_postgres(field.type) for field in schema]
        with cursor:
            while rows:
                yield _batch(schema, rows, converters)
                try:
                    rows = cursor.fetchmany(BATCH_ROWS)
                except self._module.Error as error:
                    raise self._error(error) from error

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _from_postgres(kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):  # uuid, json, inet, enums … by their text
        return _text
    if pa.types.is_decimal(kind):
        unit = decimal.Decimal(1).scaleb(-kind.scale)
        return lambda value: _exact(value, unit)
    return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        import json

        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return str(value)
