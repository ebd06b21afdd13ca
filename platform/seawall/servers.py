"""Which servers this process talks to: those of the settings, else the embedded ones.

The embedded servers are joined at the first question that needs them, once per process, and left when the
process ends, however it ends (`seawall.embedded`).
"""

import functools
from typing import TYPE_CHECKING

from seawall.config import settings
from seawall.errors import ConfigError
from seawall.urls import REDIS_SCHEMES, SENTINEL, scheme_of

if TYPE_CHECKING:
    from seawall.embedded import Attachment


def redis_url() -> str:
    """Redis for results and shared state."""
    current = settings()
    if current.redis_url is not None:
        return current.redis_url.get_secret_value()
    if _broker_is_redis():
        broker = broker_url()
        return broker if scheme_of(broker) == SENTINEL else broker.partition(";")[0]
    return _embedded("redis")


def _broker_is_redis() -> bool:
    return settings().broker_url is not None and scheme_of(broker_url()) in REDIS_SCHEMES | {SENTINEL}


def broker_url() -> str:
    """Where tasks are submitted; several alternatives are separated by `;`."""
    configured = settings().broker_url
    return redis_url() if configured is None else configured.get_secret_value()


def database_url() -> str:
    """PostgreSQL."""
    configured = settings().database_url
    return _embedded("database") if configured is None else configured.get_secret_value()


def redis_is_known() -> bool:
    """Whether `redis_url` can be answered without starting the embedded servers."""
    current = settings()
    named = current.redis_url is not None or _broker_is_redis()
    return named or _attachment.cache_info().currsize > 0


def database_is_known() -> bool:
    """Whether `database_url` can be answered without starting an embedded server."""
    return settings().database_url is not None or _attachment.cache_info().currsize > 0


def migration_url() -> str:
    """PostgreSQL as migrations need it: never through a pooler.

    Raises:
        ConfigError: only a pooler's address is known.
    """
    current = settings()
    if current.database.direct_url is not None:
        return current.database.direct_url.get_secret_value()
    if current.database.pooler == "transaction":
        raise ConfigError(
            "database.pooler='transaction': migrations need locks of a session, which a pooler loses: set "
            "SEAWALL_DATABASE__DIRECT_URL to the server's own address"
        )
    return database_url()


def join_embedded() -> "Attachment | None":
    """Start or join the embedded servers that the settings leave to us; None if they leave none."""
    left = _left_to_us()
    return _attachment(*left) if any(left) else None


def check_embedded() -> None:
    """Make sure that `join_embedded` can start them, as far as that shows without making anything.

    Raises:
        StartupError: it cannot.
    """
    from seawall import embedded

    redis, database = _left_to_us()
    embedded.check(settings().home, redis=redis, database=database)


def _left_to_us() -> tuple[bool, bool]:
    """Whether Redis, and whether PostgreSQL, is to be an embedded one."""
    current = settings()
    return current.redis_url is None and not _broker_is_redis(), current.database_url is None


def _embedded(which: str) -> str:
    attachment = join_embedded()
    url = attachment and (
        attachment.servers.redis_url if which == "redis" else attachment.servers.database_url
    )
    if not url:
        raise RuntimeError(f"no embedded {which} although the settings ask for it")
    return url


@functools.cache
def _attachment(redis: bool, database: bool) -> "Attachment":  # noqa: FBT001 - the cache's key
    from seawall.embedded import attach

    return attach(settings().home, redis=redis, database=database)
