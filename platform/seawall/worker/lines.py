"""What a worker's lines look like and say: Celery's handlers with our formatter, and the task that runs.

Celery decides on handlers, levels and files as ever (`-l`, `-f`, `worker_hijack_root_logger`). Only the
formatter of a handler that Celery made is replaced, and only while its format is Celery's default: an
application with a `setup_logging` receiver, handlers or a `worker_log_format` of its own keeps what it chose.

Where the lines are ours nothing else is mixed in: logging is set up before anything is written, one line
stands for Celery's banner, and what Celery writes past logging when it is told to end is a line as well.
"""

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

from celery import signals
from celery.app import defaults
from celery.exceptions import SecurityWarning
from celery.utils.log import ColorFormatter, get_multiprocessing_logger

from seawall import logs
from seawall.config import settings
from seawall.policies import secrecy_of
from seawall.redaction import RedactingFilter, hide_passwords, secret_values

_defaults: Any = defaults  # celery-types lacks half of it
_CELERYS: Final = frozenset({_defaults.DEFAULT_PROCESS_LOG_FMT, _defaults.DEFAULT_TASK_LOG_FMT})
_UID: Final = "seawall.lines"

logger = logging.getLogger(__name__)


class TaskScope:
    """One run of a task, as lines show it; nothing is worked out before a line is written."""

    def __init__(self, task: Any, request: Mapping[str, Any], args: Any, kwargs: Any) -> None:
        self._task = task
        self._request = request  # as its message's headers name things
        self._arguments = args, kwargs
        self._fields: Mapping[str, Any] | None = None
        self._secrets: tuple[str, ...] | None = None
        self.outer: logs.Scope | None = None
        self.began: float | None = None

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
    signals.celeryd_init.connect(_begin, dispatch_uid=_UID)
    signals.celeryd_after_setup.connect(_introduce, dispatch_uid=_UID)
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
    scope.outer, scope.began = logs.scope.get(), time.monotonic()
    logs.scope.set(scope)


def leave() -> None:
    """It has ended."""
    scope = logs.scope.get()
    outer = scope.outer if isinstance(scope, TaskScope) else None
    logs.scope.set(outer)
    if outer is None:
        logs.forget_bound()


def _begin(sender: Any = None, instance: Any = None, options: Any = None, **_: Any) -> None:
    """Set up logging at once: Celery does after its first warnings, and after services of ours have begun."""
    no_color = options.get("no_color")
    chosen = instance.app.log.setup(
        options.get("loglevel") or "WARN",
        options.get("logfile"),
        redirect_stdouts=False,
        colorize=None if no_color is None else not no_color,
        hostname=sender,
    )
    instance.setup_logging = lambda **_: chosen  # it would find all set up, and forget who had chosen
    if _our_handler() is not None:
        instance.quiet = True
        # Where that is a danger, with pickle, Celery refuses to start.
        warnings.filterwarnings("ignore", r"(?s).*superuser privileges", SecurityWarning)
        _say_as_lines()


def _introduce(instance: Any = None, **_: Any) -> None:
    """One line for Celery's banner."""
    if instance.quiet and _our_handler() is not None:
        app, pool = instance.app, instance.pool_cls.__module__
        cells = pool.startswith("seawall.")
        url = app.conf.broker_url or ""
        logger.info(
            "application %s, %s, queues %s, broker %s",
            app.main,
            f"{instance.concurrency} cells"
            if cells
            else f"{pool.rpartition('.')[2]} of {instance.concurrency}",
            ", ".join(app.amqp.queues.consume_from),
            hide_passwords(url if isinstance(url, str) else ";".join(url)),
        )


def _say_as_lines() -> None:
    from celery.apps import worker

    celerys: Any = worker
    said, write = celerys.safe_say, getattr(celerys, "_original_os_write", os.write)

    def say(message: str, file: Any = None) -> None:
        """In the handler of a signal: one write and no lock, as Celery does."""
        handler: Any = _our_handler()
        if handler is None:
            said(message, file)
            return
        record = logging.LogRecord("celery.apps.worker", logging.INFO, "", 0, message, None, None)
        with contextlib.suppress(
            OSError, ValueError, AttributeError
        ):  # a stream that is closed, or is no file
            write(handler.stream.fileno(), f"{handler.format(record)}\n".encode())

    if said.__module__ == worker.__name__:
        celerys.safe_say = say


def _our_handler() -> logging.Handler | None:
    return next((each for each in logging.root.handlers if logs.formats(each)), None)


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
            logs.take_over(handler)
        elif not isinstance(handler, logging.NullHandler) and not logs.formats(handler):
            handler.addFilter(RedactingFilter())
