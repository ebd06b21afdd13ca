"""A server that answers that it can do nothing now: a primary without replicas (`min-replicas-to-write`)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from support import shop
from support.delivery import Server, own_server
from support.nodes import StartWorker
from support.waiting import wait_until

_CONNECTIONS = 5  # of a worker and its two cells, at least


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
        for _ in range(3):  # everybody connects anew, and is refused
            known = {each["id"] for each in client.client_list(_type="normal")} - {str(client.client_id())}
            for each in known:
                client.client_kill_filter(_id=each)
            wait_until(lambda: is_back(client), timeout=30, what="the worker to be back")
        refuse(client, refuses=False)
        assert app.tasks["shop.add"].delay(2, 2).get(timeout=60) == 4
        assert {child.pid for child in worker.container.children()} == cells, "a cell has died of it"


def is_back(client: "Redis") -> bool:
    return len(client.client_list(_type="normal")) >= _CONNECTIONS
