"""`Migrations`: what can be done with a database's migrations."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg

from seawall.database import schema
from seawall.database.migrations import execution, files, history
from seawall.database.migrations.execution import Patience, Step
from seawall.database.migrations.files import History, Migration
from seawall.database.migrations.history import Condition, Row
from seawall.database.migrations.problems import Kind, MigrationProblem, Problem, problem
from seawall.database.migrations.session import parse, session, turn
from seawall.database.schema import Table
from seawall.errors import ConfigError
from seawall.quantity import Whole

_STEPS = Whole(least=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `status`."""

    history: str
    label: str
    state: Condition
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Found:
    """One history: what the database remembers of it, its files, and what is wrong with these."""

    rows: Sequence[Row]
    migrations: Sequence[Migration]
    problems: Sequence[Problem]


class Migrations:
    """The migrations of one database. Every call opens its own connection, or two, and closes it.

    `histories` are migrated in the order given, so a fleet's own may build on the platform's. Reading verbs
    change nothing, not even on an empty database; changing verbs wait for their turn. `expected` are the
    tables that the code needs.

    Raises:
        ConfigError: the URL is no PostgreSQL URL or a pooler's, or a directory does not exist.
        DatabaseUnavailable: the server cannot be used.
    """

    def __init__(
        self,
        url: str,
        histories: Sequence[History],
        *,
        patience: Patience | None = None,
        expected: Sequence[Table] = (),
    ) -> None:
        self._params = parse(url)
        self._histories = tuple(histories)
        self._patience = patience or Patience()
        self._expected = tuple(expected)

    def status(self) -> tuple[Entry, ...]:
        """Every migration known to the files or to the database, in the order of its history."""
        with session(self._params) as connection:
            rows = history.read(connection)
        pairs = zip(self._histories, self._found(rows), strict=True)
        return tuple(entry for each, found in pairs for entry in _entries(each.name, found))

    def plan(self) -> tuple[Migration, ...]:
        """What `up` would run now.

        Raises:
            MigrationProblem: `up` would refuse.
        """
        with session(self._params) as connection:
            return tuple(self._pending(history.read(connection)))

    def check(self) -> tuple[Problem, ...]:
        """Everything that is not as it should be: files, drift, pending, unfinished, invalid indexes.

        The schema is compared with what the code expects when nothing else explains a difference.
        """
        with session(self._params) as connection:
            rows = history.read(connection)
            invalid = _invalid_indexes(connection)
            different = schema.check(connection, self._expected)
        found = list(self._found(rows))
        problems = (*_problems(found), *_unapplied(found), *invalid)
        fix = "write a migration, or correct what the code expects"
        return problems or tuple(Problem(Kind.SCHEMA, f"{line}: {fix}") for line in different)

    def up(
        self,
        report: Callable[[Step], object] | None = None,
        begin: Callable[[Migration, int, int], object] | None = None,
    ) -> tuple[Step, ...]:
        """Apply what is pending, telling `begin` of each file (the nth of how many), and `report` when done.

        Raises:
            MigrationProblem: something is wrong with a file or the history, and nothing was run; or a file
                failed, and those before it stay applied.
        """
        with self._turn() as connection:
            rows = history.read(connection)
            pending = self._pending(rows)

            def apply(migration: Migration, number: int) -> Step:
                if begin is not None:
                    begin(migration, number, len(pending))
                return execution.apply(connection, migration, rows, self._patience)

            return _run((apply(migration, n) for n, migration in enumerate(pending, 1)), report)

    def down(self, steps: int = 1, report: Callable[[Step], object] | None = None) -> tuple[Step, ...]:
        """Undo the `steps` newest migrations of these histories, newest first, with their recorded SQL.

        Raises:
            MigrationProblem: one of them cannot be undone, and nothing was; or one failed, and those after it
                are undone.
            ConfigError: `steps` is no count of 1 or more.
        """
        steps = _STEPS.parse(steps, field="steps")
        names = {each.name for each in self._histories}
        with self._turn() as connection:
            rows = [row for row in reversed(history.read(connection)) if row.history in names][:steps]
            for row in rows:
                if row.down_sql is None:
                    message = f"{row.label} of {row.history!r} has no down.sql: undo it with a new migration"
                    raise problem(Kind.IRREVERSIBLE, message)
            return _run((execution.revert(connection, row, self._patience) for row in rows), report)

    def baseline(self, name: str, version: int) -> tuple[Migration, ...]:
        """Record history `name` up to `version` as applied without running it: the tables exist already.

        Raises:
            MigrationProblem: the history is not empty.
            ConfigError: there is no such history or version.
        """
        migrations = [each for one in self._histories if one.name == name for each in self._sound(one)]
        if version not in {migration.version for migration in migrations}:
            raise ConfigError(
                f"version={version} is not in history {name!r}: `seawall migrate status` lists them"
            )
        with self._turn() as connection, connection.transaction():
            if any(row.history == name for row in history.read(connection)):
                raise problem(
                    Kind.EDITED, f"history {name!r} is not empty: a baseline is only for the first run"
                )
            chosen = tuple(migration for migration in migrations if migration.version <= version)
            for migration in chosen:
                history.record(connection, migration, "applied")
        return chosen

    def repair(self) -> tuple[Migration, ...]:
        """Accept the files of what is applied as they are now: text, name and down SQL. Runs nothing."""
        migrations = [each for one in self._histories for each in self._sound(one)]
        with self._turn() as connection, connection.transaction():
            rows = {(row.history, row.version): row for row in history.read(connection)}
            edited = tuple(
                each for each in migrations if _differs(each, rows.get((each.history, each.version)))
            )
            for migration in edited:
                history.correct(connection, migration)
        return edited

    @contextmanager
    def _turn(self) -> Iterator[psycopg.Connection]:
        with turn(self._params, patience=self._patience.turn) as connection:
            history.create(connection)
            yield connection

    def _pending(self, rows: Sequence[Row]) -> list[Migration]:
        found = list(self._found(rows))
        if problems := list(_problems(found)):
            raise MigrationProblem(*problems)
        return [migration for each in found for migration in history.pending(each.migrations, each.rows)]

    def _found(self, rows: Sequence[Row]) -> Iterator[_Found]:
        for each in self._histories:
            own = [row for row in rows if row.history == each.name]
            yield _Found(own, *files.discover(each, history.checksums(own)))

    def _sound(self, each: History) -> Sequence[Migration]:
        migrations, problems = files.discover(each)
        if problems:
            raise MigrationProblem(*problems)
        return migrations


def _run(steps: Iterator[Step], report: Callable[[Step], object] | None) -> tuple[Step, ...]:
    done = []
    for step in steps:
        done.append(step)
        if report is not None:
            report(step)
    return tuple(done)


def _problems(found: Sequence[_Found]) -> Iterator[Problem]:
    for each in found:
        yield from each.problems
        yield from history.drift(each.migrations, each.rows)


def _unapplied(found: Sequence[_Found]) -> Iterator[Problem]:
    for each in found:
        started = {row.version: row.state for row in each.rows}
        for migration in history.pending(each.migrations, each.rows):
            if state := started.get(migration.version):
                kind, message = Kind.INCOMPLETE, f"{migration.path} was not finished ({state})"
            else:
                kind, message = Kind.PENDING, f"{migration.path} is not applied"
            yield Problem(kind, f"{message}: run `seawall migrate up`")


def _entries(name: str, found: _Found) -> Iterator[Entry]:
    at_hand = {migration.version: migration for migration in found.migrations}
    remembered = {row.version: row for row in found.rows}
    for version in sorted(at_hand.keys() | remembered.keys()):
        if row := remembered.get(version):
            yield Entry(name, row.label, history.condition(row, at_hand.get(version)), row.changed_at)
        else:
            yield Entry(name, at_hand[version].label, "pending", None)


def _differs(migration: Migration, row: Row | None) -> bool:
    if row is None or row.state != "applied":
        return False
    down = migration.down.text if migration.down else None
    return (migration.name, migration.up.checksum, down) != (row.name, row.checksum, row.down_sql)


def _invalid_indexes(connection: psycopg.Connection) -> list[Problem]:
    """Indexes left by a failed CREATE INDEX CONCURRENTLY: updated by every write, used by no query."""
    rows = connection.execute(
        "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE NOT i.indisvalid AND c.relkind = 'i'"
        " AND i.indexrelid NOT IN (SELECT index_relid FROM pg_stat_progress_create_index) ORDER BY 1"
    ).fetchall()
    fix = "migrate up if its file is unfinished, else DROP INDEX CONCURRENTLY"
    return [
        Problem(Kind.INVALID_INDEX, f"index {name} is INVALID, written but never read: {fix}")
        for (name,) in rows
    ]
