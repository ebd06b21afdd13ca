"""An exception as it may be kept or sent elsewhere: of the same class, and without secrets."""

import contextlib
import copy
from collections.abc import Iterable
from typing import Any

from seawall.redaction.bounds import MESSAGE, NODES
from seawall.redaction.values import redact


def redact_exception(exc: BaseException, values: Iterable[str] = ()) -> BaseException:
    """A copy of `exc` without secrets, its texts within `MESSAGE`; `exc` itself stays as it is."""
    values = tuple(values)
    try:
        shown = _copied(exc, values)
        vars(shown).update(_redacted(vars(exc), values))
    except Exception:  # noqa: BLE001 - a class that cannot be copied: what it is matters less than what it says
        plain = {Exception, ValueError, RuntimeError}
        return type(exc)() if type(exc) in plain else Exception(type(exc).__name__)
    return shown


def _redacted(value: Any, values: tuple[str, ...]) -> Any:
    return redact(value, values=values, bound=MESSAGE)


def _copied(exc: BaseException, values: tuple[str, ...]) -> BaseException:
    if isinstance(exc, BaseExceptionGroup):
        inner = [redact_exception(each, values) for each in exc.exceptions[:NODES]]
        return type(exc)(_redacted(exc.message, values), inner)
    args = tuple(_redacted(each, values) for each in exc.args)
    if isinstance(exc, OSError | SyntaxError | UnicodeError | ImportError | AttributeError | NameError):
        # What these print they keep beside their arguments, where only their constructor puts it.
        return _of_the_interpreter(exc, args, values)
    shown = _same(exc)
    shown.args = args
    return shown


def _same(exc: BaseException) -> BaseException:
    try:
        return copy.copy(exc)
    except Exception:  # noqa: BLE001 - its constructor takes other arguments than it passes on
        return type(exc).__new__(type(exc))


def _of_the_interpreter(exc: BaseException, args: tuple[Any, ...], values: tuple[str, ...]) -> BaseException:
    shown = _same(exc)
    for name in _FIELDS:
        if (value := getattr(exc, name, None)) is not None:
            with contextlib.suppress(AttributeError):  # worked out from the others, as HTTPError's reason
                setattr(shown, name, _redacted(value, values))
    shown.args = args
    return shown


_FIELDS = (
    "filename",
    "filename2",
    "strerror",
    "msg",
    "text",
    "print_file_and_line",
    "object",
    "reason",
    "name",
    "path",
)
"""Attributes in which the interpreter's own exceptions keep texts."""
