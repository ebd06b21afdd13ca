"""The recoveries that every worker has, over real servers and in real workers."""

import time
from collections.abc import Iterator

import psycopg
import pytest
from celery import Celery

from seawall import Category, classify, database, memory, policy, settings
from seawall.breaker import State, breaker
from seawall.breaker.face import close as close_breakers
from seawall.database import close
from seawall.policies import policy_of
from seawall.recovery import Trouble
from seawall.worker import recoveries
from support import shop
from support.nodes import StartWorker
from support.recorded import Recorded
from support.waiting import wait_until

REFUSED = ConnectionRefusedError("no")


@pytest.fixture
def known(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The settings name both servers."""
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    monkeypatch.setenv("SEAWALL_DATABASE_URL", database_url)
    settings.cache_clear()
    close()
    recoveries._seen.clear()
    yield database_url
    close()
    close_breakers()


def trouble(task: str = "shop.pay", requires: tuple[str, ...] = ()) -> Trouble:
    chosen = policy_of(policy(requires=requires)(lambda: None))
    return Trouble(classify(REFUSED), REFUSED, task, chosen)


def test_dead_connections_are_dropped_and_the_server_is_healthy(known: str) -> None:
    assert recoveries.database(trouble()) == "this process has opened no database"
    database().fetch_value("SELECT 1")
    with psycopg.connect(known, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert recoveries.database(trouble()).endswith("1 dead connections dropped, healthy")
    assert database().fetch_value("SELECT 1") == 1


def test_a_breaker_that_hears_nothing_of_its_dependants_failures_is_opened(known: str) -> None:
    payments = breaker("recovered", open_for=30)
    found = trouble(requires=("recovered",))
    for n in range(recoveries._TRIP_AFTER):
        recoveries.total_count["shop.pay"] += 1
        assert recoveries.goes_on(found) == (n == recoveries._TRIP_AFTER - 1)
    assert recoveries.dependency(found) == "opened recovered"
    wait_until(lambda: payments.state is State.FORCED_OPEN, what="the breaker to be open here")
    assert "its probe decides" in recoveries.dependency(found)


def test_rare_failures_open_nothing(known: str) -> None:
    breaker("steady", failure_rate=0.5)
    found = trouble("shop.steady", requires=("steady",))
    for _ in range(3 * recoveries._TRIP_AFTER):
        recoveries.total_count["shop.steady"] += 100
        assert not recoveries.goes_on(found)
    assert not recoveries.goes_on(trouble("shop.other"))


def test_memory_is_given_back(known: str) -> None:
    called: list[float] = []
    stop = memory.on_pressure(lambda: called.append(time.time()), level=memory.Pressure.CRITICAL)
    assert recoveries.memory(trouble()).startswith("freed ")
    stop()
    assert called


def test_a_cell_that_ran_out_of_memory_is_replaced(
    shop_app: Celery, start_worker: StartWorker, recorded: Recorded
) -> None:
    worker = start_worker("support.shop", "--concurrency=1", env=recorded.env)
    first = shop_app.tasks["shop.tell_process"].delay().get(timeout=30)
    shop_app.tasks["shop.greedy"].delay()
    wait_until(lambda: "recovery memory: freed" in worker.logs(), timeout=30, what="the recovery")
    ask = shop_app.tasks["shop.tell_process"]
    wait_until(lambda: ask.delay().get(timeout=30) != first, timeout=30, what="a new cell")
    assert worker.container.status == "running"
    groups = "SELECT category FROM seawall.error_groups"
    wait_until(lambda: recorded.sql(groups) == [(Category.MEMORY.value,)], what="the error group")
    assert shop.journal(shop_app) == []
