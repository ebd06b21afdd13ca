"""Tasks that ruin the process they run in, each in a way of its own: `celery -A support.ruined worker`.

They return, unless they stop it. What they leave is no process in which another task should run; some of it
can be undone (`UNDONE`), and the rest costs the process.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celery import Celery, Task

from seawall import Retry, Seawall, policy
from seawall.worker.cells.table import Row, State
from support.shop import note

FOREVER = 600.0

_kept: list[Any] = []


def close_descriptors() -> None:
    os.closerange(3, 4096)


def use_up_descriptors() -> None:
    with contextlib.suppress(OSError):
        while True:
            _kept.append(os.dup(0))


def allow_few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def allow_little_memory() -> None:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now, now))


def allow_little_time() -> None:
    """A limit that the kernel enforces with SIGXCPU, soon."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def allow_no_files() -> None:
    """Nothing can be written any more; what tries gets SIGXFSZ, which Python ignores."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def set_an_alarm() -> None:
    """Which would end the process, in the next task."""
    signal.setitimer(signal.ITIMER_REAL, 600)


def trace_everything() -> None:
    sys.settrace(lambda *_: None)


def profile_everything() -> None:
    sys.setprofile(lambda *_: None)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def ignore_signals() -> None:
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


def forget_wakeups() -> None:
    """As `asyncio` does when a loop with signal handlers is closed."""
    loop = asyncio.new_event_loop()
    loop.add_signal_handler(signal.SIGUSR2, print)
    loop.close()


def leave_directory() -> None:
    os.chdir(tempfile.mkdtemp())
    Path.cwd().rmdir()


def overwrite_with_ones() -> None:
    _overwrite(0xFF)


def overwrite_with_zeros() -> None:
    _overwrite(0)


def overwrite_and_go_on() -> None:
    """Nobody can hold it to its limits now."""
    _overwrite(0xFF)
    time.sleep(FOREVER)


def _overwrite(byte: int) -> None:
    """All of this cell's row of the table, as a wild pointer might."""
    for row in _own_rows():
        ctypes.memset(ctypes.addressof(row), byte, 4096)


def _own_rows() -> list[Row]:
    gc.unfreeze()
    found = [each for each in gc.get_objects() if isinstance(each, Row)]
    return [row for row in found if row.state == State.RUNNING and row.pid == os.getpid()]


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_logs() -> None:
    """A thread that ends with the lock of every log handler."""
    locks = [handler.lock for handler in logging.getLogger().handlers if handler.lock]
    thread = threading.Thread(target=lambda: [lock.acquire() for lock in locks])
    thread.start()
    thread.join()


SAID: dict[Callable[[], None], str] = {
    close_descriptors: "has closed descriptors",
    use_up_descriptors: "has used up the descriptors",
    allow_few_descriptors: "has used up the descriptors",
    allow_little_memory: "has lowered the limit of memory",
    allow_little_time: "has lowered the limit of CPU time",
    allow_no_files: "has lowered the limit of file size",
    trace_everything: "has left a trace function behind",
    profile_everything: "has left a profile function behind",
    block_signals: "has left signals blocked",
    ignore_signals: "has left a handler of SIGTERM behind",
    set_an_alarm: "has left an alarm behind",
    forget_wakeups: "",  # libraries do so all the time
    leave_directory: "has left its process in a directory that is gone",
    overwrite_with_ones: "has overwritten its row of the table",
    overwrite_with_zeros: "has overwritten its row of the table",
    overwrite_and_go_on: "is killed: a task has overwritten its row",
    stop: "it is continued, and replaced",
    hold_the_logs: "hears nothing",
}
"""Each way, and what the log of its worker has to say of it."""

WAYS = {way.__name__: way for way in SAID}
UNDONE = {
    "trace_everything",
    "profile_everything",
    "block_signals",
    "ignore_signals",
    "set_an_alarm",
    "forget_wakeups",
}
"""Those after which the process is as it was; after the others it is replaced."""


@policy(retry=Retry(max_attempts=1))
def ruin(self: "Task[Any, Any]", way: str) -> None:
    note(self, way)
    WAYS[way]()


def look(_self: "Task[Any, Any]") -> dict[str, Any]:
    """What a task finds: its process, and what of it is not as it should be."""
    return {"pid": os.getpid(), "wrong": sorted(_wrong())}


def _wrong() -> Iterator[str]:
    if sys.gettrace() or sys.getprofile():
        yield "traced"
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        yield "an alarm is set"
    if signal.pthread_sigmask(signal.SIG_BLOCK, []):
        yield "signals blocked"
    if signal.SIG_IGN in (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)):
        yield "signals ignored"
    if (descriptor := signal.set_wakeup_fd(-1)) == -1:
        yield "not woken by signals"
    signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    try:
        Path.cwd()
    except OSError:
        yield "nowhere"
    try:
        os.close(os.dup(0))
        bytearray(1 << 26)
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    except (OSError, MemoryError) as exc:
        yield str(exc) or repr(exc)


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("ruined", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function in (ruin, look):
        app.task(bind=True, shared=False, name=f"ruined.{function.__name__}")(function)
    return app


app = create()
