"""`seawall breakers`: where every circuit of the fleet is and was, and putting one somewhere by hand."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from seawall.cli import LISTED, OneOf, expect, reach
from seawall.cli.amounts import FOR
from seawall.cli.completion import offered
from seawall.cli.pages import Page, prints, said, watched
from seawall.cli.tables import cause, duration, listed, moment, number, seconds, state, text

_COLUMNS = (
    text("breaker", "name", gives=2, least=16),
    state("state", "shown", gives=3, least=12),
    seconds("for", "passed"),
    seconds("left", "left"),
    number("trips", "trips"),
    text("cause", "cause", gives=1, least=7, show=cause),
    text("reason", "reason", gives=4, least=10),
    text("author", "author", gives=5, least=8),
)
_HISTORY = (
    moment("at", "at"),
    text("breaker", "name", gives=2, least=12),
    text("of", "scope", gives=6, least=7),
    state("from", "before", gives=7),
    state("to", "after"),
    text("cause", "cause", gives=3, least=12),
    number("calls", "calls"),
    number("failed", "failed"),
    number("slow", "slow"),
    text("reason", "reason", gives=4, least=10),
    text("by", "worker", gives=8),
    text("author", "author", gives=5, least=8),
)


@click.group()
def breakers() -> None:
    """List breakers and their history; open, close and reset them for the whole fleet."""


@breakers.command(name="list")
@watched
def list_command() -> Page:
    """Where each breaker is that was used in the last 30 days."""
    from seawall.breaker.store import Store

    with reach.redis() as client:
        store = Store(client, "seawall breakers")
        found = store.overview()
        held = store.held([one.name for one in found])
    rows = [
        {**dataclasses.asdict(one), "held_open": [dataclasses.asdict(each) for each in held[one.name]]}
        for one in found
    ]
    return Page(data=rows, lines=lambda: _lines(rows))


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    from seawall.breaker.store import Held, named

    shown = []
    for row in rows:
        by = named([Held(**each) for each in row["held_open"]])
        where = f"{row['state']} (open on {by})" if by and row["state"] == "closed" else row["state"]
        shown.append({**row, "shown": where, "passed": row["passed"] if row["epoch"] else None})
    none = "no breaker was used in the last 30 days: tasks that call through one make it"
    yield from listed(_COLUMNS, shown, none, "seawall status")


@breakers.command(
    short_help="What breakers, or NAME, did: the latest first.",
    epilog="Example: seawall breakers history payments --limit 10",
)
@click.argument("name", required=False, shell_complete=offered("breaker"))
@click.option(
    "--scope",
    type=OneOf(["cluster", "process"]),
    help="Only the circuits that the fleet shares, or only those of single processes.",
)
@click.option("--limit", type=LISTED, default=50, show_default=True, help="Most to print.")
@watched
def history(name: str | None, *, scope: str | None, limit: int) -> Page:
    """What breakers did, or what NAME did, the latest first; workers record it in PostgreSQL."""
    from seawall.records import transitions

    with reach.postgres() as database:
        rows = [dataclasses.asdict(one) for one in transitions.history(database, name, scope, limit=limit)]
    none = f"nothing is recorded of {name or 'any breaker'}: none opened or closed so far"
    return Page(data=rows, lines=lambda: listed(_HISTORY, rows, none, "seawall breakers list"))


_name = click.argument("name", shell_complete=offered("breaker"))
_reason = click.option("--reason", required=True, help="Why; everybody who looks will read it.")
_for = click.option(
    "--for", "for_", type=FOR, metavar="DURATION", help="How long, such as 10m. Default: until a reset."
)


@breakers.command(
    name="open", epilog="Example: seawall breakers open payments --reason 'gateway moves' --for 10m"
)
@_name
@_reason
@_for
@prints
def open_command(name: str, reason: str, for_: float | None) -> Page:
    """Refuse every call of the fleet to NAME."""
    return _force(name, "forced_open", reason, for_)


@breakers.command(
    name="close", epilog="Example: seawall breakers close payments --reason 'we know better' --for 10m"
)
@_name
@_reason
@_for
@prints
def close_command(name: str, reason: str, for_: float | None) -> Page:
    """Let every call of the fleet to NAME through."""
    return _force(name, "forced_closed", reason, for_)


@breakers.command(
    short_help="Close NAME, forget what it saw, end `open` and `close`.",
    epilog="Example: seawall breakers reset payments",
)
@_name
@click.option("--reason", default="", help="Why.")
@prints
def reset(name: str, reason: str) -> Page:
    """Close NAME and forget what it has seen; ends `open` and `close`."""
    return _force(name, "reset", reason, None)


def _force(name: str, to: str, reason: str, for_: float | None) -> Page:
    from seawall.breaker.face import whoami
    from seawall.breaker.store import Store

    with reach.redis() as client:
        store = Store(client, "seawall breakers")
        expect("breaker", name, store.names(), where=" was used in the last 30 days")
        shared = store.force(name, store.rules(name), to, for_=for_, reason=reason, author=whoami())
    until = "" if shared.left is None else f" for {duration(shared.left)}"
    return said(f"{name} is {shared.state}{until}", **dataclasses.asdict(shared))
