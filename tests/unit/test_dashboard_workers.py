"""What Flower shows of workers that are gone, and of their tasks."""

import time
from typing import Any

import pytest
from flower.events import EventsState

from seawall.dashboard import GONE, Attendance

WORKER = "gone@here"


class Cluster:
    """Flower's state, and what it is told."""

    def __init__(self) -> None:
        self.state: Any = EventsState(max_tasks_in_memory=100)
        self.asked: list[str] = []
        self.attendance = Attendance(self.state, lambda: self.asked.append("who is there"))

    def tell(self, kind: str, at: float, **fields: Any) -> None:
        event = {"type": kind, "hostname": WORKER, "timestamp": at, "local_received": at, "clock": 1}
        event.update(fields)
        self.state.event(event)
        if kind.startswith("worker-"):
            self.attendance.hear(event)

    def begin(self, task: str, at: float) -> None:
        self.tell("task-received", at, uuid=task, name="shop.charge")
        self.tell("task-started", at + 1, uuid=task, name="shop.charge")

    def gauge(self, name: str) -> float:
        return float(getattr(self.state.metrics, name).labels(WORKER)._value.get())


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_new_process_of_a_worker_has_no_task_of_the_old_one(cluster: Cluster) -> None:
    now = time.time()
    cluster.begin("lost", now - 20)
    cluster.tell("worker-online", now - 10)
    task = cluster.state.tasks["lost"]
    assert (task.state, task.exception) == ("RETRY", GONE)
    cluster.begin("lost", now - 8)
    assert task.state == "STARTED"
    cluster.tell("task-succeeded", now - 6, uuid="lost", name="shop.charge", result="1", runtime=1.0)
    assert task.state == "SUCCESS"


def test_a_worker_that_is_silent_for_long_has_no_tasks_and_is_not_online(cluster: Cluster) -> None:
    now = time.time()
    cluster.tell("worker-heartbeat", now, active=1, freq=2.0)
    cluster.begin("lost", now - 500)
    cluster.state.workers[WORKER].heartbeats[:] = [now - 30]  # a busy machine
    cluster.attendance.look()
    assert cluster.state.tasks["lost"].state == "STARTED"
    assert (cluster.gauge("worker_online"), cluster.state.workers[WORKER].active) == (1, 1)

    cluster.state.workers[WORKER].heartbeats[:] = [now - 500]
    cluster.attendance.look()
    assert cluster.state.tasks["lost"].state == "RETRY"
    assert not cluster.state.workers[WORKER].alive
    assert (cluster.gauge("worker_online"), cluster.state.workers[WORKER].active) == (0, 0)
    assert cluster.gauge("worker_number_of_currently_executing_tasks") == 0


def test_a_worker_that_drains_has_its_tasks_until_they_end(cluster: Cluster) -> None:
    now = time.time()
    cluster.tell("worker-heartbeat", now - 1, active=1, freq=2.0)
    cluster.begin("drained", now - 3)
    cluster.tell("worker-offline", now)
    cluster.attendance.look()
    assert cluster.state.tasks["drained"].state == "STARTED"


def test_workers_are_asked_once_for_each_process(cluster: Cluster) -> None:
    now = time.time()
    for kind in ("online", "heartbeat", "heartbeat", "online", "heartbeat"):
        cluster.tell(f"worker-{kind}", now, active=0, freq=2.0)
    assert len(cluster.asked) == 2
