"""A task whose dependency is away, under our retries and under plain Celery's `autoretry_for`.

A call is eight bytes in the file BENCH_MARKS: when it was made. `python app_outage.py fill 10000` submits.
"""

import os
import struct
import sys
import time
from typing import Any

from celery import Celery

OURS = os.environ["BENCH_SYSTEM"] == "ours"
_marks = os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def ask() -> None:
    """Call the dependency, in vain."""
    os.write(_marks, struct.pack("d", time.time()))
    raise ConnectionRefusedError("the dependency is away")


app: Celery
options: dict[str, Any]
if OURS:
    import seawall

    app, options = seawall.install(Celery("bench")), {}
else:
    app = Celery("bench")
    options = {"autoretry_for": (ConnectionError,), "retry_backoff": True, "max_retries": 3}
app.conf.update(
    broker_url=os.environ["BENCH_REDIS"],
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)
task = app.task(name="bench.ask", **options)(ask)

if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        task.delay()
