"""An application with tasks that have rate limits, run with `celery -A support.rated worker`."""

import time
from typing import Any

from celery import Celery, Task

from seawall import Seawall
from support.shop import note


def slow_rate(self: "Task[Any, Any]") -> None:
    note(self, "rated")


def paced(self: "Task[Any, Any]") -> None:
    note(self, f"paced {time.monotonic()}")


def free(self: "Task[Any, Any]") -> None:
    note(self, "free")


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("rated", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    rates = {slow_rate: "1/m", paced: "5/s", free: None}
    for function, rate in rates.items():
        app.task(bind=True, shared=False, name=f"rated.{function.__name__}", rate_limit=rate)(function)
    return app


app = create()
