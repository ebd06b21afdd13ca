"""What the failed side said about when to come back: `Retry-After`, or the exception's own `retry_after`."""

import math
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Final

_DEPTH: Final = 10


def retry_after(exc: BaseException, *, now: float | None = None) -> float | None:
    """Seconds to wait at least, as `exc` or what caused it says; None if nothing does.

    Source of the header's two forms, seconds and a date: RFC 9110, 10.2.3.
    """
    for link in _chain(exc):
        for said in _said(link):
            seconds = _seconds(said, time.time() if now is None else now)
            if seconds is not None:
                return seconds
    return None


def _chain(exc: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = exc
    for _ in range(_DEPTH):
        if link is None:
            return
        yield link
        link = link.__cause__


def _said(exc: Any) -> Iterator[object]:
    """The attribute, then the header, wherever the library keeps its headers."""
    try:
        yield getattr(exc, "retry_after", None)
        for holder in (getattr(exc, "response", None), exc):
            headers = getattr(holder, "headers", None)
            if headers is not None:
                yield headers.get("Retry-After")
    except Exception:  # noqa: BLE001 - a foreign exception's attributes may do anything
        return


def _seconds(said: object, now: float) -> float | None:
    if isinstance(said, bytes):
        said = said.decode("latin-1")
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        seconds = float(said)
    except OverflowError:
        return None
    except ValueError:
        try:
            seconds = parsedate_to_datetime(str(said)).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
