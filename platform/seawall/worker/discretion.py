"""Results without secrets: what a failed task said is kept and read by others than its caller.

An exception keeps its class; its arguments, its traceback and, with `result_extended`, the arguments of the
call are shown as in logs. What a task returns is what its caller asked for and stays as it is. A group is
stored with its exceptions, each as it would be alone, so that it reaches the caller as a group.
"""

import functools
from typing import Any, Final

from seawall import logs
from seawall.policies import secrecy_of
from seawall.redaction import LINE, MESSAGE, STORED, ends, redact, redact_arguments, redact_exception

_MOST: Final = 100
"""Exceptions of a group that are stored, however deep they are; one that is left out is in the traceback."""
_GROUP: Final = "exc_group"


class Discreet:
    """In front of the class of a result backend."""

    app: Any

    def prepare_exception(self, exc: Any, serializer: str | None = None) -> Any:
        """As Celery's: an exception as it is stored."""
        prepared = super().prepare_exception(exc, serializer)  # type: ignore[misc]
        values = logs.secrets()
        if isinstance(prepared, BaseException):
            return redact_exception(prepared, values)
        if isinstance(exc, BaseExceptionGroup):
            return self._prepare_group(exc, serializer, [_MOST])
        return {
            **prepared,
            "exc_message": redact(prepared["exc_message"], values=values, bound=MESSAGE),
        }

    def _prepare_group(
        self, group: BaseExceptionGroup[BaseException], serializer: str | None, left: list[int]
    ) -> dict[str, Any]:
        """A group as it is stored; `left` counts down how many more exceptions are."""
        inner: list[Any] = []
        for each in group.exceptions:
            left[0] -= 1
            if left[0] < 0 and inner:
                break
            if not isinstance(each, BaseExceptionGroup):
                inner.append(self.prepare_exception(each, serializer))
            elif left[0] > 0:
                inner.append(self._prepare_group(each, serializer, left))
            else:  # its end is not the end of the interpreter's stack
                inner.append(self.prepare_exception(Exception(each.message), serializer))
        kind = type(group)
        message = redact(group.message, values=logs.secrets(), bound=MESSAGE)
        return {
            "exc_type": kind.__qualname__,
            "exc_module": kind.__module__,
            "exc_message": [message, inner],
            _GROUP: True,
        }

    def exception_to_python(self, exc: Any) -> Any:
        """As Celery's: a stored exception as its caller gets it."""
        if isinstance(exc, dict) and exc.get(_GROUP):
            message, inner = exc["exc_message"]
            exc = {**exc, "exc_message": [message, [self.exception_to_python(each) for each in inner]]}
        return super().exception_to_python(exc)  # type: ignore[misc]

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, **options: Any
    ) -> Any:
        """As Celery's."""
        shown = ends(str(traceback), LINE, logs.secrets()) if traceback else traceback
        return super().store_result(task_id, result, state, shown, **options)  # type: ignore[misc]

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, *args: Any, **options: Any
    ) -> Any:
        if request is not None and self.app.conf.find_value_for_key("extended", "result"):
            request = _Shown(request, self.app.tasks.get(getattr(request, "task", None)))
        return super()._get_result_meta(result, state, traceback, request, *args, **options)  # type: ignore[misc]


class _Shown:
    """A request whose arguments are shown without secrets."""

    def __init__(self, request: Any, task: Any) -> None:
        self._request = request
        self.args, self.kwargs = redact_arguments(
            request.args or (), request.kwargs or {}, bound=STORED, text=False, **secrecy_of(task)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def discreet(backend: Any) -> Any:
    """`backend`, the same object, which keeps no secrets from now on."""
    kind: Any = type(backend)
    backend.__class__ = _discreet(kind)
    return backend


@functools.cache
def _discreet(kind: type) -> type:
    if issubclass(kind, Discreet):
        return kind
    return type(kind.__name__, (Discreet, kind), {"__module__": kind.__module__})
