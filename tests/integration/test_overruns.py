"""Pools that cannot stop a task: what is said at the start, and what becomes of one that overruns."""

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TimeLimitExceeded

from seawall.delivery import Queues
from support import overrun
from support.nodes import StartWorker, producer_of
from support.shop import journal, store
from support.waiting import wait_until

app = producer_of(overrun.create)


def test_a_task_beyond_its_hard_limit_is_named_and_its_worker_ends_after_the_others(
    app: Celery, start_worker: StartWorker
) -> None:
    worker = start_worker("support.overrun", "--concurrency=3", "-P", "threads")
    innocent = app.tasks["overrun.wait_for"].delay("go")
    submit: Any = app.tasks["overrun.overrun"].apply_async  # celery-types takes no float limits
    task = submit(("sleep",), soft_time_limit=0.3, time_limit=0.6)
    worker.wait_for_log("takes nothing new")
    wait_until(lambda: not app.control.ping(timeout=0.5), timeout=20, what="the worker to leave its queues")
    later = app.tasks["overrun.nothing"].delay()
    store(app).set("go", 1)
    assert worker.container.wait(30) == 1
    assert innocent.get(timeout=5) == "waited"
    with pytest.raises(TimeLimitExceeded):
        task.get(timeout=5)
    assert f"Soft time limit (0.3s) exceeded for overrun.overrun[{task.id}]" in worker.logs()
    assert f"Hard time limit (0.6s) exceeded for overrun.overrun[{task.id}]" in worker.logs()
    with Queues.open(app.connection_for_read()) as queues:
        counts = queues.counts("celery")
        assert [letter.task for letter in queues.dead("celery")] == ["overrun.overrun"]
    assert (counts.ready, counts.held) == (1, 0)
    worker.container.restart()
    assert later.get(timeout=20) is None
    assert len(journal(app)) == 2


@pytest.mark.slow
def test_a_task_that_overran_and_ends_keeps_its_outcome(app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.overrun", "--concurrency=2", "-P", "threads")
    submit: Any = app.tasks["overrun.wait_for"].apply_async
    late = submit(("late",), soft_time_limit=0.3, time_limit=0.6)
    other = app.tasks["overrun.wait_for"].delay("other")
    worker.wait_for_log("takes nothing new")
    store(app).set("late", 1)
    assert late.get(timeout=20) == "waited"
    store(app).set("other", 1)
    assert worker.container.wait(30) == 1
    assert other.get(timeout=5) == "waited"
