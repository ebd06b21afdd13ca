"""This process's PostgreSQL: `database()`, and `seawall.database.migrations`.

Importing this package costs nothing: psycopg (a quarter of a second) is loaded by the first `database()`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seawall.database.pool import Database

__all__ = ["close", "database"]

_opened: dict[str | None, "Database"] = {}


def database(url: str | None = None) -> "Database":
    """This process's database, the same object on every call.

    Without `url` it is the configured one, or the embedded server's. Nothing is connected before the
    first statement; a forked child gets connections of its own.
    """
    return _opened.get(url) or _opened.setdefault(url, _configured(url))


def _configured(url: str | None) -> "Database":
    from seawall.config import settings
    from seawall.database.pool import Database
    from seawall.servers import database_url

    return Database(url or database_url(), settings().database)


def close() -> None:
    """Close and forget every database of this process; the next `database()` starts afresh."""
    while _opened:
        _opened.popitem()[1].close()
