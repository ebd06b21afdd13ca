"""What a worker's lines look like and say: Celery's handlers with our formatter, and the task that runs.

Celery decides on handlers, levels and files as ever (`-l`, `-f`, `worker_hijack_root_logger`). Only the
formatter of a handler that Celery made is replaced, and only while its format is Celery's default: an
application with a `setup_logging` receiver, handlers or a `worker_log_format` of its own keeps what it chose.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from celery import signals
from celery.app import defaults
from celery.utils.log import ColorFormatter, get_multiprocessing_logger

from seawall import logs
from seawall.config import settings
from seawall.redaction import RedactingFilter, secret_values
from seawall.worker.discretion import secrecy_of

_defaults: Any = defaults  # celery-types lacks half of it
_CELERYS: Final = frozenset({_defaults.DEFAULT_PROCESS_LOG_FMT, _defaults.DEFAULT_TASK_LOG_FMT})
_UID: Final = "seawall.lines"


class TaskScope:
    """One run of a task, as lines show it; nothing is worked out before a line is written."""

    def __init__(self, task: Any, request: Mapping[str, Any], args: Any, kwargs: Any) -> None:
        self._task = task
        self._request = request  # as its message's headers name things
        self._arguments = args, kwargs
        self._fields: Mapping[str, Any] | None = None
        self._secrets: tuple[str, ...] | None = None
        self.outer: logs.Scope | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        """Which task, which run of it, and where it came from."""
        if self._fields is None:
            self._fields = self._found_fields()
        return self._fields

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values of its secret arguments."""
        if self._secrets is None:
            self._secrets = self._found_secrets()
        return self._secrets

    def _found_fields(self) -> Mapping[str, Any]:
        request = self._request
        fields = {
            "task": self._task.name,
            "task_id": request.get("id"),
            "attempt": (request.get("retries") or 0) + 1,
            "queue": (request.get("delivery_info") or {}).get("routing_key"),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _found_secrets(self) -> tuple[str, ...]:
        args, kwargs = self._arguments
        if not isinstance(args or (), list | tuple) or not isinstance(kwargs or {}, Mapping):
            return ()
        return secret_values(args or (), kwargs or {}, **secrecy_of(self._task))


def connect() -> None:
    """Listen to Celery's signals. Safe to repeat."""
    signals.after_setup_logger.connect(_format_lines, dispatch_uid=_UID)
    signals.after_setup_task_logger.connect(_format_lines, dispatch_uid=_UID)
    signals.task_prerun.connect(_entered, dispatch_uid=_UID)
    signals.task_postrun.connect(_left, dispatch_uid=_UID)


def disconnect() -> None:
    """Whoever runs tasks here calls `enter` and `leave` by itself: a signal costs more than what it does."""
    signals.task_prerun.disconnect(dispatch_uid=_UID)
    signals.task_postrun.disconnect(dispatch_uid=_UID)


@contextlib.contextmanager
def within(scope: logs.Scope) -> Iterator[None]:
    """What is written in this block is about that task, which runs or ran elsewhere."""
    token = logs.scope.set(scope)
    try:
        yield
    finally:
        logs.scope.reset(token)


def enter(scope: TaskScope) -> None:
    """That run of a task begins here."""
    scope.outer = logs.scope.get()
    logs.scope.set(scope)


def leave() -> None:
    """It has ended."""
    scope = logs.scope.get()
    outer = scope.outer if isinstance(scope, TaskScope) else None
    logs.scope.set(outer)
    if outer is None:
        logs.forget_bound()


def _entered(task: Any = None, args: Any = None, kwargs: Any = None, **_: Any) -> None:
    enter(TaskScope(task, vars(task.request), args, kwargs))


def _left(**_: Any) -> None:
    leave()


def _format_lines(logger: Any = None, format: str = "", **_: Any) -> None:  # noqa: A002 - Celery's
    ours = settings().log.format != "celery" and format in _CELERYS
    if ours:
        logs.configure_structlog()
    processes: Any = get_multiprocessing_logger()
    for handler in [*logger.handlers, *processes.handlers]:
        if ours and isinstance(handler.formatter, ColorFormatter):
            handler.setFormatter(logs.formatter_for(handler))
        elif not isinstance(handler, logging.NullHandler) and not logs.formats(handler):
            handler.addFilter(RedactingFilter())
