"""A filter for handlers that have no formatter of ours."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

from seawall.redaction.bounds import FIELD, LINE, shortened
from seawall.redaction.exceptions import redact_exception
from seawall.redaction.texts import ends
from seawall.redaction.values import redact

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LINKS: Final = 10
"""Exceptions of a chain that are shown to formatters that read it themselves."""


class RedactingFilter(logging.Filter):
    """On a handler: its lines, fields and tracebacks hold no secret that `redact` and `redact_text` know.

    A record in which nothing is to be hidden stays as it is, for other handlers.
    """

    secrets: ClassVar[Callable[[], Iterable[str]]] = tuple
    """What is secret besides, such as arguments of the task that runs; `seawall.logs` says it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it always passes."""
        secrets = tuple(type(self).secrets())
        for name in vars(record).keys() - _STANDARD:
            value = getattr(record, name)
            if _differs(shown := redact({name: value}, values=secrets, bound=FIELD)[name], value):
                setattr(record, name, shown)
        if isinstance(record.msg, dict):  # structlog's, for a handler without our formatter
            record.msg = redact(record.msg, values=secrets, bound=FIELD)
            return True
        if isinstance(record.args, dict):
            record.args = redact(record.args, values=secrets, bound=FIELD)
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a malformed call; the handler says so and never its caller
            return True
        if (shown := shortened(message, LINE, secrets)) != message:
            record.msg, record.args = shown, None
        _hide_in_traceback(record, secrets)
        return True


def _differs(shown: Any, value: Any) -> bool:
    try:
        return bool(shown != value)
    except Exception:  # noqa: BLE001 - what is compared element by element, such as an array
        return True


def _hide_in_traceback(record: logging.LogRecord, secrets: tuple[str, ...]) -> None:
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    if record.exc_text and (shown := ends(record.exc_text, LINE, secrets)) != record.exc_text:
        record.exc_text = shown
        if record.exc_info and (exc := record.exc_info[1]) is not None:
            record.exc_info = type(exc), _without_secrets(exc, secrets), exc.__traceback__


def _without_secrets(exc: BaseException, secrets: tuple[str, ...], links: int = _LINKS) -> BaseException:
    """For a formatter that prints exceptions itself: with its traceback, and what it was raised from."""
    shown: Any = redact_exception(exc, secrets).with_traceback(exc.__traceback__)
    cause, context = (
        None if link is None or not links else _without_secrets(link, secrets, links - 1)
        for link in (exc.__cause__, None if exc.__suppress_context__ else exc.__context__)
    )
    shown.__context__, shown.__cause__ = context, cause
    shown.__suppress_context__ = exc.__suppress_context__
    return shown  # type: ignore[no-any-return]
