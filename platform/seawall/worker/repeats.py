"""Whether a message that comes again is of a task that has succeeded already.

Celery's tracer asks the backend of the results before it runs such a message
(`worker_deduplicate_successful_tasks`), and takes an error of that question for one of the task, which then
fails without having run. While `asking` an outage is no answer: the message waits in the broker for some
seconds, or runs, if its success would not have been stored in any case. `results.Stored` asks so.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from celery import _state as celery_state
from celery.exceptions import BackendGetMetaError

from seawall.worker.task import Postponed

ASKED_FOR: Final = 2.0
"""Seconds after which a question without an answer is given up."""

_ASKED_AGAIN: Final = 5.0
"""Seconds that a message waits for the next one."""

_tasks: Any = celery_state._task_stack  # type: ignore[attr-defined]  # noqa: SLF001


class _Asks(threading.local):
    wanted: bool | None = None


_asks: Final = _Asks()


@contextlib.contextmanager
def asking(*, wanted: bool) -> Iterator[None]:
    """Around the tracer of a message that comes again; `wanted` says whether its task's result is stored."""
    before, _asks.wanted = _asks.wanted, wanted
    try:
        yield
    finally:
        _asks.wanted = before


def under_way() -> bool:
    """Whether who asks for a result now is the tracer: no task runs yet."""
    return _asks.wanted is not None and _tasks.top is None


def unknown(task_id: Any) -> Exception:
    """What to raise to the tracer that cannot be answered."""
    if _asks.wanted:
        return Postponed(_ASKED_AGAIN)
    lost: Any = BackendGetMetaError  # the stubs know none of its arguments
    error: Exception = lost("its server is away", task_id=task_id)
    return error


def traced(trace: Callable[..., Any], wanted: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001
    """`trace`, of Celery's, for a pool that runs it elsewhere."""
    with asking(wanted=wanted):
        return trace(*args, **kwargs)
