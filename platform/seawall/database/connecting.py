"""How every connection to PostgreSQL is described and opened, and what is said when it cannot be.

A URL holds a password, and libpq repeats the whole string when it cannot parse it. So a URL is parsed
once, here, into parameters; messages only ever show `address()`, and the parse error is dropped.
"""

import selectors
import time
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from seawall.database.forks import ForkSafe, steps
from seawall.database.sqlstate import wrong_option
from seawall.errors import ConfigError, DatabaseUnavailable
from seawall.sections import DatabaseSettings

Params = dict[str, str]
"""The libpq parameters of one database; may hold a password."""

# A peer that vanished without a word (power, firewall) is noticed after 25 s, not after the kernel's 15 min.
_KEEPALIVE = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}

NO_ANSWER: Final = "no answer"
"""How the reason of a probe begins whose server said nothing, not even no."""

_CHECK_INTERVAL: Final = "client_connection_check_interval"
_MARGIN: Final = 0.05  # of the server's connections that the fleet leaves to others
_LEAST_MARGIN: Final = 3
_ORDINARY: Final = """
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0)
"""


def parse(
    url: str, *, application: str, connect_timeout: float, options: Mapping[str, str | int] | None
) -> Params:
    """The parameters of `url`, ours added where it does not say otherwise.

    `options` are server settings for the session (`statement_timeout`, ...); those in the URL win. A
    transaction pooler takes none: pass None.

    Raises:
        ConfigError: `url` is no PostgreSQL URL. The message does not repeat it.
    """
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        raise ConfigError(
            "database_url cannot be parsed: expected postgresql://user:password@host:port/name, with special "
            "characters in the password percent-encoded"
        ) from None
    if "@" in given.get("host", ""):
        raise ConfigError("database_url has a bare '@' in its password: write it as %40")
    ours = {
        "fallback_application_name": application,
        "connect_timeout": str(max(2, round(connect_timeout))),  # 0 would be for ever, 2 is the least
        "client_encoding": "utf8",
        **_KEEPALIVE,
    }
    if options is None:
        return {**ours, **given}
    session = " ".join(f"-c {name}={value}" for name, value in options.items())
    return {**ours, **given, "options": f"{session} {given.get('options', '')}".strip()}


def session(limits: DatabaseSettings) -> Mapping[str, int]:
    """What the server is told about every session of ours; milliseconds."""
    return {
        "statement_timeout": round(limits.statement_timeout * 1000),
        "lock_timeout": round(limits.lock_timeout * 1000),
        "idle_in_transaction_session_timeout": round(limits.idle_in_transaction_timeout * 1000),
        _CHECK_INTERVAL: 1000,  # a killed client's statement ends within a second
    }


def local(settings: Mapping[str, int]) -> bytes:
    """`session` for one transaction; a pooler would give a plain SET to the next client too."""
    ours = (f"SET LOCAL {name} = {value}" for name, value in settings.items() if name != _CHECK_INTERVAL)
    return "; ".join(ours).encode()


def address(params: Params) -> str:
    """Where the database is, fit for a message: `host:port/name`."""
    name = params.get("dbname", params.get("user", ""))
    return f"{params.get('host', 'localhost')}:{params.get('port', '5432')}/{name}"


def server(params: Params) -> str:
    """`host:port` of the server, whichever of its databases is meant."""
    return address(params).partition("/")[0]


def probe(params: Params, *, timeout: float) -> str | None:
    """Log in and out again within `timeout` seconds; None if that worked, else the reason.

    psycopg's own timeout has no values below two seconds, too long to find a server that just came back.
    """
    with steps:
        connection = pq.PGconn.connect_start(make_conninfo("", **params).encode())
    deadline = time.monotonic() + timeout
    try:
        status = connection.status
        waits_to_write = True
        while status != pq.ConnStatus.BAD:
            descriptor, left = connection.socket, deadline - time.monotonic()
            with selectors.DefaultSelector() as selector:
                wanted = selectors.EVENT_WRITE if waits_to_write else selectors.EVENT_READ
                selector.register(descriptor, wanted)
                if left <= 0 or not selector.select(left):
                    return f"{NO_ANSWER} within {timeout:g} s"
            with steps:
                polled = connection.connect_poll()
            if polled == pq.PollingStatus.OK:
                return None
            if polled == pq.PollingStatus.FAILED:
                break
            waits_to_write = polled == pq.PollingStatus.WRITING
        return " ".join(connection.get_error_message().split())
    finally:
        connection.finish()


def usable_connections(params: Params) -> int:
    """What the server allows to ordinary users, less a margin for people and other programs.

    Raises:
        DatabaseUnavailable: it cannot be asked.
    """
    try:
        from seawall.silence import SILENCE  # with redis-py, which lists of what PostgreSQL holds do without

        with ForkSafe.connect(make_conninfo("", **params), autocommit=True) as connection:
            connection.patience = SILENCE
            row = connection.execute(_ORDINARY).fetchone()
    except psycopg.Error as exc:
        raise unavailable(params, exc) from exc
    usable = int(row[0]) if row else 0
    return max(1, usable - max(_LEAST_MARGIN, round(usable * _MARGIN)))


def one_line(error: BaseException) -> str:
    """Messages of libpq span lines; ours do not."""
    return " ".join(str(error).split())


class NotAsked(DatabaseUnavailable):
    """Nobody asked the server: it was away a moment ago."""


def unavailable(
    params: Params, error: psycopg.Error, kind: type[DatabaseUnavailable] = DatabaseUnavailable
) -> DatabaseUnavailable:
    """What to raise `from error` when connecting failed."""
    advice = ": correct this option of database_url" if wrong_option(error) else ""
    return kind(f"PostgreSQL at {address(params)} cannot be used: {one_line(error)}{advice}")
