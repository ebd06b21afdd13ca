"""How each server is asked whether it answers: a connection is opened, asked one thing and closed."""

import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from seawall.errors import SeawallError
from seawall.health.checks import PATIENCE, Check
from seawall.urls import REDIS_SCHEMES, SENTINEL, SENTINEL_PORT, as_celery_reads, scheme_of

_AMQP_HEADER: Final = b"AMQP\x00\x00\x09\x01"
_AMQP_METHOD: Final = b"\x01"  # the type of the frame with which a broker greets
_AMQP_PORT: Final = {"amqps": 5671}


class NoAnswer(SeawallError):  # noqa: N818
    """A server did not answer as it should; why, in one line."""


def redis_answers(url: str, timeout: float = PATIENCE) -> None:
    """Return if Redis lets us in and answers PING; `-LOADING` is no answer."""
    from redis.exceptions import RedisError  # long to import, and not asked by every check

    from seawall import cluster

    try:
        with cluster.connect(url, timeout=timeout) as client:
            client.ping()
    except (RedisError, OSError) as exc:
        raise NoAnswer(f"{type(exc).__name__}: {exc}") from exc


def database_answers(url: str, timeout: float = PATIENCE) -> None:
    """Return if PostgreSQL takes connections."""
    from seawall.database.reach import reach

    reach(url, timeout)


def broker_answers(url: str, timeout: float = PATIENCE) -> None:
    """Return if one of the broker's alternatives, separated by `;`, answers."""
    if scheme_of(url) == SENTINEL and as_celery_reads(url)[1]:
        redis_answers(url, timeout)
        return
    problems = []
    alternatives = url.split(";")
    for each in alternatives:
        try:
            _one_broker(each, timeout / len(alternatives))
        except NoAnswer as exc:
            problems.append(str(exc))
        else:
            return
    raise NoAnswer("; ".join(problems))


def server_checks(
    *,
    redis: Callable[[], str] | None = None,
    broker: Callable[[], str] | None = None,
    database: Callable[[], str] | None = None,
) -> list[Check]:
    """Checks of the servers whose URLs are given; each says what it found, also where two are one server."""
    checks = []
    if redis is not None:
        checks.append(Check("redis", lambda: redis_answers(redis())))
    if broker is not None:
        checks.append(Check("broker", lambda: broker_answers(broker())))
    if database is not None:
        checks.append(Check("database", lambda: database_answers(database())))
    return checks


def _one_broker(url: str, timeout: float) -> None:
    scheme = scheme_of(url)
    if scheme in REDIS_SCHEMES:
        redis_answers(url, timeout)
    elif scheme == SENTINEL:  # the application knows the master's name
        node = urlsplit(url)
        redis_answers(f"redis://{node.hostname}:{node.port or SENTINEL_PORT}", timeout)
    elif scheme != "memory":
        _amqp_answers(url, timeout)


def _amqp_answers(url: str, timeout: float) -> None:
    """Return if a broker greets us; the handshake is not gone through with."""
    parts = urlsplit(url)
    host, port = parts.hostname or "localhost", parts.port or _AMQP_PORT.get(parts.scheme, 5672)
    try:
        with socket.create_connection((host, port), timeout) as connection:
            if parts.scheme == "amqps":
                return  # whoever accepts; the worker's own connection says the rest
            connection.sendall(_AMQP_HEADER)
            greeting = connection.recv(1)
    except OSError as exc:
        raise NoAnswer(f"{host}:{port}: {exc.strerror or exc}") from exc
    if greeting != _AMQP_METHOD:
        raise NoAnswer(f"{host}:{port} does not speak AMQP 0-9-1")
