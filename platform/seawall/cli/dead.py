"""`seawall dead`: the tasks that delivery gave up, and what becomes of them."""

import fnmatch
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seawall.cli import columns
from seawall.cli.queues import opened_queues
from seawall.errors import ConfigError

if TYPE_CHECKING:
    from seawall.delivery import DeadLetter, Queues

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def dead() -> None:
    """List, show, requeue and discard the dead letters of Seawall's transport."""


def _filters(command: _Command) -> _Command:
    by_task = click.option("--task", help="Only tasks of this name; * and ? match.")
    return click.option("--queue", "-q", help="Only this queue.")(by_task(command))


@dead.command(name="list")
@_filters
@click.option("--limit", default=100, show_default=True, help="Most to print of each queue.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def list_command(*, queue: str | None, task: str | None, limit: int, as_json: bool) -> None:
    """Print the dead letters, the latest of each queue first."""
    with opened_queues() as opened:
        found = list(_found(opened, queue, task, limit=limit))
    if as_json:
        click.echo(json.dumps([_summary(name, letter) for name, letter in found], indent=2))
        return
    rows: list[tuple[str, ...]] = [("queue", "id", "task", "died", "reason")]
    for name, letter in found:
        fields = _summary(name, letter)
        rows.append((name, fields["task_id"] or letter.id, fields["task"], fields["died"], fields["reason"]))
    for line in columns(rows):
        click.echo(line)


@dead.command()
@click.argument("identity", metavar="ID")
@click.option("--queue", "-q", help="Only look here.")
def show(identity: str, *, queue: str | None) -> None:
    """Print one dead letter with its message and history, as JSON. ID is the task's or the message's."""
    with opened_queues() as opened:
        for name, letter in _found(opened, queue, None):
            if identity in (letter.id, letter.task_id):
                click.echo(json.dumps({"queue": name, **asdict(letter)}, indent=2))
                return
    raise _unknown([identity])


@dead.command()
@click.argument("identities", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--all", "every", is_flag=True, help="All that --queue and --task leave.")
def requeue(identities: tuple[str, ...], *, queue: str | None, task: str | None, every: bool) -> None:
    """Put dead letters back in line, with a clean history."""
    with opened_queues() as opened:
        chosen = _chosen(opened, identities, queue, task, every=every)
        count = sum(opened.revive(name, ids) for name, ids in chosen.items())
    click.echo(f"requeued {count}")


@dead.command()
@click.argument("identities", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--all", "every", is_flag=True, help="All that --queue and --task leave.")
@click.confirmation_option(prompt="Delete these dead letters for good?")
def discard(identities: tuple[str, ...], *, queue: str | None, task: str | None, every: bool) -> None:
    """Delete dead letters for good."""
    with opened_queues() as opened:
        chosen = _chosen(opened, identities, queue, task, every=every)
        count = sum(opened.discard(name, ids) for name, ids in chosen.items())
    click.echo(f"discarded {count}")


def _found(
    opened: "Queues", queue: str | None, task: str | None, *, limit: int | None = None
) -> Iterator[tuple[str, "DeadLetter"]]:
    for name in [queue] if queue else opened.names():
        left = limit
        for letter in opened.dead_letters(name):
            if task is None or fnmatch.fnmatchcase(letter.task, task):
                if left == 0:
                    break
                left = None if left is None else left - 1
                yield name, letter


def _chosen(
    opened: "Queues", identities: tuple[str, ...], queue: str | None, task: str | None, *, every: bool
) -> dict[str, list[str]]:
    """The message ids that a bulk command is about, by queue.

    Raises:
        ConfigError: neither or both of ids and --all were given, or an id is no dead letter.
    """
    if bool(identities) == every:
        raise ConfigError("name the dead letters by id, or give --all (with --queue or --task to choose)")
    chosen: dict[str, list[str]] = defaultdict(list)
    unseen = set(identities)
    for name, letter in _found(opened, queue, task):
        known = {letter.id, letter.task_id} & set(identities)
        if every or known:
            chosen[name].append(letter.id)
            unseen -= known
    if unseen:
        raise _unknown(sorted(unseen))
    return chosen


def _unknown(identities: list[str]) -> ConfigError:
    return ConfigError(
        f"no dead letter {', '.join(identities)}: see `seawall dead list`; nothing was changed"
    )


def _summary(queue: str, letter: "DeadLetter") -> dict[str, Any]:
    return {
        "queue": queue,
        "id": letter.id,
        "task": letter.task,
        "task_id": letter.task_id,
        "died": datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="seconds"),
        "reason": letter.history[-1][2] if letter.history else "",
    }
