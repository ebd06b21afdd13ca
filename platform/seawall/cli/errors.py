"""`seawall errors`: what failures have in common, and what became of it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

import click

from seawall.cli import LISTED, OneOf, reach
from seawall.cli.completion import offered
from seawall.cli.pages import Page, prints, said, watched
from seawall.cli.tables import empty, fields, hint, moment, number, state, table, text, when
from seawall.errors import ConfigError
from seawall.failure import Category
from seawall.text import many

_Command = TypeVar("_Command", bound=Callable[..., Any])
_STATUSES = ("open", "resolved", "ignored")
_HEAD = 8  # characters of a fingerprint that are shown

_COLUMNS = (
    number("count", "count"),
    moment("last seen", "last_seen"),
    state("severity", "severity", gives=5),
    text("category", "category", gives=6),
    text("task", "task", gives=2, least=12),
    text("exception", "exception", gives=1, least=16, show=lambda value, _: value.rpartition(".")[2]),
    state("status", "status"),
    text("group", "fingerprint", show=lambda value, _: value[:_HEAD]),
)
_RUNS = (
    moment("finished", "finished_at"),
    state("state", "state"),
    number("attempt", "attempt"),
    text("queue", "queue", gives=2),
    text("worker", "worker", gives=1),
    text("task id", "task_id", gives=3),
)


@click.group()
def errors() -> None:
    """List, show and resolve the groups of errors that workers recorded."""


def _filters(command: _Command) -> _Command:
    names = OneOf([each.value for each in Category])
    by_category = click.option("--category", type=names, help="Only what failed so.")
    return click.option(
        "--task", shell_complete=offered("task"), help="Only tasks of this name; * and ? match."
    )(by_category(command))


@errors.command(name="list", epilog="Example: seawall errors list --task 'shop.*' --status all")
@_filters
@click.option(
    "--status",
    type=OneOf([*_STATUSES, "all"]),
    default="open",
    show_default=True,
    help="Only those of which this has become.",
)
@click.option("--limit", type=LISTED, default=50, show_default=True, help="Most to print.")
@watched
def list_command(*, task: str | None, category: str | None, status: str, limit: int) -> Page:
    """The groups, those seen last first."""
    from seawall.records.groups import Wanted, find

    wanted = Wanted(task=task, category=category, status=None if status == "all" else status)
    with reach.postgres() as database:
        rows = [asdict(group) for group in find(database, wanted, limit=limit)]
    return Page(data=rows, lines=lambda: _lines(rows, status))


def _lines(rows: list[dict[str, Any]], status: str) -> Iterator[str]:
    kept = [each for each in _COLUMNS if each.key != "status" or status == "all"]
    if not rows:
        which = "" if status == "all" else f"{status} "
        more = "seawall status" if status == "all" else "seawall errors list --status all"
        yield from empty(f"no {which}group of errors: workers record one when tasks fail", more)
        return
    yield from table(kept, rows)
    yield from hint("look closer: seawall errors show GROUP")


@errors.command(
    short_help="One group with its sample and latest runs.", epilog="Example: seawall errors show b234ad01"
)
@click.argument("fingerprint", metavar="GROUP", shell_complete=offered("group"))
@prints
def show(fingerprint: str) -> Page:
    """Print one group with its sample and latest runs. GROUP is its fingerprint, which may be cut short."""
    from seawall.records.groups import Wanted, find, latest_runs, open_letters

    with reach.postgres() as database:
        found = find(database, Wanted(fingerprints=[fingerprint]), limit=2)
        if len(found) != 1:
            raise ConfigError(
                f"{fingerprint} is {'no group' if not found else 'not clear'}: see `seawall errors list`"
            )
        data = {
            **asdict(found[0]),
            "open_dead_letters": open_letters(database, found[0]),
            "latest_runs": latest_runs(database, found[0]),
        }
    return Page(data=data, lines=lambda: _one(data))


def _one(group: dict[str, Any]) -> Iterator[str]:
    seen = (
        f"{many(group['count'], 'time')}, first {when(group['first_seen'])}, last {when(group['last_seen'])}"
    )
    yield from fields(
        {
            "exception": group["exception"].removeprefix("builtins."),
            "task": group["task"],
            "seen": seen,
            "category": f"{group['category']}, {group['severity']}",
            "status": group["status"],
            "dead letters": f"{group['open_dead_letters']} open" if group["open_dead_letters"] else "",
            "group": group["fingerprint"],
        }
    )
    if group["sample"]:
        yield ""
        yield from fields({"sample": group["sample"]})
    if group["latest_runs"]:
        yield ""
        yield from table(_RUNS, group["latest_runs"])


@errors.command(
    short_help="Mark groups as dealt with, until they are seen again.",
    epilog="Example: seawall errors resolve b234ad01",
)
@click.argument("fingerprints", metavar="[GROUP]...", nargs=-1, shell_complete=offered("group"))
@_filters
@click.option("--all", "every", is_flag=True, help="All that --task and --category leave.")
@click.option("--ignore", is_flag=True, help="Leave them alone also when they are seen again.")
@prints
def resolve(
    fingerprints: tuple[str, ...], *, task: str | None, category: str | None, every: bool, ignore: bool
) -> Page:
    """Mark groups as dealt with; one that is seen again is open again."""
    if bool(fingerprints) == every:
        raise ConfigError("name the groups, or give --all (with --task or --category to choose)")
    from seawall.records.groups import IGNORED, OPEN, RESOLVED, Wanted, find, mark

    status = IGNORED if ignore else RESOLVED
    with reach.postgres() as database:
        for each in fingerprints:
            if not find(database, Wanted(fingerprints=[each]), limit=1):
                raise ConfigError(f"{each} is no group: see `seawall errors list`; nothing was changed")
        wanted = Wanted(task=task, category=category, status=OPEN, fingerprints=fingerprints)
        count = mark(database, wanted, status)
    return said(f"{status} {many(count, 'group')}", status=status, groups=count)
