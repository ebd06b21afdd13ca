"""Tasks of every kind that a worker has to get rid of while its server is full.

A worker is started with `celery -A support.brimful worker`; a test submits through `create()`.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import redis
from celery import Celery, Task
from kombu.exceptions import OperationalError

from seawall import Limit, Retry, Seawall, breaker, policy

LARGE = 5000

breaker("brimful", min_calls=5)


@contextlib.contextmanager
def full(url: str) -> Iterator[None]:
    """The server has reached its maxmemory, and stays there whatever becomes free, until the block ends."""
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        try:
            yield
        finally:
            client.config_set("maxmemory", "0")


def small(_self: "Task[Any, Any]", *_: object) -> int:
    return 1


def large(_self: "Task[Any, Any]") -> str:
    """A result that a full server refuses."""
    return "x" * LARGE


@policy(retry=Retry(max_attempts=2, base=0.01, budget=1.0))
def flaky(self: "Task[Any, Any]") -> int:
    """Its second attempt is a submission."""
    if not self.request.retries:
        raise ConnectionError("the first time")
    return 1


@policy(retry=Retry(max_attempts=1))
def fails(_self: "Task[Any, Any]") -> None:
    """Its traceback and its message are longer than what is kept of them."""
    raise ValueError("x" * LARGE)


def submits(self: "Task[Any, Any]") -> str:
    """What it hears when it submits another one."""
    try:
        self.app.tasks["brimful.small"].delay()
    except OperationalError as exc:
        return str(exc)
    return "accepted"


@policy(limit=Limit("brimful", 2), requires=["brimful"])
def guarded(_self: "Task[Any, Any]") -> int:
    return 1


@policy(retry=Retry(max_attempts=1))
def kills(_self: "Task[Any, Any]") -> None:
    """Ends as a dead letter."""
    os.kill(os.getpid(), signal.SIGKILL)


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("brimful", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function in (small, large, flaky, fails, submits, guarded, kills):
        app.task(bind=True, shared=False, name=f"brimful.{function.__name__}")(function)
    return app


app = create()
