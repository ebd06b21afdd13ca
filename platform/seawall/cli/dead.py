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
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seawall.cli import LISTED, Amount, OneOf, expect, reach
from seawall.cli.completion import offered
from seawall.cli.pages import Page, confirmed, dumped, prints, said, watched
from seawall.cli.tables import (
    empty,
    fields,
    hint,
    iso,
    moment,
    number,
    seconds,
    state,
    table,
    text,
    when,
    width,
)
from seawall.errors import ConfigError
from seawall.failure import Category
from seawall.quantity import Duration
from seawall.text import many

if TYPE_CHECKING:
    from seawall.database.pool import Database
    from seawall.delivery import DeadLetter, Queues

_Command = TypeVar("_Command", bound=Callable[..., Any])

_HEAD = 8  # characters of an id that are shown on a terminal, and the least that stand for one

_COLUMNS = (
    moment("died", "died"),
    text("task", "task", gives=2, least=12),
    text("reason", "reason", gives=1, least=24),
    text("queue", "queue", gives=3, least=8),
    text("id", "task_id", show=lambda value, row: _short(value or row["id"])),
)
_HISTORY = (
    moment("when", "at"),
    text("what", "reason", gives=1, least=24, show=lambda value, _: value.partition("\n")[0]),
    text("by", "by", gives=2, least=8),
)
_ATTEMPTS = (
    number("attempt", "attempt"),
    state("state", "state"),
    moment("finished", "finished_at"),
    seconds("took", "seconds"),
    text("worker", "worker", gives=1),
)


@click.group()
def dead() -> None:
    """List, show, requeue and discard the dead letters of Seawall's transport."""


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Which dead letters a command is about."""

    queue: str | None
    task: str | None = None
    category: str | None = None
    older_than: float | None = None
    newer_than: float | None = None

    def __contains__(self, letter: "DeadLetter") -> bool:
        age = time.time() - letter.died_at
        return (
            (self.task is None or fnmatch.fnmatchcase(letter.task, self.task))
            and (self.category is None or letter.category == self.category)
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
        )


def _filters(command: _Command) -> _Command:
    names, age = OneOf([each.value for each in Category]), Amount(Duration())
    for option in (
        click.option(
            "--newer-than", type=age, metavar="AGE", help="Only those that died less than, say, 2h ago."
        ),
        click.option(
            "--older-than", type=age, metavar="AGE", help="Only those that died longer ago than, say, 7d."
        ),
        click.option("--category", type=names, help="Only what failed so."),
        click.option(
            "--task", shell_complete=offered("task"), help="Only tasks of this name; * and ? match."
        ),
        click.option("--queue", "-q", shell_complete=offered("queue"), help="Only this queue."),
    ):
        command = option(command)
    return command


@dead.command(name="list", epilog="Example: seawall dead list --queue payments --newer-than 2h")
@_filters
@click.option("--limit", type=LISTED, default=100, show_default=True, help="Most to print of each queue.")
@watched
def list_command(*, limit: int, **wanted: Any) -> Page:
    """The dead letters, the latest of each queue first."""
    with reach.queues(only_look=True) as opened:
        rows = [_summary(*each) for each in _found(opened, _Wanted(**wanted), limit=limit)]
    return Page(data=rows, lines=lambda: _lines(rows))


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        yield from empty("no dead letter: no task was given up", "seawall queues list")
        return
    yield from table(_COLUMNS, rows)
    yield from hint("look closer: seawall dead show ID")


@dead.command(
    short_help="One dead letter, its history and account.", epilog="Example: seawall dead show 17955c45"
)
@click.argument("identity", metavar="ID", shell_complete=offered("letter"))
@click.option("--queue", "-q", shell_complete=offered("queue"), help="Only look here.")
@prints
def show(identity: str, *, queue: str | None) -> Page:
    """Print one dead letter, its history and account. ID is the task's or the message's, or its beginning."""
    with reach.queues(only_look=True) as opened:
        chosen = _chosen(opened, (identity,), _Wanted(queue=queue), every=False)
    ((name, (letter,)),) = chosen.items()
    data = {
        **_summary(name, letter),
        "message": _without_secrets(letter),
        "history": letter.history,
        **_account(letter.task_id),
    }
    return Page(data=data, lines=lambda: _one(data))


def _one(letter: dict[str, Any]) -> Iterator[str]:
    message = letter["message"]
    body = message.get("body")
    args, kwargs = body[:2] if isinstance(body, list) and len(body) > 1 else (body, None)
    yield from fields(
        {
            "task": letter["task"],
            "reason": letter["reason"],
            "died": when(letter["died"]),
            "category": letter["category"],
            "queue": letter["queue"],
            "arguments": dumped(args, indent=None) if args else "",
            "keywords": dumped(kwargs, indent=None) if kwargs else "",
            "task id": letter["task_id"],
            "message id": letter["id"],
        }
    )
    yield ""
    yield from table(
        _HISTORY, [dict(zip(("at", "by", "reason"), each, strict=True)) for each in letter["history"]]
    )
    if attempts := letter.get("attempts"):
        yield ""
        yield from table(_ATTEMPTS, [{**each, "seconds": (each["run_ms"] or 0) / 1000} for each in attempts])
    for each in (letter.get("lineage") or [])[-1:]:
        if each["traceback"]:
            yield ""
            yield from fields({"traceback": each["traceback"]})
    yield from hint(f"put it back in line: seawall dead requeue {letter['task_id'] or letter['id']}")


@dead.command(
    short_help="Put dead letters back in line, with all attempts.",
    epilog="Example: seawall dead requeue --all --task 'shop.*' --category network",
)
@click.argument("identities", metavar="[ID]...", nargs=-1, shell_complete=offered("letter"))
@_filters
@click.option("--all", "every", is_flag=True, help="All that the other options leave.")
@prints
def requeue(identities: tuple[str, ...], *, every: bool, **wanted: Any) -> Page:
    """Put dead letters back in line, with no strikes and all attempts; their history stays with them."""
    with reach.queues() as opened:
        chosen = _chosen(opened, identities, _Wanted(**wanted), every=every)
        _note(chosen, "requeued")  # before: one that is given up again at once has a row of its own
        count = sum(opened.revive(name, [each.id for each in letters]) for name, letters in chosen.items())
    return said(f"requeued {many(count, 'dead letter')}", requeued=count)


@dead.command(
    short_help="Delete dead letters for good.",
    epilog="Example: seawall dead discard --all --older-than 30d --yes",
)
@click.argument("identities", metavar="[ID]...", nargs=-1, shell_complete=offered("letter"))
@_filters
@click.option("--all", "every", is_flag=True, help="All that the other options leave.")
@confirmed("Delete these dead letters for good?")
@prints
def discard(identities: tuple[str, ...], *, every: bool, **wanted: Any) -> Page:
    """Delete dead letters for good; PostgreSQL keeps the account of them."""
    with reach.queues() as opened:
        chosen = _chosen(opened, identities, _Wanted(**wanted), every=every)
        _note(chosen, "discarded")
        count = sum(opened.discard(name, [each.id for each in letters]) for name, letters in chosen.items())
    return said(f"discarded {many(count, 'dead letter')}", discarded=count)


def _found(
    opened: "Queues", wanted: _Wanted, *, limit: int | None = None
) -> Iterator[tuple[str, "DeadLetter"]]:
    names = opened.names()
    if wanted.queue is not None:
        expect("queue", wanted.queue, names)
        names = [wanted.queue]
    for name in names:
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
    """What a command is about, by queue.

    Raises:
        ConfigError: neither or both of ids and --all were given, or an id is not that of one dead letter.
    """
    if bool(identities) == every:
        raise ConfigError("name the dead letters by id, or give --all (with other options to choose)")
    chosen: dict[str, list[DeadLetter]] = defaultdict(list)
    seen: dict[str, set[str]] = {each: set() for each in identities}
    for name, letter in _found(opened, wanted):
        meant = [each for each in identities if _means(each, letter)]
        for each in meant:
            seen[each].add(letter.id)
        if every or meant:
            chosen[name].append(letter)
    if unseen := [each for each, ids in seen.items() if not ids]:
        raise ConfigError(f"no dead letter {', '.join(unseen)}: see `seawall dead list`")
    if unclear := [each for each, ids in seen.items() if len(ids) > 1]:
        raise ConfigError(f"{', '.join(unclear)} begins several ids: give more of it")
    return chosen


def _means(identity: str, letter: "DeadLetter") -> bool:
    names = (letter.id, letter.task_id)
    return identity in names or (len(identity) >= _HEAD and any(name.startswith(identity) for name in names))


def _short(identity: str) -> str:
    return identity if width() is None else identity[:_HEAD]


def _summary(queue: str, letter: "DeadLetter") -> dict[str, Any]:
    return {
        "queue": queue,
        "id": letter.id,
        "task": letter.task,
        "task_id": letter.task_id,
        "died": iso(letter.died_at),
        "category": letter.category,
        "reason": letter.reason,
    }


def _without_secrets(letter: "DeadLetter") -> dict[str, Any]:
    """The message as it may be shown: its arguments by their names, everything else by what it looks like."""
    from seawall.cli.application import current_app
    from seawall.policies import secrecy_of
    from seawall.redaction import redact, redact_arguments

    message = dict(letter.message)
    task = None
    with contextlib.suppress(ConfigError):  # without an application its policies are unknown
        task = current_app(with_tasks=True).tasks.get(letter.task)
    with contextlib.suppress(LookupError, ValueError, TypeError, RecursionError):  # of a stranger
        args, kwargs, *more = json.loads(message["body"])
        secrecy = secrecy_of(task)
        shown = redact_arguments(args, kwargs, **secrecy)
        message["body"] = [*shown, *redact(more, tasks=secrecy["tasks"])]
    found: dict[str, Any] = redact(message)
    return found


def _account(task_id: str) -> dict[str, Any]:
    """What PostgreSQL knows of a task; nothing without one."""

    def ask(database: "Database") -> dict[str, Any]:
        from seawall.records import letters

        lineage = [asdict(each) for each in letters.lineage(database, task_id)]
        return {"attempts": letters.attempts(database, task_id), "lineage": lineage}

    return reach.if_known(ask) or {}


def _note(chosen: dict[str, list["DeadLetter"]], what: str) -> None:
    """PostgreSQL is told what became of them."""
    from seawall.breaker.face import whoami

    ids = [each.task_id or each.id for found in chosen.values() for each in found]

    def tell(database: "Database") -> int:
        from seawall.records import letters

        return letters.resolve(database, ids, what, whoami())

    reach.if_known(tell)
