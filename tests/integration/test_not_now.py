"""A server that answers that it can do nothing now: a primary without replicas (`min-replicas-to-write`)."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from support import shop
from support.delivery import Server, own_server
from support.nodes import StartWorker
from support.waiting import wait_until

LOST = "Connection to broker lost"
_PROCESSES = 3  # a worker and its two cells


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with own_server(tmp_path / "server", fsync="no") as started:
        yield started


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    made = shop.create(server.url)
    yield made
    made.close()


def refuse(client: "Redis", *, refuses: bool) -> None:
    client.config_set("min-replicas-to-write", int(refuses))


def refusals(client: "Redis") -> int:
    stats: Any = client.info("errorstats")
    return int(stats.get("errorstat_NOREPLICAS", {}).get("count", 0))


def test_a_worker_that_starts_beside_a_primary_without_replicas_waits_for_them(
    server: Server, app: Celery, start_worker: StartWorker
) -> None:
    with server.client() as client:
        first = app.tasks["shop.add"].delay(1, 1)
        refuse(client, refuses=True)
        worker = start_worker(
            "support.shop", "--concurrency=2", env={"SEAWALL_REDIS_URL": server.url}, wait=False
        )
        wait_until(lambda: "NOREPLICAS" in worker.logs(), timeout=60, what="the worker to be refused")
        with pytest.raises(OperationalError, match="NOREPLICAS"):
            app.tasks["shop.add"].delay(2, 2)
        begun, lost, asked = time.monotonic(), worker.logs().count(LOST), refusals(client)
        wait_until(lambda: refusals(client) > asked + 30, timeout=60, what="all to ask again")
        once_a_second = _PROCESSES * (time.monotonic() - begun + 2)
        assert worker.logs().count(LOST) - lost <= once_a_second, "another connection helps nobody"
        refuse(client, refuses=False)
        assert first.get(timeout=60) == 2
        assert worker.container.status == "running"


@pytest.mark.slow
def test_a_worker_whose_primary_loses_its_replicas_goes_on_when_they_are_back(
    server: Server, app: Celery, start_worker: StartWorker
) -> None:
    with server.client() as client:
        worker = start_worker("support.shop", "--concurrency=2", env={"SEAWALL_REDIS_URL": server.url})
        assert app.tasks["shop.add"].delay(1, 1).get(timeout=60) == 2
        cells = {child.pid for child in worker.container.children()}
        refuse(client, refuses=True)
        wait_until(lambda: refusals(client) >= 3 * _PROCESSES, timeout=30, what="all to ask again")
        assert LOST not in worker.logs()
        for _ in range(3):  # everybody connects anew, and is refused
            known = {each["id"] for each in client.client_list(_type="normal")} - {str(client.client_id())}
            for each in known:
                client.client_kill_filter(_id=each)
            asked = refusals(client)
            wait_until(lambda: refusals(client) >= asked + 2 * _PROCESSES, timeout=30, what="all to be back")  # noqa: B023
        refuse(client, refuses=False)
        assert app.tasks["shop.add"].delay(2, 2).get(timeout=60) == 4
        assert {child.pid for child in worker.container.children()} == cells, "a cell has died of it"
