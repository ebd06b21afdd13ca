"""`seawall status`: what the system is doing now, a list of sections.

A section is a function that returns rows; its docstring is not shown, its name in `SECTIONS` is. One that
cannot be asked says why and hides none of the others.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final

import click
import psycopg

from seawall import cluster
from seawall.cli import columns
from seawall.database import database
from seawall.errors import SeawallError
from seawall.quantity import format_bytes

Rows = list[dict[str, Any]]


def connections() -> Rows:
    """The sessions of this database by who opened them."""
    return [
        dict(row)
        for row in database().fetch(
            "SELECT application_name AS process, count(*)::int AS connections,"
            " (count(*) FILTER (WHERE state = 'active'))::int AS active,"
            " (count(*) FILTER (WHERE state LIKE 'idle in%'))::int AS in_transaction"
            " FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() GROUP BY 1 ORDER BY 2 DESC, 1"
        )
    ]


def budget() -> Rows:
    """Who holds how many connections of the fleet's budget, and the sum."""
    from seawall.database.governor import leases

    allowed, shares = leases(cluster.client(), database().server)
    rows: Rows = [
        {"process": each.label, "held": each.held, "granted": each.grant, "wanted": each.want}
        for each in shares
    ]
    total = {
        "process": f"all, of a budget of {allowed or 'unknown size'}",
        **{key: sum(row[key] for row in rows) for key in ("held", "granted", "wanted")},
    }
    return [*rows, total]


def pool() -> Rows:
    """This process's own view of its database."""
    health = database().health()
    return [{"database": "ok" if health.ok else health.reason, "seconds": round(health.seconds, 4)}]


def breakers() -> Rows:
    """Where the fleet's circuits are, keys included."""
    from seawall.breaker.store import Store, named

    store = Store(cluster.client(), "seawall status")
    found = store.overview()
    held = store.held([one.name for one in found])
    return [
        {
            "breaker": one.name,
            "state": one.state.value,
            "left": "" if one.left is None else f"{one.left:.0f} s",
            "cause": one.cause.value,
            "reason": one.reason,
            "open_by_itself_on": named(held[one.name]),
        }
        for one in found
    ]


def fleet() -> Rows:
    """Every worker of the cluster, as its last heartbeat describes it."""
    from seawall.worker.heartbeat import workers

    return [
        {
            "worker": name,
            "state": one["state"],
            "pool": one["pool"],
            "busy": f"{one['busy']} of {one['slots']}",
            "done": one["done"],
            "memory": f"{format_bytes(one['used'])} of {format_bytes(one['budget'])}",
            "pressure": one["pressure"],
            "breakers": ", ".join(f"{breaker} {state}" for breaker, state in one["breakers"].items()),
            "lost": ", ".join(one["lost"]),
            "up": f"{max(0.0, time.time() - one['since']):.0f} s",
        }
        for name, one in workers(cluster.client()).items()
    ]


def beat() -> Rows:
    """Which beat sends each schedule, and which wait for its end."""
    from seawall.worker.beat import schedules

    return list(schedules(cluster.client()))


def leaks() -> Rows:
    """The tasks that seem to keep memory from run to run."""
    from seawall.memory.learned import Learned

    return [
        {"task": one.name, "a run": format_bytes(one.growth or 0), "runs": one.runs}
        for one in Learned(cluster.client()).records()
        if one.leaking
    ]


SECTIONS: Final[dict[str, Callable[[], Rows]]] = {
    "workers": fleet,
    "beat": beat,
    "database": pool,
    "connections": connections,
    "connection budget": budget,
    "breakers": breakers,
    "leaks": leaks,
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, one key a section.")
def status(*, as_json: bool) -> None:
    """Print what the system is doing now."""
    found = {name: _asked(section) for name, section in SECTIONS.items()}
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
        return
    for name, rows in found.items():
        click.secho(name, bold=True)
        for line in columns(_table(rows)):
            click.echo(f"  {line}")


def _asked(section: Callable[[], Rows]) -> Rows:
    from redis.exceptions import RedisError

    try:
        return section()
    except (SeawallError, psycopg.Error, RedisError) as exc:
        return [{"unavailable": " ".join(str(exc).split())}]


def _table(rows: Rows) -> list[tuple[str, ...]]:
    if not rows:
        return [("none",)]
    return [tuple(rows[0]), *(tuple(str(value) for value in row.values()) for row in rows)]
