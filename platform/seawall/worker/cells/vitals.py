"""What a cell needs of its process between tasks, and a task may have ruined.

A task that closes all descriptors, or uses them up, or lowers a limit of the process leaves a cell that runs
no other task well and hears nobody. So after a task the cell looks, at most once a millisecond, which costs a
few microseconds. Trace functions are removed. Otherwise the cell leaves its last words in the table and ends
at once: what it has settled is in the table as well, and the supervisor forks the next one.
"""

import errno
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Final

RUINED: Final = 113
"""The exit status of a cell that one of its tasks has ruined."""

_EVERY: Final = 0.001  # seconds
_USED_UP: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Vitals:
    """The process as it was before its first task; `descriptor` is one that the cell cannot do without."""

    def __init__(self, descriptor: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor = descriptor
        self._file = os.fstat(descriptor).st_ino
        self._memory, _ = resource.getrlimit(resource.RLIMIT_AS)
        self._trace, self._profile = sys.gettrace(), sys.getprofile()
        self._clock = clock
        self._looked_at = float("-inf")

    def damage(self) -> str | None:
        """What a task has done to the process, in words; None if nothing, or nothing that was not undone."""
        if (now := self._clock()) - self._looked_at < _EVERY:
            return None
        self._looked_at = now
        if sys.gettrace() is not self._trace:
            sys.settrace(self._trace)
        if sys.getprofile() is not self._profile:
            sys.setprofile(self._profile)
        memory, _ = resource.getrlimit(resource.RLIMIT_AS)
        if memory != self._memory and (self._memory == resource.RLIM_INFINITY or 0 <= memory < self._memory):
            return "lowered the limit of memory of its process"
        try:
            copy = os.dup(self._descriptor)
        except OSError as exc:
            used_up = exc.errno in _USED_UP
            return f"{'used up the' if used_up else 'closed'} descriptors of its process"
        file = os.fstat(copy).st_ino
        os.close(copy)
        return None if file == self._file else "closed descriptors of its process"  # the number names another
