"""A thousand tasks that need a dead service, and a thousand that share limits while cells are killed."""

import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from seawall import submit_many
from support import dependants
from support.nodes import *  # noqa: F403 - its __all__ is its fixtures
from support.nodes import StartWorker, producer_of
from support.shop import store
from support.waiting import busyness, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OUTAGE = 20.0

app = producer_of(dependants.create)


def submitted(app: Celery, task: str, arguments: list[tuple[Any, ...]]) -> "list[AsyncResult[Any]]":
    made: Any = app.tasks[f"dependants.{task}"]
    ids = submit_many((made.s(*one) for one in arguments), app=app)
    return [app.AsyncResult(one) for one in ids]


def moments(app: Celery) -> list[float]:
    found: Any = store(app).lrange("calls", 0, -1)
    return [float(at) for at in found]


def seconds_for_others(app: Celery, many: int) -> float:
    begun = time.monotonic()
    for result in submitted(app, "other", [(number,) for number in range(many)]):
        result.get(timeout=120)
    return time.monotonic() - begun


def others_until(app: Celery, end: float) -> float:
    """How many others a second are done until `end`, submitted as fast as a hundred at a time are."""
    begun, done = time.time(), 0
    while time.time() < end:
        seconds_for_others(app, 100)
        done += 100
    return done / (time.time() - begun)


def test_a_thousand_tasks_outlive_an_outage_and_nobody_else_notices(
    app: Celery, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(4):
        start_worker("support.dependants", "--concurrency=2")
    seconds_for_others(app, 100)
    calm = seconds_for_others(app, 1000)
    calm_rate = others_until(app, time.time() + OUTAGE / 2)
    store(app).set("down", 1)
    breaking = submitted(app, "pay", [(-1,)] * 60)
    wait_until(lambda: len(moments(app)) >= 10, timeout=60)
    opened = time.time()
    wait_until(lambda: time.time() > opened + 1)
    before = len(moments(app))
    waiting = submitted(app, "pay", [(number,) for number in range(1000)])
    beside = seconds_for_others(app, 1000)
    beside_rate = others_until(app, opened + OUTAGE)
    probes = len(moments(app)) - before
    assert not any(result.ready() for result in waiting)
    store(app).delete("down")
    back = time.time()
    assert sorted(result.get(timeout=120) for result in waiting) == list(range(1000))
    done = time.time()
    calls = [at for at in moments(app) if at > back]
    per_tenth = [sum(1 for at in calls if 0 <= at - calls[0] - tick / 10 < 0.1) for tick in range(40)]
    with capsys.disabled():
        print(f"\nothers: {calm_rate:.0f} a second before the outage, {beside_rate:.0f} in it; ", end="")  # noqa: T201
        print(f"1,000 at once {calm:.1f} s before it, {beside:.1f} s in line behind what it parks")  # noqa: T201
        print(f"calls in the outage: {probes}; failed before it opened: ", end="")  # noqa: T201
        print(sum(result.failed() for result in breaking))  # noqa: T201
        print(f"first call {calls[0] - back:.1f} s after the end, all done {done - back:.1f} s")  # noqa: T201
        print(f"calls per 100 ms: {per_tenth}")  # noqa: T201
    assert probes <= 2 + (back - opened) / 1.0
    assert max(per_tenth[:5]) <= max(per_tenth), "it grows"


def ideal(tenants: Sequence[str], *, cells: int, limit: int, each: float) -> float:
    """Seconds that cells need which always start the first task whose tenant has a share free, at no cost."""
    waiting, ends, now = list(tenants), list[tuple[float, str]](), 0.0
    while waiting or ends:
        busy = Counter(tenant for _, tenant in ends)
        free = (place for place, tenant in enumerate(waiting) if busy[tenant] < limit)
        place = next(free, None) if len(ends) < cells else None
        if place is not None:
            heapq.heappush(ends, (now + each, waiting.pop(place)))
        else:
            now, _ = heapq.heappop(ends)
    return now


@pytest.mark.parametrize("order", ["one tenant after the other", "shuffled"])
def test_limits_hold_and_all_tenants_progress_while_cells_are_killed(
    order: str, app: Celery, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    each, many, cells, limit = 0.1, 1000, 8, 3
    tenants = [f"t{number // 50}" for number in range(many)]
    if order == "shuffled":
        random.Random(1).shuffle(tenants)  # noqa: S311 - no secret
    worker = start_worker("support.dependants", f"--concurrency={cells}")
    seconds_for_others(app, 100)
    begun = time.monotonic()
    submitted(app, "serve", [(tenant, each) for tenant in tenants])
    wait_until(lambda: store(app).llen("beside") > many // 4, timeout=120)
    victims = [process.pid for process in worker.container.children()][:2]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: store(app).llen("served") >= many, timeout=300)
    took = time.monotonic() - begun
    served: Any = store(app).lrange("served", 0, -1)
    runs = Counter(line.decode().split()[0] for line in served)
    assert not Counter(tenants) - runs
    assert (runs - Counter(tenants)).total() <= len(victims), "what ended when its cell was killed runs again"
    # Calls to Redis, which the task makes for the test, are its own work too.
    best = ideal(tenants, cells=cells, limit=limit, each=mean(float(line.split()[1]) for line in served))
    nominal = ideal(tenants, cells=cells, limit=limit, each=each)
    lines: Any = store(app).lrange("beside", 0, -1)
    most = max(int(line.split()[1]) for line in lines)
    with capsys.disabled():
        print(f"\n{order}: ideal {best:.1f} s ({nominal:.1f} s at {each} s each), took {took:.1f} s")  # noqa: T201
        print(f"most of a tenant at once: {most}")  # noqa: T201
    assert most == limit
    assert took < 1.1 * best * busyness()
