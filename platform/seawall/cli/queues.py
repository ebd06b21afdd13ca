"""`seawall queues`: what waits, and stopping or emptying it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from seawall.cli import expect, reach
from seawall.cli.completion import offered
from seawall.cli.pages import Page, confirmed, prints, said, watched
from seawall.cli.tables import duration, listed, number, seconds, state, text, wrapped
from seawall.text import many, one_line

if TYPE_CHECKING:
    from seawall.delivery import Queues

_COLUMNS = (
    text("queue", "queue", gives=1, least=16),
    state("", "state"),
    number("ready", "ready"),
    number("delayed", "delayed"),
    number("held", "held"),
    number("parked", "parked"),
    number("dead", "dead"),
    seconds("oldest", "oldest"),
)


@click.group()
def queues() -> None:
    """List, pause, resume and purge the queues of Seawall's transport."""


@queues.command(name="list")
@watched
def list_command() -> Page:
    """What each queue holds, and how long its next one has waited.

    ready: in line; delayed: until its moment; held: by a worker; parked: until a dependency is back.
    """
    with reach.queues(only_look=True) as opened:
        held = {name: _row(opened, name) for name in opened.names()}
    return Page(data=held, lines=lambda: _lines(held))


def _row(opened: "Queues", name: str) -> dict[str, Any]:
    oldest = {each.dependency: each.oldest for each in opened.parked(name)}
    return {**asdict(opened.counts(name)), "parked_oldest": oldest}


def _lines(held: dict[str, dict[str, Any]]) -> Iterator[str]:
    rows = [
        {
            **counts,
            "queue": name,
            "parked": sum(counts["parked"].values()),
            "state": "paused" if counts["paused"] else "",
        }
        for name, counts in held.items()
    ]
    none = "no queue was declared so far: workers declare those that they consume"
    yield from listed(_COLUMNS, rows, none, "seawall up")
    for queue, counts in held.items():
        for dependency, oldest in counts["parked_oldest"].items():
            parked = counts["parked"].get(dependency, 0)
            waits = f"{queue}: {parked} parked for {dependency}, the oldest for {duration(oldest)}"
            yield from wrapped(one_line(waits), deeper="  ")
            yield from _advice(queue, dependency)


def _advice(queue: str, dependency: str) -> Iterator[str]:
    if not dependency.startswith("name:"):
        return
    from seawall.worker.names import advice, name_in

    if (name := name_in(dependency)) is not None:
        said = one_line(f"nobody who consumes {queue} knows it: {advice(name)}")
        yield from wrapped(said, indent="  ")


@queues.command(
    short_help="Claim nothing more from QUEUE, or from any.", epilog="Example: seawall queues pause payments"
)
@click.argument("queue", required=False, shell_complete=offered("queue"))
@prints
def pause(queue: str | None) -> Page:
    """Claim nothing more from QUEUE, or from any; what runs goes on."""
    with _with(queue) as opened:
        opened.pause(queue)
    return said(f"paused {queue or 'every queue'}", paused=queue)


@queues.command(
    short_help="Undo `pause`, of QUEUE or of all.", epilog="Example: seawall queues resume payments"
)
@click.argument("queue", required=False, shell_complete=offered("queue"))
@prints
def resume(queue: str | None) -> Page:
    """Undo `pause`; a queue paused by its own name needs its own name here."""
    with _with(queue) as opened:
        opened.resume(queue)
    return said(f"resumed {queue or 'every queue'}", resumed=queue)


@queues.command(
    short_help="Delete what waits in QUEUE.", epilog="Example: seawall queues purge payments --yes"
)
@click.argument("queue", shell_complete=offered("queue"))
@confirmed("Delete every waiting task of this queue?")
@prints
def purge(queue: str) -> Page:
    """Delete what waits in QUEUE; parked and dead messages stay."""
    with _with(queue) as opened:
        deleted = opened.purge(queue)
    return said(f"deleted {many(deleted, 'message')} of {queue}", deleted=deleted, queue=queue)


@contextmanager
def _with(queue: str | None) -> Iterator["Queues"]:
    """The queues, if `queue` is one of them."""
    with reach.queues() as opened:
        if queue is not None:
            expect("queue", queue, opened.names())
        yield opened
