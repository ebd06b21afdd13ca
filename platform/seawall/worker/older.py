"""What Celery 5.7 added and ours builds on, where Celery 5.6 is installed.

`celery.worker.request` of 5.6 tells nobody of a task that its hard limit has ended, and leaves the message of
one that is not acknowledged then until the connection is lost.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from billiard.common import human_status
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import signals, states
from celery.app import trace
from celery.app.defaults import SETTING_KEYS
from celery.exceptions import Reject
from celery.utils.saferepr import saferepr
from celery.worker import state
from celery.worker.request import Request as CeleryRequest

from seawall.worker.deferral import raised

logger = logging.getLogger(__name__)

TELLS_TIMEOUTS: Final = "task_acks_on_timeout" in SETTING_KEYS
"""Whether Celery tells of a failure by a hard limit, and of one by a rejection for good."""


def acks_on_timeout(task: Any) -> bool:
    """Whether a task's message is done with when its hard limit has ended it."""
    said = getattr(task, "acks_on_timeout", None)
    return bool(getattr(task, "acks_on_failure_or_timeout", True) if said is None else said)


def ignores_result(task: Any, context: Any) -> bool:
    """Whether nobody wants a run's result: by its call, else by its task."""
    if (find := getattr(trace, "get_actual_ignore_result", None)) is not None:
        return bool(find(task, context))
    said = vars(context).get("ignore_result")
    return bool(task.ignore_result if said is None else said)


def known_requests() -> Iterator[set[Any]]:
    """Celery's sets of what this process was given."""
    for name in ("requests", "reserved_requests", "active_requests", "scheduled_requests"):
        if (known := getattr(state, name, None)) is not None:
            yield known


def stored_success(request: Any) -> Mapping[str, Any] | None:
    """What a task stored that had succeeded before its process was lost; None if it is not known to have."""
    if (find := getattr(CeleryRequest, "_success_was_stored", None)) is not None:
        return find(request) or None
    backend = request.task.backend
    if request.ignore_result or backend.as_uri() == "rpc://":  # those results lie with who asked
        return None
    try:
        meta: Mapping[str, Any] = backend.get_task_meta(request.id, cache=False)
    except Exception as exc:  # noqa: BLE001 - of any backend; then it runs again
        logger.warning("%s[%s]: its result cannot be read: %s", request.name, request.id, exc)
        return None
    return meta if meta.get("status") == states.SUCCESS else None


def end_of_time(request: Any, seconds: float) -> None:
    """What Celery 5.7 does about a task that outlasted its hard limit, outside a cold shutdown."""
    state.task_ready(request)
    logger.error("Hard time limit (%ss) exceeded for %s[%s]", seconds, request.name, request.id)
    error = TimeLimitExceeded(seconds)
    failure = raised(error)
    task, called = request.task, (request.id, request.args, request.kwargs)
    _store_failure(request, error)
    task.on_failure(error, *called, failure)
    task.after_return(states.FAILURE, error, *called, None)
    _tell_failure(request, error, failure)
    if not task.acks_late:
        return
    if acks_on_timeout(task):
        request.acknowledge()
    else:
        request.reject(requeue=True)


def storable(error: BaseException | None, failure: ExceptionInfo) -> ExceptionInfo:
    """A failure that can be stored: the exit of a task's process as its loss, as Celery 5.7 has it."""
    if TELLS_TIMEOUTS or not isinstance(error, (SystemExit, KeyboardInterrupt)):
        return failure
    end = type(error).__name__
    if isinstance(error, SystemExit):
        code = error.code or 0
        end = human_status(code if isinstance(code, int) else 1)
    return raised(WorkerLostError(f"Worker exited prematurely: {end}."))


@contextlib.contextmanager
def request_at_hand(request: Any) -> Iterator[None]:
    """Receivers of `task_failure` find the request at its task, as Celery 5.7 has it."""
    if TELLS_TIMEOUTS:
        yield
        return
    request.task.request_stack.push(request._context)  # noqa: SLF001
    try:
        yield
    finally:
        request.task.request_stack.pop()


def fails_for_good(request: Any, error: BaseException | None, failure: ExceptionInfo, *, told: bool) -> None:
    """What Celery 5.7 does about a task that rejects its message for good: it has failed."""
    if TELLS_TIMEOUTS or not isinstance(error, Reject) or vars(error).get("requeue"):
        return
    _store_failure(request, error)
    _tell_failure(request, error, failure, event=told)


def _store_failure(request: Any, error: BaseException) -> None:
    request.task.backend.mark_as_failure(
        request.id,
        error,
        request=request._context,  # noqa: SLF001
        store_result=request.store_errors,
    )


def _tell_failure(request: Any, error: BaseException, failure: ExceptionInfo, *, event: bool = True) -> None:
    signals.task_failure.send(
        sender=request.task,
        task_id=request.id,
        exception=error,
        args=request.args,
        kwargs=request.kwargs,
        traceback=failure.traceback,
        einfo=failure,
    )
    if event:
        request.send_event("task-failed", exception=saferepr(error), traceback=str(failure.traceback))
