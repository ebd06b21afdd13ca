"""A cell whose loop stands still is noticed within seconds, named with its stack, and replaced."""

import re
import time
from pathlib import Path

import pytest
from celery import Celery

from support import deafened
from support.nodes import StartWorker, producer_of
from support.proxy import proxy
from support.waiting import wait_until

app = producer_of(deafened.create)

NAMED = re.compile(r"cell (\d+) \((\w+)\) hears nothing")


def named(log: str) -> list[int]:
    return [int(pid) for pid, _ in NAMED.findall(log)]


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=[] if way in {"lock", "stop"} else pytest.mark.slow)
        for way in sorted(deafened.WAYS)
    ],
)
def test_a_cell_that_a_task_left_deaf_is_named_and_replaced(
    app: Celery, start_worker: StartWorker, way: str
) -> None:
    worker = start_worker("support.deafened", "--concurrency=1")
    pid = app.tasks["deafened.deafen"].delay(way).get(timeout=20)
    wait_until(lambda: named(worker.logs()) == [pid], timeout=15, what="its name")
    assert app.tasks["deafened.nap"].delay(0.0).get(timeout=30) != pid
    if way != "stop":  # a process that is stopped says nothing
        assert "most recent call first" in worker.logs()
        assert "deafened.py" in worker.logs()
    worker.kill("SIGTERM")
    assert worker.container.wait(20) == 0


@pytest.mark.slow
def test_a_cell_that_is_deaf_from_its_birth_is_named_and_replaced(
    app: Celery, start_worker: StartWorker, tmp_path: Path
) -> None:
    env = {"DEAFENED_AT_BIRTH": str(tmp_path / "first")}
    worker = start_worker("support.deafened", "--concurrency=2", env=env)
    results = [app.tasks["deafened.nap"].delay(0.5) for _ in range(4)]
    assert len({each.get(timeout=60) for each in results}) == 1
    wait_until(lambda: named(worker.logs()), timeout=60, what="the name of the one that is deaf")
    wait_until(lambda: len(worker.container.children()) == 2, what="the one in its place")
    again = [app.tasks["deafened.nap"].delay(1.0) for _ in range(6)]
    assert len({each.get(timeout=60) for each in again}) == 2


def test_cells_that_wait_for_a_silent_server_are_left_alone(
    app: Celery, redis_url: str, start_worker: StartWorker
) -> None:
    with proxy(redis_url) as way:
        worker = start_worker("support.deafened", "--concurrency=2", env={"SEAWALL_REDIS_URL": way.url})
        before = {each.pid for each in worker.container.children()}
        busy = app.tasks["deafened.nap"].delay(14.0)
        begun = time.monotonic()
        way.go_deaf()
        wait_until(lambda: time.monotonic() > begun + 14, timeout=30, what="several of the worker's waits")
        way.hear_again()
        assert busy.get(timeout=60) in before
        assert app.tasks["deafened.nap"].delay(0.0).get(timeout=60) in before
        assert named(worker.logs()) == []
