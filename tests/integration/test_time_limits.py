"""Soft and hard limits end a task at their time, whatever its body does."""

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from celery import Celery

from support import overrun
from support.listening import listening
from support.nodes import StartWorker, producer_of
from support.shop import journal
from support.waiting import busyness, wait_until

SOFT, HARD = 0.6, 1.8  # seconds, on a machine that has time
LATE = 0.5
AT_HARD = {body.__name__ for body in overrun.ENDS_AT_HARD}

SHORT = ("sleep", "catch_and_loop", "hold_the_interpreter", "after_a_nested_task")
LONG = tuple(name for name in overrun.BODIES if name != "query")
KINDS = (
    *("sleep", "spin", "hold_the_interpreter", "catch_and_loop", "finally_more", "swallow_everything"),
    *("wait_for_a_process", "read_a_socket", "wait_for_a_lock", "query"),
)


def options(pool: str) -> list[str]:
    return ["-P", "prefork"] if pool == "prefork" else []


app = producer_of(overrun.create)


def lateness(app: Celery, names: Sequence[str]) -> dict[str, list[float]]:
    """How long after its limit each body was ended, from its own first line to what the worker says."""
    submit: Any = app.tasks["overrun.overrun"].apply_async  # celery-types takes no float limits
    soft, hard = SOFT * (slack := busyness()), HARD * slack  # bodies that catch one have to be there in time
    with listening(app) as seen:
        tasks = [(name, submit((name,), soft_time_limit=soft, time_limit=hard)) for name in names]

        def ends() -> dict[str, float]:
            return {event["uuid"]: event["timestamp"] for event in seen if event["type"] == "task-failed"}

        limit = 20 + 15 * len(names)
        wait_until(lambda: len(ends()) == len(names), timeout=limit, what="every body to be ended")
        ended = ends()
    began = dict(line.split() for line in journal(app))
    late: dict[str, list[float]] = {name: [] for name in names}
    for name, task in tasks:
        due = hard if name in AT_HARD else soft
        late[name].append(ended[task.id] - float(began[task.id]) - due)
    return late


@pytest.mark.parametrize("pool", ["cells", "prefork"])
@pytest.mark.parametrize(
    "names", [pytest.param(SHORT, id="short"), pytest.param(LONG, id="all", marks=pytest.mark.slow)]
)
def test_a_task_ends_at_its_limits_whatever_it_does(
    app: Celery, start_worker: StartWorker, pool: str, names: tuple[str, ...]
) -> None:
    start_worker("support.overrun", "--concurrency=1", "-E", *options(pool))
    late = {name: seconds for name, [seconds] in lateness(app, names).items()}
    most = LATE * busyness()
    assert {name: seconds for name, seconds in late.items() if abs(seconds) > most} == {}


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["cells", "prefork"])
def test_two_hundred_tasks_of_ten_kinds_end_at_their_limits(
    app: Celery, start_worker: StartWorker, database_url: str, pool: str
) -> None:
    """Beside each other, in an order of chance."""
    env = {"OVERRUN_DATABASE": database_url}
    start_worker("support.overrun", "--concurrency=4", "-E", *options(pool), env=env)
    names = list(KINDS) * 20
    random.shuffle(names)
    late = lateness(app, names)
    for name, seconds in late.items():
        print(f"{pool} {name}: {min(seconds):.2f} to {max(seconds):.2f} s late")  # noqa: T201
    most = LATE * busyness()
    assert {name: seconds for name, seconds in late.items() if max(map(abs, seconds)) > most} == {}


@pytest.mark.slow
@pytest.mark.parametrize("past", [SOFT, HARD], ids=["soft", "hard"])
@pytest.mark.parametrize("body", ["catch_and_loop", "swallow_everything", "hold_the_interpreter"])
@pytest.mark.parametrize("pool", ["cells", "prefork"])
def test_a_worker_ends_in_time_although_a_task_has_outlasted_its_limit(
    app: Celery, start_worker: StartWorker, pool: str, body: str, past: float
) -> None:
    worker = start_worker("support.overrun", "--concurrency=2", *options(pool))
    submit: Any = app.tasks["overrun.overrun"].apply_async
    submit((body,), soft_time_limit=SOFT, time_limit=HARD)
    began = float(wait_until(lambda: journal(app), timeout=30, what="the task")[0].split()[1])
    wait_until(lambda: time.time() >= began + past, what="its limit")
    worker.kill("SIGTERM")
    assert worker.container.wait(HARD + 5.0) == 0
