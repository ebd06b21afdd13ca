"""What is done with a request that does not run to its end here: it is put aside, given back, or failed.

The gate and the rate limits say so before it runs, and a task from within its own run (`Postponed`).
"""

from typing import Any, Final

from billiard.einfo import ExceptionInfo
from celery.worker import state

from seawall import delivery
from seawall.admission import PARKED_FOR
from seawall.worker import outcomes
from seawall.worker.outcomes import Parked
from seawall.worker.task_events import moment_after

LONGEST_ASIDE: Final = 3600.0
"""Seconds after which what was put aside is looked at again."""


def set_aside(
    request: Any, seconds: float, *, dependency: str | None = None, reason: str | None = None
) -> None:
    """Back to the broker for at most so many seconds, an hour at most: no retry and no strike is spent.

    Monitors are told. A breaker may be held open without an end: what waits for it is let go when that ends,
    and looks by itself now and then, in case nobody was there to let it go.

    Where the broker cannot hold a message back, the task is submitted again with a delay, under its id and
    with its attempt; the old message is acknowledged after that, so a crash in between can double it.
    """
    message, seconds = request.message, min(seconds, LONGEST_ASIDE)
    if request.acknowledged:
        kept = False
    elif dependency is None:
        kept = delivery.defer(message, seconds)
    else:
        outcomes.settle(request, Parked(dependency))
        kept = delivery.park(message, dependency, at_most=seconds)
    if not kept:
        if dependency is not None:  # nobody can let it go there
            seconds = min(seconds, PARKED_FOR)
        context = request._context  # noqa: SLF001 - Celery's request has no other way to it
        request.task.signature_from_request(context, retries=context.retries, countdown=seconds).apply_async()
        request.acknowledge()
    request.send_event(
        "task-parked", dependency=dependency, reason=reason or dependency, until=moment_after(seconds)
    )
    state.task_ready(request)


def give_back(request: Any) -> None:
    """Back to its place in line: it was not begun here, and will not be."""
    if not delivery.give_back(request.message):
        request.message.requeue()
    state.task_ready(request)


def fail(request: Any, error: Exception) -> None:
    """It fails as if it had raised `error`."""
    request.on_failure(raised(error))


def raised(error: Exception) -> ExceptionInfo:
    """`error` as Celery's pool reports exceptions: with a traceback, which only raising gives."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()
