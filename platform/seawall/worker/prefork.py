"""The end of Celery's prefork pool, where its event loop has written a part of a large message to a child.

A pipe takes 64 KiB at once, so a larger message is written bit by bit, by a generator that the loop resumes.
A pool that ends resumes none: it writes the word to end into the middle of the message, the child takes that
for a part of it and waits for the rest for ever, and so does the pool for the child. Here a thread writes the
rest before the word.

The private names of Celery and billiard used here are held by tests/unit/test_contracts.py.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any


def end_between_messages(pool: Any) -> None:
    """Have `pool`, an AsynPool of Celery's, end only between two messages. Safe to repeat."""
    if isinstance(pool.__dict__.get("_stop_task_handler"), partial):
        return
    pool._stop_task_handler = partial(_tell_to_end, pool, pool._stop_task_handler)  # noqa: SLF001


def _half_written(pool: Any) -> Iterator[tuple[Any, Any]]:
    """Each child that has got a part of a message, with what writes the rest of it."""
    for job in list(pool._cache.values()):  # noqa: SLF001
        writer = job._writer() if getattr(job, "_writer", None) else None  # noqa: SLF001 - a weak reference
        if writer in pool._active_writers:  # noqa: SLF001
            yield job._write_to, writer  # noqa: SLF001


def _tell_to_end(pool: Any, celerys: Callable[[Any], None], handler: Any) -> None:
    """As Celery's `_stop_task_handler`."""
    half = list(_half_written(pool))
    for process, writer in half:
        name = f"seawall-rest-for-{process.pid}"
        threading.Thread(target=_write_rest, args=(process, writer), name=name, daemon=True).start()
    busy = [process for process, _ in half]
    celerys(SimpleNamespace(pool=[process for process in handler.pool if process not in busy]))


def _write_rest(process: Any, writer: Any) -> None:
    """Wait for a child that runs something, however long; whoever ends it ends this."""
    with contextlib.suppress(OSError, ValueError):  # it is gone, and its pipe with it
        os.set_blocking(process.inq._writer.fileno(), True)  # noqa: SLF001
        for _ in writer:
            pass
        process.inq.put(None)
