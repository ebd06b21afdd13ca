"""An exception as it may be kept or sent elsewhere: of the same class, and without secrets."""

import contextlib
import copy
from collections.abc import Iterable
from typing import Any

from seawall.redaction.bounds import KEPT, MESSAGE, NODES, shortened
from seawall.redaction.texts import redact_text
from seawall.redaction.values import redact, secret_values

_PLAIN = {Exception, ValueError, RuntimeError}


def redact_exception(exc: BaseException, values: Iterable[str] = ()) -> BaseException:
    """A copy of `exc` without secrets, its texts within `MESSAGE`; `exc` itself stays as it is.

    What an attribute's name calls a secret is hidden in its arguments too. Where what it prints is not what
    can be changed, as with classes in other languages, its words stand for it.
    """
    try:
        attributes = _attributes(exc)
        known = (*values, *secret_values((), attributes))
        shown = _copied(exc, known)
        _set(shown, attributes, known)
        return shown if _is_clean(shown, known) else _in_words(exc, attributes, known)
    except BaseException:  # noqa: BLE001 - whatever a foreign class does: what it is matters less
        return type(exc)() if type(exc) in _PLAIN else Exception(type(exc).__name__)


def _attributes(exc: BaseException) -> dict[str, Any]:
    """Those that its classes name, too."""
    slots = (name for kind in type(exc).__mro__ for name in _names(vars(kind).get("__slots__", ())))
    return {**vars(exc), **{name: getattr(exc, name) for name in slots if hasattr(exc, name)}}


def _plainly(exc: BaseException, values: tuple[str, ...]) -> BaseException:
    """As it is where it shows nothing, else in words: those that it holds may hold it."""
    if _is_clean(exc, values):
        return exc
    return Exception(f"{type(exc).__name__}: {shortened(str(exc), KEPT, values)}")


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    return [slots] if isinstance(slots, str) else slots


def _set(shown: BaseException, attributes: dict[str, Any], values: tuple[str, ...]) -> None:
    for name, value in attributes.items():
        object.__setattr__(shown, name, _redacted(value, values))  # a frozen dataclass's too


def _is_clean(shown: BaseException, values: tuple[str, ...]) -> bool:
    """Whether nothing that it prints has to be hidden, or left out as too long."""
    said = (str(shown), repr(shown))
    return all(len(text) <= 2 * KEPT and redact_text(text, values) == text for text in said)


def _in_words(exc: BaseException, attributes: dict[str, Any], values: tuple[str, ...]) -> BaseException:
    """Of its class with what it says as its only argument, or of none."""
    said = shortened(str(exc), KEPT, values)
    shown = _same(exc)
    shown.args = (said,)
    _set(shown, attributes, values)
    return shown if _is_clean(shown, values) else Exception(f"{type(exc).__name__}: {said}")


def _redacted(value: Any, values: tuple[str, ...]) -> Any:
    if isinstance(value, BaseException):  # one that it holds, such as a driver's own
        return _plainly(value, (*values, *secret_values((), _attributes(value))))
    return redact(value, values=values, bound=MESSAGE)


def _copied(exc: BaseException, values: tuple[str, ...]) -> BaseException:
    if isinstance(exc, BaseExceptionGroup):
        inner = [redact_exception(each, values) for each in exc.exceptions[:NODES]]
        message = _redacted(exc.message, values)
        try:
            return type(exc)(message, inner)
        except TypeError:  # it takes more than that
            return BaseExceptionGroup(message, inner)  # of Exceptions it is an ExceptionGroup
    args = tuple(_redacted(each, values) for each in exc.args)
    if isinstance(exc, OSError | SyntaxError | UnicodeError | ImportError | AttributeError | NameError):
        # What these print they keep beside their arguments, where only their constructor puts it.
        return _of_the_interpreter(exc, args, values)
    shown = _same(exc)
    shown.args = args
    return shown


def _same(exc: BaseException) -> BaseException:
    try:
        same = copy.copy(exc)
    except Exception:  # noqa: BLE001 - its constructor takes other arguments than it passes on
        same = exc
    return type(exc).__new__(type(exc)) if same is exc else same


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
