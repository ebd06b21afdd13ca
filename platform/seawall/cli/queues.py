"""`seawall queues`: what waits, and stopping or emptying it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from seawall.cli import columns
from seawall.cli.application import current_app
from seawall.quantity import format_age
from seawall.text import one_line

if TYPE_CHECKING:
    from seawall.delivery import ParkedFor, Queues


@click.group()
def queues() -> None:
    """List, pause, resume and purge the queues of Seawall's transport."""


@queues.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
def list_command(*, as_json: bool) -> None:
    """Print what each queue holds, and how long its next message has waited."""
    with opened_queues() as opened:
        held = {name: asdict(opened.counts(name)) for name in opened.names()}
        parked = {name: opened.parked(name) for name in held}
    for name, waiting in parked.items():
        held[name]["parked_oldest"] = {each.dependency: each.oldest for each in waiting}
    if as_json:
        click.echo(json.dumps(held, indent=2))
        return
    rows: list[tuple[str, ...]] = [("queue", "ready", "delayed", "held", "parked", "dead", "oldest", "")]
    for name, counts in held.items():
        oldest = "" if counts["oldest"] is None else f"{counts['oldest']:.1f} s"
        numbers = (str(counts[key]) for key in ("ready", "delayed", "held"))
        many = str(sum(counts["parked"].values()))
        paused = "paused" if counts["paused"] else ""
        rows.append((name, *numbers, many, str(counts["dead"]), oldest, paused))
    for line in columns(rows):
        click.echo(line)
    for queue, waiting in parked.items():
        for each in waiting:
            _say_parked(queue, each)


def _say_parked(queue: str, parked: "ParkedFor") -> None:
    from seawall.worker.names import advice, name_in

    age = format_age(parked.oldest)
    click.echo(one_line(f"{queue}: {parked.many} parked for {parked.dependency}, the oldest for {age}"))
    if (name := name_in(parked.dependency)) is not None:
        click.echo(one_line(f"  nobody who consumes {queue} knows it: {advice(name)}"))


@queues.command()
@click.argument("queue", required=False)
def pause(queue: str | None) -> None:
    """Claim nothing more from QUEUE, or from any; what runs goes on."""
    with opened_queues() as opened:
        opened.pause(queue)
    click.echo(f"paused {queue or 'every queue'}")


@queues.command()
@click.argument("queue", required=False)
def resume(queue: str | None) -> None:
    """Undo `pause`; a queue paused by its own name needs its own name here."""
    with opened_queues() as opened:
        opened.resume(queue)
    click.echo(f"resumed {queue or 'every queue'}")


@queues.command()
@click.argument("queue")
@click.confirmation_option(prompt="Delete every waiting task of this queue?")
def purge(queue: str) -> None:
    """Delete what waits in QUEUE; parked and dead messages stay."""
    with opened_queues() as opened:
        click.echo(f"deleted {opened.purge(queue)} messages of {queue}")


@contextmanager
def opened_queues() -> Iterator["Queues"]:
    """The queues of the command's application."""
    from seawall.delivery import Queues

    with current_app().connection_for_write() as connection, Queues.open(connection) as opened:
        yield opened
