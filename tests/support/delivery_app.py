"""A Celery app whose tasks leave marks in a file: what started, what ended, and when.

Configured by the environment, because workers are processes: DELIVERY_BROKER, DELIVERY_TRANSPORT ("stock" or
"ours"), DELIVERY_OPTIONS (JSON), DELIVERY_MARKS (a file) and DELIVERY_CONF (JSON, further Celery settings).
"""

import json
import os
import signal
import time
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.worker import state
from celery.worker.request import Request

from seawall import delivery
from seawall.worker.lifecycle import leave_in_time

app = Celery("delivery", broker=os.environ.get("DELIVERY_BROKER", "redis://localhost:1"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_transport_options=json.loads(os.environ.get("DELIVERY_OPTIONS", "{}")),
)
app.conf.update(json.loads(os.environ.get("DELIVERY_CONF", "{}")))
signals.worker_process_init.connect(leave_in_time)  # as in every Seawall app


class CountedRequest(Request):
    """What a worker must tell delivery, and nothing else."""

    def on_accepted(self, pid: Any, time_accepted: float) -> Any:
        delivery.started(self.message)
        return super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: FBT002
        exc = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(exc, WorkerLostError) and delivery.strike(self.message, str(exc)):
            state.task_ready(self)
            return None
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


if os.environ.get("DELIVERY_TRANSPORT", "ours") == "ours":
    app.conf.broker_transport = delivery.transport_for(app.conf.broker_url)
    app.Task.Request = CountedRequest  # type: ignore[assignment]
else:
    app.conf.broker_transport = "redis"


def mark(kind: str, name: object, who: str = "") -> None:
    """One line in the marks file; appending is atomic at this size. `who` marks it: this pid, if not said."""
    line = f"{kind} {name} {time.time():.6f} {who or os.getpid()}\n".encode()
    descriptor = os.open(os.environ["DELIVERY_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@app.task
def nothing() -> None:
    """No work at all."""


@app.task
def work(name: object, seconds: float = 0.0) -> None:
    """Marks its start and its end."""
    mark("start", name)
    time.sleep(seconds)
    mark("end", name)


@app.task(bind=True)
def again(self: Any, name: object) -> None:
    """Marks each attempt; the first one retries."""
    mark("start", name)
    if not self.request.retries:
        raise self.retry(countdown=0.05)
    mark("end", name)


@app.task
def add(*numbers: Any) -> int:
    """A sum; also of one list, as a chord's callback gets it."""
    return sum(sum(number) if isinstance(number, list) else number for number in numbers)


@app.task
def punctual(due: float) -> None:
    """Marks how late it is."""
    mark("late", f"{time.time() - due:.6f}")


@app.task
def kill_child(name: object) -> None:
    """Kills the process it runs in."""
    mark("start", name)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def kill_worker(name: object) -> None:
    """Kills the worker that runs it, and then itself."""
    mark("start", name)
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
