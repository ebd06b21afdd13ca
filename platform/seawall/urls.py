"""URLs of servers, as settings give them."""

from typing import Final
from urllib.parse import urlsplit, urlunsplit

REDIS_SCHEMES: Final = frozenset({"redis", "rediss", "valkey", "valkeys"})
BROKER_SCHEMES: Final = REDIS_SCHEMES | {"sentinel", "amqp", "amqps", "pyamqp", "memory"}
DATABASE_SCHEMES: Final = frozenset({"postgresql", "postgres"})


def scheme_of(url: str) -> str:
    """The scheme of the first of `url`'s alternatives, in lower case."""
    return url.partition("://")[0].lower()


def check_url(url: str, allowed: frozenset[str]) -> None:
    """Look at a URL.

    Raises:
        ValueError: it is none, or its scheme is not among those that are allowed.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a port that is no number or out of range
        urlunsplit(parts)
    except ValueError as exc:
        raise ValueError(f"is no valid URL ({exc})") from None
    if "://" not in url or scheme_of(url) not in allowed:
        raise ValueError(f"has no known scheme: use {', '.join(f'{s}://' for s in sorted(allowed))}")
