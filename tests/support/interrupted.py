"""Tasks that are interrupted again and again, by their soft limit and by exceptions of their own.

A worker is started with `celery -A support.interrupted worker`; a test submits through `create()`.
"""

import contextlib
import ctypes
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from celery import Celery, Task

from seawall import LimitReached, Retry, Seawall, database, holdings, limit, policy
from seawall.errors import DatabaseUnavailable
from seawall.limits import shares

KEY = "interrupted"
SOFT = 0.25
ONCE = Retry(max_attempts=1)
_raise_in: Any = ctypes.pythonapi.PyThreadState_SetAsyncExc


class AlarmRang(Exception):  # noqa: N818 - an exception that is no error
    """Of a handler that the task has set."""


class Stop(BaseException):
    """Raised in a thread from another one."""


def _server() -> Any:
    """Another one than the worker's own, whose tables it would want to be there."""
    return database(os.environ["INTERRUPTED_DATABASE"])


def fetch() -> None:
    with _server().transaction():
        _server().fetch("SELECT 1")
    _server().fetch("SELECT 1")


def share() -> None:
    with limit(KEY, 3):
        pass


@holdings.sheltered
def _stay_inside() -> None:
    """For far longer than the platform's own functions do."""
    until = time.monotonic() + 0.005
    while time.monotonic() < until:
        pass


def shelter() -> None:
    _stay_inside()
    time.sleep(0.001)


WAYS = {way.__name__: way for way in (fetch, share, shelter)}


@policy(timeout=SOFT, retry=ONCE)
def endless(_self: "Task[Any, Any]", way: str) -> None:
    """Until the soft limit."""
    while True:
        WAYS[way]()


@policy(timeout=SOFT, retry=ONCE)
def wait_for_the_server(_self: "Task[Any, Any]") -> None:
    """The soft limit comes while PostgreSQL works."""
    _server().fetch("SELECT pg_sleep(600)")


def _often(
    way: Callable[[], None], seconds: float, arm: Callable[[], object], disarm: Callable[[], object]
) -> int:
    """How often `way` was interrupted; nothing is armed outside of the inner `try`.

    A library may answer an interruption with an error of its own, or fail before one comes: that one is heard
    while the error is handled, and no other is to come then.
    """
    interrupted, until = 0, time.monotonic() + seconds

    def hear() -> None:
        disarm()
        time.sleep(0.001)  # what has rung by now is heard here

    while True:
        try:
            try:
                while time.monotonic() < until:
                    arm()
                    with contextlib.suppress(
                        DatabaseUnavailable, LimitReached
                    ):  # all are taken until the task ends
                        way()
                hear()
            except (Exception, Stop):  # noqa: BLE001
                interrupted += 1
                hear()
            else:
                return interrupted
        except (Exception, Stop):  # noqa: BLE001
            interrupted += 1


@policy(retry=ONCE)
def alarmed(_self: "Task[Any, Any]", way: str, seconds: float) -> int:
    """By a handler of the task's own."""

    def ring(_signum: int, _frame: FrameType | None) -> None:
        raise AlarmRang

    def ring_in(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    signal.signal(signal.SIGALRM, ring)
    soon = partial(random.uniform, 0.0001, 0.002)
    return _often(WAYS[way], seconds, lambda: ring_in(soon()), lambda: ring_in(0))


@policy(retry=ONCE)
def stopped_from_a_thread(_self: "Task[Any, Any]", way: str, seconds: float) -> int:
    """By `PyThreadState_SetAsyncExc`."""
    here, armed, over = threading.get_ident(), threading.Event(), threading.Event()

    def stop() -> None:
        while not over.is_set():
            if armed.wait(0.01):
                time.sleep(random.uniform(0.0001, 0.002))  # noqa: S311 - no secret
                _raise_in(ctypes.c_ulong(here), ctypes.py_object(Stop))
                armed.clear()

    def disarm() -> None:
        while armed.is_set():
            time.sleep(0.001)

    thread = threading.Thread(target=stop)
    thread.start()
    interrupted = _often(WAYS[way], seconds, armed.set, disarm)
    over.set()
    thread.join()
    return interrupted


def left(_self: "Task[Any, Any]") -> dict[str, int]:
    """What is taken in this process, or works for it."""
    stats = _server().stats()
    return {
        "connections": stats["pool_size"] - stats["pool_available"],
        "shares": shares().held(KEY),
        "statements": _server().fetch_value(
            "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"
        ),
    }


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("interrupted", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function in (endless, wait_for_the_server, alarmed, stopped_from_a_thread, left):
        app.task(bind=True, shared=False, name=f"interrupted.{function.__name__}")(function)
    return app


app = create()
