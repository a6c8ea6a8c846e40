"""Many rows at once: the one place where the two databases are spoken to differently.

SQLite is fastest with one prepared statement and many tuples; PostgreSQL with one statement over
one JSON value (json_to_recordset, PostgreSQL manual, "JSON Functions"), because a round trip or a
parameter per value costs more than the work. Figures stand in docs/decisions/0002-ledger.md.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType

from ledger.schema import UtcTime, as_text

_AT_ONCE = 5_000
_GROWN = sa.text(
    "SELECT pg_relation_size(oid) / current_setting('block_size')::int > 2 * relpages + 20"
    " FROM pg_class WHERE oid = to_regclass(:name)"
)


def insert_rows(conn: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, in their order, that all have the keys of the first."""
    if not rows:
        return
    names = tuple(rows[0])
    columns = ", ".join(_quoted(names))
    if conn.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        sql = f"INSERT INTO {table.name} ({columns}) VALUES ({marks})"  # noqa: S608 - own names
        conn.exec_driver_sql(sql, _tuples(table, names, rows))
        return
    sql = f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {_source(table, names)}"  # noqa: S608
    _in_json(conn, sql, rows)
    _analyze_if_grown(conn, table)


def update_rows(
    conn: Connection, table: sa.Table, keys: tuple[str, ...], rows: Sequence[Mapping[str, Any]]
) -> None:
    """In the row that has a row's `keys`, set every other value it names."""
    if not rows:
        return
    values = tuple(name for name in rows[0] if name not in keys)
    names = (*values, *keys)
    if conn.dialect.name == "sqlite":
        assigned = ", ".join(f"{name} = ?" for name in _quoted(values))
        where = " AND ".join(f"{name} = ?" for name in _quoted(keys))
        sql = f"UPDATE {table.name} SET {assigned} WHERE {where}"  # noqa: S608 - own names
        conn.exec_driver_sql(sql, _tuples(table, names, rows))
        return
    assigned = ", ".join(f"{name} = v.{name}" for name in _quoted(values))
    where = " AND ".join(f"{table.name}.{name} = v.{name}" for name in _quoted(keys))
    sql = f"UPDATE {table.name} SET {assigned} FROM {_source(table, names)} WHERE {where}"  # noqa: S608
    _in_json(conn, sql, rows)


def one_of(column: sa.ColumnElement[Any], values: Iterable[str]) -> sa.ColumnElement[bool]:
    """column IN (values), as each database looks up many keys best: PostgreSQL gets one array,
    because its driver parses every placeholder of a list in Python; SQLite gets the list."""
    listed = list(values)
    array = sa.bindparam(None, listed, type_=postgresql.ARRAY(sa.Text()), unique=True)
    return _OneOf(column, array, column.in_(listed))


class _OneOf(FunctionElement[bool]):
    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> Self:
        # A plain boolean is rendered "... = 1" for SQLite, and then no index fits any more.
        return self


@compiles(_OneOf)
def _one_of(element: _OneOf, compiler: SQLCompiler, **options: Any) -> str:
    column, array, listed = element.clauses
    if compiler.dialect.name == "postgresql":
        return f"{compiler.process(column, **options)} = ANY ({compiler.process(array, **options)})"
    return compiler.process(listed, **options)


def _tuples(
    table: sa.Table, names: tuple[str, ...], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[Any, ...]]:
    times = [name for name in names if isinstance(table.c[name].type, UtcTime)]
    if not times:
        return [tuple([row[name] for name in names]) for row in rows]
    spelled = [dict(row) for row in rows]
    for row in spelled:
        for name in times:
            row[name] = as_text(row[name]) if row[name] is not None else None
    return [tuple([row[name] for name in names]) for row in spelled]


def _in_json(conn: Connection, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(rows), _AT_ONCE):
        chunk = [dict(row) for row in rows[start : start + _AT_ONCE]]
        conn.exec_driver_sql(sql, {"rows": json.dumps(chunk, default=_zoned)})


def _zoned(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"no column of the ledger holds a {type(value).__name__}")
    if value.tzinfo is None:
        raise ValueError("the ledger takes aware datetimes only")
    return value.isoformat()


@functools.lru_cache(maxsize=64)
def _source(table: sa.Table, names: tuple[str, ...]) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    typed = ", ".join(
        f"{quoted} {table.c[name].type.compile(dialect)}"
        for name, quoted in zip(names, _quoted(names), strict=True)
    )
    return f"json_to_recordset(%(rows)s::json) AS v({typed})"


def _quoted(names: tuple[str, ...]) -> list[str]:
    return [f'"{name}"' for name in names]


def _analyze_if_grown(conn: Connection, table: sa.Table) -> None:
    # An incident fills empty tables faster than autovacuum looks at them. Without statistics
    # PostgreSQL takes "this incident" for a few rows and walks all of them for every batch.
    if conn.execute(_GROWN, {"name": table.name}).scalar():
        conn.exec_driver_sql(f"ANALYZE {table.name}")
