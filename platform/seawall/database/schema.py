"""What the code expects of the database, compared with what the database has.

    TABLES = (Table("shop.orders", {"id": "bigint", "node_id": "text"}, indexes=("orders_node",)),)

A table that has more than is expected is fine: an older version of the code runs beside a newer schema.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class Table:
    """A table by its qualified name: its columns with their types as psql shows them, and its indexes."""

    name: str
    columns: Mapping[str, str]
    indexes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The tables that exist among those asked for, with valid indexes only, and what else exists there."""

    tables: Mapping[str, Table]
    others: Sequence[str] = field(default=())


def differences(expected: Iterable[Table], found: Found) -> Iterator[str]:
    """One line for each thing that is expected and not so, with the name that may have been meant."""
    for table in expected:
        actual = found.tables.get(table.name)
        if actual is None:
            yield f"table {table.name} is missing{_instead(table.name, found.others)}"
            continue
        others = [name for name in actual.columns if name not in table.columns]
        for name, kind in table.columns.items():
            if name not in actual.columns:
                yield f"column {name} is missing in {table.name}{_instead(name, others)}"
            elif actual.columns[name] != kind:
                yield f"column {name} of {table.name} is {actual.columns[name]}, expected {kind}"
        unknown = [name for name in actual.indexes if name not in table.indexes]
        for name in table.indexes:
            if name not in actual.indexes:
                yield f"index {name} is missing on {table.name}{_instead(name, unknown)}"


def read(connection: psycopg.Connection[Any], names: Sequence[str]) -> Found:
    """What the database has of the tables `names`; tables of the same schemas are the others."""
    cursor = psycopg.Cursor(connection)
    columns = cursor.execute(
        "SELECT n.nspname || '.' || c.relname, a.attname, format_type(a.atttypid, a.atttypmod)"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1, a.attnum",
        ([name.partition(".")[0] for name in names],),
    ).fetchall()
    indexes = cursor.execute(
        "SELECT n.nspname || '.' || t.relname, c.relname FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid"
        " JOIN pg_namespace n ON n.oid = t.relnamespace"
        " WHERE i.indisvalid AND n.nspname || '.' || t.relname = ANY(%s)",
        (list(names),),
    ).fetchall()
    kinds: dict[str, dict[str, str]] = {}
    for table, column, kind in columns:
        kinds.setdefault(table, {}).update({column: kind} if column else {})
    return Found(
        {
            name: Table(name, kinds[name], tuple(index for table, index in indexes if table == name))
            for name in names
            if name in kinds
        },
        tuple(name for name in kinds if name not in names),
    )


def check(connection: psycopg.Connection[Any], expected: Sequence[Table]) -> tuple[str, ...]:
    """All differences; none is good health."""
    return tuple(differences(expected, read(connection, [table.name for table in expected])))


def _instead(name: str, candidates: Sequence[str]) -> str:
    """`, found id_node`: the same words in another order, or nearly the same name."""
    words = sorted(name.split("_"))
    near = [one for one in candidates if sorted(one.split("_")) == words]
    near = near or difflib.get_close_matches(name, candidates, n=1, cutoff=0.75)
    return f", found {near[0]}" if near else ""
