"""A worker connects as soon as its broker is there, when it starts as well as after an outage.

Celery waits longer before each attempt, up to half a minute, and so long after its broker is back a worker
would do nothing. On our transport the transport itself tries, each second at least (`delivery.transport`).

Before that Celery takes down what used the lost connection, step by step. Each may ask the server something,
and one that is silent would be waited for each time, also after SIGTERM: all of it has a moment together.
"""

import functools
from typing import Any, Final

from celery import bootsteps

from seawall import silence
from seawall.delivery.options import try_once
from seawall.delivery.transport import expect_loop

_LONGEST_PAUSE: Final = 2.0  # seconds
_TAKEN_DOWN_WITHIN: Final = 1.0  # seconds
_LEFT_WITHIN: Final = 2.0  # seconds


class Reconnection(bootsteps.Step):
    """A consumer's step: its way to connect is ours."""

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        parent.ensure_connected = functools.partial(_ensure_connected, parent, parent.ensure_connected)
        left, lost = silence.Allowance(_LEFT_WITHIN), parent.on_connection_error_after_connected
        parent.on_connection_error_after_connected = _briefly(lost, left)
        parent.blueprint.restart = _briefly(parent.blueprint.restart, left)
        parent.shutdown = _briefly(parent.shutdown, left, for_good=True)


def _ensure_connected(consumer: Any, ensure: Any, connection: Any) -> Any:
    expect_loop()
    if _attempts_are_counted(consumer):
        try_once(connection.transport_options)
    connect = connection.ensure_connection

    def ensure_connection(*args: Any, callback: Any = None, **options: Any) -> Any:
        def each_second() -> None:
            silence.about_to_wait()
            if callback is not None:
                callback()

        silence.about_to_wait()
        pauses = dict.fromkeys(("interval_start", "interval_max"), _LONGEST_PAUSE)
        return connect(*args, callback=each_second, interval_step=0, **pauses, **options)

    connection.ensure_connection = ensure_connection
    return ensure(connection)


def _attempts_are_counted(consumer: Any) -> bool:
    """Whether the application says how often a worker tries: then the transport does not try by itself."""
    conf = consumer.app.conf
    again = conf.broker_connection_retry
    if consumer.first_connection_attempt and conf.broker_connection_retry_on_startup is not None:
        again = conf.broker_connection_retry_on_startup
    return not again or conf.broker_connection_max_retries is not None


def _briefly(take_down: Any, left: silence.Allowance, *, for_good: bool = False) -> Any:
    """Let all its questions together wait a moment; those of one that leaves for good, what is `left`."""

    def bounded(*args: Any, **options: Any) -> Any:
        allowance = left if for_good or options else silence.Allowance(_TAKEN_DOWN_WITHIN)
        with silence.within(allowance):
            return take_down(*args, **options)

    return bounded
