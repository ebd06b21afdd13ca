"""Endings of tasks that a server did not hear, as it was away: they come again until it has.

A pool of Celery's calls an ending once: when a task has run, has outlasted its hard limit or has lost its
process. What that raises nobody hears. So an outage, of the results mostly, would leave a message that nobody
settles: it stays leased, and its place in the worker stays taken. A cell needs none of this: its supervisor
settles what it leaves (`cells.deaths`).

The process, or thread, that has run a task does not wait for the results' server either: meanwhile the task's
hard limit would pass, and after 20 s Celery takes that for an error of the task. What is `owed` to the server
goes along with the task's end to the worker, which stores it before it settles the message.
"""

import contextlib
import logging
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from celery.utils.serialization import get_pickleable_exception

from seawall import silence
from seawall.delivery.refusal import is_outage

logger = logging.getLogger(__name__)

_FIRST_WAIT: Final = 2.0
"""Seconds that an ending waits for a server in vain: most come in the thread that serves all others."""

_NEXT_WAIT: Final = 0.5
_OWED_AFTER: Final = 1.0
"""Seconds that the end of a run waits for the results' server."""

COME_EVERY: Final = 2.0
"""Seconds between two attempts."""

_NAMES: Final = ("callback", "error_callback", "timeout_callback")


_late: Final[deque[tuple[Any, Callable[[], Any]]]] = deque()


class _Runs(threading.local):
    owed: list[tuple[Any, ...]] | None = None
    """What the run of this thread owes: the name of a backend's method and its arguments."""


_here: Final = _Runs()


class Ended(tuple[Any, ...]):  # noqa: SLOT001 - it has more than a tuple
    """What Celery's tracer returned, and what is owed to the backend of the results."""

    owed: tuple[tuple[Any, ...], ...] = ()


def owing(trace: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`trace`, of Celery's, in a pool that hands its end on to `outlasting` endings."""
    before, _here.owed = _here.owed, []
    try:
        ended = trace(*args, **kwargs)
        return _with_debts(ended, _here.owed) if _here.owed else ended
    finally:
        _here.owed = before


def _with_debts(ended: Any, owed: list[tuple[Any, ...]]) -> Any:
    whole = Ended(ended)
    whole.owed = tuple(owed)
    return whole


@contextlib.contextmanager
def briefly() -> Iterator[None]:
    """Around what the end of a run asks of the results' server, if that may be owed."""
    if _here.owed is None:
        yield
        return
    with silence.within(silence.Allowance(_OWED_AFTER)):
        yield


def owe(method: str, *arguments: Any) -> bool:
    """Whether the worker calls this method of the backend when the server is back; not what has no copy."""
    if _here.owed is None:
        return False
    copied = tuple(
        get_pickleable_exception(each) if isinstance(each, Exception) else each for each in arguments
    )
    try:
        pickle.dumps(copied)
    except Exception as exc:  # noqa: BLE001 - whatever is in it
        logger.warning("%s cannot wait until a server is back: %s", method, exc)
        return False
    _here.owed.append((method, *copied))
    return True


def _pay(request: Any, ended: Any) -> None:
    """Raises what the backend raises; to pay twice changes nothing."""
    for method, *arguments in getattr(ended, "owed", ()):
        getattr(request.task.backend, method)(*arguments)


def outlasting(options: dict[str, Any], request: Any) -> dict[str, Any]:
    """`options` of a pool's `apply_async`, with endings that come again after an outage."""
    for name in _NAMES:
        if (ending := options.get(name)) is not None:
            options[name] = partial(_end, request, partial(_paid, request, ending))
    return options


def _paid(request: Any, ending: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if args:
        _pay(request, args[0])
    return ending(*args, **kwargs)


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


def have_ended() -> list[Any]:
    """The requests that have run, and whose end still waits."""
    return [request for request, _ in list(_late)]


def come_at_the_end_of(pool: Any) -> None:
    """Have them come once more when `pool`, Celery's, has stopped, and before the broker is left."""

    def stop() -> None:
        stopped()
        come()

    stopped, pool.stop = pool.stop, stop


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
