"""`seawall dead`: the tasks that were given up, and what becomes of them.

The broker has the messages, so it is asked; PostgreSQL, where there is one, has the account of each, and is
told what became of it.
"""

import contextlib
import fnmatch
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seawall.cli import LISTED, Amount, columns
from seawall.cli.application import current_app
from seawall.cli.queues import opened_queues
from seawall.errors import ConfigError
from seawall.failure import Category
from seawall.quantity import Duration

if TYPE_CHECKING:
    from seawall.database.pool import Database
    from seawall.delivery import DeadLetter, Queues

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Result = TypeVar("_Result")


@click.group()
def dead() -> None:
    """List, show, requeue and discard the dead letters of Seawall's transport."""


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Which dead letters a command is about."""

    queue: str | None
    task: str | None
    category: str | None
    older_than: float | None
    newer_than: float | None

    def __contains__(self, letter: "DeadLetter") -> bool:
        age = time.time() - letter.died_at
        return (
            (self.task is None or fnmatch.fnmatchcase(letter.task, self.task))
            and (self.category is None or letter.category == self.category)
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
        )


def _filters(command: _Command) -> _Command:
    names, age = click.Choice([each.value for each in Category]), Amount(Duration())
    for option in (
        click.option(
            "--newer-than", type=age, metavar="AGE", help="Only those that died less than, say, 2h ago."
        ),
        click.option(
            "--older-than", type=age, metavar="AGE", help="Only those that died longer ago than, say, 7d."
        ),
        click.option("--category", type=names, help="Only what failed so."),
        click.option("--task", help="Only tasks of this name; * and ? match."),
        click.option("--queue", "-q", help="Only this queue."),
    ):
        command = option(command)
    return command


@dead.command(name="list")
@_filters
@click.option("--limit", type=LISTED, default=100, show_default=True, help="Most to print of each queue.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def list_command(*, limit: int, as_json: bool, **wanted: Any) -> None:
    """Print the dead letters, the latest of each queue first."""
    with opened_queues() as opened:
        found = list(_found(opened, _Wanted(**wanted), limit=limit))
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
    """Print one dead letter, its history and account, as JSON. ID is the task's or the message's."""
    everything = _Wanted(queue=queue, task=None, category=None, older_than=None, newer_than=None)
    with opened_queues() as opened:
        for name, letter in _found(opened, everything):
            if identity in (letter.id, letter.task_id):
                shown = {
                    **_summary(name, letter),
                    "message": _without_secrets(letter),
                    "history": letter.history,
                    **_account(letter.task_id),
                }
                click.echo(json.dumps(shown, indent=2, default=str))
                return
    raise _unknown([identity])


@dead.command()
@click.argument("identities", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--all", "every", is_flag=True, help="All that the other options leave.")
def requeue(identities: tuple[str, ...], *, every: bool, **wanted: Any) -> None:
    """Put dead letters back in line, with no strikes and all attempts; their history stays with them."""
    with opened_queues() as opened:
        chosen = _chosen(opened, identities, _Wanted(**wanted), every=every)
        _note(chosen, "requeued")  # before: one that is given up again at once has a row of its own
        count = sum(opened.revive(name, [each.id for each in letters]) for name, letters in chosen.items())
    click.echo(f"requeued {count}")


@dead.command()
@click.argument("identities", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--all", "every", is_flag=True, help="All that the other options leave.")
@click.confirmation_option(prompt="Delete these dead letters for good?")
def discard(identities: tuple[str, ...], *, every: bool, **wanted: Any) -> None:
    """Delete dead letters for good; PostgreSQL keeps the account of them."""
    with opened_queues() as opened:
        chosen = _chosen(opened, identities, _Wanted(**wanted), every=every)
        _note(chosen, "discarded")
        count = sum(opened.discard(name, [each.id for each in letters]) for name, letters in chosen.items())
    click.echo(f"discarded {count}")


def _found(
    opened: "Queues", wanted: _Wanted, *, limit: int | None = None
) -> Iterator[tuple[str, "DeadLetter"]]:
    for name in [wanted.queue] if wanted.queue else opened.names():
        left = limit
        for letter in opened.dead_letters(name):
            if letter in wanted:
                if left == 0:
                    break
                left = None if left is None else left - 1
                yield name, letter


def _chosen(
    opened: "Queues", identities: tuple[str, ...], wanted: _Wanted, *, every: bool
) -> dict[str, list["DeadLetter"]]:
    """What a bulk command is about, by queue.

    Raises:
        ConfigError: neither or both of ids and --all were given, or an id is no dead letter.
    """
    if bool(identities) == every:
        raise ConfigError("name the dead letters by id, or give --all (with other options to choose)")
    chosen: dict[str, list[DeadLetter]] = defaultdict(list)
    unseen = set(identities)
    for name, letter in _found(opened, wanted):
        known = {letter.id, letter.task_id} & set(identities)
        if every or known:
            chosen[name].append(letter)
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
        "category": letter.category,
        "reason": letter.reason,
    }


def _without_secrets(letter: "DeadLetter") -> dict[str, Any]:
    """The message as it may be shown: its arguments by their names, everything else by what it looks like."""
    from seawall.redaction import redact, redact_arguments
    from seawall.worker.discretion import secrecy_of

    message = dict(letter.message)
    with contextlib.suppress(LookupError, ValueError, TypeError, RecursionError):  # of a stranger
        args, kwargs, *more = json.loads(message["body"])
        shown = redact_arguments(args, kwargs, **secrecy_of(current_app().tasks.get(letter.task)))
        message["body"] = [*shown, *more]
    found: dict[str, Any] = redact(message)
    return found


def _account(task_id: str) -> dict[str, Any]:
    """What PostgreSQL knows of a task; nothing without one."""
    from seawall.records import letters

    def ask(database: "Database") -> dict[str, Any]:
        lineage = [asdict(each) for each in letters.lineage(database, task_id)]
        return {"attempts": letters.attempts(database, task_id), "lineage": lineage}

    return _in_postgres(ask) or {}


def _note(chosen: dict[str, list["DeadLetter"]], state: str) -> None:
    """PostgreSQL is told what became of them."""
    from seawall.breaker.face import whoami
    from seawall.records import letters

    ids = [each.task_id or each.id for found in chosen.values() for each in found]
    _in_postgres(lambda database: letters.resolve(database, ids, state, whoami()))


def _in_postgres(work: Callable[["Database"], _Result]) -> _Result | None:
    """What `work` returns; None without PostgreSQL, and with a line about it if that does not answer."""
    import psycopg

    from seawall import servers
    from seawall.database import close, database
    from seawall.errors import DatabaseUnavailable

    if not servers.database_is_known():
        return None
    try:
        return work(database())
    except (psycopg.Error, DatabaseUnavailable) as exc:
        click.echo(f"PostgreSQL has no part in this: {' '.join(str(exc).split())}", err=True)
        return None
    finally:
        close()
