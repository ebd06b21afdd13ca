"""What Seawall promises on Redis holds for workers on RabbitMQ, with results in Redis."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from amqp.exceptions import MessageNacked
from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError
from pytest_celery import CeleryTestWorker

from seawall import Poisoned, Priority
from seawall.worker.request import DELIVERY_LIMIT, STRIKES_HEADER
from support import shop
from support.nodes import StartWorker
from support.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

RabbitWorker = Callable[..., CeleryTestWorker]


@pytest.fixture
def rabbit_app(rabbitmq_url: str, redis_url: str) -> Iterator[Celery]:
    """The producer's side of `support.shop` on RabbitMQ, whose queue is empty and has no consumer."""
    app = shop.create(rabbitmq_url, redis_url)
    with app.connection_for_write() as connection:
        # Not deleted: kombu's connections are shared by all tests and remember what they have declared.
        queue: Any = app.amqp.queues["celery"](connection.default_channel)
        queue.declare()
        # What a killed worker held comes back when RabbitMQ has noticed its death.
        wait_until(lambda: queue.queue_declare(passive=True).consumer_count == 0, what="workers to be gone")
        queue.purge()
    yield app
    app.close()


@pytest.fixture
def rabbit_worker(rabbitmq_url: str, start_worker: StartWorker) -> RabbitWorker:
    """Starts a worker of `support.shop` on RabbitMQ, with the options given."""

    def start(*options: str) -> CeleryTestWorker:
        return start_worker("support.shop", *options, env={"SEAWALL_BROKER_URL": rabbitmq_url})

    return start


def waiting(app: Celery) -> int:
    """Messages that no worker holds."""
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        return int(channel.queue_declare("celery", passive=True).message_count)


def test_a_critical_task_overtakes_two_hundred_low_ones(
    rabbit_app: Celery, rabbit_worker: RabbitWorker
) -> None:
    rabbit_worker("--concurrency=1")
    rabbit_app.tasks["shop.wait_for"].delay("go", "first")
    wait_until(lambda: shop.journal(rabbit_app), what="the worker to be busy")
    for number in range(200):
        rabbit_app.tasks["shop.low"].delay(f"low {number}")
    rabbit_app.tasks["shop.record"].apply_async(("critical",), priority=Priority.CRITICAL)
    shop.store(rabbit_app).set("go", 1)
    wait_until(lambda: len(shop.journal(rabbit_app)) == 203, timeout=40, what="all tasks")
    lines = shop.journal(rabbit_app)
    assert lines[:3] == ["started first", "finished first", "critical"]
    assert lines[3:] == [f"low {number}" for number in range(200)]


def test_all_ten_priorities_come_highest_first(rabbit_app: Celery, rabbit_worker: RabbitWorker) -> None:
    for priority in range(10):
        rabbit_app.tasks["shop.record"].apply_async((f"{priority}",), priority=priority)
    rabbit_worker("--concurrency=1")
    wait_until(lambda: len(shop.journal(rabbit_app)) == 10, timeout=20, what="all ten")
    assert shop.journal(rabbit_app) == [f"{priority}" for priority in range(9, -1, -1)]


@pytest.mark.timeout(150)
def test_a_task_that_kills_its_process_is_given_up_after_three_deliveries(
    rabbit_app: Celery, rabbit_worker: RabbitWorker
) -> None:
    worker = rabbit_worker("--concurrency=2")
    neighbour = rabbit_app.tasks["shop.wait_for"].delay("go", "neighbour")
    wait_until(lambda: shop.journal(rabbit_app), what="the neighbour to run")
    killer = rabbit_app.tasks["shop.suicidal"].delay()
    with pytest.raises(Poisoned, match=rf"killed its process {DELIVERY_LIMIT} times"):
        killer.get(timeout=90)
    shop.store(rabbit_app).set("go", 1)
    assert neighbour.get(timeout=20) == "neighbour"
    lines = shop.journal(rabbit_app)
    assert lines[1:-1] == ["suicidal, retries 0"] * DELIVERY_LIMIT
    assert (lines[0], lines[-1]) == ("started neighbour", "finished neighbour")
    for strike in range(1, DELIVERY_LIMIT):
        assert f"strike {strike} of {DELIVERY_LIMIT}" in worker.logs()
    worker.kill("SIGTERM")
    assert worker.container.wait(20) == 0
    # RabbitMQ may have given the dead process's message back just now: who receives it knows that it is over.
    worker.container.restart()
    assert rabbit_app.tasks["shop.record"].delay("after").get(timeout=20) == "after"
    wait_until(lambda: waiting(rabbit_app) == 0, timeout=10, what="the queue to be empty")
    worker.kill("SIGTERM")
    assert worker.container.wait(20) == 0
    assert shop.journal(rabbit_app) == [*lines, "after"]


def test_strikes_are_counted_in_a_header_whichever_worker_saw_them(
    rabbit_app: Celery, rabbit_worker: RabbitWorker
) -> None:
    strikes: dict[str, Any] = {STRIKES_HEADER: DELIVERY_LIMIT - 1}
    killer = rabbit_app.tasks["shop.suicidal"].apply_async(headers=strikes)
    rabbit_worker("--concurrency=1")
    with pytest.raises(Poisoned, match=rf"killed its process {DELIVERY_LIMIT} times"):
        killer.get(timeout=60)
    assert shop.journal(rabbit_app) == ["suicidal, retries 0"]


@pytest.mark.parametrize(
    "options",
    [{"headers": {"when": datetime(2026, 1, 1, tzinfo=UTC)}}, {"kwargs": {"padding": "x" * 200_000}}],
)
def test_a_killer_is_given_up_whatever_else_its_message_holds(
    rabbit_app: Celery, rabbit_worker: RabbitWorker, options: dict[str, Any]
) -> None:
    killer = rabbit_app.tasks["shop.suicidal"].apply_async(**options)
    rabbit_worker("--concurrency=1")
    with pytest.raises(Poisoned, match=rf"killed its process {DELIVERY_LIMIT} times"):
        killer.get(timeout=60)
    assert len(shop.journal(rabbit_app)) in {DELIVERY_LIMIT, DELIVERY_LIMIT + 1}


def test_submitting_waits_for_the_brokers_confirmation(rabbit_app: Celery) -> None:
    """Without confirmations, what a full queue refuses would be lost in silence."""
    full = Queue("full", queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    record = rabbit_app.tasks["shop.record"]
    record.apply_async(("the only one",), queue=full)
    with pytest.raises(OperationalError) as refused:
        record.apply_async(("one too many",), queue=full)
    assert isinstance(refused.value.__cause__, MessageNacked)
    with rabbit_app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        assert channel.connection.confirm_publish is True
        assert channel.queue_delete("full") == 1


def test_a_warm_shutdown_loses_nothing_and_repeats_nothing(
    rabbit_app: Celery, rabbit_worker: RabbitWorker
) -> None:
    worker = rabbit_worker("--concurrency=2")
    running = [rabbit_app.tasks["shop.wait_for"].delay("go", f"running {number}") for number in range(2)]
    wait_until(lambda: len(shop.journal(rabbit_app)) == 2, what="two running tasks")
    later = [rabbit_app.tasks["shop.record"].delay(f"later {number}") for number in range(20)]
    worker.kill("SIGTERM")
    worker.wait_for_log("Warm shutdown")
    shop.store(rabbit_app).set("go", 1)
    assert worker.container.wait(20) == 0
    assert [result.get(timeout=5) for result in running] == ["running 0", "running 1"]
    wait_until(
        lambda: waiting(rabbit_app) == len(later), what="the server to put back what it had handed out"
    )
    worker.container.restart()
    assert [result.get(timeout=20) for result in later] == [f"later {number}" for number in range(20)]
    lines = shop.journal(rabbit_app)
    assert len(lines) == len(set(lines)) == 24
