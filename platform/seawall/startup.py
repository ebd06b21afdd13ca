"""What a process needs before it works: its servers, and a database that is migrated.

Each is a service that holds nothing: it waits until the server answers, for as long as `startup.timeout`
says. Migrations are looked at and never applied.
"""

import contextlib
import functools
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from seawall import servers
from seawall.config import settings
from seawall.errors import ConfigError, StartupError
from seawall.health import Check, broker_answers, redis_answers
from seawall.quantity import format_duration
from seawall.runtime import Declaration, Service, StartReport, State

if TYPE_CHECKING:
    from seawall.database.migrations import History
    from seawall.database.schema import Table

logger = logging.getLogger(__name__)

MIGRATIONS: Final = "migrations"
DATABASE: Final = "database"
_SERVERS: Final = "servers"
_REDIS: Final = "redis"
_BROKER: Final = "broker"
_ONE_ATTEMPT: Final = 10.0
_UNLIMITED: Final = 1_000_000
_UNTOLD: Final = 0.4
"""Seconds that a start waits before it says for what, where it knows what is wrong."""

_SLOW: Final = 3.0
"""Where nothing is wrong so far: a busy machine may be slow."""

_TOLD_AGAIN: Final = 15.0  # seconds
_LOOK_EVERY: Final = 0.1  # seconds

_REMEDIES: Final[Mapping[str, str]] = {
    _REDIS: "start it, correct SEAWALL_REDIS_URL, or unset that for an embedded server",
    _BROKER: "start it or correct SEAWALL_BROKER_URL (without that Redis is the broker, SEAWALL_REDIS_URL)",
    DATABASE: "start it, correct SEAWALL_DATABASE_URL, or unset that for an embedded server",
}
"""What to do about a server that does not answer."""


class Awaited:
    """A service that is up once `answers` returns; there is nothing to stop but what `release` lets go of."""

    def __init__(self, answers: Callable[[], object], release: Callable[[], object] = lambda: None) -> None:
        self._answers = answers
        self._release = release

    def start(self) -> object:
        """Ask once."""
        return self._answers()

    def stop(self) -> None:
        """Let go."""
        self._release()


def awaited(
    name: str,
    answers: Callable[[], object],
    *,
    requires: tuple[str, ...] = (),
    release: Callable[[], object] = lambda: None,
) -> Declaration:
    """A critical service that is asked until it answers, at most `startup.timeout` seconds."""

    def make() -> Service:
        return Awaited(answers, release)

    within = settings().startup.timeout
    return Declaration(
        name=name,
        factory=make,
        requires=requires,
        attempts=_UNLIMITED,
        timeout=min(_ONE_ATTEMPT, within),
        within=within,
    )


@contextlib.contextmanager
def told_while_waiting(report: Callable[[], StartReport]) -> Iterator[None]:
    """Say what the start in this block waits for, and what to do: within a second, and again now and then."""
    over = threading.Event()
    thread = threading.Thread(target=_tell, args=(report, over), name="seawall-start-told", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tell(report: Callable[[], StartReport], over: threading.Event) -> None:
    seen: dict[str, float] = {}  # when each was seen to be starting, or told
    told: set[str] = set()
    anew = not settings().home.exists()  # the embedded servers are made, which takes longer
    while not over.wait(_LOOK_EVERY):
        now = time.monotonic()
        for each in report().services:
            if each.state is not State.STARTING:
                seen.pop(each.name, None)
                continue
            waited = now - seen.setdefault(each.name, now)
            clear = each.error is not None or (anew and each.name == _SERVERS)
            untold = _UNTOLD if clear else _SLOW
            if waited >= (_TOLD_AGAIN if each.name in told else untold):
                seen[each.name] = now
                told.add(each.name)
                logger.warning(_in_words(each.name, each.error))


def _in_words(name: str, error: str | None) -> str:
    if name == _SERVERS:
        return f"waiting for the embedded servers under {settings().home}: the first start takes a while"
    awaits = name == MIGRATIONS or name in _REMEDIES
    at_most = f", at most {format_duration(settings().startup.timeout)}" if awaits else ""
    remedy = f": {_REMEDIES[name]}" if error and name in _REMEDIES else ""  # without one it may just be slow
    return f"waiting for {name}{at_most}: {(error or 'it has not answered yet').rstrip('.')}{remedy}"


def service_checks(services: Iterable[Declaration]) -> list[Check]:
    """Checks of those services of an application that can be asked."""
    return [
        Check(each.name, each.check, critical=each.critical) for each in services if each.check is not None
    ]


def embedded_servers() -> Declaration:
    """The servers that the settings leave to us; none if they name all."""
    return Declaration(
        name=_SERVERS, factory=lambda: Awaited(servers.join_embedded), attempts=1, timeout=90.0
    )


def redis(*requires: str) -> Declaration:
    """Redis lets us in and answers."""
    return awaited(_REDIS, lambda: redis_answers(servers.redis_url(), 2.0), requires=requires)


def broker(url: Callable[[], str], *requires: str) -> Declaration:
    """One of the broker's servers answers."""
    return awaited(_BROKER, lambda: broker_answers(url(), 2.0), requires=requires)


def database(*requires: str) -> Declaration:
    """PostgreSQL executes a statement of ours: it is up, and our password is right."""
    from seawall.database import close

    return awaited(DATABASE, _execute, requires=requires, release=close)


def migrations(*requires: str) -> Declaration | None:
    """Every migration is applied and none has drifted; None if `startup.migrations` is "ignore"."""
    policy = settings().startup.migrations
    if policy == "ignore":
        return None
    look = functools.partial(_look_at_migrations, wait=policy == "wait")
    return awaited(MIGRATIONS, look, requires=requires)


def _execute() -> None:
    from seawall.database import database as opened

    opened().fetch_value("SELECT 1")


def _look_at_migrations(*, wait: bool) -> None:
    from seawall.database.migrations import Kind, MigrationProblem, Migrations

    problems = Migrations(servers.migration_url(), histories()).check()
    if not problems:
        return
    if wait and all(each.kind is Kind.PENDING for each in problems):
        raise StartupError(f"migrations are pending: {problems[0].message}")
    raise MigrationProblem(*problems)


def histories() -> "list[History]":
    """The platform's migrations, then those that the fleet declares."""
    from seawall.database.migrations import History, platform_history

    path = settings().fleet_file
    if not path.is_file():  # the fleet's modules take a while to load
        return [platform_history()]
    from seawall.fleet import FleetSpec

    return [
        platform_history(),
        *(History(name, each) for name, each in FleetSpec.load(path).migrations.items()),
    ]


def expected_tables() -> "list[Table]":
    """The tables that the platform's code and the fleet's expect.

    Raises:
        ConfigError: what fleet.toml names in [tables] cannot be loaded.
    """
    from seawall.database.tables import TABLES

    path = settings().fleet_file
    if not path.is_file():
        return [*TABLES]
    from seawall.fleet import FleetSpec

    return [*TABLES, *(table for each in FleetSpec.load(path).tables.values() for table in _tables(each))]


def _tables(path: str) -> "Sequence[Table]":
    from seawall.database.schema import Table

    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"[tables] {path!r} cannot be loaded ({exc}): correct it or that module") from exc
    if not isinstance(found, Sequence) or not all(isinstance(each, Table) for each in found):
        raise ConfigError(f"[tables] {path!r} is no sequence of seawall.database.schema.Table: correct it")
    return found
