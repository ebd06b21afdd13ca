"""Tasks with a `Strategy` of their own gather what they ask for, and nothing of it is lost or run twice."""

import signal
from typing import Any

import pytest
from celery import Celery

from seawall.delivery import Queues
from support import gathered
from support.nodes import StartWorker, producer_of
from support.shop import JOURNAL, journal, store
from support.waiting import busyness, lease, wait_until

MANY = 25

app = producer_of(gathered.create)

needs_package = pytest.mark.skipif(not gathered.BATCHES, reason="needs celery-batches (make tools)")
TASKS = [
    "gathered.own",
    pytest.param("gathered.batches", marks=[needs_package, pytest.mark.slow]),
]
POOLS = [
    ("gathered.own", "cells"),
    pytest.param("gathered.batches", "cells", marks=needs_package),
    *(pytest.param("gathered.own", pool, marks=pytest.mark.slow) for pool in ("prefork", "threads")),
    *(
        pytest.param("gathered.batches", pool, marks=[needs_package, pytest.mark.slow])
        for pool in ("prefork", "threads")
    ),
]


def submit(app: Celery, name: str, first: int = 0, after: int = MANY, word: str | None = None) -> list[Any]:
    """Those with the numbers from `first` up to `after`; the first of them has `word`."""
    task: Any = app.tasks[name]
    words = [[word] if word and number == first else [] for number in range(first, after)]
    return [task.delay(first + place, *each) for place, each in enumerate(words)]


def sizes(app: Celery) -> list[int]:
    return [int(line.split()[1]) for line in journal(app) if line.startswith("batch")]


def counts(app: Celery) -> Any:
    with Queues.open(app.connection_for_read()) as queues:
        return queues.counts("celery")


def settled(app: Celery) -> bool:
    found = counts(app)
    return (found.ready, found.held, found.delayed) == (0, 0, 0)


def runs_of(app: Celery, number: int) -> int:
    return int(store(app).llen(f"{JOURNAL} of {number}"))


@pytest.mark.parametrize(("name", "pool"), POOLS)
def test_batches_are_as_large_as_they_ask_for(
    app: Celery, start_worker: StartWorker, name: str, pool: str
) -> None:
    submit(app, name)
    seconds = 3 * busyness()  # in which those that wait arrive one after the other
    options = [] if pool == "cells" else ["-P", pool]
    start_worker("support.gathered", "--concurrency=1", *options, env={"GATHERED_FOR": str(seconds)})
    wait_until(lambda: sum(sizes(app)) >= MANY, timeout=30 + seconds, what="all batches")
    assert sizes(app) == [10, 10, 5]
    wait_until(lambda: settled(app), what="the last acknowledgement")


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_that_fails_is_done_with_and_one_that_kills_its_cell_is_counted_for_each_message(
    app: Celery, start_worker: StartWorker, name: str
) -> None:
    submit(app, name, after=10, word="fail")
    start_worker("support.gathered", "--concurrency=1")
    wait_until(lambda: sizes(app) == [10] and settled(app), timeout=30, what="the batch, as in prefork")
    submit(app, name, 10, 20)
    wait_until(lambda: sizes(app) == [10, 10] and settled(app), timeout=30, what="the next batch")
    submit(app, name, 20, 30, word="kill")
    wait_until(lambda: counts(app).dead == 10, timeout=40, what="the limit of three")
    assert sizes(app) == [10] * 5
    with Queues.open(app.connection_for_read()) as queues:
        assert [len(letter.history) for letter in queues.dead_letters("celery")] == [3] * 10
    assert settled(app)


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_whose_cell_is_killed_once_runs_again(
    app: Celery, start_worker: StartWorker, name: str
) -> None:
    submit(app, name, after=10, word="kill once")
    start_worker("support.gathered", "--concurrency=2")
    wait_until(lambda: runs_of(app, 9) == 1 and settled(app), timeout=40, what="all of them")
    assert [runs_of(app, number) for number in range(10)] == [2] + [1] * 9
    assert counts(app).dead == 0


def test_what_is_gathered_goes_back_when_the_worker_ends(app: Celery, start_worker: StartWorker) -> None:
    submit(app, "gathered.own", after=7)
    worker = start_worker("support.gathered", "--concurrency=1", env={"GATHERED_FOR": "600"})
    wait_until(lambda: counts(app).held == 7, timeout=30, what="all seven")
    worker.kill(signal.SIGTERM)
    assert worker.container.wait(30 * busyness()) == 0
    found = counts(app)
    assert (found.ready, found.held, found.dead) == (7, 0, 0)
    start_worker("support.gathered", "--concurrency=1")
    wait_until(lambda: sizes(app) == [7], timeout=30, what="the next worker")


def test_other_tasks_pass_what_is_gathered_and_take_nothing_of_it(
    app: Celery, start_worker: StartWorker
) -> None:
    """Also one that runs so long that everything else its cell has claimed is given back."""
    free: Any = app.tasks["gathered.free"]
    submit(app, "gathered.own", after=5)
    start_worker("support.gathered", "--concurrency=1", env={"GATHERED_FOR": "600"})
    wait_until(lambda: counts(app).held == 5, timeout=30, what="the first five")
    for _ in range(10):
        free.delay(0.3)
    wait_until(lambda: journal(app).count("free") == 10, timeout=40, what="the others")
    submit(app, "gathered.own", 5, 10)
    wait_until(lambda: sizes(app) == [10] and settled(app), timeout=30, what="the batch")
    assert [runs_of(app, number) for number in range(10)] == [1] * 10


@pytest.mark.slow
def test_what_is_gathered_for_longer_than_its_lease_runs_once(app: Celery, start_worker: StartWorker) -> None:
    seconds = lease(1.0)
    submit(app, "gathered.own", after=7)
    environment = {"GATHERED_LEASE": str(seconds), "GATHERED_FOR": str(seconds * 3)}
    start_worker("support.gathered", "--concurrency=2", env=environment)
    wait_until(lambda: sum(sizes(app)) >= 7 and settled(app), timeout=60, what="both cells")
    assert [runs_of(app, number) for number in range(7)] == [1] * 7


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_that_is_acknowledged_first_is_lost_with_its_cell_and_each_caller_is_told(
    app: Celery, start_worker: StartWorker, name: str
) -> None:
    results = submit(app, name, after=10, word="kill")
    start_worker("support.gathered", "--concurrency=1", env={"GATHERED_EARLY": "1"})
    wait_until(lambda: all(each.state == "FAILURE" for each in results), timeout=15, what="all ten")
    assert sizes(app) == [10]
    assert settled(app)


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_that_outlasts_its_hard_limit_fails_for_each_caller(
    app: Celery, start_worker: StartWorker, name: str
) -> None:
    results = submit(app, name, after=10, word="hang")
    start_worker("support.gathered", "--concurrency=1", env={"GATHERED_LIMIT": "1"})
    wait_until(lambda: all(each.state == "FAILURE" for each in results), timeout=15, what="all ten")
    assert {type(each.result).__name__ for each in results} == {"TimeLimitExceeded"}
    assert sizes(app) == [10]
    wait_until(lambda: settled(app), what="the last acknowledgement")
