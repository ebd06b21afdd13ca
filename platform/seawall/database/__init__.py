"""This process's PostgreSQL: `database()`, and `seawall.database.migrations`.

Importing this package costs nothing: psycopg (a quarter of a second) is loaded by the first `database()`.
"""

from typing import TYPE_CHECKING

from seawall.database.label import name_process

if TYPE_CHECKING:
    from seawall.database.governor import Governor
    from seawall.database.pool import Database

__all__ = ["close", "database", "guard_databases", "name_process", "opened"]

_opened: dict[str | None, "Database"] = {}
_guarded = False


def database(url: str | None = None) -> "Database":
    """This process's database, the same object on every call.

    Without `url` it is the configured one, or the embedded server's. Nothing is connected before the
    first statement; a forked child gets connections of its own.
    """
    return _opened.get(url) or _opened.setdefault(url, _configured(url))


# It stands in the place of this package: `import seawall.database.migrations as m` looks below its name.
database.__name__ = __name__


def opened() -> "list[Database]":
    """Those of this process so far."""
    return list(_opened.values())


def _configured(url: str | None) -> "Database":
    from seawall.config import settings
    from seawall.database.pool import Database
    from seawall.servers import database_url

    opened = Database(url or database_url(), settings().database, govern=_governor if _shared() else None)
    if _guarded:
        from seawall.database.guarding import Guard, postgres

        opened.guard(Guard(postgres() if url is None else postgres()[opened.server]))
    return opened


def guard_databases() -> None:
    """Put the breaker `postgres` around every database that is opened from now on, here and in children."""
    global _guarded  # noqa: PLW0603 - what a worker decides once
    from seawall.database.guarding import postgres

    postgres()
    _guarded = True


def _shared() -> bool:
    """Whether there is a Redis to share a budget through, and a budget to share."""
    from seawall.config import settings

    current = settings()
    redis = current.redis_url or current.broker_url or current.database_url is None
    counted = current.database.pooler == "none" or current.database.max_connections is not None
    return bool(redis) and counted


def _governor(opened: "Database") -> "Governor":
    from seawall import cluster
    from seawall.config import settings
    from seawall.database.governor import Governor, base_of

    budget = settings().database.max_connections
    return Governor(cluster.client, base_of(opened.server), budget, opened.usable_connections)


def close() -> None:
    """Close and forget every database of this process; the next `database()` starts afresh."""
    while _opened:
        _opened.popitem()[1].close()
