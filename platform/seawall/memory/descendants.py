"""The processes that tasks start: what they hold is their task's.

Children are looked for only where a task runs for longer than `AFTER`, once in `EVERY`, and count from the
second look on: most programs that a task runs are gone by then. Between two looks they are read like any
other process under the meter.

A child that was forked shares pages with the task's process, whose they are counted as: only what it shares
with nobody is added. One that has begun another program (exec) shares none, and what it shares is shared with
others of its kind: its proportional size is added. A child that was there before the run began is charged for
what it adds.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from seawall.memory.meter import Meter, started_at

AFTER: Final = 0.2
"""Seconds that a task runs before anybody looks whether it has children,"""

EVERY: Final = 0.2
"""and between two looks."""

SHARE: Final = 0.004
"""Of one core, for looking whether there are children."""

_SAVED: Final = 0.1
"""Seconds for which that share may be saved up."""

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_STACK: Final = 25
"""The field of /proc/PID/stat, counted after the name, that says where the stack begins: exec moves it."""


def clock() -> float:
    """Seconds, by the clock of the times at which processes start."""
    return time.clock_gettime(_CLOCK)


def below(pid: int) -> set[int]:
    """The descendants of a process; none where the kernel does not list children."""
    found: set[int] = set()
    ahead = [pid]
    while ahead:
        parent = ahead.pop()
        mapped = _read(f"/proc/{parent}/statm")
        # Until a child made by vfork has begun its program, all that it has is its parent's.
        new = [each for each in _children(parent) - found if _read(f"/proc/{each}/statm") != mapped]
        found.update(new)
        ahead += new
    return found


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names are all that is wanted
            found.update(map(int, _read(f"/proc/{pid}/task/{thread}/children").split()))
    return found


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""


def _stack(pid: int) -> bytes:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return fields[_STACK] if len(fields) > _STACK else b""


@dataclass(slots=True)
class _Child:
    """One descendant that counts."""

    forked: bool
    """Whether it runs its parent's program still, on pages that it shares with it."""

    earlier: bool
    """Whether it was there before the run began,"""

    before: int | None = None
    """and what it had when it first counted."""


@dataclass(slots=True)
class _Family:
    """The descendants of one run's process."""

    generation: int
    since: float
    due: float
    seen: set[int] = field(default_factory=set)
    children: dict[int, _Child] = field(default_factory=dict)


class Descendants:
    """Those of the processes that a guard watches; `clock` measures what looking costs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._families: dict[int, _Family] = {}
        self._clock = clock
        self._next = float("-inf")
        self.cost = 0.0
        """Seconds that the last `look` took, out of a share of its own."""

    def look(self, runs: Iterable[tuple[int, int, float]], now: float) -> set[int]:
        """The processes to read as well. `runs`: pid, generation and start (by `clock`) of what runs."""
        running = {pid: (generation, since) for pid, generation, since in runs}
        for pid in self._families.keys() - running.keys():
            del self._families[pid]
        for pid, (generation, since) in running.items():
            family = self._families.get(pid)
            if family is None or family.generation != generation:
                self._families[pid] = _Family(generation, since, now + AFTER)
        self._look_at_due(now)
        return {child for family in self._families.values() for child in family.children}

    def _look_at_due(self, now: float) -> None:
        """Who waits longest comes first, as long as the share lasts."""
        self.cost = 0.0
        self._next = max(self._next, now - _SAVED)
        due = [(family.due, pid) for pid, family in self._families.items() if family.due <= now]
        for _, pid in sorted(due):
            if self._next > now:
                return
            begun = self._clock()
            self._families[pid].due = now + EVERY
            self._look(pid, self._families[pid])
            cost = self._clock() - begun
            self._next += cost / SHARE
            self.cost += cost

    def _look(self, pid: int, family: _Family) -> None:
        seen = below(pid)
        for gone in family.children.keys() - seen:
            del family.children[gone]
        stack = _stack(pid) if seen else b""
        for each in seen & family.seen:
            forked = _stack(each) == stack
            if (child := family.children.get(each)) is not None:
                child.forked = forked
            elif (started := started_at(each)) is not None:
                family.children[each] = _Child(forked, (started + 1) * _TICK < family.since)
        family.seen = seen

    def held(self, pid: int, meter: Meter) -> int:
        """Bytes that the descendants of `pid` have added since its run began, as `meter` has read them."""
        family = self._families.get(pid)
        return (
            0
            if family is None
            else sum(_added(each, child, meter) for each, child in family.children.items())
        )


def _added(pid: int, child: _Child, meter: Meter) -> int:
    held = meter.alone(pid) if child.forked else meter.own(pid)
    if child.before is None:
        child.before = held if child.earlier else 0
    return max(0, held - child.before)


def identified(pids: Collection[int]) -> dict[int, int | None]:
    """Processes with the moments at which they started, for `end`."""
    return {pid: started_at(pid) for pid in pids}


def end(processes: dict[int, int | None]) -> None:
    """Kill those that still are who they were."""
    for pid, started in processes.items():
        if started is not None and started_at(pid) == started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
