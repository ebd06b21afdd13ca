"""The end of Celery's prefork pool: it waits for no child longer than what that runs may take.

A pool that ends joins its children without a bound, and before that writes the rest of every message of which
a child has got a part: a pipe takes 64 KiB at once, so a larger message is written bit by bit. A child that
does not read, or whose task does not end when it is told to, would keep the worker for ever. Here a thread
looks at the children meanwhile and kills, by its pid, one that

- has a message, or a part of one, does not read it and runs nothing;
- outlasts the hard limits of what it was given, or has nothing and does not leave;
- has not died of a cold shutdown.

What such a child had not begun goes back to the broker at no charge.

A pool that ends also resumes no writing: it writes the word to end into the middle of the message, the child
takes that for a part of it and waits for the rest for ever. Here a thread writes the rest before the word.

The private names of Celery and billiard used here are held by tests/unit/test_contracts.py.
"""

import array
import contextlib
import fcntl
import functools
import logging
import os
import signal
import termios
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from celery.concurrency import prefork as celery_prefork
from celery.worker import state as worker_state

from seawall.worker import forks

logger = logging.getLogger(__name__)
state: Any = worker_state  # celery-types lacks half of it
_prefork: Any = celery_prefork

_LOOK_EVERY: Final = 0.1
_READS_WITHIN: Final = 2.0  # seconds
_LEAVES_WITHIN: Final = 2.5
"""Seconds, once it was told to, or beyond the last hard limit of what it was given."""

_DIES_WITHIN: Final = 2.5  # seconds, of a cold shutdown


def end_what_hooks_fork() -> None:
    """Have no child that a receiver of `worker_process_init` forks go on as a process of the pool."""
    celerys = _prefork.process_initializer
    if hasattr(celerys, "__wrapped__"):
        return

    @functools.wraps(celerys)
    def process_initializer(*args: Any, **kwargs: Any) -> Any:
        return forks.alone(celerys, *args, **kwargs)

    _prefork.process_initializer = process_initializer


def end_in_time(task_pool: Any) -> None:
    """Have `task_pool`, Celery's, with its AsynPool end in time, and between two messages. Safe to repeat."""
    pool = task_pool._pool  # noqa: SLF001
    if isinstance(pool.__dict__.get("_stop_task_handler"), partial):
        return
    watch = _Watch(pool)
    pool._stop_task_handler = partial(_tell_to_end, pool, watch, pool._stop_task_handler)  # noqa: SLF001
    pool.terminate = partial(watch.terminate, pool.terminate)
    task_pool.flush = pool.flush = partial(watch.flush, pool.flush)


class _Watch:
    """Looks at the children of a pool while that flushes what it has written, and once it ends."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._given: list[tuple[Any, float]] = []
        """Until when (monotonic) a child may work on what it was given and has not accepted."""
        self._unread: dict[int, tuple[float, int]] = {}
        """When a child, by its pid, had how many bytes that it had not read."""
        self._told_at: float | None = None
        self._cold_since: float | None = None
        self._killed: set[int] = set()

    def flush(self, celerys: Callable[[], None]) -> None:
        """As Celery's, but what a child has got is not forgotten, although it has not said so: it runs it.

        Celery would not hear of that end, so the message would come back and run once more.
        """
        pool = self._pool
        self._given = []
        self._note()
        flushed = threading.Event()
        self._start(flushed)
        given = {number: job for number, job in pool._cache.items() if _given(job)}  # noqa: SLF001
        for number in given:
            del pool._cache[number]  # noqa: SLF001
        try:
            celerys()
        finally:
            flushed.set()
            for number, job in given.items():
                if _lives(job._write_to.pid):  # noqa: SLF001
                    pool._cache[number] = job  # noqa: SLF001
                    pool._busy_workers.add(job._write_to.inqW_fd)  # noqa: SLF001

    def told(self) -> None:
        """The children are about to be told to end."""
        self._note()
        self._told_at = time.monotonic()
        self._start(threading.Event())

    def terminate(self, celerys: Callable[[], None]) -> None:
        """As Celery's, which sends each child SIGTERM."""
        self._cold_since = time.monotonic()
        self._start(threading.Event())
        celerys()

    def _note(self) -> None:
        """What each child was given; of a job no more is kept, which would keep its message here."""
        now = time.monotonic()
        self._given += [
            (job._write_to, now + self._hard(job))  # noqa: SLF001
            for job in list(self._pool._cache.values())  # noqa: SLF001
            if _given(job)
        ]
        self._unread = {child.pid: (now, many) for child in self._pool._pool if (many := _unread(child))}  # noqa: SLF001

    def _hard(self, job: Any) -> float:
        limit = self._pool.timeout if job._timeout is None else job._timeout  # noqa: SLF001
        return float(limit or "inf")

    def _start(self, over: threading.Event) -> None:
        threading.Thread(target=self._look, args=(over,), name="seawall-prefork-end", daemon=True).start()

    def _look(self, over: threading.Event) -> None:
        while not over.wait(_LOOK_EVERY):
            living = [child for child in list(self._pool._pool) if _lives(child.pid)]  # noqa: SLF001
            if not living:
                return
            for child in living:
                if time.monotonic() > self._ends_at(child) and child.pid not in self._killed:
                    self._kill(child)

    def _kill(self, child: Any) -> None:
        self._killed.add(child.pid)
        logger.error("process %d neither reads what it is given nor ends: it is killed", child.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)

    def _ends_at(self, child: Any) -> float:
        """The moment (monotonic) at which a child is killed that is still there."""
        if state.should_terminate and self._cold_since is None:
            self._cold_since = time.monotonic()
        if self._cold_since is not None:
            return self._cold_since + _DIES_WITHIN
        running = [
            job._time_accepted + self._hard(job)  # noqa: SLF001
            for job in list(self._pool._cache.values())  # noqa: SLF001
            if job._worker_pid == child.pid and job._time_accepted and not job.ready()  # noqa: SLF001
        ]
        if running:
            return float(max(running)) + _LEAVES_WITHIN
        since, many = self._unread.get(child.pid, (0.0, 0))
        if many and _unread(child) >= many:  # beside the word to end there may be more by now
            return since + _READS_WITHIN
        if given := [until for to, until in self._given if to is child]:
            return max(given) + _LEAVES_WITHIN
        return float("inf") if self._told_at is None else self._told_at + _LEAVES_WITHIN


def _given(job: Any) -> bool:
    """Whether a child has got it, or a part of it, and has not said that it has begun."""
    return not job._accepted and job._write_to is not None  # noqa: SLF001


def _unread(child: Any) -> int:
    """Bytes in the pipe to a child."""
    number = array.array("i", [0])
    with contextlib.suppress(OSError, ValueError):  # it is gone
        fcntl.ioctl(child.inq._reader.fileno(), termios.FIONREAD, number)  # noqa: SLF001
    return number[0]


def _lives(pid: int | None) -> bool:
    """Whether a child runs; one that has ended is left to whoever waits for it."""
    try:
        return bool(pid) and os.waitid(os.P_PID, pid or 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _half_written(pool: Any) -> Iterator[tuple[Any, Any]]:
    """Each child that has got a part of a message, with what writes the rest of it."""
    for job in list(pool._cache.values()):  # noqa: SLF001
        writer = job._writer() if getattr(job, "_writer", None) else None  # noqa: SLF001 - a weak reference
        if writer in pool._active_writers:  # noqa: SLF001
            yield job._write_to, writer  # noqa: SLF001


def _tell_to_end(pool: Any, watch: _Watch, celerys: Callable[[Any], None], handler: Any) -> None:
    """As Celery's `_stop_task_handler`."""
    half = list(_half_written(pool))
    watch.told()
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
