"""Tasks of the tour: each does one thing wrong, and the tour shows what comes of it."""

import os
import socket
import time
from typing import Any, Final

from celery import shared_task
from redis import Redis

from seawall import MemoryBudgetExceeded, Retry, breaker, policy

GATEWAY: Final = "tour-gateway"
_STEP: Final = 4 << 20  # bytes

_gateway = breaker(GATEWAY, min_calls=4, window=10, open_for=3, ramp_for=0.5)


def pids(app: Any, task_id: str) -> list[int]:
    """The processes that a task of `long` has begun in, oldest first."""
    client: Redis = app.backend.client
    found: list[Any] = client.lrange(f"tour:{task_id}", 0, -1)
    return [int(each) for each in found]


@shared_task(name="tour.flaky", bind=True)
@policy(retry=Retry(max_attempts=4, base=0.4, cap=0.8, on=ConnectionError))
def flaky(self: Any) -> str:
    """Fail twice, as a dependency does that is away for a moment."""
    if self.request.retries < 2:  # noqa: PLR2004 - twice
        raise ConnectionError("the warehouse hung up")
    return "delivered"


@shared_task(name="tour.broken")
def broken(order: int) -> None:
    """Fail as a bug does, for which no retry is of use."""
    raise ValueError(f"order {order} has no amount")


@shared_task(name="tour.charge")
@policy(requires=[GATEWAY], retry=Retry(max_attempts=9, base=0.5, cap=2, on=ConnectionError))
def charge(port: int, order: int) -> int:
    """Call a dependency that may be down."""
    with _gateway, socket.create_connection(("127.0.0.1", port), timeout=1):
        return order


@shared_task(name="tour.hog")
@policy(memory="48MiB", memory_limit="96MiB")
def hog() -> None:
    """Take ever more memory, and not heed the warning."""
    held: list[bytes] = []
    while len(held) * _STEP < 1 << 30:
        try:
            held.append(os.urandom(_STEP))
            time.sleep(0.02)
        except MemoryBudgetExceeded:
            continue


@shared_task(name="tour.steady")
@policy(memory="16MiB")
def steady(seconds: float) -> int:
    """Work beside a neighbour that is stopped."""
    time.sleep(seconds)
    return os.getpid()


@shared_task(name="tour.long", bind=True)
def long(self: Any, seconds: float) -> int:
    """Say in which process, and work there for a while."""
    client: Redis = self.app.backend.client
    client.rpush(f"tour:{self.request.id}", os.getpid())
    time.sleep(seconds)
    return os.getpid()
