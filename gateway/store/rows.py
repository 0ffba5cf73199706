"""Many rows or ids in one parameter, so that a group costs one statement however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, bindparam, func, select
from sqlalchemy import text as sql
from sqlalchemy.dialects import postgresql

from protocol.errors import ErrorCode, ProtocolError

__all__ = [
    "among",
    "check_text",
    "ids_json",
    "insert_new",
    "json_text",
    "parse_json",
    "update_rows",
]

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder()


def json_text(value: Any) -> str | None:
    """JSON for a column; None stays None."""
    return None if value is None else _encoder.encode(value).decode()


def parse_json(text: str | None) -> Any:
    """The value of such a column."""
    return None if text is None else _decoder.decode(text)


def check_text(field: str, value: str) -> None:
    """Raise BAD_FIELD for text that PostgreSQL or UTF-8 does not hold: U+0000, half a surrogate pair."""
    if "\0" in value:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{field}: must not hold U+0000")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{field}: must not hold half a surrogate pair") from None


def ids_json(ids: Iterable[int | str]) -> str:
    """The parameter of :func:`among`."""
    return _encoder.encode(list(ids)).decode()


def among(column: ColumnElement[Any], name: str, *, postgres: bool) -> ColumnElement[bool]:
    """``column`` is one of the ids of the JSON parameter ``name``."""
    if postgres:
        elements = func.json_array_elements_text(
            bindparam(name, type_=postgresql.TEXT).cast(postgresql.JSON)
        ).column_valued("value")
        return column.in_(select(elements.cast(column.type)))
    each = func.json_each(bindparam(name)).table_valued("value")
    return column.in_(select(each.c.value))


def insert_new(
    connection: Connection,
    table: Table,
    rows: Sequence[dict[str, Any]],
    key: tuple[str, ...],
    *,
    otherwise: str = "NOTHING",
) -> int:
    """Insert those whose ``key`` is not there yet (all without one); how many. All have the same columns.

    ``otherwise`` is what is done with one that is there: NOTHING, or ``UPDATE SET`` and so on.
    """
    if not rows:
        return 0
    conflict = f" ON CONFLICT ({', '.join(key)}) DO {otherwise}" if key else ""
    if connection.dialect.name == "postgresql":
        statement, parameters = _as_records(connection, table, rows, conflict)
        return connection.execute(sql(statement), parameters).rowcount
    # As the driver takes it: half of what SQLAlchemy's own executemany costs.
    names = list(rows[0])
    statement = (
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}){conflict}"
    )
    return connection.exec_driver_sql(statement, [tuple(row.values()) for row in rows]).rowcount


def _as_records(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]], conflict: str
) -> tuple[str, dict[str, Any]]:
    # A third of what executemany costs the client, and a single round trip.
    names = list(rows[0])
    columns = ", ".join(names)
    typed = _typed(connection, table, names)
    statement = (
        f"INSERT INTO {table.name} ({columns})"
        f" SELECT {columns} FROM json_to_recordset(CAST(:rows AS json)) AS r({typed})"
        f"{conflict}"
    )
    return statement, {"rows": _encoder.encode(list(rows)).decode()}


def _typed(connection: Connection, table: Table, names: Sequence[str]) -> str:
    types = {name: table.c[name].type.compile(connection.dialect) for name in names}
    return ", ".join(f"{name} {kind}" for name, kind in types.items())


def update_rows(connection: Connection, table: Table, rows: Sequence[dict[str, Any]], key: str) -> None:
    """Set the columns of those rows that ``key`` names. All name the same columns."""
    if not rows:
        return
    names = [name for name in rows[0] if name != key]
    if connection.dialect.name == "postgresql":
        assignments = ", ".join(f"{name} = r.{name}" for name in names)
        statement = (
            f"UPDATE {table.name} AS t SET {assignments}"
            f" FROM json_to_recordset(CAST(:rows AS json)) AS r({_typed(connection, table, [key, *names])})"
            f" WHERE t.{key} = r.{key}"
        )
        connection.execute(sql(statement), {"rows": _encoder.encode(list(rows)).decode()})
        return
    assignments = ", ".join(f"{name} = ?" for name in names)
    parameters = [(*(row[name] for name in names), row[key]) for row in rows]
    connection.exec_driver_sql(f"UPDATE {table.name} SET {assignments} WHERE {key} = ?", parameters)
