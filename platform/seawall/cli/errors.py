"""`seawall errors`: what failures have in common, and what became of it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seawall.cli import LISTED, columns, recorded
from seawall.errors import ConfigError
from seawall.failure import Category

if TYPE_CHECKING:
    from seawall.records.groups import Group

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def errors() -> None:
    """List, show and resolve the groups of errors that workers recorded."""


def _filters(command: _Command) -> _Command:
    names = click.Choice([each.value for each in Category])
    by_category = click.option("--category", type=names, help="Only what failed so.")
    return click.option("--task", help="Only tasks of this name; * and ? match.")(by_category(command))


@errors.command(name="list")
@_filters
@click.option("--status", default="open", show_default=True, help="open, resolved, ignored or all.")
@click.option("--limit", type=LISTED, default=50, show_default=True, help="Most to print.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def list_command(*, task: str | None, category: str | None, status: str, limit: int, as_json: bool) -> None:
    """Print groups, those seen last first."""
    from seawall.records.groups import STATUSES, Wanted, find

    if status not in {*STATUSES, "all"}:
        raise ConfigError(f"--status {status!r} is none: use {', '.join(STATUSES)} or all")
    wanted = Wanted(task=task, category=category, status=None if status == "all" else status)
    with recorded() as database:
        found = find(database, wanted, limit=limit)
    if as_json:
        click.echo(_as_json([asdict(group) for group in found]))
        return
    rows: list[tuple[str, ...]] = [
        ("group", "count", "last seen", "category", "severity", "task", "exception")
    ]
    rows += [_row(group) for group in found]
    for line in columns(rows):
        click.echo(line)


def _row(group: "Group") -> tuple[str, ...]:
    seen = group.last_seen.isoformat(sep=" ", timespec="seconds")
    return (
        group.fingerprint[:8],
        str(group.count),
        seen,
        group.category,
        group.severity,
        group.task,
        group.exception,
    )


@errors.command()
@click.argument("fingerprint")
def show(fingerprint: str) -> None:
    """Print one group with its sample and latest runs, as JSON. FINGERPRINT may be cut short."""
    from seawall.records.groups import Wanted, find, latest_runs, open_letters

    with recorded() as database:
        found = find(database, Wanted(fingerprints=[fingerprint]), limit=2)
        if len(found) != 1:
            raise ConfigError(
                f"{fingerprint} is {'no group' if not found else 'not clear'}: see `seawall errors list`"
            )
        shown = {
            **asdict(found[0]),
            "open_dead_letters": open_letters(database, found[0]),
            "latest_runs": latest_runs(database, found[0]),
        }
    click.echo(_as_json(shown))


@errors.command()
@click.argument("fingerprints", metavar="[FINGERPRINT]...", nargs=-1)
@_filters
@click.option("--all", "every", is_flag=True, help="All that --task and --category leave.")
@click.option("--ignore", is_flag=True, help="Leave them alone also when they are seen again.")
def resolve(
    fingerprints: tuple[str, ...], *, task: str | None, category: str | None, every: bool, ignore: bool
) -> None:
    """Mark groups as dealt with; one that is seen again is open again."""
    from seawall.records.groups import IGNORED, OPEN, RESOLVED, Wanted, mark

    if bool(fingerprints) == every:
        raise ConfigError("name the groups, or give --all (with --task or --category to choose)")
    wanted = Wanted(task=task, category=category, status=OPEN, fingerprints=fingerprints)
    status = IGNORED if ignore else RESOLVED
    with recorded() as database:
        count = mark(database, wanted, status)
    click.echo(f"{status} {count}")


def _as_json(found: object) -> str:
    return json.dumps(found, indent=2, default=str)
