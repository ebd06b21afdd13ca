"""The end of a worker, however it was told to end.

Celery's `worker_shutdown` follows a warm shutdown only. What began with a worker must end after a cold one
too: its services stop, and if it lived in a thread of another program, as in tests, it leaves nothing of
itself to the next one there.
"""

from typing import Any, Final

from celery import signals
from celery.utils.dispatch import Signal

from seawall import silence

_GOODBYES_WITHIN: Final = 1.5
"""Seconds that all goodbyes together wait for a server that says nothing."""

ended: Final = Signal(name="seawall.worker_ended")
"""Its pool and its consumer have stopped. Sent by the worker; may be sent twice."""


def connect() -> None:
    """Listen to the worker's signals. Safe to repeat."""
    uid = "seawall.ending"
    signals.worker_init.connect(_notice_cold_shutdown, dispatch_uid=uid)
    signals.worker_shutting_down.connect(_hurry, dispatch_uid=uid)
    signals.worker_shutdown.connect(_tell, dispatch_uid=uid)


def _notice_cold_shutdown(sender: Any = None, **_: Any) -> None:
    terminate = sender.terminate

    def terminated(*args: Any, **kwargs: Any) -> None:
        try:
            terminate(*args, **kwargs)
        finally:
            _tell(sender)

    sender.terminate = terminated


def _hurry(**_: Any) -> None:
    silence.leaving()


def _tell(sender: Any = None, **_: Any) -> None:
    with silence.within(silence.Allowance(_GOODBYES_WITHIN)):
        ended.send(sender=sender)
    silence.leaving(leaves=False)  # the worker may have lived in another program
