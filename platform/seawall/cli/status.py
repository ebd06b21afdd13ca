"""`seawall status`: first whether a fleet runs, then what it does now, a list of sections.

A section is a function that returns rows; its name in `_SECTIONS` is shown. One that cannot be asked says why
and hides none of the others. Nothing is started: servers that are embedded and do not run are not asked.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from seawall.cli import reach
from seawall.cli.pages import Page, watched
from seawall.cli.tables import Column, cause, moment, number, seconds, size, state, table, text, wrapped
from seawall.errors import SeawallError
from seawall.text import many

if TYPE_CHECKING:
    from redis import Redis

    from seawall.database.pool import Database

Rows = list[dict[str, Any]]

AWAY: Final = 1
"""Exit status: a server cannot be reached."""

NOTHING_RUNS: Final = 3
"""Exit status: no worker runs; as `systemctl status` has it."""


@dataclass(frozen=True, slots=True)
class _Servers:
    """What is asked: the clients of the servers that answer, and why others cannot be asked."""

    redis: "Redis | None"
    database: "Database | None"
    away: dict[str, str]


def _of_redis(ask: "Callable[[Redis], Rows]") -> Callable[[_Servers], Rows]:
    def section(asked: _Servers) -> Rows:
        if asked.redis is None:
            raise reach.Unreachable(asked.away["Redis"])
        return ask(asked.redis)

    return section


def _of_database(ask: "Callable[[Database], Rows]") -> Callable[[_Servers], Rows]:
    def section(asked: _Servers) -> Rows:
        if asked.database is None:
            raise reach.Unreachable(asked.away["PostgreSQL"])
        return ask(asked.database)

    return section


def workers(client: "Redis") -> Rows:
    """Every worker of the cluster, as its last heartbeat describes it."""
    from seawall.worker.heartbeat import workers as beating

    return [
        {
            "worker": name,
            "state": one["state"],
            "pool": one["pool"],
            "busy": one["busy"],
            "slots": one["slots"],
            "done": one["done"],
            "used": one["used"],
            "budget": one["budget"],
            "pressure": one["pressure"],
            "breakers": one["breakers"],
            "lost": list(one["lost"]),
            "up": max(0.0, time.time() - one["since"]),
        }
        for name, one in beating(client).items()
    ]


def beat(client: "Redis") -> Rows:
    """Whether each schedule is sent, by which beat and when last, and which beats wait for its end."""
    from seawall.worker.beat import schedules

    return [
        {
            "schedule": one["schedule"],
            "state": "ready" if one["sent by"] else "dead",
            "sent_by": one["sent by"],
            "last_sent": one["last sent"],
            "waiting": one["waiting"],
        }
        for one in schedules(client)
    ]


def database(opened: "Database") -> Rows:
    """How long the database takes to answer."""
    health = opened.health()
    return [{"database": "ok" if health.ok else health.reason, "seconds": round(health.seconds, 4)}]


def connections(opened: "Database") -> Rows:
    """The sessions of this database by who opened them."""
    return [
        dict(row)
        for row in opened.fetch(
            "SELECT application_name AS process, count(*)::int AS connections,"
            " (count(*) FILTER (WHERE state = 'active'))::int AS active,"
            " (count(*) FILTER (WHERE state LIKE 'idle in%'))::int AS in_transaction"
            " FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() GROUP BY 1 ORDER BY 2 DESC, 1"
        )
    ]


def budget(asked: _Servers) -> Rows:
    """Who holds how many connections of the fleet's budget, and the sum."""
    client, opened = asked.redis, asked.database
    if client is None or opened is None:
        raise reach.Unreachable("; ".join(asked.away.values()))
    from seawall.database.governor import leases

    allowed, shares = leases(client, opened.server)
    rows: Rows = [
        {"process": each.label, "held": each.held, "granted": each.grant, "wanted": each.want}
        for each in shares
    ]
    total = {
        "process": f"all, of a budget of {allowed or 'unknown size'}",
        **{key: sum(row[key] for row in rows) for key in ("held", "granted", "wanted")},
    }
    return [*_merged(rows), total]


def _merged(rows: Rows) -> Rows:
    """Processes of one name as one row; `many` says how many."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = found.setdefault(row["process"], {"process": row["process"], "many": 0})
        one["many"] += 1
        for key in ("held", "granted", "wanted"):
            one[key] = one.get(key, 0) + row[key]
    return [*found.values()]


def breakers(client: "Redis") -> Rows:
    """Where the fleet's circuits are, keys included."""
    from seawall.breaker.store import Store, named

    store = Store(client, "seawall status")
    found = store.overview()
    held = store.held([one.name for one in found])
    return [
        {
            "breaker": one.name,
            "state": one.state.value,
            "left": one.left,
            "cause": one.cause.value,
            "reason": one.reason,
            "open_by_itself_on": named(held[one.name]),
        }
        for one in found
    ]


def leaks(client: "Redis") -> Rows:
    """The tasks that seem to keep memory from run to run."""
    from seawall.memory.learned import Learned

    return [
        {"task": one.name, "growth": one.growth or 0, "runs": one.runs}
        for one in Learned(client).records()
        if one.leaking
    ]


def _share(value: Any, row: Any) -> str:
    return f"{value} of {row['slots']}"


def _breakers_of(value: Any, _: Any) -> str:
    return ", ".join(f"{name} {where}" for name, where in value.items())


def _many(value: str, row: Any) -> str:
    return f"{value} ({row['many']} processes)" if row.get("many", 1) > 1 else value


_SECTIONS: Final[dict[str, tuple[Callable[[_Servers], Rows], tuple[Column, ...]]]] = {
    "workers": (
        _of_redis(workers),
        (
            text("worker", "worker", gives=1, least=12),
            state("state", "state"),
            number("busy", "busy", show=_share),
            number("done", "done"),
            size("memory", "used"),
            size("of", "budget", gives=4),
            text("pressure", "pressure", gives=5, least=6),
            text("breakers", "breakers", show=_breakers_of, gives=3, least=12, colour=lambda _: "red"),
            text("lost", "lost", show=lambda value, _: ", ".join(value), gives=2, colour=lambda _: "red"),
            text("pool", "pool", gives=6, least=5),
            seconds("up", "up"),
        ),
    ),
    "beat": (
        _of_redis(beat),
        (
            text("schedule", "schedule", gives=1),
            state(
                "state", "state", show=lambda value, _: "dead: nobody sends it" if value == "dead" else value
            ),
            moment("last sent", "last_sent"),
            text("sent by", "sent_by"),
            text("waiting", "waiting", gives=2),
        ),
    ),
    "database": (
        _of_database(database),
        (
            text("database", "database", gives=1, colour=lambda cell: "green" if cell == "ok" else "red"),
            number("answers in", "seconds", show=lambda value, _: f"{value * 1000:.0f} ms"),
        ),
    ),
    "connections": (
        _of_database(connections),
        (
            text("process", "process", gives=1),
            number("connections", "connections"),
            number("active", "active"),
            number("in transaction", "in_transaction"),
        ),
    ),
    "connection budget": (
        budget,
        (
            text("process", "process", gives=1, show=_many),
            number("held", "held"),
            number("granted", "granted"),
            number("wanted", "wanted"),
        ),
    ),
    "breakers": (
        _of_redis(breakers),
        (
            text("breaker", "breaker", gives=1),
            state("state", "state"),
            seconds("left", "left"),
            text("cause", "cause", gives=3, show=cause),
            text("reason", "reason", gives=4),
            text("open by itself on", "open_by_itself_on", gives=5, colour=lambda _: "red"),
        ),
    ),
    "leaks": (
        _of_redis(leaks),
        (text("task", "task", gives=1), size("a run", "growth"), number("runs", "runs")),
    ),
}


@click.command(short_help="Whether a fleet runs, and what it does now.")
@watched
def status() -> Page:
    """Say whether a fleet runs, and what it does now. Starts nothing.

    Exit status: 0 if workers run and the servers answer, 1 if a server cannot be reached, 3 if nothing runs.
    """
    with _asked() as asked:
        found = {name: _section(ask, asked) for name, (ask, _) in _SECTIONS.items()}
    refused = _why(found["workers"])
    if refused and asked.redis is not None:  # it answers, and says no
        asked.away["Redis"] = f"Redis cannot be asked: {refused}"
    running = [] if refused else found["workers"]
    first, code = _verdict(running, asked)
    data = {"fleet": {"running": bool(running), "summary": first, "away": asked.away}, **found}
    said = "; ".join(asked.away.values())
    left = {name: rows for name, rows in found.items() if (why := _why(rows)) is None or why not in said}
    return Page(data=data, lines=lambda: _lines(first, code, left), status=code)


@contextlib.contextmanager
def _asked() -> Iterator[_Servers]:
    """The servers, as far as they answer, tried at once; embedded ones that do not run are not started."""
    urls, away = reach.known_urls()
    ways: dict[str, Callable[[str], Any]] = {"Redis": reach.redis, "PostgreSQL": reach.postgres}
    opened: dict[str, Any] = {}
    if urls:  # what takes long to import is imported before a second is counted
        import psycopg  # noqa: F401

        from seawall import cluster  # noqa: F401
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        entered = {name: pool.submit(stack.enter_context, ways[name](url)) for name, url in urls.items()}
        for name, each in entered.items():
            try:
                opened[name] = each.result()
            except SeawallError as exc:
                away[name] = str(exc)
        if len(opened) < len(urls):
            away |= reach.known_urls()[1]  # embedded servers may have ended meanwhile
        yield _Servers(opened.get("Redis"), opened.get("PostgreSQL"), away)


def _section(ask: Callable[[_Servers], Rows], asked: _Servers) -> Rows:
    import psycopg
    from redis.exceptions import RedisError

    try:
        return ask(asked)
    except (SeawallError, psycopg.Error, RedisError) as exc:
        return [{"unavailable": " ".join(str(exc).split())}]


def _why(rows: Rows) -> str | None:
    """Why a section could not be asked."""
    return rows[0].get("unavailable") if rows else None


def _verdict(running: Rows, asked: _Servers) -> tuple[str, int]:
    """Whether a fleet runs, in a line, and the exit status."""
    unreachable = [why for why in asked.away.values() if "does not run" not in why]
    if unreachable and not running:
        return f"nobody can say whether a fleet runs: {'; '.join(unreachable)}", AWAY
    if not running and (fleet := _fleet_here()) is not None:
        return f"the fleet of process {fleet} starts or stops: no worker of it runs now", NOTHING_RUNS
    if not running:
        stopped = ", and its embedded servers are stopped" if asked.away else ""
        return f"no fleet runs{stopped}: start one with `seawall up`", NOTHING_RUNS
    busy, slots = (sum(one[key] for one in running) for key in ("busy", "slots"))
    line = f"a fleet runs: {many(len(running), 'worker')}, {busy} of {slots} busy"
    return (f"{line}; {'; '.join(unreachable)}", AWAY) if unreachable else (line, 0)


def _fleet_here() -> int | None:
    """The `seawall up` of this home, which is there before its first worker and after its last."""
    from seawall.config import settings
    from seawall.fleet import find

    return find(settings().home)


def _lines(first: str, code: int, found: dict[str, Rows]) -> Iterator[str]:
    """The verdict, then the sections: those that hold something, or have a reason of their own not to."""
    for line in wrapped(first):
        yield click.style(line, fg={0: "green", AWAY: "red"}.get(code, "yellow"), bold=True)
    for name, rows in found.items():
        if not rows:
            continue
        yield ""
        yield click.style(name, bold=True)
        if why := _why(rows):
            yield from (click.style(line, fg="red") for line in wrapped(why, indent="  "))
        else:
            yield from table(_SECTIONS[name][1], rows, indent="  ")
