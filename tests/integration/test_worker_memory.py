"""Memory in real workers: limits, admission, pressure, leaks; cells and stock prefork."""

from typing import Any

import pytest
from celery.result import AsyncResult
from redis import Redis

from seawall import MemoryBudgetExceeded
from support.nodes import StartWorker

POOLS = [pytest.param([], id="cells"), pytest.param(["-P", "prefork"], id="prefork")]


@pytest.fixture
def app(redis_url: str) -> Any:
    from seawall import Seawall

    producer = Seawall("hungry", set_as_current=False)
    producer.conf.update(broker_url=redis_url, result_backend=redis_url)
    yield producer
    producer.close()


def ran(redis_url: str, what: str) -> list[str]:
    with Redis.from_url(redis_url) as client:
        return [line.decode() for line in client.lrange("ran", 0, -1) if line.decode().startswith(what)]


@pytest.mark.parametrize("pool", POOLS)
def test_a_greedy_task_is_stopped_once_with_its_process_alone_and_its_neighbours_finish(
    app: Any, redis_url: str, start_worker: StartWorker, pool: list[str]
) -> None:
    worker = start_worker("support.hungry", "-c", "2", *pool)
    neighbours = [app.send_task("hungry.small", (n,)) for n in range(20)]
    greedy: AsyncResult[Any] = app.send_task("hungry.greedy", ("c", 200))
    neighbours += [app.send_task("hungry.small", (n,)) for n in range(20, 40)]
    with pytest.raises(
        MemoryBudgetExceeded, match=r"process was killed: hungry.greedy used .*60 MiB are allowed"
    ):
        greedy.get(timeout=60)
    assert [each.get(timeout=60) for each in neighbours] == list(range(40))
    assert len(ran(redis_url, "greedy")) == 1
    assert worker.container.status == "running"


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_above_its_budget_is_told_so_and_its_process_lives(
    app: Any, redis_url: str, start_worker: StartWorker, pool: list[str]
) -> None:
    start_worker("support.hungry", "-c", "1", *pool)
    assert app.send_task("hungry.careful").get(timeout=60) == "cleaned up"
    with pytest.raises(MemoryBudgetExceeded, match=r"40 MiB are allowed \(arguments 0: 8 B, 1: 3 B\)"):
        app.send_task("hungry.greedy", ("python", 400)).get(timeout=60)
    app.send_task("hungry.small", (1,)).get(timeout=60)
    processes = {line.split()[-1] for line in ran(redis_url, "")}
    assert len(processes) == 1


@pytest.mark.parametrize("pool", POOLS)
def test_a_memory_error_fails_its_task_and_nothing_else(
    app: Any, start_worker: StartWorker, pool: list[str]
) -> None:
    start_worker("support.hungry", "-c", "2", *pool)
    broken = [app.send_task("hungry.exhaust") for _ in range(10)]
    whole = [app.send_task("hungry.small", (n,)) for n in range(10)]
    for each in broken:
        with pytest.raises(MemoryBudgetExceeded, match="ran out of memory: cannot allocate"):
            each.get(timeout=60)
    assert [each.get(timeout=60) for each in whole] == list(range(10))
