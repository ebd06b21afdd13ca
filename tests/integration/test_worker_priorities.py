"""Higher priority first on Redis: declared, per call, and after a redelivery."""

from typing import Any

import pytest
from celery import Celery

from seawall import ConfigError, Priority
from support import shop
from support.nodes import StartWorker
from support.waiting import wait_until


def test_the_queue_is_served_by_priority_declared_or_per_call(
    shop_app: Celery, start_worker: StartWorker
) -> None:
    tasks = shop_app.tasks
    for priority in (2, 9, 4, 7, 1):
        tasks["shop.record"].apply_async((f"{priority}",), priority=priority)
    tasks["shop.low"].delay("declared 3")
    tasks["shop.low"].apply_async(("raised to 8",), priority=8)
    tasks["shop.record"].delay("default 5")
    shop_app.send_task("shop.record", ("by name 6",), priority=6)
    start_worker("support.shop", "--concurrency=1")
    wait_until(lambda: len(shop.journal(shop_app)) == 9, timeout=20, what="all nine")
    order = [int(line.split()[-1]) for line in shop.journal(shop_app)]
    assert order == sorted(order, reverse=True)


def test_priority_zero_comes_last(shop_app: Celery, start_worker: StartWorker) -> None:
    for priority in (0, 1):
        shop_app.tasks["shop.record"].apply_async((f"{priority}",), priority=priority)
    start_worker("support.shop", "--concurrency=1")
    wait_until(lambda: len(shop.journal(shop_app)) == 2, timeout=20, what="both")
    assert shop.journal(shop_app) == ["1", "0"]


@pytest.mark.timeout(90)
def test_a_redelivered_task_keeps_its_priority(shop_app: Celery, start_worker: StartWorker) -> None:
    tasks = shop_app.tasks
    again = tasks["shop.refuses_once"].apply_async(("urgent",), priority=Priority.CRITICAL)
    start_worker("support.shop", "--concurrency=1")
    wait_until(lambda: shop.journal(shop_app), timeout=20, what="the first delivery")
    low = [tasks["shop.low"].delay(f"low {n}") for n in range(50)]
    assert again.get(timeout=60) == "urgent"
    for result in low:
        result.get(timeout=30)
    lines = shop.journal(shop_app)
    assert lines.count("urgent") == 2
    # While the pool was short of its process, at most what was already fetched came first.
    assert lines.index("urgent", 1) <= 4


def test_a_message_that_a_dead_worker_held_keeps_its_priority(
    shop_app: Celery, start_worker: StartWorker
) -> None:
    with shop_app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        for priority in (3, 9):
            shop_app.tasks["shop.record"].apply_async((f"{priority}",), priority=priority)
        first = channel.basic_get("celery")
        assert first.properties["priority"] == 9
        shop_app.tasks["shop.record"].apply_async(("5",), priority=5)
        channel.basic_reject(first.delivery_tag, requeue=True)
    start_worker("support.shop", "--concurrency=1")
    wait_until(lambda: len(shop.journal(shop_app)) == 3, timeout=20, what="all three")
    assert shop.journal(shop_app) == ["9", "5", "3"]


@pytest.mark.parametrize("priority", [11, -1, "URGENT"])
def test_a_priority_out_of_range_submits_nothing(shop_app: Celery, priority: Any) -> None:
    tasks = shop_app.tasks
    with pytest.raises(ConfigError, match="priority="):
        shop_app.send_task("shop.record", ("x",), priority=priority)
    with pytest.raises(ConfigError, match="priority="):
        tasks["shop.record"].apply_async(("x",), priority=priority)
    with pytest.raises(ConfigError, match="priority="):
        tasks["shop.record"].s("x").set(priority=priority).delay()
    assert shop.store(shop_app).keys() == []
