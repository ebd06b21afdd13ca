"""Tasks that require a breaker or share a limit, in real workers."""

import time
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner
from pytest_celery import CeleryTestWorker

from seawall import breaker, settings
from seawall.cli import group
from seawall.delivery import Queues
from seawall.limits import Shares
from seawall.worker.accounts import Circuits
from support import dependants
from support.nodes import StartWorker, environment, producer_of
from support.shop import store
from support.waiting import wait_until

SLOW_POOLS = tuple(pytest.param(pool, marks=pytest.mark.slow) for pool in ("prefork", "threads"))
POOLS = ("cells", *SLOW_POOLS)

app = producer_of(dependants.create)


def start(start_worker: StartWorker, pool: str, concurrency: int = 2, **env: str) -> CeleryTestWorker:
    options = [f"--concurrency={concurrency}", *([] if pool == "cells" else ["-P", pool])]
    return start_worker("support.dependants", *options, env=env)


def command(app: Celery, redis_url: str, *arguments: str) -> None:
    """Run `seawall ...` against this server."""
    settings.cache_clear()
    about = SimpleNamespace(app=app)
    told = CliRunner().invoke(group, arguments, env=environment(redis_url), obj=about)
    assert told.exit_code == 0, told.output
    settings.cache_clear()


def call_times(app: Celery) -> list[float]:
    moments: Any = store(app).lrange("calls", 0, -1)
    return [float(at) for at in moments]


@pytest.mark.parametrize("pool", POOLS)
def test_an_outage_fails_no_task_costs_only_probes_and_ends_without_a_stampede(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    start(start_worker, pool)
    outlive_an_outage(app)


@pytest.mark.rabbitmq
def test_on_rabbitmq_they_are_submitted_again_with_a_delay(
    rabbitmq_url: str, redis_url: str, start_worker: StartWorker
) -> None:
    app = dependants.create(rabbitmq_url, redis_url)
    with app.connection_for_write() as connection:
        queue: Any = app.amqp.queues["celery"](connection.default_channel)
        queue.declare()
        wait_until(lambda: queue.queue_declare(passive=True).consumer_count == 0, what="workers to be gone")
        queue.purge()
    start(start_worker, "cells", SEAWALL_BROKER_URL=rabbitmq_url)
    outlive_an_outage(app)
    app.close()


def outlive_an_outage(app: Celery) -> None:
    store(app).set("down", 1)
    # Two failing calls of the service for each process would be usual; these tasks open the circuit.
    breaking = [app.tasks["dependants.pay"].delay(-1) for _ in range(60)]
    wait_until(lambda: len(call_times(app)) >= 10, timeout=60, what="the service to be seen down")
    time_of_trip = time.time()
    wait_until(lambda: time.time() > time_of_trip + 0.5)
    before = len(call_times(app))
    waiting = [app.tasks["dependants.pay"].delay(number) for number in range(100)]
    others = [app.tasks["dependants.other"].delay(number) for number in range(50)]
    assert [result.get(timeout=30) for result in others] == list(range(50))
    wait_until(lambda: len(call_times(app)) >= before + 3, timeout=60, what="three probes")
    assert not any(result.ready() for result in waiting)
    probes = call_times(app)[before:]
    assert len(probes) <= 2 + (probes[-1] - probes[0]) / 0.9, "probes, and nothing else"
    store(app).delete("down")
    assert [result.get(timeout=60) for result in waiting] == list(range(100))
    assert all(result.successful() for result in waiting)
    failed = sum(result.failed() for result in breaking)
    assert failed <= 30, "what was in flight before the trip"
    assert all(result.failed() or result.get(timeout=60) == -1 for result in breaking)


@pytest.mark.parametrize("pool", ["cells", "prefork", SLOW_POOLS[1]])
def test_a_breaker_that_is_held_open_without_an_end_harms_no_worker(
    app: Celery, start_worker: StartWorker, redis_url: str, pool: str
) -> None:
    worker = start(start_worker, pool)
    assert app.tasks["dependants.pay"].delay(1).get(timeout=30) == 1
    command(app, redis_url, "breakers", "open", "payments", "--reason", "the operator says so")
    waiting = [app.tasks["dependants.pay"].delay(number) for number in range(4)]
    others = [app.tasks["dependants.other"].delay(number) for number in range(20)]
    assert [result.get(timeout=30) for result in others] == list(range(20))
    assert not any(result.ready() for result in waiting)
    command(app, redis_url, "breakers", "reset", "payments")
    assert [result.get(timeout=60) for result in waiting] == list(range(4))
    assert app.tasks["dependants.pay"].delay(2).get(timeout=30) == 2
    assert "OverflowError" not in worker.logs()
    assert "ended at its start" not in worker.logs()


@pytest.mark.parametrize("pool", ["cells", SLOW_POOLS[0]])
def test_a_task_that_a_breaker_refuses_in_its_body_waits_for_it_and_spends_no_attempt(
    app: Celery, start_worker: StartWorker, redis_url: str, pool: str
) -> None:
    start(start_worker, pool)
    assert app.tasks["dependants.pay_unasked"].delay(1).get(timeout=30) == 1
    for way in ((), ("--for", "10m")):  # without an end, and with one
        before: Any = store(app).llen("bodies")
        command(app, redis_url, "breakers", "open", "payments", "--reason", "the operator says so", *way)
        waiting = [app.tasks["dependants.pay_unasked"].delay(number) for number in range(2, 6)]
        with app.connection_for_write() as connection, Queues.open(connection) as queues:
            held = {"breaker:payments": 4}
            wait_until(lambda: queues.counts("celery").parked == held, timeout=60, what="all to be parked")  # noqa: B023
        bodies: Any = store(app).llen("bodies")
        assert bodies - before == 4, "each has run once, and none again while the breaker is held open"
        assert not any(result.ready() for result in waiting)
        command(app, redis_url, "breakers", "reset", "payments")
        assert [result.get(timeout=60) for result in waiting] == [2, 3, 4, 5]


@pytest.mark.parametrize("pool", ["cells", "prefork", SLOW_POOLS[1]])
def test_a_limit_is_kept_and_every_key_gets_its_turn(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    start(start_worker, pool, 5)
    results = [app.tasks["dependants.serve"].delay(f"t{number % 2}", 0.05) for number in range(60)]
    free = app.tasks["dependants.other"].delay(7)
    assert free.get(timeout=20) == 7
    assert Counter(result.get(timeout=60) for result in results) == {"t0": 30, "t1": 30}
    assert max(most_beside(app).values()) <= 3
    # The key holds whatever the arguments do.
    results = [app.tasks["dependants.serve"].delay("two\nlines", 0.05) for _ in range(12)]
    assert [result.get(timeout=30) for result in results] == ["two\nlines"] * 12


@pytest.mark.parametrize("pool", POOLS)
def test_what_waits_for_a_killed_holder_runs_when_its_lease_has_ended(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    holder = Shares(lambda: store(app), lease=2.0)
    assert all(holder.take("tenant:acme", 3)[0] for _ in range(3))
    start(start_worker, pool)
    result = app.tasks["dependants.serve"].delay("acme", 0.0)
    with app.connection_for_write() as connection, Queues.open(connection) as queues:
        wait_until(lambda: queues.counts("celery").parked == {"limit:tenant:acme": 1}, timeout=30)
    holder.stop()  # as if it were killed: it renews nothing and gives nothing back
    assert result.get(timeout=20) == "acme"


def most_beside(app: Celery) -> dict[str, int]:
    most: dict[str, int] = defaultdict(int)
    lines: Any = store(app).lrange("beside", 0, -1)
    for line in lines:
        tenant, many = line.decode().split()
        most[tenant] = max(most[tenant], int(many))
    return most


def test_what_was_parked_while_a_breaker_was_open_between_two_looks_is_let_go(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    released: list[str] = []
    parked: Any = SimpleNamespace(release_all=lambda dependency, _seconds: released.append(dependency))
    payments = breaker("payments-seldom-seen")
    watch = Circuits(parked, [payments.name])
    for times in (1, 2):
        payments.force_open("the operator says so")
        payments.reset()
        watch.look()
        watch.look()
        assert released == ["breaker:payments-seldom-seen"] * times
