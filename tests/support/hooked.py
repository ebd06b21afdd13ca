"""An application that hears of its worker's forks as prefork lets it, and wraps its task's tracer there."""

import os
from multiprocessing.util import register_after_fork
from typing import Any

from celery import Celery, signals

from seawall import Seawall
from support.shop import store

__all__ = ["app", "create"]


def create(url: str | None = None) -> Celery:
    made = Seawall("hooked", set_as_current=False)
    if url is not None:
        made.conf.update(broker_url=url, result_backend=url)

    @made.task(name="hooked.ask", shared=False)
    def ask() -> Any:
        """What a task may do in any process: ask its workers something."""
        made.control.broadcast("heartbeat")
        return os.getpid()

    return made


class _Holder:
    """What holds something that a forked process must not use."""


def _forked(_: _Holder) -> None:
    store(app).rpush("hook", os.getpid())


app = create()
_holder = _Holder()


@signals.worker_init.connect
def _hear(**_: Any) -> None:
    register_after_fork(_holder, _forked)  # of a worker alone: the tests fork, too, and import this


@signals.worker_ready.connect
def _speak(**_: Any) -> None:
    app.control.broadcast("heartbeat")  # the worker's own way to its neighbours is open from now on


@signals.worker_process_init.connect
def _watch(**_: Any) -> None:
    ask: Any = app.tasks["hooked.ask"]
    inner = ask.__trace__

    def traced(*args: Any, **kwargs: Any) -> Any:
        store(app).rpush("traced", os.getpid())
        return inner(*args, **kwargs)

    ask.__trace__ = traced
