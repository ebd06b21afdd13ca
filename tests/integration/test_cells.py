"""A worker's cells: tasks end as in Celery's pools, limits hold, and whatever dies is replaced."""

import json
import os
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from celery import Celery
from celery.exceptions import (
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    WorkerLostError,
)
from pytest_celery import CeleryTestWorker

from seawall import delivery
from support import hooked, reef
from support.listening import listening
from support.nodes import StartWorker, producer_of
from support.shop import journal, store
from support.waiting import wait_until

SIGNALS = {"REEF_SIGNALS": "1"}

app = producer_of(reef.create)


def cells(worker: CeleryTestWorker) -> list[psutil.Process]:
    return worker.container.children()  # type: ignore[no-any-return]


def heard(app: Celery) -> None:
    """Wait until the worker hears broadcasts: it may say that it is ready a moment earlier."""
    wait_until(lambda: app.control.ping(timeout=1), timeout=60, what="the worker to answer")


def outcome(app: Celery, how: str, *, ends_with: str = "signal task_postrun") -> tuple[str, list[str]]:
    """The state a task ends in and what its hooks and signals told, once they told `ends_with`."""
    runs = 2 if how in {"retry", "requeue"} else 1
    result = app.tasks["reef.act"].delay(how)
    wait_until(lambda: journal(app, result.id).count(ends_with) == runs, timeout=20, what=how)
    if how not in {"ignore", "state"}:
        wait_until(result.ready, timeout=20, what=how)
    return result.state, journal(app, result.id)


@pytest.mark.parametrize("pool", ["cells", pytest.param("prefork", marks=pytest.mark.slow)])
def test_tasks_end_in_cells_as_in_prefork(app: Celery, start_worker: StartWorker, pool: str) -> None:
    options = ["-P", "prefork"] if pool == "prefork" else []
    start_worker("support.reef", "--concurrency=1", *options, env=SIGNALS)
    pre, post = "signal task_prerun", "signal task_postrun"
    assert outcome(app, "well") == (
        "SUCCESS",
        [pre, "on_success well", "signal task_success", "after_return SUCCESS", post],
    )
    assert outcome(app, "fail") == (
        "FAILURE",
        [pre, "on_failure ValueError ['fail']", "signal task_failure", "after_return FAILURE", post],
    )
    state, told = outcome(app, "retry")
    assert state == "SUCCESS"
    assert told[:4] == [pre, "on_retry ValueError", "signal task_retry", post]
    assert outcome(app, "ignore") == ("PENDING", [pre, post])
    assert outcome(app, "state")[0] == "HALFWAY"
    assert outcome(app, "reject")[0] == "FAILURE"
    assert outcome(app, "requeue") == (
        "SUCCESS",
        [pre, post, pre, "on_success requeue", "signal task_success", "after_return SUCCESS", post],
    )
    state, told = outcome(app, "exit", ends_with="signal task_failure")
    assert state == "FAILURE"
    assert told.count("signal task_failure") == 1
    # A delayed one knows when it was due.
    before = datetime.now(UTC)
    due = app.tasks["reef.act"].apply_async(("eta",), countdown=0.5).get(timeout=30)
    assert datetime.fromisoformat(due) >= before + timedelta(seconds=0.5)
    assert app.tasks["reef.act"].delay("eta").get(timeout=30) == "None"


def test_limits_fail_a_task_once_and_no_other(app: Celery, start_worker: StartWorker) -> None:
    start_worker("support.reef", "--concurrency=1", "-E", env=SIGNALS)
    with listening(app) as seen:
        soft = app.tasks["reef.nap"].apply_async((30,), soft_time_limit=1, time_limit=60)
        hard = app.tasks["reef.nap"].apply_async((30,), time_limit=1)
        after = app.tasks["reef.mark"].delay("after")
        with pytest.raises(SoftTimeLimitExceeded):
            soft.get(timeout=20)
        with pytest.raises(TimeLimitExceeded):
            hard.get(timeout=20)
        assert after.get(timeout=20) == "after"
        wait_until(lambda: set(failures(seen)) >= {soft.id, hard.id}, timeout=20, what="both failures")
    told = journal(app)
    assert Counter(failures(seen)) == {soft.id: 1, hard.id: 1}
    assert told.count("signal task_failure") == 2
    assert told.count("on_failure TimeLimitExceeded [30]") == 1
    assert told.count("soft") == 1
    assert len([line for line in told if line.startswith("nap of")]) == 2


@pytest.mark.parametrize("pool", ["cells", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_hard_limit_alone_ends_a_task_in_its_time_and_once(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    """The default soft limit, which is longer, has no part in it."""
    options = ["-P", "prefork"] if pool == "prefork" else []
    start_worker("support.reef", "--concurrency=2", "-E", *options, env=SIGNALS)
    with listening(app) as seen:
        by_call = app.tasks["reef.nap"].apply_async((60,), time_limit=1)
        by_message = app.send_task("reef.nap", (60,), time_limit=1)
        for result in (by_call, by_message):
            wait_until(result.ready, timeout=20, what="the end")
            assert isinstance(result.result, TimeLimitExceeded)
        after = app.tasks["reef.mark"].delay("after")
        assert after.get(timeout=20) == "after"
        wait_until(lambda: set(failures(seen)) == {by_call.id, by_message.id}, what="both failures")
    assert len(failures(seen)) == 2
    told = journal(app)
    assert told.count("signal task_failure") == 2
    assert told.count("on_failure TimeLimitExceeded [60]") == 2
    assert told.count("soft") == 0


def failures(seen: list[dict[str, Any]]) -> list[str]:
    """The ids of the tasks that failed, one for each event."""
    return [event["uuid"] for event in seen if event["type"] == "task-failed"]


def test_a_task_that_holds_the_interpreter_keeps_its_lease_and_nothing_else(
    app: Celery, start_worker: StartWorker
) -> None:
    start_worker("support.reef", "--concurrency=2")
    app.tasks["reef.mark"].delay("warm").get(timeout=20)
    marks = [app.tasks["reef.mark"].s(f"quick {number}") for number in range(200)]
    app.tasks["reef.grip"].apply_async((3.0,), priority=9)
    wait_until(lambda: "grip" in journal(app), what="the long task")
    delivery.submit_many(marks, app=app)
    wait_until(
        lambda: len(journal(app)) >= 202, timeout=2.5, what="the short tasks, before the long one ends"
    )
    wait_until(lambda: not store(app).hlen("seawall:{celery}:messages"), what="the long task's end")
    assert journal(app).count("grip") == 1


def test_a_dead_cell_is_replaced_and_its_task_runs_again(app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.reef", "--concurrency=1")
    result = app.tasks["reef.nap"].delay(1.0)
    line = wait_until(lambda: [told for told in journal(app) if told.startswith("nap of")], what="the task")[
        0
    ]
    first = int(line.split()[-1])
    os.kill(first, signal.SIGKILL)
    assert result.get(timeout=20) == "rested"
    pids = [int(told.split()[-1]) for told in journal(app) if told.startswith("nap of")]
    assert len(pids) == 2
    assert pids[0] != pids[1]
    assert len(cells(worker)) == 1


def test_a_task_without_late_acknowledgement_fails_with_its_cell(
    app: Celery, start_worker: StartWorker
) -> None:
    worker = start_worker("support.reef", "--concurrency=1")
    result = app.tasks["reef.early"].delay()
    wait_until(lambda: "early" in journal(app), what="the task")
    cells(worker)[0].kill()
    with pytest.raises(WorkerLostError):
        result.get(timeout=20)
    assert journal(app).count("early") == 1


def test_a_task_that_succeeded_here_does_not_run_when_it_comes_again(
    app: Celery, start_worker: StartWorker
) -> None:
    """Its result is not stored: only the cell itself can know."""
    start_worker("support.reef", "--concurrency=1", env={"REEF_QUIET": "1"})
    heard(app)
    mark = app.tasks["reef.mark"]
    again: Any = {"task_id": "twice", "queue": "side", "ignore_result": True}
    app.control.add_consumer("side", reply=True, limit=1, timeout=20)
    mark.apply_async(("once",), **again)
    wait_until(lambda: journal(app).count("once"), timeout=20, what="the first time")
    app.control.cancel_consumer("side", reply=True, limit=1, timeout=20)
    wait_until(lambda: not store(app).zcard("seawall:{side}:consumers"), timeout=20, what="leaving")
    mark.apply_async(("once",), **again)
    with app.connection_for_read() as connection:  # it comes back from somebody, and is marked by that
        channel: Any = connection.channel()
        channel.basic_get("side").requeue()
        channel.close()
    app.control.add_consumer("side", reply=True, limit=1, timeout=20)
    assert mark.apply_async(("done",), queue="side").get(timeout=20) == "done"
    assert [line for line in journal(app) if line in {"once", "done"}] == ["once", "done"]


def test_a_cell_leaves_after_its_share_of_tasks(app: Celery, start_worker: StartWorker) -> None:
    start_worker("support.reef", "--concurrency=1", "--max-tasks-per-child=2")
    for _ in range(6):
        app.tasks["reef.nap"].delay(0).get(timeout=20)
    pids = Counter(line for line in journal(app) if line.startswith("nap of"))
    assert sorted(pids.values()) == [2, 2, 2]


@pytest.mark.parametrize("when", ["at once", "later"])
def test_cells_that_die_with_nothing_in_hand_are_forked_ever_more_slowly(
    app: Celery, start_worker: StartWorker, when: str
) -> None:
    worker = start_worker("support.reef", "--concurrency=1", env={"REEF_STILLBORN": when})
    wait_until(lambda: worker.logs().count("ended at its start") >= 3, timeout=30, what="three reports")
    assert "exitcode 7" in worker.logs()
    worker.kill("SIGTERM")
    assert worker.container.wait(20) == 0


@pytest.mark.parametrize("signals", [["SIGQUIT"], pytest.param(["SIGINT", "SIGINT"], marks=pytest.mark.slow)])
def test_a_cold_shutdown_gives_back_what_runs(
    app: Celery, start_worker: StartWorker, signals: list[str]
) -> None:
    worker = start_worker("support.reef", "--concurrency=2")
    result = app.tasks["reef.nap"].delay(2.0)
    wait_until(lambda: journal(app), what="the task")
    running = cells(worker)
    for signum in signals:
        worker.kill(signum)
        if len(signals) > 1:
            worker.wait_for_log("cold shutdown")
    worker.container.wait(20)
    assert not [cell for cell in running if cell.is_running() and cell.status() != psutil.STATUS_ZOMBIE]
    start_worker("support.reef", "--concurrency=1")
    assert result.get(timeout=20) == "rested"
    # It went back at no charge: it never came near the limit of deliveries.
    histories: Any = store(app).hvals("seawall:{celery}:history")
    assert not any(json.loads(history)["strikes"] for history in histories)


def test_a_cold_shutdown_may_fall_into_a_look_at_memory(app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.reef", "--concurrency=1", env={"REEF_SLOW_BOARD": "1"})
    app.tasks["reef.nap"].delay(60.0)
    wait_until(lambda: journal(app), timeout=20, what="the task")
    store(app).set("look", 1)
    wait_until(lambda: store(app).exists("looking"), timeout=20, what="a look")
    worker.kill("SIGQUIT")
    worker.container.wait(20)


def test_a_soft_shutdown_lets_short_tasks_end(app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.reef", "--concurrency=2", env={"REEF_SOFT_SHUTDOWN": "5"})
    short = app.tasks["reef.nap"].delay(1.0)
    wait_until(lambda: journal(app), what="the task")
    worker.kill("SIGQUIT")
    worker.container.wait(20)
    assert short.get(timeout=1) == "rested"
    assert sum(line.startswith("nap of") for line in journal(app)) == 1


@pytest.mark.slow  # while they are busy: see the tests of remote control
def test_queues_come_and_go_in_every_cell(app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.reef", "--concurrency=2")
    heard(app)
    before = cells(worker)
    app.control.add_consumer("side", reply=True, limit=1, timeout=20)
    assert app.tasks["reef.mark"].apply_async(("side",), queue="side").get(timeout=20) == "side"
    app.control.cancel_consumer("celery", reply=True, limit=1, timeout=20)
    wait_until(lambda: not store(app).zcard("seawall:{celery}:consumers"), timeout=20, what="leaving")
    waiting = app.tasks["reef.mark"].delay("waiting")
    assert app.tasks["reef.mark"].apply_async(("again",), queue="side").get(timeout=20) == "again"
    assert not waiting.ready()
    assert cells(worker) == before


@pytest.mark.slow
def test_the_pool_grows_and_shrinks(app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.reef", "--concurrency=1")
    heard(app)
    app.control.pool_grow(2, reply=True, limit=1, timeout=20)
    wait_until(lambda: len(cells(worker)) == 3, what="three cells")
    app.control.pool_shrink(2, reply=True, limit=1, timeout=20)
    wait_until(lambda: len(cells(worker)) == 1, what="one cell")
    assert app.tasks["reef.mark"].delay("still").get(timeout=20) == "still"


def test_autoscale_follows_the_work(app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.reef", "--autoscale=3,1")
    naps = [app.tasks["reef.nap"].delay(6.0) for _ in range(3)]
    wait_until(lambda: len(journal(app)) == 3, timeout=20, what="three naps at a time")
    assert len(cells(worker)) == 3
    assert [nap.get(timeout=20) for nap in naps] == ["rested"] * 3


@pytest.mark.parametrize("pool", ["cells", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_new_process_has_run_its_hooks_and_keeps_what_they_put_around_a_task(
    redis_url: str, start_worker: StartWorker, pool: str
) -> None:
    options = ["-P", "prefork"] if pool == "prefork" else []
    worker = start_worker("support.hooked", "--concurrency=1", *options)
    with hooked.create(redis_url) as app:
        ask = app.tasks["hooked.ask"]
        first = ask.delay().get(timeout=20)
        os.kill(first, signal.SIGKILL)
        second = wait_until(lambda: ask.delay().get(timeout=20), timeout=20, what="the next process")
        assert second != first
        both = {str(first).encode(), str(second).encode()}
        assert both <= set(store(app).lrange("hook", 0, -1))
        assert both <= set(store(app).lrange("traced", 0, -1))
    assert "closed pool" not in worker.logs()
