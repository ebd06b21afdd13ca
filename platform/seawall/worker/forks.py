"""A process that a task forks is the task's own, and behaves as in a plain script.

What such a child inherits of the worker is taken from it at once: handlers of signals, connections, what is
run at exit. While it is in the task's code it may do as it likes; it may import, submit tasks and query, with
connections of its own. When it leaves that code by returning, raising or `sys.exit`, it ends, as a script
would: exit status, traceback, functions registered with `atexit` since the fork. It never reaches the code
around the task, which would settle the parent's message and go on as a second worker on the same sockets.
So does what is forked by a hook of a task, or by a receiver of a signal that starts a worker or one of its
processes: no such child becomes a second one of those.

SIGINT and SIGQUIT stay ignored, also in programs that a task starts: a terminal sends them to every process,
and what a task has begun may end before its worker does.
"""

import atexit
import contextlib
import faulthandler
import functools
import logging
import multiprocessing
import os
import signal
import socket
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

from celery import _state as celery_state
from celery import signals

from seawall import holdings
from seawall.cluster import sockets_of
from seawall.worker import interruption

P = ParamSpec("P")
R = TypeVar("R")

_OURS: Final = ("seawall", "celery", "billiard")
_threading: Any = threading
_atexit: Any = atexit
_multiprocessing: Any = multiprocessing.process
_original: Final = multiprocessing.current_process()
_tasks: Any = celery_state

depth = 0
"""How many forks there are between this process and the one that imported this module."""

sockets: list[Callable[[], Iterable[socket.socket]]] = []
"""Called in a child for connections of its parent's; others to the same servers are closed with them."""

descriptors: list[Callable[[], Iterable[int]]] = []
"""Called in a child for other descriptors of its parent's that it must not use."""


class _Here:
    runs_tasks = False
    forgot_exits = False  # what is to be run at exit is this process's own
    run: int | None = None  # `depth` where a run began
    worker: int | None = None  # `depth` where a worker began


_blocked: Final = threading.local()


def connect() -> None:
    """Listen to the signals of Celery's pools. Safe to repeat."""
    signals.worker_process_init.connect(_prepare, dispatch_uid="seawall.forks")


def _prepare(**_: Any) -> None:
    """In a process that is to run tasks."""
    _Here.runs_tasks = True
    # Billiard has put its own here, a daemon: those may have no children, and no key to spawn one with.
    _original.name = multiprocessing.current_process().name  # what logs show
    _multiprocessing._current_process = _original  # noqa: SLF001 - tests/unit/test_contracts.py


def confined(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, the code of a task, as an attempt: what it took, and a child that it forked, ends too."""

    @functools.wraps(function)
    def confine(*args: P.args, **kwargs: P.kwargs) -> R:
        forked, outer = depth, holdings.begin()
        try:
            result = function(*args, **kwargs)
        except BaseException as exc:
            if depth != forked:
                leave(exc)
            raise
        finally:
            holdings.end(outer)
        if depth != forked:
            leave(None)
        return result

    return confine


def leave(exc: BaseException | None) -> NoReturn:
    """End this process, as the interpreter does at the end of a script."""
    status = 1
    try:
        status = _status(exc)
        _threading._shutdown()  # noqa: SLF001 - as multiprocessing does: threads of its own may go on
        if _Here.forgot_exits:
            _atexit._run_exitfuncs()  # noqa: SLF001
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            logging.shutdown()
        os._exit(status)


def leave_if_forked_on_the_way() -> None:
    """End this process if it was forked since the run began, before its task's own code."""
    if _Here.run is not None:
        leave_since(_Here.run)


def leave_since(before: int, exc: BaseException | None = None) -> None:
    """End this process if it was forked since `depth` was `before`: by a hook or a receiver of a signal."""
    if depth != before:
        leave(exc)


def alone(function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call `function`; a child that is forked within, by a hook or a receiver, ends where it leaves that."""
    forked = _Here.run = depth
    try:
        result = function(*args, **kwargs)
    except BaseException as exc:
        leave_since(forked, exc)
        raise
    leave_since(forked)
    return result


def begin_worker(**_: Any) -> None:
    """A worker begins in this process."""
    _Here.worker = depth


def end_second_worker() -> None:
    """End this process if it is a child of a receiver of `worker_init`, or of one before that."""
    if _Here.worker is not None:
        leave_since(_Here.worker)


def end_children_of(pool: Any) -> None:
    """Have whatever `pool`, of Celery's, runs end alone, also tasks whose request is none of ours."""
    apply = pool.apply_async

    def apply_async(target: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return apply(functools.partial(alone, target), *args, **options)

    pool.apply_async = apply_async


def _status(exc: BaseException | None) -> int:
    if exc is None:
        return 0
    if not isinstance(exc, SystemExit):
        traceback.print_exception(exc)
        return 1
    if exc.code is None or isinstance(exc.code, int):
        return (exc.code or 0) & 0xFF
    print(exc.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def _before_fork() -> None:
    """Put signals off: the interpreter forgets what comes before the child has its own handlers."""
    if _Here.runs_tasks or _tasks.get_current_worker_task() is not None:
        _blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _after_in_parent() -> None:
    if (before := vars(_blocked).pop("before", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _after_in_child() -> None:
    global depth  # noqa: PLW0603
    depth += 1
    if not hasattr(_blocked, "before"):
        return
    try:
        _Here.runs_tasks = False
        _forget_handlers()
        _atexit._clear()  # noqa: SLF001 - as multiprocessing does from Python 3.13 on
        _Here.forgot_exits = True
        interruption.nobody()
        _close_inherited()
    finally:
        _after_in_parent()


def _forget_handlers() -> None:
    """Signals do what they do to any process, except where the task has chosen a handler itself."""
    with contextlib.suppress(ValueError):  # the one of a thread that Python does not take for the main one
        signal.set_wakeup_fd(-1)
    faulthandler.unregister(signal.SIGUSR2)
    for signum in signal.valid_signals():
        handler = signal.getsignal(signum)
        module = getattr(handler, "__module__", None) or ""
        if callable(handler) and module.partition(".")[0] in _OURS:
            signal.signal(signum, signal.SIG_DFL)


def _close_inherited() -> None:
    """Put /dev/null in the place of connections: whatever still holds one says nothing to its server."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    servers = {_peer(each.fileno()) for find in (*sockets, _of_results) for each in find()} - {None}
    closed = {number for find in descriptors for number in find()}
    if servers:
        closed |= {number for number in _open() if _peer(number) in servers}
    for number in closed:
        with contextlib.suppress(OSError):
            os.dup2(null, number, inheritable=False)
    os.close(null)


def _of_results() -> Iterable[socket.socket]:
    """The connections to the results of the task that has forked."""
    task = _tasks.get_current_worker_task()
    client = None if task is None else vars(task.backend).get("client")
    return () if client is None else sockets_of(client.connection_pool)


def _open() -> list[int]:
    try:
        return [int(name.name) for name in Path("/proc/self/fd").iterdir()]
    except OSError:  # not Linux
        return []


def _peer(number: int) -> Any:
    """The other end of a connection over TCP; None of anything else."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return None
        borrowed = socket.socket(fileno=number)
    except OSError:
        return None
    try:
        return borrowed.getpeername() if borrowed.family in (socket.AF_INET, socket.AF_INET6) else None
    except OSError:
        return None
    finally:
        borrowed.detach()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
