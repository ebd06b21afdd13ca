"""The watch over a process that is no worker's: a web server's, a script's, any that called `bootstrap()`.

A thread looks once a second: what the process holds, with the processes it has started, is written to a board
as a worker's is, and the level follows from the same budget and marks. When the level rises the callbacks of
`on_pressure` are called and memory is given back.

A process forked after this has begun shares the board: once it begins too, all of them have one budget and
one level. Until then it is one of its parent's descendants. In a process that a worker's task has started,
which is counted there, the worker's board is read and nothing is written.
"""

import contextlib
import logging
import os
import threading
import time
from typing import Final

from seawall import memory
from seawall.errors import StartupError
from seawall.memory import meter
from seawall.memory.board import Board, Busy, Kind
from seawall.memory.budget import Budget, ControlGroup, find
from seawall.memory.cleanup import CLEANER
from seawall.memory.descendants import below
from seawall.memory.guard import Guard
from seawall.memory.levels import Marks, Pressure
from seawall.quantity import format_bytes
from seawall.sections import MemorySettings

logger = logging.getLogger(__name__)

EVERY: Final = 1.0
"""Seconds between two looks: one wakeup a second is all that an idle process pays."""

_SHARE_FOR_PSS: Final = 0.0001
"""Of one core, for exact readings: what such a process shares changes when it forks, and is read then."""


class ProcessWatch:
    """A service; one of a process counts, the last that was started."""

    def __init__(self, chosen: MemorySettings) -> None:
        self._chosen = chosen
        self._ended = threading.Event()
        self._pid = 0
        self._board: Board | None = None
        self._guard: Guard | None = None
        self._level = Pressure.NORMAL
        self._relatives: set[int] = set()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch from now on, unless a worker does that here. Safe to repeat."""
        global _watch  # noqa: PLW0603 - one a process
        if self._pid == os.getpid() or memory.is_watched():
            return
        self._pid, self._ended = os.getpid(), threading.Event()
        inherited = memory.attached() is not None
        self._board, group, counted = self._choose_board()
        if not counted:
            exact = meter.Meter(share_for_pss=_SHARE_FOR_PSS)
            self._guard = Guard(self._board, marks=marks_of(self._chosen), slots=0, group=group, meter=exact)
        memory.attach(self._board, only=self._pid)
        self._level = self._board.level
        now = time.monotonic()
        if self._guard is not None and inherited:
            self._guard.join(now)
        else:
            self._look(now)
        self._thread = threading.Thread(target=self._run, name="seawall-memory", daemon=True)
        self._thread.start()
        _watch = self

    def stop(self) -> None:
        """End the thread, and take part in the board no more. Safe to repeat; a child's touches nothing."""
        global _watch  # noqa: PLW0603
        if self._pid != os.getpid():
            return
        self._pid = 0
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self._guard is not None:
            with contextlib.suppress(Busy):
                self._guard.close()
        if self._board is not None and memory.attached() is self._board:
            memory.attach(None)
        self._thread = self._guard = self._board = None
        if _watch is self:
            _watch = None

    def _choose_board(self) -> tuple[Board, ControlGroup | None, bool]:
        """The board, the group whose limit is the budget, and whether somebody else counts this process."""
        inherited = memory.attached()
        if inherited is not None:
            return inherited, group_of(self._chosen), False
        if self._chosen.board is not None:
            with contextlib.suppress(StartupError):  # its owner is gone: this is nobody's child any more
                return Board.open(self._chosen.board), None, True
        return *make_board(self._chosen), False

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                self._look(time.monotonic())
            except Exception:
                logger.exception("the watch over memory goes on after an error")

    def _look(self, now: float) -> None:
        assert self._board is not None  # noqa: S101 - there is one from start to stop
        if self._guard is not None:
            descendants, counted = below(os.getpid()), self._counted()
            if descendants | counted != self._relatives:
                self._relatives = descendants | counted
                self._guard.shares_anew()
            self._guard.look(descendants - counted, now)
        level, before = self._board.level, self._level
        self._level = level
        if level > before:
            CLEANER.react(level)

    def _counted(self) -> set[int]:
        """Processes that say themselves what they hold."""
        assert self._board is not None  # noqa: S101
        return {row.pid for row in self._board.rows(Kind.WORKER)}


_watch: ProcessWatch | None = None


def stand_down() -> None:
    """A worker begins in this process, and watches instead."""
    if _watch is not None:
        _watch.stop()


def marks_of(chosen: MemorySettings) -> Marks:
    """The levels of the settings.

    Raises:
        ConfigError: they are not in order.
    """
    return Marks(
        warning=chosen.warning,
        critical=chosen.critical,
        exhausted=chosen.exhausted,
        hysteresis=chosen.hysteresis,
        warning_priority=chosen.warning_priority,
        critical_priority=chosen.critical_priority,
    )


def group_of(chosen: MemorySettings) -> ControlGroup | None:
    """The control group whose limit is the budget, if it is one's."""
    return _find(chosen)[1]


def _find(chosen: MemorySettings) -> tuple[Budget, ControlGroup | None]:
    return find(setting=chosen.budget, fraction=chosen.fraction, machine=meter.machine())


def make_board(chosen: MemorySettings) -> tuple[Board, ControlGroup | None]:
    """A board with the budget of the settings, and the group whose limit that is."""
    budget, group = _find(chosen)
    logger.info("memory budget %s (%s)", format_bytes(budget.bytes), budget.source)
    return Board.create(budget.bytes), group
