"""Tasks that leave their process deaf: they end well, and its loop never turns again.

A worker is started with `celery -A support.deafened worker`; a test submits through `create()`.
"""

import os
import signal
import threading
import time
from typing import Any

from celery import Celery, Task, signals
from kombu.asynchronous import get_event_loop

from seawall import Seawall

FOREVER = 600.0


def _lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _spin() -> None:
    while True:
        pass


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


WAYS = {
    "lock": _lock,
    "sleep": lambda: time.sleep(FOREVER),
    "spin": _spin,
    "stop": _stop,
    "join": lambda: threading.Event().wait(),
}


def deafen(_self: "Task[Any, Any]", way: str) -> int:
    """What this process's loop does next, it never comes back from."""
    loop = get_event_loop()
    assert loop is not None
    loop.call_later(0.05, WAYS[way])
    return os.getpid()


def nap(_self: "Task[Any, Any]", seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def _block(**_: object) -> None:
    """At the birth of the first process."""
    first = os.environ.get("DEAFENED_AT_BIRTH")
    if first and not os.path.exists(first):  # noqa: PTH110
        os.close(os.open(first, os.O_CREAT | os.O_EXCL))
        _lock()


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("deafened", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function in (deafen, nap):
        app.task(bind=True, shared=False, name=f"deafened.{function.__name__}")(function)
    return app


signals.worker_process_init.connect(_block)
app = create()
