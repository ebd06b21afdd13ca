"""The demo's tables: every statement on them is here.

Each function may be repeated at any point, because a task may run twice: its worker can die before the broker
hears that it is done. `load` first locks its chunk's row, then deletes what an earlier run of it wrote, and
loads again, in one transaction. Rows with one key, in one chunk or in two, are told apart by the table's
primary key; they go in by key, so that two chunks wait for each other and never deadlock.
"""

from collections.abc import Sequence
from typing import Any

from psycopg import Connection
from psycopg.sql import SQL, Identifier

from seawall import database
from workers.demo.datasets import Dataset, Record

Good = tuple[Record, tuple[object, ...]]
Reject = tuple[Record, str]


def ready() -> bool:
    """Whether the demo's tables exist."""
    return bool(database().fetch_value("SELECT to_regclass('demo.imports') IS NOT NULL"))


def begin(import_id: str, dataset: Dataset, *, rows: int, chunks: int) -> None:
    """Enter an import."""
    database().execute(
        "INSERT INTO demo.imports (id, dataset, rows, chunks) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (import_id, dataset.name, rows, chunks),
        retry=True,
    )


def load(
    import_id: str, dataset: Dataset, chunk: int, good: Sequence[Good], rejects: Sequence[Reject]
) -> int:
    """Write one chunk and return how many of its rows were rejected, those with a taken key included."""

    def write(connection: Connection[Any]) -> int:
        connection.execute(
            "INSERT INTO demo.chunks (import_id, chunk, rows) VALUES (%s, %s, %s)"
            " ON CONFLICT (import_id, chunk) DO UPDATE SET rows = excluded.rows",
            (import_id, chunk, len(good) + len(rejects)),
        )
        for table in (dataset.table, "rejects"):
            query = SQL("DELETE FROM {} WHERE import_id = %s AND chunk = %s").format(
                Identifier("demo", table)
            )
            connection.execute(query, (import_id, chunk))
        loaded = _insert(connection, import_id, dataset, chunk, good)
        reason = f"another row has its {dataset.columns[0]}"
        rejected = [*rejects, *((row, reason) for row, _ in good if row.number not in loaded)]
        with connection.cursor().copy("COPY demo.rejects FROM STDIN") as copy:
            for row, why in rejected:
                copy.write_row((import_id, chunk, row.number, row.raw, why))
        return len(rejected)

    return database().run(write)


def finish(import_id: str, dataset: Dataset) -> None:
    """Write an import's totals, counted in the tables themselves."""
    database().execute(
        SQL(
            "UPDATE demo.imports SET finished_at = coalesce(finished_at, now()),"
            " loaded = (SELECT count(*) FROM {} WHERE import_id = id),"
            " rejected = (SELECT count(*) FROM demo.rejects WHERE import_id = id) WHERE id = %s"
        ).format(Identifier("demo", dataset.table)),
        (import_id,),
        retry=True,
    )


def progress(import_id: str) -> dict[str, Any] | None:
    """How far an import is; None while no worker has taken it. `loaded` is None until it is finished."""
    return database().fetch_one(
        "SELECT loaded, rejected, extract(epoch FROM finished_at - started_at)::float AS seconds,"
        " (SELECT coalesce(sum(rows), 0)::int FROM demo.chunks WHERE import_id = id) AS done"
        " FROM demo.imports WHERE id = %s",
        (import_id,),
        retry=True,
    )


def _insert(
    connection: Connection[Any], import_id: str, dataset: Dataset, chunk: int, good: Sequence[Good]
) -> set[int]:
    """Copy the rows in, except those whose key is taken; returns the numbers of those that went in."""
    table, key = Identifier("demo", dataset.table), Identifier(dataset.columns[0])
    columns = SQL(", ").join(map(Identifier, ("import_id", "chunk", "row_number", *dataset.columns)))
    connection.execute(SQL("CREATE TEMP TABLE incoming (LIKE {}) ON COMMIT DROP").format(table))
    with connection.cursor().copy(SQL("COPY incoming ({}) FROM STDIN").format(columns)) as copy:
        for row, values in good:
            copy.write_row((import_id, chunk, row.number, *values))
    inserted = connection.execute(
        SQL(
            "INSERT INTO {table} ({columns}) SELECT {columns} FROM incoming ORDER BY {key}, row_number"
            " ON CONFLICT DO NOTHING RETURNING row_number"
        ).format(table=table, columns=columns, key=key)
    )
    return {row["row_number"] for row in inserted}
