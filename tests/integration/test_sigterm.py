"""SIGTERM ends a worker, in every pool and in every state that a task can bring it into.

A test that finds another such state adds its body to `support.overrun`; what a task may leave of its process
is tried in `test_ruined_cells.py`.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.concurrency.asynpool import AsynPool
from celery.exceptions import TimeLimitExceeded
from kombu.asynchronous import Hub, set_event_loop

from seawall.delivery import Queues
from seawall.delivery.queues import Counts
from seawall.worker.prefork import end_in_time
from support import overrun
from support.nodes import StartWorker, processes_of, producer_of
from support.shop import journal, store
from support.waiting import busyness, wait_until

POOLS = ("cells", "prefork", "threads", "solo", "gevent")
NEVER_END = tuple(overrun.BODIES)
HOLD_ALL = {  # what keeps a whole worker from doing anything, also from settling
    "cells": (),
    "prefork": (),
    "threads": ("hold_the_interpreter", "search"),
    "solo": ("hold_the_interpreter", "search"),
    "gevent": ("hold_the_interpreter", "search", "spin", "catch_and_clean_up"),
}
HARD = 2.0
LATE = 5.0

app = producer_of(overrun.create)


TOO_LARGE_FOR_A_PIPE = "x" * 20_000_000


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes that are stopped by a test: they go on at its end, if they are still there."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def prefork() -> Iterator[tuple[Any, Callable[[Callable[[], object], str], None]]]:
    """A pool of prefork with one process, and what turns its loop until something is so."""
    hub: Any = set_event_loop(Hub())
    pool: Any = AsynPool(processes=1, threads=False, enable_timeouts=True)
    pool.register_with_event_loop(hub)
    hub.call_repeatedly(0.01, lambda: None)
    loop = hub.create_loop()

    def turn_until(condition: Callable[[], object], what: str) -> None:
        wait_until(lambda: next(loop) or condition(), timeout=60, what=what)

    turn_until(lambda: pool._all_inqueues, "the child")
    yield pool, turn_until
    set_event_loop(None)


@pytest.fixture
def half_written(prefork: tuple[Any, Any]) -> tuple[Any, list[int]]:
    """Such a pool whose loop has written a part of a message, and what its tasks return."""
    pool, turn_until = prefork
    returned: list[int] = []
    pool.apply_async(len, (TOO_LARGE_FOR_A_PIPE,), callback=returned.append)
    turn_until(lambda: pool._active_writers, "a part to be written")
    return pool, returned


def test_prefork_ends_where_a_part_of_a_message_is_written(half_written: tuple[Any, list[int]]) -> None:
    pool, returned = half_written
    tasks = SimpleNamespace(_pool=pool)
    end_in_time(tasks)
    end_in_time(tasks)

    def end() -> None:
        pool.close()
        pool.join()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(40)
    assert not ending.is_alive()
    assert returned == [len(TOO_LARGE_FOR_A_PIPE)]


def test_prefork_hears_of_what_a_process_has_got_and_not_begun_when_the_pool_is_flushed(
    prefork: tuple[Any, Any], stopped: list[int]
) -> None:
    """Celery forgets it, and the process runs it, so it ran again."""
    pool, turn_until = prefork
    tasks = SimpleNamespace(_pool=pool)
    end_in_time(tasks)
    [child] = pool._pool
    os.kill(child.pid, signal.SIGSTOP)
    stopped.append(child.pid)
    returned: list[int] = []
    job = pool.apply_async(len, ("four",), callback=returned.append)
    turn_until(lambda: job._write_to and not pool._active_writers, "it to be written")
    tasks.flush()
    os.kill(child.pid, signal.SIGCONT)
    turn_until(lambda: returned, "its end")
    assert returned == [len("four")]
    pool.close()
    pool.join()


def of(pool: str) -> list[str]:
    return [] if pool == "cells" else ["-P", pool]  # Celery's command does not know the name


def counts_of(app: Celery) -> Counts:
    with Queues.open(app.connection_for_read()) as queues:
        return queues.counts("celery")


def begin(app: Celery, bodies: Sequence[str], hard: float = HARD) -> list[Any]:
    """Tasks that run now."""
    submit: Any = app.tasks["overrun.overrun"].apply_async  # celery-types takes no float limits
    tasks = [submit((body,), soft_time_limit=hard / 2, time_limit=hard) for body in bodies]
    wait_until(lambda: len(journal(app)) == len(bodies), timeout=30, what="all of them to run")
    return tasks


@pytest.mark.parametrize(
    ("pool", "bodies"),
    [
        ("threads", ["sleep", "spin", "swallow_everything", "finally_more"]),
        pytest.param("solo", ["swallow_everything"], marks=pytest.mark.slow),
        pytest.param("gevent", ["swallow_everything"], marks=pytest.mark.slow),
    ],
)
def test_sigterm_ends_a_worker_whose_tasks_do_not_end(
    app: Celery, start_worker: StartWorker, pool: str, bodies: list[str]
) -> None:
    worker = start_worker("support.overrun", f"--concurrency={len(bodies)}", *of(pool))
    tasks = begin(app, bodies)
    waiting = [app.tasks["overrun.nothing"].delay() for _ in range(3)]
    worker.kill("SIGTERM")
    assert worker.container.wait(30) == 0
    for task in tasks:
        with pytest.raises(TimeLimitExceeded):
            task.get(timeout=5)
    counts = counts_of(app)
    assert (counts.dead, counts.ready, counts.held) == (len(tasks), len(waiting), 0)


@pytest.mark.slow
@pytest.mark.parametrize("body", NEVER_END)
@pytest.mark.parametrize("pool", POOLS)
def test_sigterm_ends_a_worker_in_time_whatever_its_task_does(
    app: Celery, start_worker: StartWorker, pool: str, body: str
) -> None:
    worker = start_worker("support.overrun", "--concurrency=1", *of(pool))
    begin(app, [body])
    waiting = app.tasks["overrun.nothing"].delay()
    began = time.monotonic()
    worker.kill("SIGTERM")
    worker.container.wait(60)
    assert time.monotonic() - began < (HARD + LATE) * busyness()
    counts = counts_of(app)
    lost = 0 if body in HOLD_ALL[pool] else 1
    assert counts.dead == lost, worker.logs()[-2000:]
    assert counts.ready + counts.held == 2 - lost - waiting.ready()  # a late signal found it done


@pytest.mark.parametrize(
    "pool", [pytest.param(pool, marks=[] if pool == "threads" else pytest.mark.slow) for pool in POOLS]
)
def test_a_task_that_ends_while_its_worker_drains_runs_once(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    worker = start_worker("support.overrun", "--concurrency=2", *of(pool))
    done = app.tasks["overrun.wait_for"].delay("go")
    wait_until(lambda: journal(app), what="it to run")
    worker.kill("SIGTERM")
    wait_until(lambda: "Warm shutdown" in worker.logs(), what="the signal to be heard")
    store(app).set("go", 1)
    assert worker.container.wait(30) == 0
    assert done.get(timeout=5) == "waited"
    counts = counts_of(app)
    assert (counts.ready, counts.held, counts.dead) == (0, 0, 0)


TOO_LARGE_FOR_PIPES = "x" * 4_000_000


@pytest.mark.parametrize("size", [10, len(TOO_LARGE_FOR_PIPES)])
def test_sigterm_ends_a_worker_whose_process_reads_nothing(
    app: Celery, start_worker: StartWorker, size: int, stopped: list[int]
) -> None:
    worker = start_worker("support.overrun", "--concurrency=1", *of("prefork"))
    app.tasks["overrun.nothing"].delay().get(timeout=20)
    wait_until(lambda: counts_of(app).held == 0, what="the pool to hear of its end")
    [child] = processes_of(worker)
    os.kill(child.pid, signal.SIGSTOP)
    stopped.append(child.pid)
    app.tasks["overrun.wait_for"].delay(TOO_LARGE_FOR_PIPES[:size])
    wait_until(lambda: counts_of(app).ready == 0, timeout=30, what="the message to be taken")
    began = time.monotonic()
    worker.kill("SIGTERM")
    worker.container.wait(60)
    assert time.monotonic() - began < LATE * busyness()
    counts = counts_of(app)
    assert (counts.ready, counts.held, counts.dead) == (1, 0, 0)


@pytest.mark.parametrize(
    ("pool", "body"),
    [
        ("prefork", "swallow_everything"),
        *(
            pytest.param(pool, body, marks=pytest.mark.slow)
            for pool in ("cells", "prefork")
            for body in NEVER_END
            if (pool, body) != ("prefork", "swallow_everything")
        ),
    ],
)
def test_sigquit_ends_a_worker_of_processes_whatever_its_task_does(
    app: Celery, start_worker: StartWorker, pool: str, body: str
) -> None:
    worker = start_worker("support.overrun", "--concurrency=1", *of(pool))
    begin(app, [body], hard=300.0)
    began = time.monotonic()
    worker.kill("SIGQUIT")
    worker.container.wait(60)
    assert time.monotonic() - began < LATE * busyness()
    counts = counts_of(app)
    assert (counts.ready + counts.held, counts.dead) == (1, 0)
