"""Running one migration's SQL, up or down, together with its record.

A script and its record are one transaction. Its statements wait for a lock only briefly, because everybody
else queues behind the waiter; then all is rolled back and tried again after a jittered pause.

A no-transaction script is one statement between two records. When an earlier run left only the first, it died
in between: an index that it left INVALID is dropped and built again, one that it finished is taken as built.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Literal

import psycopg
from psycopg import errors as pg

from seawall.database import connecting
from seawall.database.migrations import history, script
from seawall.database.migrations.files import Migration, place
from seawall.database.migrations.history import Row, State
from seawall.database.migrations.problems import Kind, MigrationProblem, problem
from seawall.database.migrations.script import Script, Statement
from seawall.database.migrations.session import TURN
from seawall.redaction import redact_text

_OURSELVES: Final = "RESET SESSION AUTHORIZATION; RESET ROLE"
_RESET: Final = (
    f"{_OURSELVES}; RESET ALL; CLOSE ALL; UNLISTEN *; DEALLOCATE ALL; DISCARD TEMP; DISCARD SEQUENCES"
)
_UNLOCK: Final = """
SELECT CASE
    WHEN objsubid = 2 AND mode = 'ExclusiveLock' THEN pg_advisory_unlock(classid::integer, objid::integer)
    WHEN objsubid = 2 THEN pg_advisory_unlock_shared(classid::integer, objid::integer)
    WHEN mode = 'ExclusiveLock' THEN pg_advisory_unlock(classid::bigint << 32 | objid::bigint)
    ELSE pg_advisory_unlock_shared(classid::bigint << 32 | objid::bigint)
END
FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
    AND (objsubid = 2 OR (classid::bigint << 32 | objid::bigint) <> %s)
"""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for others: each lock, the tries for all of a file's locks, another runner."""

    lock_timeout: float = 0.3
    tries: int = 20
    turn: float = 600.0


@dataclass(frozen=True, slots=True)
class Step:
    """One migration that was run."""

    history: str
    label: str
    direction: Literal["up", "down"]
    seconds: float
    tries: int = 1


class _StatementError(Exception):
    def __init__(self, where: str, error: psycopg.Error) -> None:
        self.where, self.error = where, error
        super().__init__(where)


def apply(
    connection: psycopg.Connection, migration: Migration, rows: Sequence[Row], patience: Patience
) -> Step:
    """Run `migration` up and record it. `rows` is what was recorded before.

    Raises:
        MigrationProblem: a statement failed, or its locks were not to be had. The file left no trace, unless
            it is a no-transaction file.
    """
    started = time.monotonic()

    def record(state: State) -> None:
        history.record(connection, migration, state, time.monotonic() - started)

    tries = 1
    try:
        if migration.up.transactional:
            tries = _transact(connection, migration.path, migration.up, lambda: record("applied"), patience)
        else:
            before = {(row.history, row.version): row.state for row in rows}
            _build_alone(connection, migration, before.get((migration.history, migration.version)), record)
    finally:
        _make_new(connection)
    return Step(migration.history, migration.label, "up", time.monotonic() - started, tries)


def revert(connection: psycopg.Connection, row: Row, patience: Patience) -> Step:
    """Undo an applied migration with the SQL that was recorded with it.

    Raises:
        MigrationProblem: as `apply`.
    """
    assert row.down_sql is not None  # noqa: S101 - the caller refused what cannot be undone
    started = time.monotonic()
    path, undo = Path(f"{row.label}.down.sql"), script.parse(row.down_sql)
    tries = 1
    try:
        if undo.transactional:
            tries = _transact(connection, path, undo, lambda: history.forget(connection, row), patience)
        else:
            _execute(connection, path, undo)
            history.forget(connection, row)
    except _StatementError as exc:
        raise _failed(exc) from exc.error
    finally:
        _make_new(connection)
    return Step(row.history, row.label, "down", time.monotonic() - started, tries)


def _transact(
    connection: psycopg.Connection,
    path: Path,
    script_: Script,
    record: Callable[[], None],
    patience: Patience,
) -> int:
    """Script and record in one transaction; returns how many tries it took."""
    for attempt in count(1):
        try:
            _try(connection, path, script_, record, patience.lock_timeout)
        except _StatementError as exc:
            if not isinstance(exc.error, (pg.LockNotAvailable, pg.DeadlockDetected)):
                raise _failed(exc) from exc.error
            if attempt >= patience.tries:
                raise _blocked(exc, patience) from exc.error
            pause = patience.lock_timeout * min(attempt, 5)  # others pass in the meantime
            time.sleep(random.uniform(0.5, 1.5) * pause)  # noqa: S311 - no secret
        else:
            return attempt
    raise AssertionError  # not reached: the counter has no end


def _try(
    connection: psycopg.Connection,
    path: Path,
    script_: Script,
    record: Callable[[], None],
    lock_timeout: float,
) -> None:
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {round(lock_timeout * 1000)}".encode())
            _execute(connection, path, script_)
            connection.execute(_OURSELVES)  # a file may end as somebody else, who may not record it
            record()
    except psycopg.Error as exc:  # at COMMIT: a deferred constraint
        if connection.broken:
            raise
        raise _StatementError(str(path), exc) from exc


def _build_alone(
    connection: psycopg.Connection,
    migration: Migration,
    before: State | None,
    record: Callable[[State], None],
) -> None:
    record("running")
    built = migration.up.concurrent_index and _index(connection, *migration.up.concurrent_index)
    if built and not built.valid:
        connection.execute(f"DROP INDEX CONCURRENTLY {built.name}".encode())
    if not (built and built.valid and before == "running"):
        try:
            _execute(connection, migration.path, migration.up)
        except _StatementError as exc:
            record("failed")
            raise _failed(exc) from exc.error
    record("applied")


@dataclass(frozen=True, slots=True)
class _Index:
    name: str  # quoted and qualified as SQL needs it
    valid: bool


def _index(connection: psycopg.Connection, index: str, table: str) -> _Index | None:
    row = connection.execute(
        "SELECT i.indexrelid::regclass::text, i.indisvalid FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE i.indrelid = to_regclass(%s::text) AND c.relname = (parse_ident(%s::text))[1]",
        (table, index),
    ).fetchone()
    return _Index(*row) if row else None


def _execute(connection: psycopg.Connection, path: Path, script_: Script) -> None:
    for statement in script_.statements:
        try:
            connection.execute(statement.text.encode())
        except psycopg.Error as exc:
            if connection.broken:
                raise
            raise _StatementError(place(path, _line(statement, exc)), exc) from exc


def _line(statement: Statement, error: psycopg.Error) -> int:
    """PostgreSQL gives a position for what it cannot parse; other failures are their statement's."""
    position = int(error.diag.statement_position or 1) - 1
    return statement.line + statement.text.count("\n", 0, position)


def _blocked(exc: _StatementError, patience: Patience) -> MigrationProblem:
    return problem(
        Kind.LOCKED,
        f"{exc.where}: gave up after {patience.tries} tries of {patience.lock_timeout:g} s to get its locks: "
        f"end the long transactions in pg_stat_activity, then try again ({exc.error.diag.message_primary})",
    )


def _failed(exc: _StatementError) -> MigrationProblem:
    message = f"{exc.where}: {exc.error.diag.message_primary or connecting.one_line(exc.error)}"
    if isinstance(exc.error, pg.ActiveSqlTransaction):
        message += ": put it alone in a file that starts with `-- seawall: no-transaction`"
    elif exc.error.diag.message_detail:
        message += f" ({exc.error.diag.message_detail})"
    return problem(Kind.FAILED, redact_text(message))


def _make_new(connection: psycopg.Connection) -> None:
    """Whatever one file leaves in the session must not reach the next; the runner's own turn stays."""
    if connection.broken:
        return
    connection.execute(_RESET)
    while connection.execute(_UNLOCK, (TURN,)).rowcount:
        pass  # a lock that was taken twice is let go twice
