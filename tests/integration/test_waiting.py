"""No connection of ours waits without a bound: every one that is made is looked at, and who may make some."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis.connection import AbstractConnection

import seawall
from seawall import cluster, silence
from seawall.database.migrations import History, Migrations
from seawall.database.pool import Database
from seawall.delivery import Queues
from seawall.doctor.redis import audit_redis
from seawall.health.probes import database_answers, redis_answers
from seawall.worker.app import Seawall
from support import shop
from support.nodes import ThreadWorker

TREE = Path(seawall.__file__).parent
MAKERS = {
    "cluster.py": {"Redis.from_url"},
    "delivery/channel.py": {"Redis"},
    "delivery/claiming.py": {"Redis"},
    "database/connecting.py": {"ForkSafe.connect"},
    "database/migrations/session.py": {"psycopg.connect"},
}
"""Who makes clients and connections; what is added here is tried below as well."""


@pytest.fixture
def to_redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every connection to Redis that is made in this process."""
    made: list[Any] = []
    connect: Any = AbstractConnection.connect

    def noted(connection: Any) -> None:
        made.append(connection)
        connect(connection)

    monkeypatch.setattr(AbstractConnection, "connect", noted)
    yield made
    made.clear()


@pytest.fixture
def to_postgres(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The parameters of every connection to PostgreSQL that is made in this process."""
    made: list[dict[str, Any]] = []
    connect: Any = vars(psycopg.Connection)["connect"].__func__

    def noted(cls: Any, /, conninfo: str = "", **options: Any) -> Any:
        made.append(psycopg.conninfo.conninfo_to_dict(conninfo))
        return connect(cls, conninfo, **options)

    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(noted))
    monkeypatch.setattr(psycopg, "connect", psycopg.Connection.connect)
    return made


def test_every_connection_to_redis_has_a_timeout(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, to_redis: list[Any], thread_worker: ThreadWorker
) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    app: Seawall = shop.create(redis_url)
    with app, thread_worker(app):
        assert app.tasks["shop.limited"].delay("acme").get(timeout=20) == "done"
        assert app.tasks["shop.add"].delay(1, 2).get(timeout=20) == 3
        app.control.ping(timeout=0.1)
        with Queues.open(app.connection_for_read()) as queues:
            queues.counts("celery")
    audit_redis(redis_url, clients=1)
    redis_answers(redis_url)
    cluster.client().ping()
    assert len(to_redis) > 10
    for connection in to_redis:
        assert 0 < connection.socket_timeout <= silence.SILENCE, vars(connection)
        assert 0 < connection.socket_connect_timeout <= silence.SILENCE
        assert connection.socket_keepalive
        assert dict(connection.socket_keepalive_options) == dict(silence.KEEPALIVE)


def test_every_connection_to_postgres_has_timeouts(
    database_url: str, to_postgres: list[dict[str, Any]], tmp_path: Path
) -> None:
    database = Database(database_url)
    try:
        database.fetch_value("SELECT 1")
        assert database.usable_connections() > 0
        with database.connection() as connection:
            assert 0 < (vars(connection).get("patience") or 0) <= 65
    finally:
        database.close()
    Migrations(database_url, [History("none", tmp_path)]).status()
    database_answers(database_url)
    assert len(to_postgres) >= 3
    for parameters in to_postgres:
        assert 0 < int(parameters["connect_timeout"]) <= 10
        assert 0 < int(parameters["tcp_user_timeout"]) <= 25_000
        idle, interval, count = (
            int(parameters[f"keepalives_{each}"]) for each in ("idle", "interval", "count")
        )
        assert idle + interval * count <= 25


def test_nobody_else_makes_clients() -> None:
    found: dict[str, set[str]] = {}
    for path in TREE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _makes_a_client(made := ast.unparse(node.func)):
                found.setdefault(str(path.relative_to(TREE)), set()).add(made)
    assert found == MAKERS


def _makes_a_client(called: str) -> bool:
    return called in {"Redis", "StrictRedis"} or called.endswith(
        ("Redis.from_url", "redis.from_url", "psycopg.connect", "ForkSafe.connect", "Sentinel")
    )
