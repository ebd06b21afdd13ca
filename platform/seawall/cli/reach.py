"""The servers that a command asks, found and tried before they are used.

The clients of the servers are patient, as workers need them to be; a person wants an answer at once. So a
server is tried first, for `PATIENCE` seconds at most: by one round trip without a login, which costs nothing
if it is away, and then by a login, which a server that freezes behind its proxy does not answer. Whatever is
wrong is one line that names the server and what to do.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import click

from seawall.errors import SeawallError
from seawall.urls import REDIS_SCHEMES, SENTINEL, SENTINEL_PORT, scheme_of

if TYPE_CHECKING:
    from redis import Redis

    from seawall.database.pool import Database
    from seawall.delivery import Queues

PATIENCE: Final = 1.0
"""Seconds that a server gets to answer."""

_NO_ANSWER: Final = "no answer"

_PORTS: Final = {SENTINEL: SENTINEL_PORT, "amqp": 5672, "pyamqp": 5672, "amqps": 5671}
_REDIS_PORT: Final = 6379
_PLAIN: Final = {"redis", "valkey"}  # spoken without TLS, so that a PING can be sent

_Result = TypeVar("_Result")


class Unreachable(SeawallError):  # noqa: N818 - the public names say what happened
    """A server that a command needs does not answer."""


def try_redis(url: str, what: str = "Redis") -> None:
    """Return if one of the servers of `url` answers; a broker of another kind need only accept.

    Raises:
        Unreachable: none does.
    """
    alternatives = url.split(";")
    problems = []
    for each in alternatives:
        scheme = scheme_of(each)
        address = _address(each)
        share = PATIENCE / len(alternatives)
        knock = partial(_problem, address, share, ping=scheme in _PLAIN)
        if scheme == "memory" or (problem := _in_time(knock, share)) is None:
            break
        problems.append(f"{address[0]}:{address[1]} ({problem})")
    else:
        raise _unreachable(what, ", ".join(problems))
    if scheme in REDIS_SCHEMES | {SENTINEL}:
        from seawall import cluster  # noqa: F401 - takes long, which is not the server's fault

        entered = url if scheme == SENTINEL else each
        if silent := _in_time(partial(_silence, entered), PATIENCE):
            asked = alternatives if scheme == SENTINEL else [each]
            where = ", ".join(f"{host}:{port}" for host, port in map(_address, asked))
            raise _unreachable(what, f"{where} ({silent})")


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "localhost", parts.port or _PORTS.get(scheme_of(url), _REDIS_PORT)


def _unreachable(what: str, where: str) -> Unreachable:
    return Unreachable(
        f"{what} at {where} cannot be reached: start it, or correct the URL (`seawall config`)"
    )


def _in_time(ask: Callable[[], str | None], seconds: float) -> str | None:
    """What `ask` says is wrong, or that it took longer: the system's resolver knows no timeout."""
    said: list[str | None] = []
    asking = threading.Thread(target=lambda: said.append(ask()), name="seawall-try", daemon=True)
    asking.start()
    asking.join(seconds)
    return said[0] if said else f"{_NO_ANSWER} within {seconds:.2g} s"


def _problem(address: tuple[str, int], seconds: float, *, ping: bool) -> str | None:
    """Why a server does not answer; None if it does, were it only to ask for a password."""
    try:
        with socket.create_connection(address, seconds) as connection:
            connection.settimeout(seconds)
            if ping:
                connection.sendall(b"*1\r\n$4\r\nPING\r\n")
                if not connection.recv(1):
                    return "it closed the connection"
    except TimeoutError:
        return f"{_NO_ANSWER} within {seconds:.2g} s"
    except OSError as exc:
        return (exc.strerror or str(exc)).lower()
    except ValueError:
        return "no name of a host"
    return None


def _silence(url: str) -> str | None:
    """Whether a Redis that was entered says nothing; what it says otherwise is told by the command."""
    from redis import exceptions

    from seawall import cluster

    try:
        with cluster.connect(url, timeout=PATIENCE) as client:
            client.ping()
    except exceptions.TimeoutError:
        return f"{_NO_ANSWER} within {PATIENCE:g} s"
    except (exceptions.RedisError, SeawallError, OSError, ValueError):
        pass
    return None


def try_postgres(url: str) -> None:
    """Return if PostgreSQL answers at `url`.

    Raises:
        Unreachable: it does not.
    """
    from seawall.database import connecting

    params = connecting.parse(url, application="seawall", connect_timeout=PATIENCE, options=None)
    problem = _in_time(partial(_knocked, url), PATIENCE)
    if problem is None and "," not in params.get("host", ""):  # of several, libpq waits for each in turn
        problem = _in_time(partial(_logged_in, params), PATIENCE)
    if problem is not None:
        where = "" if connecting.server(params) in problem else f"{connecting.address(params)}: "
        raise Unreachable(
            f"PostgreSQL cannot be reached ({where}{problem}): start it, or correct the URL "
            "(`seawall config`)"
        )


def _knocked(url: str) -> str | None:
    from seawall.database.reach import reach

    try:
        reach(url, PATIENCE)
    except SeawallError as exc:
        return str(exc)
    return None


def _logged_in(params: dict[str, str]) -> str | None:
    """Whether PostgreSQL says nothing to who logs in; if it refuses, the command tells."""
    from seawall.database import connecting

    problem = connecting.probe(params, timeout=PATIENCE)
    return problem if problem and problem.startswith(connecting.NO_ANSWER) else None


@contextmanager
def redis(url: str | None = None) -> "Iterator[Redis]":
    """A client of the Redis that all processes share.

    Raises:
        Unreachable: it does not answer.
    """
    from seawall import servers

    url = url or servers.redis_url()
    try_redis(url)
    from redis.exceptions import RedisError

    from seawall import cluster
    from seawall.redaction import redact_text

    try:
        with cluster.connect(url, timeout=PATIENCE) as client:
            yield client
    except RedisError as exc:
        host, port = _address(url)
        why = redact_text(" ".join(str(exc).split()))
        raise Unreachable(f"Redis at {host}:{port} cannot be asked: {why}") from exc


@contextmanager
def postgres(url: str | None = None) -> "Iterator[Database]":
    """The database, by a connection beside the fleet's budget, which leaves some to people.

    Raises:
        Unreachable: it does not answer.
        SeawallError: it has no tables of ours yet, or refuses.
    """
    from seawall import servers

    url = url or servers.database_url()
    try_postgres(url)
    import logging

    import psycopg

    from seawall.config import settings
    from seawall.database.pool import Database

    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # said in one line, below
    database = Database(url, settings().database, application="seawall")
    try:
        yield database
    except psycopg.errors.UndefinedTable as exc:
        raise SeawallError("PostgreSQL has no tables of Seawall yet: run `seawall migrate up`") from exc
    except psycopg.Error as exc:
        raise SeawallError(f"PostgreSQL cannot tell: {' '.join(str(exc).split())}") from exc
    finally:
        database.close()


def known_urls() -> tuple[dict[str, str], dict[str, str]]:
    """Where the servers are, and why there is nothing to ask of the others."""
    from seawall import embedded, servers
    from seawall.config import settings

    urls: dict[str, str] = {}
    if servers.redis_is_known():
        urls["Redis"] = servers.redis_url()
    if servers.database_is_known():
        urls["PostgreSQL"] = servers.database_url()
    if len(urls) < 2:  # noqa: PLR2004 - the two servers
        running = embedded.find(settings().home)
        found = {"Redis": running and running.redis_url, "PostgreSQL": running and running.database_url}
        urls = {**{name: url for name, url in found.items() if url}, **urls}
    stopped = f"the embedded server of {settings().home} does not run"
    return urls, {name: stopped for name in ("Redis", "PostgreSQL") if name not in urls}


def if_known(work: "Callable[[Database], _Result]") -> _Result | None:
    """What `work` returns; None without PostgreSQL, and with a line about it if that does not answer."""
    from seawall import servers

    if not servers.database_is_known():
        return None
    try:
        with postgres() as database:
            return work(database)
    except SeawallError as exc:
        click.echo(f"PostgreSQL has no part in this: {exc}", err=True)
        return None


@contextmanager
def queues(*, only_look: bool = False) -> "Iterator[Queues]":
    """The queues of the application: of `celery -A`, of fleet.toml, or, without one, of the settings.

    Who only looks does not need the application, which takes a second to import, where the servers of the
    settings have all the queues of fleet.toml.

    Raises:
        Unreachable: the broker does not answer.
        ConfigError: the application cannot be loaded, or its broker is not Redis.
    """
    from seawall import servers
    from seawall.cli.application import celerys_app, fleet

    app, spec = celerys_app(), fleet()
    if app is None and (spec is None or only_look) and _is_redis(servers.broker_url()):
        expected = {queue for each in spec.workers.values() for queue in each.queues} if spec else set()
        with redis(servers.broker_url()) as client:
            from seawall.delivery.queues import Queues

            found = Queues(client)
            if expected <= set(found.names()):
                yield found
                return
    with _of_application() as opened:
        yield opened


def _is_redis(url: str) -> bool:
    return scheme_of(url) in REDIS_SCHEMES | {SENTINEL}


@contextmanager
def _of_application() -> "Iterator[Queues]":
    from seawall.cli.application import current_app
    from seawall.delivery import Queues

    app = current_app()
    url = app.conf.broker_url
    try_redis(url if isinstance(url, str) else ";".join(url), "the broker")
    with app.connection_for_write() as connection, Queues.open(connection) as opened:
        yield opened
