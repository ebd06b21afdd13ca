"""The side that runs tasks: what each run uses, and being told that it is too much.

Around a run stand one row of the board, two small readings and one system call: some 30 microseconds. What a
run kept is measured after it has ended, and only while that costs less than a set share of the time: a
collection and a trim take milliseconds.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final

from seawall import holdings
from seawall.errors import MemoryBudgetExceeded
from seawall.memory import cleanup, leaks
from seawall.memory.board import Board, Busy, Kind, Row
from seawall.memory.descendants import clock
from seawall.memory.learned import Sample
from seawall.memory.meter import Own
from seawall.policies import Policy
from seawall.quantity import format_bytes

SIGNAL: Final = signal.SIGRTMIN + 1 if hasattr(signal, "SIGRTMIN") else None
"""Tells a process that its task has passed its soft limit."""

_SHARE_FOR_MEASURING: Final = 0.01
_SHARE_FOR_TRIMS: Final = 0.05
_SAVED: Final = 0.02
"""Seconds of that share which an idle process saves up: what comes after a pause is not slowed down by it."""
_FIRST: Final = 0.25
"""Seconds of CPU that a fresh process may spend on either, beside the share of its time."""

_SLACK: Final = 32 << 20
"""Free memory that the allocator may keep after a run before it is trimmed."""

_BRIEF: Final = 0.0005
"""Seconds in which no process can come to need more than some megabytes: what it holds is not read again, and
a run that ends within them has its peak at its end."""

_TOLD: Final = 200
"""Runs of a task that a process reports one by one; later ones now and then, and whatever exceeds them."""

_TELL_EVERY: Final = 16

_TOLD_A_SECOND: Final = 50.0
"""Reports of a process on average, of whatever tasks; each costs some 50 microseconds, here and there."""

_TOLD_AT_ONCE: Final = 200.0
"""Reports that a process may send beyond that once it has sent fewer for a while."""

_NAMED: Final = 10
"""Arguments that a message lists."""

Arguments = tuple[Sequence[Any], Mapping[str, Any]]

_NEAR: Final = 4 << 20
"""A run that began with more slack than this says nothing about what its task needs."""


class Reports:
    """Samples on their way from the processes that run tasks to the one that keeps records.

    A socket of packets, made before the first fork: sending never blocks, and what does not fit is lost.
    """

    def __init__(self) -> None:
        # Linux queues a handful of datagrams only; a sequence of packets is bounded by bytes.
        kind = socket.SOCK_SEQPACKET if sys.platform.startswith("linux") else socket.SOCK_DGRAM
        self._here, self._there = socket.socketpair(socket.AF_UNIX, kind)
        self._here.settimeout(0)
        self._there.settimeout(0)

    def send(self, sample: Sample) -> None:
        """From any process."""
        kept = "-" if sample.kept is None else sample.kept
        with contextlib.suppress(OSError):
            self._there.send(f"{sample.peak} {kept} {sample.name}".encode(errors="backslashreplace"))

    def received(self) -> Iterator[Sample]:
        """What has arrived, for the one that keeps records."""
        while True:
            try:
                peak, kept, name = self._here.recv(4096).decode(errors="replace").split(" ", 2)
            except OSError:
                return
            yield Sample(name, int(peak), None if kept == "-" else int(kept))

    def close(self) -> None:
        """Done with."""
        self._here.close()
        self._there.close()


class Runs:
    """The runs of one process, one at a time, in its main thread."""

    def __init__(self, board: Board, report: Callable[[Sample], None]) -> None:
        self._board = board
        self._report = report
        self._pid = 0
        self._inside = False
        self._generation = 0
        self.highest = 0
        """Bytes of memory that this process had at most during its last run."""

    def _start_process(self) -> None:
        """On the first run after a fork."""
        self._pid = os.getpid()
        self._own = Own()
        self._row: Row | None = None
        self._runs: Counter[str] = Counter()
        self._highest: dict[str, int] = {}
        self._ran = False
        self._clean: int | None = None
        self._floor = self._ended = self._own.held()
        self._born = self._read_at = time.monotonic()
        self._spent = 0.0
        self._level = self._board.level
        self._reports, self._refilled_at = _TOLD_AT_ONCE, self._born

    def run(
        self, request: str, name: str, policy: Policy, reserved: int, arguments: Arguments = ((), {})
    ) -> contextlib.AbstractContextManager[None]:
        """The task's code runs in the block, and is interrupted there.

        Raises:
            MemoryBudgetExceeded: it used more than its soft limit.
        """
        if self._pid != os.getpid():
            self._start_process()
        row = self._begin(request, name, policy, reserved)
        self._arguments = arguments
        begun = self._held_at(time.monotonic())
        if row is not None:
            row.begun, row.since = begun, clock()
            self._generation += 1
            row.generation = self._generation
        self._own.reset_peak()
        return _Run(self, name, begun)

    def _enter(self) -> None:
        self._inside = True

    def _leave(self, name: str, begun: int, started: float) -> None:
        self._inside = False
        if self._row is not None:
            self._row.generation = 0
        self._runs[name] += 1
        self._arguments = ((), {})
        self._name = name
        self._ran = True
        self._telling = begun - self._floor <= _NEAR
        now = time.monotonic()
        highest = self._held_at(now)
        if now - started >= _BRIEF:
            highest = self._own.peak()
        self.highest = highest
        # What a supervisor saw is more where the run has started processes.
        self._peak = max(0, highest - begun, self._row.used if self._row is not None else 0)

    def _held_at(self, now: float) -> int:
        if now - self._read_at >= _BRIEF:
            self._ended, self._read_at = self._own.held(), now
        return self._ended

    def _begin(self, request: str, name: str, policy: Policy, reserved: int) -> Row | None:
        if self._row is None:
            with contextlib.suppress(Busy), self._board.locked(patience=0.05):
                self._row = self._board.take(Kind.RUN)
            if self._row is not None and SIGNAL and threading.current_thread() is threading.main_thread():
                signal.signal(SIGNAL, self._on_signal)
        row = self._row
        if row is not None:
            row.id, row.name = (
                request.encode(errors="backslashreplace")[:63],
                name.encode(errors="backslashreplace")[:127],
            )
            row.used = row.below = 0
            row.size = reserved
            row.soft, row.hard = policy.memory or 0, policy.memory_limit or 0
        return row

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        """The supervisor found too much: true still, and of the task that runs now?"""
        row = self._row
        if row is None or not self._inside or row.told != row.generation:
            return
        if holdings.in_shelter(frame):
            holdings.again(signum)
            return
        used = self._own.held() - row.begun + row.below
        if row.soft and used <= row.soft:
            return
        self._inside = False  # once: what the task does about it is not interrupted again
        name = row.name.decode(errors="replace")  # it may have been cut within a character
        raise MemoryBudgetExceeded(exceeded(name, row.soft or row.size, used, self._arguments))

    def after(self) -> None:
        """When the outcome is settled: report the last run, and give memory back if it is time to."""
        if self._pid != os.getpid() or not self._ran:
            return
        self._ran = False
        kept = self._measure()
        if self._telling and self._tells(kept):
            self._report(Sample(self._name, self._peak, kept))
        self.heed()

    def _tells(self, kept: int | None) -> bool:
        runs, highest = self._runs[self._name], self._highest.get(self._name, -1)
        if self._peak > highest:
            self._highest[self._name] = self._peak
            return True
        return kept is not None or ((runs <= _TOLD or not runs % _TELL_EVERY) and self._may_tell())

    def _may_tell(self) -> bool:
        """Whether what is no news is within its share: it grows with the names in use, one share does not."""
        now = self._read_at
        refilled = self._reports + (now - self._refilled_at) * _TOLD_A_SECOND
        self._reports, self._refilled_at = min(refilled, _TOLD_AT_ONCE), now
        if self._reports < 1:
            return False
        self._reports -= 1
        return True

    def heed(self) -> None:
        """Between tasks: clean up once pressure has risen."""
        if self._pid != os.getpid():
            self._start_process()
        level = self._board.level
        if level > self._level:
            cleanup.CLEANER.react(level)
            self._clean = None
            self._floor = self._own.held()
        self._level = level

    def _measure(self) -> int | None:
        """What the run kept, if the process was clean before it and that is within its share of the time."""
        lived, before = time.monotonic() - self._born, self._clean
        self._clean = None
        if self._spent > _FIRST:
            self._spent = max(self._spent, _FIRST + _SHARE_FOR_MEASURING * lived - _SAVED)
        if before is not None or self._spent <= _FIRST + _SHARE_FOR_MEASURING * lived:
            with self._timed():
                cleanup.release()
                self._clean = self._floor = self._own.held()
        elif self._ended - self._floor > _SLACK and self._spent <= _FIRST + _SHARE_FOR_TRIMS * lived:
            with self._timed():
                cleanup.trim()
                self._floor = self._own.held()
        clean = self._clean
        if self._spent > _FIRST + _SHARE_FOR_MEASURING * lived:
            self._clean = None  # the next run is not measured, whatever this one says
        if before is None or clean is None or self._runs[self._name] <= leaks.FIRST_RUNS:
            return None
        return max(0, clean - before)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Its time on the processor is charged; asking for that takes a system call."""
        begun = time.thread_time()
        yield
        self._spent += time.thread_time() - begun


class _Run:
    """One run as a context; a generator would cost as much as all that is measured."""

    __slots__ = ("_begun", "_name", "_runs", "_started")

    def __init__(self, runs: Runs, name: str, begun: int) -> None:
        self._runs = runs
        self._name = name
        self._begun = begun

    def __enter__(self) -> None:
        self._started = time.monotonic()
        self._runs._enter()  # noqa: SLF001 - one thing in two classes

    def __exit__(self, *_: object) -> None:
        self._runs._leave(self._name, self._begun, self._started)  # noqa: SLF001


def exceeded(name: str, limit: int, used: int, arguments: Arguments) -> str:
    """The message of a task that used too much."""
    return (
        f"{name} used {format_bytes(used)} of memory beyond its start, {format_bytes(limit)} are allowed"
        f"{sizes(*arguments)}: raise its policy's memory or use less"
    )


def sizes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The arguments by their sizes, for messages: values may be secret or huge, sizes are neither."""
    named = [*((str(place), value) for place, value in enumerate(args)), *kwargs.items()]
    listed = ", ".join(f"{name}: {format_bytes(len(repr(value)))}" for name, value in named[:_NAMED])
    return f" (arguments {listed})" if named else ""
