"""An application whose results lie in another server than its messages, run with `-A support.owed worker`.

OWED_RESULTS is the URL of that. Whoever cannot reach it gives up soon: in a second instead of twenty.
"""

import os
import time
from typing import Any

from celery import Celery, Task
from redis import Redis

from seawall import Seawall
from support.shop import JOURNAL

LARGE = 100_000


def notes(app: Celery) -> "Redis":
    """The server of the messages, which is there all the time."""
    return Redis.from_url(str(app.conf.broker_url))


def end(self: "Task[Any, Any]", how: str) -> str:
    """Note that it runs, wait for the key `go`, and end."""
    with notes(self.app) as client:
        client.rpush(JOURNAL, how)
        while not client.exists("go"):
            time.sleep(0.02)
    if how == "failure":
        raise ValueError("as asked")
    return "x" * LARGE if how == "large" else how


def gather(_self: "Task[Any, Any]", ended: list[str]) -> int:
    """The body of a chord."""
    return len(ended)


def create(broker_url: str | None = None, results_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("owed", set_as_current=False, autofinalize=True)
    conf: Any = app.conf  # celery-types take these for read-only
    if broker_url is not None:
        conf.broker_url = broker_url
    conf.result_backend = results_url or os.environ.get("OWED_RESULTS", "redis://localhost:1")
    soon = {"max_retries": 3, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.3}
    app.conf.result_backend_transport_options = {"retry_policy": soon}
    for function in (end, gather):
        app.task(bind=True, shared=False, name=f"owed.{function.__name__}")(function)
    return app


app = create()
