"""Real workers that lose what they need after they have started, and the tasks that wait for it."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery
from redis import Redis

from seawall.delivery import Queues
from seawall.embedded import status
from seawall.worker.heartbeat import workers
from support import moored
from support.delivery import own_server
from support.nodes import StartWorker, producer_of
from support.outages import own_postgres
from support.proxy import proxy
from support.waiting import wait_until

IN_TIME = 60.0

app = producer_of(moored.create)


def start(start_worker: StartWorker, pool: str, **env: str) -> None:
    options = ["--concurrency=2", *([] if pool == "cells" else ["-P", pool])]
    start_worker("support.moored", *options, env={"SEAWALL_STARTUP__MIGRATIONS": "ignore", **env})


def only_worker(redis_url: str) -> dict[str, Any]:
    """What the one worker says of itself."""
    with Redis.from_url(redis_url) as client:
        found = list(workers(client).values())
    return found[0] if found else {"state": "silent", "lost": []}


def rows_in(url: str) -> list[int]:
    with psycopg.connect(url, autocommit=True) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM moored ORDER BY 1")]


@contextmanager
def killed(home: Path, url: str) -> Iterator[str]:
    """The server is dead: its keeper may not start it again before the end of the block."""
    pids = status(home).pids
    os.kill(pids["keeper"], signal.SIGSTOP)
    try:
        os.kill(pids["postgres"], signal.SIGKILL)
        yield url
    finally:
        os.kill(pids["keeper"], signal.SIGCONT)


def outlive(app: Celery, redis_url: str, lose: Callable[[], Any], find: Callable[[], Any]) -> None:
    """Tasks that require the database wait while it is lost, others run, and all come back by themselves."""
    assert app.tasks["moored.row"].delay(-1).get(timeout=IN_TIME) == -1
    lose()
    try:
        wait_until(lambda: only_worker(redis_url)["lost"] == ["database"], timeout=IN_TIME, what="the loss")
        assert only_worker(redis_url)["state"] == "degraded"
        waiting = [app.tasks["moored.row"].delay(number) for number in range(50)]
        others = [app.tasks["moored.other"].delay(number) for number in range(20)]
        assert [each.get(timeout=IN_TIME) for each in others] == list(range(20))
        with app.connection_for_write() as connection, Queues.open(connection) as queues:
            counts = queues.counts
            wait_until(
                lambda: counts("celery").parked.get("service:postgres", 0) > 40,
                timeout=IN_TIME,
                what="the tasks to be parked",
            )
        assert not any(each.ready() for each in waiting)
    finally:
        find()
    assert [each.get(timeout=IN_TIME) for each in waiting] == list(range(50))
    wait_until(lambda: only_worker(redis_url)["state"] == "ready", timeout=IN_TIME, what="a good state")


@pytest.mark.parametrize("pool", ["cells", pytest.param("threads", marks=pytest.mark.slow)])
def test_tasks_wait_for_a_killed_database_and_only_those_that_require_it(
    app: Celery, redis_url: str, start_worker: StartWorker, pool: str, home: Path
) -> None:
    with own_postgres(home) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(moored.TABLE)
        start(start_worker, pool, SEAWALL_DATABASE_URL=url)
        outage = killed(home, url)
        outlive(app, redis_url, outage.__enter__, lambda: outage.__exit__(None, None, None))
        assert rows_in(url) == [-1, *range(50)]


@pytest.mark.parametrize("pool", ["cells", pytest.param("threads", marks=pytest.mark.slow)])
def test_tasks_wait_for_a_deaf_database(
    app: Celery, redis_url: str, start_worker: StartWorker, pool: str, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(moored.TABLE)
    with proxy(database_url) as way:
        start(start_worker, pool, SEAWALL_DATABASE_URL=way.url)
        outlive(app, redis_url, way.go_deaf, way.hear_again)
    assert rows_in(database_url) == [-1, *range(50)]


@pytest.mark.parametrize(
    ("pool", "fault"),
    [
        ("cells", "killed"),
        ("threads", "deaf"),
        pytest.param("cells", "deaf", marks=pytest.mark.slow),
        pytest.param("threads", "killed", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_loses_a_critical_service_takes_nothing_until_it_is_back(  # noqa: PLR0913, PLR0917
    app: Celery, redis_url: str, start_worker: StartWorker, pool: str, fault: str, tmp_path: Path
) -> None:
    with own_server(tmp_path / "lighthouse") as server:
        start(start_worker, pool, MOORED_SERVICE=server.url)
        assert app.tasks["moored.other"].delay(-1).get(timeout=IN_TIME) == -1
        assert server.proc is not None
        if fault == "killed":
            server.kill()
        else:
            server.proc.signal(signal.SIGSTOP)
        wait_until(lambda: only_worker(redis_url)["state"] == "paused", timeout=IN_TIME, what="the pause")
        assert only_worker(redis_url)["lost"] == ["lighthouse"]
        waiting = [app.tasks["moored.other"].delay(number) for number in range(20)]
        with app.connection_for_write() as connection, Queues.open(connection) as queues:
            counts = queues.counts("celery")
            assert counts.ready + sum(counts.parked.values()) == 20, "nobody took them"
        if fault == "killed":
            server.start()
        else:
            server.proc.signal(signal.SIGCONT)
        assert [each.get(timeout=IN_TIME) for each in waiting] == list(range(20))
        wait_until(lambda: only_worker(redis_url)["state"] == "ready", timeout=IN_TIME, what="a good state")
