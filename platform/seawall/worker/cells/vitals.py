"""What a cell needs of its process between tasks, and a task may have ruined.

A task that closes all descriptors, or uses them up, or lowers a limit of the process leaves a cell that runs
no other task well and hears nobody. So after a task the cell looks, at most once a millisecond, which costs a
few microseconds. What can be undone is: trace functions, blocked signals, handlers of the cell's own signals,
alarms that would ring in the next task.
Otherwise the cell leaves its last words in the table and ends at once: what it has settled is in the table as
well, and the supervisor forks the next one.
"""

import _signal  # type: ignore[import-not-found] # what `signal` wraps, at ten times the cost
import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

RUINED: Final = 113
"""The exit status of a cell that one of its tasks has ruined."""

_getsignal: Any = _signal.getsignal
_sigmask: Any = _signal.pthread_sigmask
_getitimer: Any = _signal.getitimer

_EVERY: Final = 0.001  # seconds
_USED_UP: Final = frozenset({errno.EMFILE, errno.ENFILE})
_HEEDED: Final = (signal.SIGTERM, signal.SIGUSR1)  # by which a cell is told to end and a task is interrupted
_TIMERS: Final = {
    signal.ITIMER_REAL: "an alarm",
    signal.ITIMER_VIRTUAL: "a timer of its own CPU time",
    signal.ITIMER_PROF: "a timer of its CPU time",
}
_LIMITS: Final = {
    resource.RLIMIT_AS: "memory",
    resource.RLIMIT_DATA: "memory",
    resource.RLIMIT_CPU: "CPU time",
    resource.RLIMIT_FSIZE: "file size",
    resource.RLIMIT_NPROC: "processes",
}


class Vitals:
    """The process as it was before its first task; made in its main thread, where all methods are called.

    `descriptor` is one that the cell cannot do without, `wakeup` the one that signals are written to.
    """

    def __init__(
        self, descriptor: int, *, wakeup: int = -1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._descriptor = descriptor
        self._file = os.fstat(descriptor).st_ino
        self._limits = {limit: resource.getrlimit(limit)[0] for limit in _LIMITS}
        self._trace, self._profile = sys.gettrace(), sys.getprofile()
        self._wakeup = wakeup
        self._handlers = {signum: _getsignal(signum) for signum in _HEEDED}
        self._blocked = _sigmask(signal.SIG_BLOCK, ())
        self._timers = {timer: name for timer, name in _TIMERS.items() if not _getitimer(timer)[0]}
        self._somewhere = _is_somewhere()
        self._clock = clock
        self._looked_at = float("-inf")
        self.undone: list[str] = []
        """What the last look has undone, in words."""

    def damage(self) -> str | None:
        """What a task has done to the process, in words; None if nothing, or nothing that was not undone."""
        self.undone.clear()
        if (now := self._clock()) - self._looked_at < _EVERY:
            return None
        self._looked_at = now
        lowered = self._lowered()
        lost = self._lost()
        if lost is None and lowered is None:
            self._undo()
        if lost is None and self._somewhere and not _is_somewhere():
            lost = "left its process in a directory that is gone"
        return lowered or lost

    def _undo(self) -> None:
        if sys.gettrace() is not self._trace:
            sys.settrace(self._trace)
            self.undone.append("left a trace function behind")
        if sys.getprofile() is not self._profile:
            sys.setprofile(self._profile)
            self.undone.append("left a profile function behind")
        for signum, handler in self._handlers.items():
            if _getsignal(signum) is not handler:
                signal.signal(signum, handler)
                self.undone.append(f"left a handler of {signum.name} behind")
        for timer, name in self._timers.items():
            if _getitimer(timer)[0]:
                signal.setitimer(timer, 0)
                self.undone.append(f"left {name} behind")
        # asyncio forgets it with every loop that has handled signals: that is nothing to speak of.
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        if _sigmask(signal.SIG_BLOCK, ()) != self._blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)  # what was sent meanwhile arrives now
            self.undone.append("left signals blocked")

    def _lowered(self) -> str | None:
        for limit, before in self._limits.items():
            now, _ = resource.getrlimit(limit)
            if now != before and (before == resource.RLIM_INFINITY or 0 <= now < before):
                return f"lowered the limit of {_LIMITS[limit]} of its process"
        return None

    def _lost(self) -> str | None:
        try:
            copy = os.dup(self._descriptor)
        except OSError as exc:
            used_up = exc.errno in _USED_UP
            return f"{'used up the' if used_up else 'closed'} descriptors of its process"
        file = os.fstat(copy).st_ino
        os.close(copy)
        return None if file == self._file else "closed descriptors of its process"  # the number names another


def _is_somewhere() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - after each task
    except FileNotFoundError:
        return False
    except OSError:  # a folder that may not be looked at, or has too long a name, is there
        return True
    return True
