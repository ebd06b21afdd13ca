"""Endings of tasks that a server did not hear, as it was away: they come again until it has.

A pool of Celery's calls an ending once: when a task has run, has outlasted its hard limit or has lost its
process. What that raises nobody hears. So an outage, of the results mostly, would leave a message that nobody
settles: it stays leased, and its place in the worker stays taken. A cell needs none of this: its supervisor
settles what it leaves (`cells.deaths`).
"""

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from seawall import silence
from seawall.delivery.refusal import is_outage

logger = logging.getLogger(__name__)

_FIRST_WAIT: Final = 2.0
"""Seconds that an ending waits for a server in vain: most come in the thread that serves all others."""

_NEXT_WAIT: Final = 0.5
COME_EVERY: Final = 2.0
"""Seconds between two attempts."""

_NAMES: Final = ("callback", "error_callback", "timeout_callback")


_late: Final[deque[tuple[Any, Callable[[], Any]]]] = deque()


def outlasting(options: dict[str, Any], request: Any) -> dict[str, Any]:
    """`options` of a pool's `apply_async`, with endings that come again after an outage."""
    for name in _NAMES:
        if (ending := options.get(name)) is not None:
            options[name] = partial(_end, request, ending)
    return options


def _end(request: Any, ending: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        with silence.within(silence.Allowance(_FIRST_WAIT)):
            return ending(*args, **kwargs)
    except Exception as exc:
        if not _is_outage(exc, request):
            raise
        logger.warning("the end of %s[%s] waits until a server is back: %s", request.name, request.id, exc)
        _late.append((request, partial(ending, *args, **kwargs)))
        return None


def come() -> None:
    """Call those that wait, the first one first; the rest waits with one that still finds no server."""
    while _late:
        request, ending = _late[0]
        try:
            with silence.within(silence.Allowance(_NEXT_WAIT)):
                ending()
        except Exception as exc:
            if _is_outage(exc, request):
                return
            logger.exception("the end of %s[%s] failed", request.name, request.id)
        _late.popleft()


def _is_outage(error: Exception, request: Any) -> bool:
    return is_outage(error, request._connection_errors)  # noqa: SLF001 - Celery's
