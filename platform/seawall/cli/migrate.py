"""`seawall migrate`: plain SQL migrations of the platform and of the fleet."""

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from seawall.cli import Amount, complain, expect
from seawall.cli.pages import Page, in_json, prints, watched
from seawall.cli.tables import moment, state, table, text
from seawall.errors import ConfigError
from seawall.quantity import Whole

if TYPE_CHECKING:
    from seawall.database.migrations import History, Migration, Migrations, Step

_COLUMNS = (
    text("history", "history", gives=2),
    text("migration", "migration", gives=1, least=16),
    state("state", "state"),
    moment("since", "changed_at"),
)


def apply(say: Callable[[str], object], *, each: bool = True) -> "list[Step]":
    """Bring the database up to date, saying what is done: of `each` migration, and in one line.

    Raises:
        MigrationProblem: something is wrong; its `exit_code` says what.
        DatabaseUnavailable: PostgreSQL cannot be reached.
    """
    started = time.monotonic()
    steps = [*_migrations().up(lambda step: say(_line("applied", step)) if each else None, _begin)]
    seconds = time.monotonic() - started
    which = "" if each else f": {_named(steps)}"
    say(
        f"migrations: {len(steps)} applied in {seconds:.3f} s{which}"
        if steps
        else "migrations: nothing to apply"
    )
    return steps


def _named(steps: "Sequence[Step]") -> str:
    """Those of each history in a few words: `seawall 0001 to 0008`."""
    words = []
    for name, group in itertools.groupby(steps, key=lambda step: step.history):
        labels = [step.label for step in group]
        last = f" to {labels[-1].partition('_')[0]}" if len(labels) > 1 else ""
        words.append(f"{name} {labels[0].partition('_')[0] if last else labels[0]}{last}")
    return ", ".join(words)


def _begin(migration: "Migration", number: int, total: int) -> None:
    """On a terminal, what runs now; its line of the result replaces it."""
    if sys.stderr.isatty():
        click.echo(
            f"[{number}/{total}] {migration.history} {migration.label} ...\x1b[K\r", nl=False, err=True
        )


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        """Give each kind of problem its exit code."""
        from seawall.errors import MigrationError

        try:
            return super().invoke(ctx)
        except MigrationError as exc:
            from seawall.database.migrations import MigrationProblem

            if not isinstance(exc, MigrationProblem):
                raise
            for one in exc.problems:
                complain(one.message)
            sys.exit(exc.exit_code)


@click.group(cls=_Group)
def migrate() -> None:
    """Apply, undo and inspect SQL migrations.

    Exit codes: 3 pending, 4 unfinished, 5 invalid index, 6 unusable file, 7 duplicate number, 8 edited,
    9 missing, 10 out of order, 11 refused by PostgreSQL, 12 locked, 13 irreversible,
    14 not as the code expects.
    """


@migrate.command()
@prints
def up() -> Page:
    """Apply what is pending, one transaction per file."""
    lines: list[str] = []
    say = lines.append if in_json() else click.echo
    return _steps("applied", apply(say))


@migrate.command(
    short_help="Undo the newest migrations.",
    epilog="Example: seawall migrate down --steps 2 --history seawall",
)
@click.option("--steps", default=1, show_default=True, type=Amount(Whole(least=1)), help="How many to undo.")
@click.option("--history", "name", help="Only this history, such as `seawall` or the fleet's.")
@prints
def down(*, steps: int, name: str | None) -> Page:
    """Undo the newest migrations with the down SQL recorded when they were applied."""

    def say(step: "Step") -> None:
        if not in_json():
            click.echo(_line("undone", step))

    return _steps("undone", [*_migrations(name).down(steps, say)])


@migrate.command()
@watched
def status() -> Page:
    """List every migration and its state."""
    rows = [
        {
            "history": entry.history,
            "migration": entry.label,
            "state": str(getattr(entry.state, "value", entry.state)),
            "changed_at": entry.changed_at,
        }
        for entry in _migrations().status()
    ]
    return Page(data=rows, lines=lambda: table(_COLUMNS, rows))


@migrate.command()
@prints
def plan() -> Page:
    """Print what `up` would run, without running it."""
    rows = [
        {"history": each.history, "migration": each.label, "path": str(each.path), "sql": each.up.text}
        for each in _migrations().plan()
    ]
    lines = [f"-- {each['history']} {each['path']}\n{each['sql']}" for each in rows]
    return Page(data=rows, lines=lambda: lines or ["-- nothing is pending"])


@migrate.command(short_help="Exit with a status that tells whether all is applied.")
@prints
def check() -> Page:
    """Exit non-zero if anything is pending, drifted, unfinished, invalid or not as the code expects."""
    problems = _migrations(expect_tables=True).check()
    if problems and not in_json():
        from seawall.database.migrations import MigrationProblem

        raise MigrationProblem(*problems)
    if problems:
        found = [{"kind": each.kind.name.lower(), "message": each.message} for each in problems]
        return Page(data=found, status=_exit_code(problems))
    fine = "migrations: all applied, nothing drifted, and the tables are as the code expects"
    return Page(data=[], lines=lambda: [fine])


@migrate.command(
    name="new",
    short_help="Create the next pair of files, such as add_index.",
    epilog="Example: seawall migrate new add_index",
)
@click.argument("name")
@click.option("--history", "history_name", help="Where it belongs; default: the last of fleet.toml.")
@prints
def new_command(name: str, history_name: str | None) -> Page:
    """Create the next pair of files; NAME is lower case, as in add_index."""
    from seawall.database.migrations import PLATFORM, new
    from seawall.startup import histories

    own = [history for history in histories() if history.name != PLATFORM]
    if not history_name and not own:
        raise ConfigError(
            "this fleet has no migrations of its own: name their folder in fleet.toml, "
            '[migrations] shop = "migrations"'
        )
    chosen = _chosen(history_name) if history_name else own[-1]
    try:
        paths = [str(path) for path in new(chosen, name)]
    except OSError as exc:
        raise ConfigError(
            f"the files cannot be written ({exc.strerror}): choose another name or folder"
        ) from exc
    return Page(data=paths, lines=lambda: paths)


@migrate.command(
    short_help="Record all up to VERSION as applied, without running it.",
    epilog="Example: seawall migrate baseline 12 --history shop",
)
@click.argument("version", type=Amount(Whole()))
@click.option("--history", "name", required=True, help="The history whose tables exist already.")
@prints
def baseline(version: int, name: str) -> Page:
    """Record everything up to VERSION as applied without running it."""
    _chosen(name)
    return _done("recorded", _migrations().baseline(name, version))


@migrate.command(short_help="Accept the files of what is applied as they are now.")
@prints
def repair() -> Page:
    """Accept the files as they are now for what is applied; runs no SQL of theirs."""
    return _done("accepted", _migrations().repair())


def _done(verb: str, migrations: Any) -> Page:
    rows = [{"history": each.history, "migration": each.label} for each in migrations]
    lines = [f"{verb}  {row['history']} {row['migration']}" for row in rows]
    return Page(data={verb: rows}, lines=lambda: lines or [f"{verb} nothing"])


def _steps(verb: str, steps: "list[Step]") -> Page:
    """Steps that were said as they were done."""
    rows = [
        {"history": each.history, "migration": each.label, "seconds": each.seconds, "tries": each.tries}
        for each in steps
    ]
    return Page(data={verb: rows})


def _exit_code(problems: Any) -> int:
    from seawall.database.migrations import MigrationProblem

    return MigrationProblem(*problems).exit_code


def _migrations(name: str | None = None, *, expect_tables: bool = False) -> "Migrations":
    from seawall import servers
    from seawall.cli.reach import try_postgres
    from seawall.database.migrations import Migrations
    from seawall.startup import expected_tables, histories

    chosen = [_chosen(name)] if name else histories()
    url = servers.migration_url()
    found = Migrations(url, chosen, expected=expected_tables() if expect_tables else ())
    try_postgres(url)
    return found


def _chosen(name: str | None) -> "History":
    from seawall.database.migrations import PLATFORM
    from seawall.startup import histories

    known = {history.name: history for history in histories()}
    expect("history", name or PLATFORM, known)
    return known[name or PLATFORM]


def _line(verb: str, step: "Step") -> str:
    tries = f", {step.tries} tries" if step.tries > 1 else ""
    return f"{verb:8}  {step.history} {step.label} in {step.seconds:.3f} s{tries}"
