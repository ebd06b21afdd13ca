"""`seawall breakers`: where every circuit of the fleet is and was, and putting one somewhere by hand."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from seawall.cli import LISTED, Amount, columns, recorded
from seawall.errors import SeawallError
from seawall.quantity import Duration

if TYPE_CHECKING:
    from seawall.breaker.store import Held, Shared, Store

_FOR = Amount(Duration(least=0.001))


@click.group()
def breakers() -> None:
    """List breakers and their history; open, close and reset them for the whole fleet."""


@breakers.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def list_command(*, as_json: bool) -> None:
    """Print where every breaker is that was used in the last 30 days."""
    with _store() as store:
        found = store.overview()
        held = store.held([one.name for one in found])
    if as_json:
        rows_of = [
            {**dataclasses.asdict(one), "held_open": [dataclasses.asdict(each) for each in held[one.name]]}
            for one in found
        ]
        click.echo(json.dumps(rows_of, indent=2))
        return
    rows: list[tuple[str, ...]] = [("breaker", "state", "for", "left", "trips", "cause", "reason", "author")]
    rows += [_row(one, held[one.name]) for one in found]
    for line in columns(rows):
        click.echo(line)


def _row(one: "Shared", held: "list[Held]") -> tuple[str, ...]:
    from seawall.breaker.store import named

    passed = f"{one.passed:.0f} s" if one.epoch else ""
    left = "" if one.left is None else f"{one.left:.0f} s"
    state = one.state.value
    if state == "closed" and held:
        state += f" (open on {named(held)})"
    return one.name, state, passed, left, str(one.trips), one.cause.value, one.reason, one.author


@breakers.command()
@click.argument("name", required=False)
@click.option(
    "--scope",
    type=click.Choice(["cluster", "process"]),
    help="Only the circuits that the fleet shares, or only those of single processes.",
)
@click.option("--limit", type=LISTED, default=50, show_default=True, help="Most to print.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def history(name: str | None, *, scope: str | None, limit: int, as_json: bool) -> None:
    """Print what breakers did, or what NAME did, the latest first; workers record it in PostgreSQL."""
    from seawall.records import transitions

    with recorded() as database:
        found = transitions.history(database, name, scope, limit=limit)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2, default=str))
        return
    rows: list[tuple[str, ...]] = [
        ("at", "breaker", "of", "from", "to", "cause", "calls", "failed", "slow", "by", "reason", "author")
    ]
    rows += [
        (
            one.at.isoformat(sep=" ", timespec="milliseconds"),
            *(one.name, one.scope, one.before, one.after, one.cause),
            *(str(one.calls), str(one.failed), str(one.slow)),
            *(one.worker, one.reason, one.author),
        )
        for one in found
    ]
    for line in columns(rows):
        click.echo(line)


@breakers.command(name="open")
@click.argument("name")
@click.option("--reason", required=True, help="Why; everybody who looks will read it.")
@click.option(
    "--for", "for_", type=_FOR, metavar="DURATION", help="How long, such as 10m. Default: until a reset."
)
def open_command(name: str, reason: str, for_: float | None) -> None:
    """Refuse every call of the fleet to NAME."""
    _force(name, "forced_open", reason, for_)


@breakers.command(name="close")
@click.argument("name")
@click.option("--reason", required=True, help="Why; everybody who looks will read it.")
@click.option(
    "--for", "for_", type=_FOR, metavar="DURATION", help="How long, such as 10m. Default: until a reset."
)
def close_command(name: str, reason: str, for_: float | None) -> None:
    """Let every call of the fleet to NAME through, whatever happens."""
    _force(name, "forced_closed", reason, for_)


@breakers.command()
@click.argument("name")
@click.option("--reason", default="", help="Why.")
def reset(name: str, reason: str) -> None:
    """Close NAME and forget what it has seen; ends `open` and `close`."""
    _force(name, "reset", reason, None)


def _force(name: str, to: str, reason: str, for_: float | None) -> None:
    from seawall.breaker.face import whoami

    with _store() as store:
        if name not in store.names():
            known = ", ".join(store.names()) or "none so far"
            raise SeawallError(f"no breaker {name!r} was used in the last 30 days: known are {known}")
        shared = store.force(name, store.rules(name), to, for_=for_, reason=reason, author=whoami())
    until = "" if shared.left is None else f" for {shared.left:.0f} s"
    click.echo(f"{name} is {shared.state}{until}")


@contextmanager
def _store() -> Iterator["Store"]:
    from redis.exceptions import RedisError

    from seawall import cluster, servers
    from seawall.breaker.store import Store

    try:
        with cluster.connect(servers.redis_url(), timeout=5) as client:
            yield Store(client, "seawall breakers")
    except RedisError as exc:
        raise SeawallError(f"Redis cannot be reached: {exc}") from exc
