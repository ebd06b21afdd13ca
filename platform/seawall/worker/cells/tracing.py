"""Celery's tracer as a cell needs it: what nearly every task does, at half the cost.

The order of events is that of `celery.app.trace.build_tracer`, and whatever fails is given to Celery's own
code. Left out is what nobody looks at: an empty cleanup, the result as text, the search for duplicates of a
first delivery. A task with hooks, a message delivered again and one with callbacks or a chain take Celery's;
so does every task once somebody wraps `build_tracer` or `__trace__`, as tools that observe tasks do.

tests/integration/test_cells_tracing.py holds the two side by side.
"""

import logging
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, NamedTuple

from billiard.einfo import ExceptionInfo
from celery import _state as celery_state
from celery import signals, states
from celery.app import trace as celery_trace
from celery.app.task import Context
from celery.backends.base import Backend
from celery.exceptions import Ignore, Reject, Retry
from celery.loaders.base import BaseLoader
from celery.utils.saferepr import saferepr
from kombu.exceptions import EncodeError

from seawall.worker import older, repeats

logger = logging.getLogger(__name__)

_celerys: Any = celery_trace  # celery-types lacks half of it
_tasks: Any = celery_state._task_stack  # type: ignore[attr-defined]  # noqa: SLF001
_HOOKS: Final = ("before_start", "on_success", "after_return")
_BUILT_BY: Final = "_tracer_built_by"  # an attribute of tasks
_EMPTY: Final = (Backend.process_cleanup, BaseLoader.on_process_cleanup)
_STATES: Final = ((Reject, states.REJECTED), (Ignore, states.IGNORED), (Retry, states.RETRY))


class Outcome(NamedTuple):
    """How a run ended: with what it returned, or with the `ExceptionInfo` of what it raised."""

    failed: bool
    result: Any
    runtime: float | None = None
    shown: str | None = None
    """What it returned as text, if somebody has asked for that already."""


class Tracer:
    """Runs one task's requests in this process."""

    def __init__(self, task: Any, *, pid: int, hostname: str) -> None:
        self._task = task
        self._began = {"pid": pid, "hostname": hostname}
        self._loader = task.app.loader
        self._never = any(_celerys.task_has_custom(task, hook) for hook in _HOOKS) or is_wrapped(task)
        self._does_info = _celerys.logger.isEnabledFor(logging.INFO)
        self._run = task if _celerys.task_has_custom(task, "__call__") else task.run
        cleanups = task.backend.process_cleanup, self._loader.on_process_cleanup
        self._cleanups = [each for each in cleanups if getattr(each, "__func__", None) not in _EMPTY]

    def __call__(self, uuid: str, args: Any, kwargs: Any, fields: dict[str, Any]) -> Outcome:
        """Run it with these arguments; `fields` are those of its request.

        Raises:
            MemoryError, Reject: of a hook, a backend or a signal's receiver.
        """
        task = self._task
        followed = fields.get("callbacks") or fields.get("chain")
        if fields["delivery_info"]["redelivered"]:
            with repeats.asking(wanted=not older.ignores_result(task, Context(fields))):
                return self._as_celery(uuid, args, kwargs, fields)
        if self._never or followed or not isinstance(kwargs, dict):
            return self._as_celery(uuid, args, kwargs, fields)
        context = Context(fields, args=args, called_directly=False, kwargs=kwargs)
        try:
            # `push` returns the stack. Celery's `pop` takes an empty one down, to be made anew each time.
            tasks, contexts = _tasks.push(task), task.request_stack.push(context)
            try:
                return self._trace(uuid, args, kwargs, context)
            finally:
                tasks.pop()
                contexts.pop()
                for cleanup in self._cleanups:
                    _carefully(cleanup)
        except (MemoryError, Reject):
            raise
        except Exception as exc:  # noqa: BLE001 - of a backend or of a signal's receiver
            _celerys._signal_internal_error(task, uuid, args, kwargs, fields, exc)  # noqa: SLF001
            failure = _celerys.report_internal_error(task, exc)
            _celerys.TraceInfo(states.FAILURE, exc).handle_error_state(task, context)
            return Outcome(failed=True, result=failure)

    def _as_celery(self, uuid: str, args: Any, kwargs: Any, fields: dict[str, Any]) -> Outcome:
        result, failure, runtime, _ = self._task.__trace__(uuid, args, kwargs, fields)
        return Outcome(failure is not None, result, runtime)

    def _trace(self, uuid: str, args: Any, kwargs: Any, context: Context) -> Outcome:
        task, started = self._task, time.monotonic()
        ignored = older.ignores_result(task, context)
        state = value = None
        try:
            if signals.task_prerun.receivers:
                signals.task_prerun.send(sender=task, task_id=uuid, task=task, args=args, kwargs=kwargs)
            self._loader.on_task_init(uuid, task)
            if task.track_started and not ignored:
                task.backend.store_result(uuid, self._began, states.STARTED, request=context)
            try:
                value = self._run(*args, **kwargs)
            except Exception as exc:  # noqa: BLE001 - whatever the task raises
                state, value, failure = self._failed(context, exc)
                return Outcome(failed=True, result=failure)
            state = states.SUCCESS
            if context.chord or not ignored:
                try:
                    task.backend.mark_as_done(uuid, value, context, not ignored)
                except EncodeError as exc:
                    state, value, failure = self._failed(context, exc)
                    return Outcome(failed=True, result=failure)
            shown = saferepr(value, task.resultrepr_maxsize) if self._does_info else None
            runtime = time.monotonic() - started
            if signals.task_success.receivers:
                signals.task_success.send(sender=task, result=value, runtime=runtime)
            if self._does_info:
                self._say(uuid, context, shown, runtime)
            return Outcome(failed=False, result=value, runtime=runtime, shown=shown)
        finally:
            if signals.task_postrun.receivers:
                said = {"args": args, "kwargs": kwargs, "retval": value, "state": state}
                signals.task_postrun.send(sender=task, task_id=uuid, task=task, **said)

    def _say(self, uuid: str, context: Context, shown: str | None, runtime: float) -> None:
        told = {
            "id": uuid,
            "name": _celerys.get_task_name(context, self._task.name),
            "return_value": shown,
            "runtime": runtime,
            "args": context.get("argsrepr") or _celerys.safe_repr(context.args),
            "kwargs": context.get("kwargsrepr") or _celerys.safe_repr(context.kwargs),
        }
        _celerys.info(_celerys.LOG_SUCCESS, told)

    def _failed(self, context: Context, exc: Exception) -> tuple[str, Any, ExceptionInfo]:
        """What Celery does about an exception that is being handled: the state, the value, the report."""
        state = next((state for kind, state in _STATES if isinstance(exc, kind)), states.FAILURE)
        info = _celerys.TraceInfo(state, exc)
        if state == states.REJECTED:
            failure = ExceptionInfo(internal=True)
            info.handle_reject(self._task, context)
        elif state == states.IGNORED:
            failure = ExceptionInfo(internal=True)
            info.handle_ignore(self._task, context)
        else:
            wanted = state == states.FAILURE
            failure = info.handle_error_state(self._task, context, call_errbacks=wanted)
        _celerys.traceback_clear(exc)
        return state, info.retval, failure


def give_tracer(task: Any, hostname: str) -> None:
    """Give a task the tracer that `celery.app.trace` builds now, unless it had that.

    Celery's consumer holds the `build_tracer` that was there when it was imported. Sentry and others put
    their own in its place, often later: when the application's modules or a signal's receivers set them up.
    What somebody has put around a tracer of ours stays.
    """
    builder = celery_trace.build_tracer
    if vars(task).get(_BUILT_BY) is not builder:
        task.__trace__ = builder(task.name, task, task.app.loader, hostname, app=task.app)
        vars(task)[_BUILT_BY] = builder


def is_wrapped(task: Any) -> bool:
    """Whether somebody observes this task's runs: by a tracer of their own, or by what makes tracers."""
    return not (_is_celerys(celery_trace.build_tracer) and _is_celerys(task.__trace__))


def _is_celerys(function: Any) -> bool:
    return type(function) is FunctionType and function.__code__.co_filename == celery_trace.__file__


def _carefully(cleanup: Callable[[], None]) -> None:
    try:
        cleanup()
    except MemoryError:
        raise
    except Exception:
        logger.exception("the cleanup after a task failed")
