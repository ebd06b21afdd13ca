"""What a database remembers of its migrations, and what that means for the files at hand.

`seawall.migration_history` belongs to the runner, which creates it: it must exist before the first migration.
A row is written in the transaction of its migration. Only a no-transaction file has two moments: its row says
`running` before and `applied` or `failed` after, so a crash in between leaves a trace.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import psycopg
from psycopg.rows import class_row

from seawall.database.migrations.files import Migration
from seawall.database.migrations.problems import Kind, Problem

State = Literal["applied", "running", "failed"]
Condition = Literal["applied", "running", "failed", "pending", "edited", "missing"]

_CREATE: Final = """
CREATE SCHEMA IF NOT EXISTS seawall;
CREATE TABLE IF NOT EXISTS seawall.migration_history (
    history text NOT NULL,
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    down_sql text,
    state text NOT NULL CHECK (state IN ('applied', 'running', 'failed')),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seconds double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (history, version)
)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One remembered migration; `down_sql` is how to undo it even without its files."""

    history: str
    version: int
    name: str
    checksum: str
    down_sql: str | None
    state: State
    changed_at: datetime
    seconds: float

    @property
    def label(self) -> str:
        """`0001_name`, as in the file's name."""
        return f"{self.version:04}_{self.name}"


def create(connection: psycopg.Connection) -> None:
    """Make the table, once; call it under the runners' lock."""
    if not _exists(connection):  # asking first keeps the server's "already exists" notices out of the logs
        with connection.transaction():
            connection.execute(_CREATE)


def read(connection: psycopg.Connection) -> list[Row]:
    """All rows, oldest change first; none if no runner was ever here."""
    if not _exists(connection):
        return []
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        query = "SELECT * FROM seawall.migration_history ORDER BY changed_at, version"
        return cursor.execute(query).fetchall()


def record(connection: psycopg.Connection, migration: Migration, state: State, seconds: float = 0.0) -> None:
    """Write the row of `migration` as it stands now."""
    connection.execute(
        """
        INSERT INTO seawall.migration_history (history, version, name, checksum, down_sql, state, seconds)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (history, version) DO UPDATE SET
            (name, checksum, down_sql, state, seconds, changed_at) = (
                excluded.name, excluded.checksum, excluded.down_sql, excluded.state, excluded.seconds,
                clock_timestamp()
            )
        """,
        (
            *(migration.history, migration.version, migration.name, migration.up.checksum),
            *(migration.down.text if migration.down else None, state, seconds),
        ),
    )


def correct(connection: psycopg.Connection, migration: Migration) -> None:
    """Take over the text of the files for a migration that was applied; when it was applied stays."""
    connection.execute(
        "UPDATE seawall.migration_history SET name = %s, checksum = %s, down_sql = %s"
        " WHERE (history, version) = (%s, %s)",
        (
            *(migration.name, migration.up.checksum, migration.down.text if migration.down else None),
            *(migration.history, migration.version),
        ),
    )


def forget(connection: psycopg.Connection, row: Row) -> None:
    """Remove a row."""
    connection.execute(
        "DELETE FROM seawall.migration_history WHERE (history, version) = (%s, %s)",
        (row.history, row.version),
    )


def pending(migrations: Sequence[Migration], rows: Sequence[Row]) -> list[Migration]:
    """What `up` has to run: the files that are not recorded as applied. One history's files and rows."""
    applied = checksums(rows)
    return [migration for migration in migrations if migration.version not in applied]


def checksums(rows: Sequence[Row]) -> dict[int, str]:
    """The checksum of what is applied, by version. One history's rows."""
    return {row.version: row.checksum for row in rows if row.state == "applied"}


def condition(row: Row, file: Migration | None) -> Condition:
    """How a remembered migration and its file stand to each other.

    A file whose run was never finished may still be corrected: only what is applied is compared.
    """
    if row.state != "applied":
        return row.state
    if file is None:
        return "missing"
    return "applied" if (file.name, file.up.checksum) == (row.name, row.checksum) else "edited"


def drift(migrations: Sequence[Migration], rows: Sequence[Row]) -> Iterator[Problem]:
    """Where the files contradict what was applied. One history's files and rows."""
    files = {migration.version: migration for migration in migrations}
    newest = max((row.version for row in rows if row.state == "applied"), default=0)
    for row in rows:
        match condition(row, file := files.get(row.version)):
            case "missing":
                message = (
                    f"{row.label}.up.sql of {row.history!r} is applied and its file is missing: restore it"
                )
                yield Problem(Kind.MISSING, f"{message}, or undo it with `seawall migrate down`")
            case "edited":
                assert file is not None  # noqa: S101 - for the type checker
                message = f"{file.path} was edited after it was applied: restore it and write a new migration"
                yield Problem(Kind.EDITED, f"{message}, or accept it with `seawall migrate repair`")
    for migration in pending(migrations, rows):
        if migration.version < newest:
            message = (
                f"{migration.path} is out of order, {newest:04} is applied already: give it a higher number"
            )
            yield Problem(Kind.OUT_OF_ORDER, message)


def _exists(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT to_regclass('seawall.migration_history') IS NOT NULL").fetchone()
    return bool(row and row[0])
