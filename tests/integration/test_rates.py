"""Tasks whose rate limit makes them wait keep no other task waiting, and the rate is kept."""

from typing import Any

import pytest
from celery import Celery

from seawall.delivery import Queues, submit_many
from support import rated
from support.nodes import StartWorker, producer_of
from support.shop import journal
from support.waiting import wait_until

RATED, FREE = 60, 50

app = producer_of(rated.create)


def of(pool: str) -> list[str]:
    return [] if pool == "cells" else ["-P", pool]


@pytest.mark.parametrize(
    "pool",
    [
        "cells",
        "threads",
        *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("prefork", "solo", "gevent")),
    ],
)
def test_others_pass_tasks_that_wait_for_their_rate(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    rated_task, free = app.tasks["rated.slow_rate"], app.tasks["rated.free"]
    submit_many((rated_task.s() for _ in range(RATED)), app=app)
    submit_many((free.s() for _ in range(FREE)), app=app)
    start_worker("support.rated", "--concurrency=2", *of(pool))
    wait_until(lambda: journal(app).count("free") == FREE, timeout=30, what="all that have no rate")
    assert 1 <= journal(app).count("rated") <= 2  # one token for each process
    with Queues.open(app.connection_for_read()) as queues:

        def all_wait_for_their_rate() -> bool:
            counts = queues.counts("celery")
            waiting = counts.held + counts.delayed + journal(app).count("rated")
            return (counts.ready, counts.dead, waiting) == (0, 0, RATED)

        wait_until(all_wait_for_their_rate, timeout=20, what="the others to be settled")


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["cells", "prefork", "threads"])
def test_the_rate_is_kept_and_used(app: Celery, start_worker: StartWorker, pool: str) -> None:
    paced: Any = app.tasks["rated.paced"]
    submit_many((paced.s() for _ in range(RATED)), app=app)
    start_worker("support.rated", "--concurrency=2", *of(pool))
    wait_until(lambda: len(journal(app)) == RATED, timeout=60, what="all of them")
    began = sorted(float(line.split()[1]) for line in journal(app))
    most = max(sum(first <= other < first + 1.0 for other in began) for first in began)
    assert most <= 5 + 2  # the rate, and the token that each process has at its start
    assert (RATED - 2) / 5 * 0.8 < began[-1] - began[0] < RATED / 5 * 2
