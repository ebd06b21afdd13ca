"""URLs of servers, as settings give them."""

import re
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

REDIS_SCHEMES: Final = frozenset({"redis", "rediss", "valkey", "valkeys"})
_SPOKEN: Final = {"valkey": "redis", "valkeys": "rediss"}
SENTINEL: Final = "sentinel"
BROKER_SCHEMES: Final = REDIS_SCHEMES | {SENTINEL, "amqp", "amqps", "pyamqp", "memory"}
SENTINEL_PORT: Final = 26379
_MASTER: Final = "master_name"
UNIX: Final = "unix:"
"""How the path of a socket begins as an address."""

DATABASE_SCHEMES: Final = frozenset({"postgresql", "postgres"})

_INVALID: Final = (
    "is no valid URL: a port is a number, an IPv6 address stands in [ ], and / # ? @ [ ] in a password "
    "are written %2F %23 %3F %40 %5B %5D"
)
"""Python's own words are left out: they show a piece of the password."""


def scheme_of(url: str) -> str:
    """The scheme of the first of `url`'s alternatives, in lower case."""
    return url.partition("://")[0].lower()


def check_url(url: str, allowed: frozenset[str]) -> None:
    """Look at a URL.

    Raises:
        ValueError: it is none, or its scheme is not among those that are allowed.
    """
    try:
        for each in _with_one_host(url) if scheme_of(url) in DATABASE_SCHEMES else [url]:
            parts = urlsplit(each)
            parts.port  # noqa: B018 - raises ValueError for a port that is no number or out of range
            urlunsplit(parts)
    except ValueError:
        raise ValueError(_INVALID) from None
    if "://" not in url or scheme_of(url) not in allowed:
        raise ValueError(f"has no known scheme: use {', '.join(f'{s}://' for s in sorted(allowed))}")


def address_of(text: str) -> Path | tuple[str, int]:
    """The path of `unix:/path`, or the host, which may be empty, and the port of `host:port`.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith(UNIX) and text != UNIX:
        return Path(text[len(UNIX) :])
    host, colon, port = text.rpartition(":")
    if colon and port.isascii() and port.isdigit() and int(port) <= 65535:  # noqa: PLR2004
        return host.strip("[]"), int(port)
    raise ValueError("is no address: write host:port, such as '127.0.0.1:8080', or unix:/path")


def _with_one_host(url: str) -> list[str]:
    """A URL for each of the hosts that one of PostgreSQL may name, as in `host:5432,other:5433`."""
    scheme, slashes, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    entry, at, hosts = authority.rpartition("@")
    after = rest.removeprefix(authority)
    if "@" in after:  # behind a bare slash in the password: what looks like hosts is its first half
        return [url]
    return [f"{scheme}{slashes}{entry}{at}{host}{after}" for host in hosts.split(",")]


class Sentinels(NamedTuple):
    """Who knows where a Redis is, under which name, and how to enter it there."""

    nodes: list[tuple[str, int]]
    master: str
    user: str | None
    password: str | None
    database: int


def sentinels_of(url: str) -> Sentinels:
    """What `sentinel://[user:password@]host:26379[;sentinel://host...][/database]?master_name=main` says.

    User and password are those of the Redis. They, the database and the name may stand in any of the
    alternatives.

    Raises:
        ValueError: it does not name the master, or its database is no number.
    """
    parts = [urlsplit(each) for each in url.split(";")]
    if (master := _master_of(url)) is None:
        raise ValueError(f"does not name the master: add ?{_MASTER}=, as `sentinel monitor` has it")
    database = next((each.path.strip("/") for each in parts if each.path.strip("/")), "0")
    if not database.isdecimal():
        raise ValueError("has a database that is no number")
    entry = next((each for each in parts if each.password or each.username), parts[0])
    return Sentinels(
        nodes=[(each.hostname or "localhost", each.port or SENTINEL_PORT) for each in parts],
        master=master,
        user=unquote(entry.username) if entry.username else None,
        password=unquote(entry.password) if entry.password else None,
        database=int(database),
    )


def as_redis(url: str) -> str:
    """`url` in the words of clients that know Redis and not Valkey, which speaks the same."""
    scheme, separator, rest = url.partition("://")
    return _SPOKEN.get(scheme.lower(), scheme) + separator + rest


def as_celery_reads(url: str) -> tuple[str, dict[str, str]]:
    """The URL of a broker or a result backend, and what of it Celery takes among the transport's options."""
    if scheme_of(url) != SENTINEL:
        return ";".join(map(as_redis, url.split(";"))), {}
    plain = ";".join(urlunsplit(urlsplit(each)._replace(query="")) for each in url.split(";"))
    master = _master_of(url)
    return plain, {} if master is None else {_MASTER: master}


def _master_of(url: str) -> str | None:
    """The name in the first of the alternatives that has one."""
    names = (parse_qs(urlsplit(each).query).get(_MASTER) for each in url.split(";"))
    return next((found[0] for found in names if found), None)
