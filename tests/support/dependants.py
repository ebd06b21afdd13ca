"""An application whose tasks need a service that may be down, and share limits.

A worker is started with `celery -A support.dependants worker`; a test submits through `create()`. The service
is a key in the app's Redis: it is down while `down` exists, and every call leaves its moment in `calls`.
"""

import os
import time
from typing import Any

from celery import Celery

from seawall import Limit, Retry, Seawall, breaker, policy
from seawall.breaker import Breaker
from support.shop import store


class ServiceDown(Exception):  # noqa: N818
    """The service did not answer."""


def payments() -> Breaker:
    return breaker("payments", open_for=1.0, max_open_for=2.0, ramp_for=2.0, call_timeout=5.0)


def service(app: Celery) -> None:
    """Call the service."""
    store(app).rpush("calls", f"{time.time():.4f}")
    if store(app).exists("down"):
        raise ServiceDown


def pay(self: Any, number: int) -> int:
    """One call of the service, under its breaker."""
    with payments():
        service(self.app)
    return number


def pay_unasked(self: Any, number: int) -> int:
    """As `pay`, of a task that does not say what it requires."""
    store(self.app).rpush("bodies", number)
    return pay(self, number)


def other(_self: Any, number: int) -> int:
    return number


def serve(self: Any, tenant: str, seconds: float) -> str:
    """Say how many of this tenant are at work at once, not counting what a killed process left behind.

    At the end it says how many seconds it has been at work, with what it says.
    """
    begun = time.monotonic()
    name, here = f"{os.getpid()} {self.request.id}", f"inside:{tenant}"
    redis = store(self.app)
    redis.sadd(here, name)
    inside: Any = redis.smembers(here)
    redis.rpush("beside", f"{tenant} {sum(_lives(int(one.split()[0])) for one in inside)}")
    time.sleep(seconds)
    redis.srem(here, name)
    redis.rpush("served", f"{tenant} {time.monotonic() - begun:.4f}")
    return tenant


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def create(broker_url: str | None = None, result_url: str | None = None) -> Seawall:
    """The application, of its own; results are in the broker unless told otherwise."""
    app = Seawall("dependants", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=result_url or broker_url)
    for function, wanted in TASKS:
        app.task(bind=True, shared=False, name=f"dependants.{function.__name__}")(policy(**wanted)(function))
    return app


ONCE = Retry(max_attempts=1)
TASKS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (pay, {"requires": ["payments"], "retry": ONCE}),
    (pay_unasked, {"retry": Retry(base=0.05)}),
    (other, {"retry": ONCE}),
    (serve, {"limit": Limit("tenant:{tenant}", 3), "retry": ONCE}),
)

payments()
app = create()
