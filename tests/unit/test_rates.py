"""Where requests wait whose task has a rate limit."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.consumer import Consumer
from kombu.utils.limits import TokenBucket

from seawall.worker import rates

CONSUMER: Any = Consumer  # celery-types knows nothing of its buckets


class Window:
    """The prefetch window: how far it was widened."""

    beside = 0

    def increment_eventually(self) -> None:
        self.beside += 1

    def decrement_eventually(self) -> None:
        self.beside -= 1


class Stage(SimpleNamespace):
    """A consumer as far as a step for rates needs one, and what became of the requests."""

    def __init__(self) -> None:
        super().__init__(qos=Window(), task_buckets={}, timer=SimpleNamespace(call_after=self.due))
        self.started: list[Any] = []
        self.put_aside: dict[str, float] = {}
        self.returned: list[str] = []
        self.timers: list[Any] = []
        self._limit_order = 0
        self._limit_move_to_pool = self.started.append

    def due(self, _seconds: float, call: Any, arguments: tuple[Any, ...], **_: Any) -> None:
        self.timers.append((call, arguments))

    def _schedule_bucket_request(self, bucket: Any) -> None:
        CONSUMER._schedule_bucket_request(self, bucket)

    def bucket(self, rate: float) -> Any:
        made = self.task_buckets["task"] = TokenBucket(rate, capacity=1)
        return made


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()

    def set_aside(request: Any, seconds: float, reason: str) -> None:
        made.put_aside[request.id] = seconds

    monkeypatch.setattr(rates, "set_aside", set_aside)
    monkeypatch.setattr(rates, "give_back", lambda request: made.returned.append(request.id))
    rates.Rates(made, clock=lambda: 100.0)
    return made


class Asked:
    """A request of a task that has a rate."""

    name = "task"
    task = SimpleNamespace(rate_limit="some")

    def __init__(self, task_id: str, *, came_back: bool = False) -> None:
        self.id = task_id
        self.came_back = came_back


def test_one_starts_some_wait_beside_the_window_and_the_others_go_back_until_their_turn(
    stage: Stage,
) -> None:
    bucket = stage.bucket(2.0)
    for number in range(6):
        stage._limit_task(Asked(str(number)), bucket, 1)
    assert [request.id for request in stage.started] == ["0"]
    assert [request.id for request, _ in bucket.contents] == ["1", "2"]
    assert stage.qos.beside == 2
    assert stage.put_aside == {"3": 1.0, "4": 1.5, "5": 2.0}
    assert len(stage.timers) == 1


def test_one_that_came_back_waits_for_a_turn_among_its_like(stage: Stage) -> None:
    bucket = stage.bucket(1.0)
    for number in range(50):
        stage._limit_task(Asked(str(number)), bucket, 1)
    for number in range(3):
        stage._limit_task(Asked(f"again {number}", came_back=True), bucket, 1)
    assert stage.put_aside["49"] == 48.0
    assert [stage.put_aside[f"again {number}"] for number in range(3)] == [1.0, 2.0, 3.0]


def test_a_token_starts_the_next_and_narrows_the_window_again(stage: Stage) -> None:
    bucket = stage.bucket(2.0)
    for number in range(3):
        stage._limit_task(Asked(str(number)), bucket, 1)
    bucket._tokens = 1
    call, arguments = stage.timers.pop()
    call(*arguments)
    assert [request.id for request in stage.started] == ["0", "1"]
    assert stage.qos.beside == 1


def test_what_waits_can_be_given_back(stage: Stage) -> None:
    bucket = stage.bucket(5.0)
    for number in range(4):
        stage._limit_task(Asked(str(number)), bucket, 1)
    assert stage.rates.waiting == 3
    stage.rates.give_back()
    assert stage.returned == ["1", "2", "3"]
    assert (stage.rates.waiting, stage.qos.beside, len(bucket.contents)) == (0, 0, 0)
