"""`seawall migrate`: plain SQL migrations of the platform and of the fleet."""

import itertools
import sys
import time
from collections.abc import Callable, Sequence

import click

from seawall import servers
from seawall.cli import Amount, columns
from seawall.database.migrations import (
    PLATFORM,
    History,
    Migration,
    MigrationProblem,
    Migrations,
    Step,
    new,
)
from seawall.errors import ConfigError
from seawall.quantity import Whole
from seawall.startup import expected_tables, histories


def apply(say: Callable[[str], object], *, each: bool = True) -> None:
    """Bring the database up to date, saying what is done: of `each` migration, and in one line.

    Raises:
        MigrationProblem: something is wrong; its `exit_code` says what.
        DatabaseUnavailable: PostgreSQL cannot be reached.
    """
    started = time.monotonic()
    steps = _migrations().up(lambda step: say(_line("applied", step)) if each else None, _begin)
    seconds = time.monotonic() - started
    which = "" if each else f": {_named(steps)}"
    say(
        f"migrations: {len(steps)} applied in {seconds:.3f} s{which}"
        if steps
        else "migrations: nothing to apply"
    )


def _named(steps: Sequence[Step]) -> str:
    """Those of each history in a few words: `seawall 0001 to 0008`."""
    words = []
    for name, group in itertools.groupby(steps, key=lambda step: step.history):
        labels = [step.label for step in group]
        last = f" to {labels[-1].partition('_')[0]}" if len(labels) > 1 else ""
        words.append(f"{name} {labels[0].partition('_')[0] if last else labels[0]}{last}")
    return ", ".join(words)


def _begin(migration: Migration, number: int, total: int) -> None:
    """On a terminal, what runs now; its line of the result replaces it."""
    if sys.stderr.isatty():
        click.echo(f"[{number}/{total}] {migration.history} {migration.label} ...\r", nl=False, err=True)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        """Give each kind of problem its exit code."""
        try:
            return super().invoke(ctx)
        except MigrationProblem as exc:
            for one in exc.problems:
                click.secho(f"seawall: {one.message}", fg="red", err=True)
            sys.exit(exc.exit_code)


@click.group(cls=_Group)
def migrate() -> None:
    """Apply, undo and inspect SQL migrations.

    Exit codes: 3 pending, 4 unfinished, 5 invalid index, 6 unusable file, 7 duplicate number, 8 edited,
    9 missing, 10 out of order, 11 refused by PostgreSQL, 12 locked, 13 irreversible,
    14 not as the code expects.
    """


@migrate.command()
def up() -> None:
    """Apply what is pending, one transaction per file."""
    apply(click.echo)


@migrate.command()
@click.option("--steps", default=1, show_default=True, type=Amount(Whole(least=1)), help="How many to undo.")
@click.option("--history", "name", help="Only this history, such as `seawall` or the fleet's.")
def down(*, steps: int, name: str | None) -> None:
    """Undo the newest migrations with the down SQL recorded when they were applied."""
    _migrations(name).down(steps, lambda step: click.echo(_line("undone", step)))


@migrate.command()
def status() -> None:
    """List every migration and its state."""
    rows = [
        (entry.history, entry.label, entry.state, f"{entry.changed_at or ''!s:.19}")
        for entry in _migrations().status()
    ]
    for line in columns(rows):
        click.echo(line)


@migrate.command()
def plan() -> None:
    """Print what `up` would run, without running it."""
    for migration in _migrations().plan():
        click.echo(f"-- {migration.history} {migration.path}\n{migration.up.text}")


@migrate.command()
def check() -> None:
    """Exit non-zero if anything is pending, drifted, unfinished, invalid or not as the code expects."""
    if problems := _migrations(expect=True).check():
        raise MigrationProblem(*problems)
    click.echo("migrations: all applied, nothing drifted, and the tables are as the code expects")


@migrate.command(name="new")
@click.argument("name")
@click.option("--history", "history_name", help="Where it belongs; default: the fleet's own.")
def new_command(name: str, history_name: str | None) -> None:
    """Create the next pair of files; NAME is lower case, as in add_index."""
    own = [history for history in histories() if history.name != PLATFORM]
    for path in new(_chosen(history_name) if history_name or not own else own[-1], name):
        click.echo(path)


@migrate.command()
@click.argument("version", type=Amount(Whole()))
@click.option("--history", "name", required=True, help="The history whose tables exist already.")
def baseline(version: int, name: str) -> None:
    """Record everything up to VERSION as applied without running it."""
    for migration in _migrations().baseline(name, version):
        click.echo(f"recorded  {migration.history} {migration.label}")


@migrate.command()
def repair() -> None:
    """Accept the files as they are now for what is applied; runs no SQL of theirs."""
    for migration in _migrations().repair():
        click.echo(f"accepted  {migration.history} {migration.label}")


def _migrations(name: str | None = None, *, expect: bool = False) -> Migrations:
    chosen = [_chosen(name)] if name else histories()
    return Migrations(servers.migration_url(), chosen, expected=expected_tables() if expect else ())


def _chosen(name: str | None) -> History:
    known = {history.name: history for history in histories()}
    try:
        return known[name or PLATFORM]
    except KeyError:
        raise ConfigError(f"history={name!r} is unknown: use one of {', '.join(known)}") from None


def _line(verb: str, step: Step) -> str:
    tries = f", {step.tries} tries" if step.tries > 1 else ""
    return f"{verb:8}  {step.history} {step.label} in {step.seconds:.3f} s{tries}"
