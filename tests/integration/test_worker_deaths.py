"""Tasks that run out of memory or time, or kill what runs them, and workers that are told to stop."""

import re
import signal

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from seawall import MemoryBudgetExceeded, Poisoned
from seawall.delivery import Queues
from seawall.worker.request import DELIVERY_LIMIT
from support import shop
from support.nodes import StartWorker, processes_of
from support.processes import alive
from support.waiting import wait_until


def test_a_task_out_of_memory_fails_alone(shop_app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.shop", "--concurrency=1")
    with pytest.raises(MemoryBudgetExceeded, match="no 12 GiB left"):
        shop_app.tasks["shop.greedy"].delay().get(timeout=20)
    assert shop_app.tasks["shop.add"].delay(1, 1).get(timeout=20) == 2
    assert worker.container.status == "running"


def test_the_soft_time_limit_may_be_handled_and_the_hard_one_may_not(
    shop_app: Celery, start_worker: StartWorker
) -> None:
    start_worker("support.shop", "--concurrency=2")
    deaf = shop_app.tasks["shop.stubborn"].delay()
    assert shop_app.tasks["shop.patient"].delay().get(timeout=20) == "tidied up"
    with pytest.raises((TimeLimitExceeded, SoftTimeLimitExceeded), match=r"1\.5"):
        deaf.get(timeout=30)
    assert shop.journal(shop_app) == ["soft limit ignored"]
    assert shop_app.tasks["shop.add"].delay(1, 1).get(timeout=20) == 2


@pytest.mark.timeout(120)
def test_a_task_that_kills_its_process_is_given_up_after_three_deliveries(
    shop_app: Celery, start_worker: StartWorker
) -> None:
    start_worker("support.shop", "--concurrency=2")
    neighbour = shop_app.tasks["shop.wait_for"].delay("go", "neighbour")
    wait_until(lambda: shop.journal(shop_app), what="the neighbour to run")
    killer = shop_app.tasks["shop.suicidal"].delay()
    with pytest.raises(Poisoned, match=rf"killed its process {DELIVERY_LIMIT} times"):
        killer.get(timeout=90)
    with Queues.open(shop_app.connection_for_read()) as queues:
        (letter,) = queues.dead("celery")
    assert re.match(
        rf"killed its process {DELIVERY_LIMIT} times, the last time with: .*signal 9", letter.reason
    )
    shop.store(shop_app).set("go", 1)
    assert neighbour.get(timeout=20) == "neighbour"
    lines = shop.journal(shop_app)
    assert lines.count("suicidal, retries 0") == DELIVERY_LIMIT
    assert len([line for line in lines if "suicidal" in line]) == DELIVERY_LIMIT
    assert lines.count("started neighbour") == 1


def test_a_sigkilled_worker_leaves_no_child_behind(shop_app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.shop", "--concurrency=2")
    shop_app.tasks["shop.wait_for"].delay("never", "running")
    wait_until(lambda: shop.journal(shop_app), what="a running task")
    children = [child for child in processes_of(worker) if child.pid != worker.container.pid]
    worker.container.client.send_signal(signal.SIGKILL)  # the main process alone, as the kernel would
    wait_until(lambda: not alive(children), timeout=5, what="the children to die with their worker")


def test_sigterm_lets_running_tasks_finish(shop_app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.shop", "--concurrency=1")
    running = shop_app.tasks["shop.wait_for"].delay("go", "running")
    wait_until(lambda: shop.journal(shop_app), what="a running task")
    worker.kill("SIGTERM")
    worker.wait_for_log("Warm shutdown")
    # The line comes before its cells are told; when nobody answers any more they are.
    wait_until(lambda: not shop_app.control.ping(timeout=0.5), timeout=20, what="the worker to leave")
    waiting = shop_app.tasks["shop.record"].delay("waiting")
    shop.store(shop_app).set("go", 1)
    assert running.get(timeout=20) == "running"
    assert worker.container.wait(20) == 0
    assert shop.journal(shop_app) == ["started running", "finished running"]
    worker.container.restart()
    assert waiting.get(timeout=20) == "waiting"


def test_a_pickled_message_is_refused_unread_and_named_in_the_log(
    shop_app: Celery, start_worker: StartWorker
) -> None:
    worker = start_worker("support.shop", "--concurrency=1")
    shop_app.tasks["shop.record"].apply_async(("unpickled",), serializer="pickle")
    assert shop_app.tasks["shop.add"].delay(1, 1).get(timeout=20) == 2
    worker.assert_log_exists("Refusing to deserialize")
    assert re.search("ContentDisallowed|disabled content of type pickle", worker.logs())
    assert shop.journal(shop_app) == []
    # Celery acknowledges what it refuses: nothing is left to be delivered for ever.
    wait_until(lambda: not shop.store(shop_app).hlen("unacked"), what="both messages to be settled")
