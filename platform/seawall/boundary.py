"""The error boundary: what escapes is logged once, with its context, counted and grouped; never swallowed.

`error_boundary()` stands around any code. `install()` puts the same behind whatever nobody else catches: the
process's last exception, that of a thread, of a destructor, of an asyncio task that nobody awaited, and a
crash in C code (faulthandler). Processes that are forked inherit it. Handlers that an application has set
itself are called afterwards, as before.
"""

import contextlib
import faulthandler
import functools
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from seawall import events, logs, records, recovery
from seawall.classification import classify
from seawall.events import Event
from seawall.failure import Category, Failure
from seawall.later import PREPARED, is_coroutine_function, refuse_later, too_late
from seawall.records.journal import line
from seawall.records.occurrences import occurrence
from seawall.redaction import KEPT, ends

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

NOTE: Final = "_seawall_failure"
"""Attribute of an exception: which failure it is, noted while its traceback was there."""

_CAUGHT: Final = "_seawall_caught"
_counts: dict[Category, int] = {}
_counting = threading.RLock()  # a handler of a signal may come to count inside itself
_passing: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorCaught(Event):
    """An error reached a boundary, or nobody caught it; `where` says which."""

    where: str
    error: BaseException
    failure: Failure


def disregard(*kinds: type[BaseException]) -> None:
    """These exceptions are no errors: control flow, known to whoever brings them."""
    global _passing  # noqa: PLW0603
    _passing = tuple({*_passing, *kinds})


def note(error: BaseException, task: str) -> Failure:
    """Which failure `error` is: what was noted on it before, else what it looks like here; noted then."""
    noted = getattr(error, NOTE, None)
    if isinstance(noted, Failure):
        return noted
    failure = classify(error, task=task)
    _mark(error, NOTE, failure)
    return failure


def was_caught(error: BaseException) -> bool:
    """Whether a boundary has logged and counted it already."""
    return bool(getattr(error, _CAUGHT, False))


def caught(error: BaseException, where: str, context: dict[str, Any] | None = None) -> None:
    """Log, count and group an error, once in its life however many boundaries it passes. Never raises."""
    if was_caught(error) or isinstance(error, _passing):
        return
    _mark(error, _CAUGHT, value=True)
    try:
        _tell(error, where, context or {})
    except Exception:
        logger.exception("an error at %s could not be dealt with", where)


def counts() -> dict[str, int]:
    """Errors that reached a boundary or that nobody caught, by category, since this process began."""
    return {each.value: _counts.get(each, 0) for each in Category}


def _after_fork() -> None:
    global _counting  # noqa: PLW0603 - another thread may have held it
    _counting = threading.RLock()
    _counts.clear()


os.register_at_fork(after_in_child=_after_fork)


def _mark(error: BaseException, name: str, value: object) -> None:
    with contextlib.suppress(AttributeError, TypeError):
        setattr(error, name, value)


def _tell(error: BaseException, where: str, context: dict[str, Any]) -> None:
    scope = logs.scope.get()
    task = str(scope.fields.get("task", where)) if scope is not None else where
    failure = note(error, task)
    with _counting:
        _counts[failure.category] = _counts.get(failure.category, 0) + 1
    extra = {f"at_{name}": value for name, value in context.items()}
    logger.log(
        failure.severity,
        "%s failed: %s",
        where,
        type(error).__name__,
        exc_info=error,
        extra={
            **extra,
            "category": failure.category.value,
            "severity": failure.severity.name.lower(),
            "fingerprint": failure.fingerprint,
        },
    )
    if (journal := records.current()) is not None:
        text = ends("".join(traceback.format_exception(error)), KEPT, logs.secrets())
        journal.write(line("e", occurrence(error, failure, task, text)))
    events.emit(ErrorCaught(where=where, error=error, failure=failure))
    recovery.consider(failure, error)


class error_boundary:  # noqa: N801 - a verb, used like a function
    """A context manager and a decorator, also of coroutine functions; not of generator functions.

        with error_boundary("import", order=17): ...

        @error_boundary()
        async def refresh(): ...

    What is raised inside is logged, counted and grouped, and goes on; `stop=True` ends it here. `context` is
    logged with it (names that say password, token and so on are redacted). KeyboardInterrupt, SystemExit and
    Celery's control flow pass unseen.
    """

    def __init__(self, where: str | None = None, *, stop: bool = False, **context: Any) -> None:
        self._where = where
        self._stop = stop
        self._context = context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, _passing):
            return False
        caught(error, self._where or "error boundary", self._context)
        return self._stop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """A function inside this boundary; its name is the place unless one was given.

        Raises:
            ConfigError: its body runs after the call has ended, as a generator's.
        """
        where = self._where or getattr(function, "__qualname__", repr(function))
        inner = error_boundary(where, stop=self._stop, **self._context)
        if is_coroutine_function(function):

            @functools.wraps(function)
            async def guarded_coroutine(*args: Any, **kwargs: Any) -> Any:
                async with inner:
                    return await function(*args, **kwargs)

            return guarded_coroutine  # type: ignore[return-value]
        refuse_later(
            function,
            f"error_boundary({where!r}) cannot guard",
            instead="Write a `with error_boundary(...)` block inside it",
        )

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            result = None
            with inner:
                result = function(*args, **kwargs)
            if PREPARED[type(result)]:  # outside of the block, which `stop` would end it in
                instead = "write a `with error_boundary(...)` block where the work is done"
                raise too_late(result, f"error_boundary({where!r})", instead)
            return result

        return guarded  # type: ignore[return-value]


# What nobody catches


class _Hooks:
    """The process's last handlers, and those that were there before."""

    def __init__(self) -> None:
        self.installed = False
        self._process: Any = None
        self._thread: Any = None
        self._destructor: Any = None
        self._loop: Any = None

    def install(self) -> None:
        if self.installed:
            return
        self.installed = True
        self._process, sys.excepthook = sys.excepthook, self.process
        self._thread, threading.excepthook = threading.excepthook, self.thread
        self._destructor, sys.unraisablehook = sys.unraisablehook, self.destructor
        import asyncio  # not before it is needed: every process imports this module

        loop: Any = asyncio.BaseEventLoop
        self._loop, hooks = loop.default_exception_handler, self

        def of_loop(loop: Any, context: dict[str, Any]) -> None:
            hooks.loop(loop, context)

        loop.default_exception_handler = of_loop

    def remove(self) -> None:
        if not self.installed:
            return
        self.installed = False
        sys.excepthook, threading.excepthook = self._process, self._thread
        sys.unraisablehook = self._destructor
        import asyncio

        loop: Any = asyncio.BaseEventLoop
        loop.default_exception_handler = self._loop

    def process(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            caught(error, "process")
        if self._process is not sys.__excepthook__ or not isinstance(error, Exception):
            self._process(kind, error, trace)

    def thread(self, args: Any) -> None:
        error = args.exc_value
        if isinstance(error, Exception):
            caught(error, f"thread {args.thread.name if args.thread else '?'}")
        if self._thread is not threading.__excepthook__:
            self._thread(args)

    def destructor(self, args: Any) -> None:
        if isinstance(args.exc_value, Exception):
            what = getattr(args.object, "__qualname__", None) or type(args.object).__name__
            caught(args.exc_value, f"destructor {what}")
        if self._destructor is not sys.__unraisablehook__:
            self._destructor(args)

    def loop(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            task: Any = context.get("task") or context.get("future")
            name = task.get_name() if hasattr(task, "get_name") else "?"
            caught(error, f"asyncio {name}", {"message": context.get("message", "")})
        else:
            self._loop(loop, context)


_hooks: Final = _Hooks()


def install() -> None:
    """Have this process, and those it forks, report what nobody catches. Safe to repeat."""
    _hooks.install()
    if not faulthandler.is_enabled():
        with contextlib.suppress(ValueError, OSError, AttributeError):  # no real stderr
            faulthandler.enable()


def remove() -> None:
    """Undo `install`, but for faulthandler."""
    _hooks.remove()


def watch(loop: "asyncio.AbstractEventLoop") -> None:
    """The same for a loop that is not asyncio's own, such as uvloop's."""
    loop.set_exception_handler(_hooks.loop)
