"""The supervisor's watch over memory: who uses what, how near that is to the budget, who goes too far.

`Guard.look` reads, updates the board and returns what is to be done; doing it (a signal, SIGKILL) is the
caller's. How soon to look again follows from how soon the nearest limit could be passed, and from what
looking costs: never more than `SHARE` of a core.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from seawall import events
from seawall.memory.board import Board, Busy, Kind, Row
from seawall.memory.budget import ControlGroup
from seawall.memory.descendants import Descendants, below, end, identified
from seawall.memory.events import LimitExceeded, PressureChanged
from seawall.memory.levels import Marks, Pressure
from seawall.memory.meter import YOUNG, Meter
from seawall.quantity import format_bytes

logger = logging.getLogger(__name__)

SHARE: Final = 0.004
"""Of one core, for looking; exact readings of the meter and looks for children come on top, see there."""

SOONEST: Final = 0.02
LATEST: Final = 0.1
GROWTH: Final = 4 << 30
"""Bytes a second that a process may come to use: what a core can write."""

SWEEP_EVERY: Final = 1.0
"""Seconds between two looks whether a process is gone: until then what it used and reserved counts."""

GROUP_EVERY: Final = 1.0
STALLED: Final = 0.2
"""Share of time in which all of a control group waits for memory that counts as CRITICAL."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """A task that uses too much. `hard`: kill its process, else tell it."""

    pid: int
    generation: int
    id: str
    name: str
    used: int
    limit: int
    hard: bool
    row: Row

    def stands(self) -> bool:
        """Whether the same task still runs: asked just before acting."""
        return self.row.pid == self.pid and self.row.generation == self.generation


class _Running(NamedTuple):
    """A task that ran both before and after its process was measured."""

    row: Row
    pid: int
    generation: int
    using: int
    """Bytes beyond its start, with the processes it has started."""

    def over(self, limit: int, *, hard: bool) -> Overrun:
        row = self.row
        return Overrun(
            pid=self.pid,
            generation=self.generation,
            id=row.id.decode(errors="replace"),
            name=row.name.decode(errors="replace"),
            used=self.using,
            limit=limit,
            hard=hard,
            row=row,
        )


class Guard:
    """One worker's. `slots` is how many tasks it runs at a time; `clock` measures what looking costs."""

    def __init__(  # noqa: PLR0913
        self,
        board: Board,
        *,
        marks: Marks | None = None,
        slots: int = 1,
        group: ControlGroup | None = None,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._board = board
        self._marks = marks or Marks()
        self._slots = slots
        self._group = group
        self._meter = meter or Meter()
        self._descendants = Descendants(clock)
        self._clock = clock
        self._row: Row | None = None
        self._expected = 0
        self._settled_at = float("-inf")
        self._swept_at = float("-inf")
        self._group_read_at = float("-inf")
        self._group_used = 0
        self._stalled = False
        self._kills = group.kills if group else 0
        self.interval = SOONEST
        """Seconds until the next look."""

    def expect(self, processes: int, now: float) -> None:
        """So many processes are about to be forked: until they are, what they may come to use is promised."""
        self._expected = self._meter.read([os.getpid()], now)[os.getpid()] * (1 + processes)
        self._settled_at = now + YOUNG
        with self._board.locked(patience=1.0):
            self._row = self._board.take(Kind.WORKER, slots=self._slots, size=self._expected)

    def join(self, now: float) -> None:
        """Say on a board that was there before that this process counts itself from now on.

        The level is left to whoever counted it so far, and finds first what it shares with it.
        """
        self._meter.read([os.getpid()], now)
        mine = self._meter.total()
        with contextlib.suppress(Busy), self._board.locked(patience=1.0):
            self._row = self._board.take(Kind.WORKER, slots=self._slots, size=mine, used=mine)

    def shares_anew(self) -> None:
        """Processes that share pages with this one have come or gone."""
        self._meter.renew(os.getpid())

    def grow(self, slots: int) -> None:
        """The pool is about to run `slots` tasks at a time: what nobody knows is divided among more."""
        self._slots = max(self._slots, slots)
        with contextlib.suppress(Busy), self._board.locked(patience=0.1):
            if self._row is not None:
                self._board.change(self._row, self._row.size, slots=self._slots)

    def look(self, pids: Collection[int], now: float) -> list[Overrun]:
        """Read this process and `pids`, those that run its tasks; what is to be done."""
        begun = self._clock()
        wanted = {os.getpid(), *pids}
        before = [
            (row, row.pid, row.generation, row.since)
            for row in self._board.rows(Kind.RUN)
            if row.pid in wanted and row.generation
        ]
        started = self._descendants.look((each[1:] for each in before), now)
        held = self._meter.read(wanted | started, now)
        runs = [
            self._running(row, pid, generation, held[pid])
            for row, pid, generation, _ in before
            if pid in held and row.generation == generation
        ]
        for run in runs:
            run.row.used = max(run.row.used, run.using)
        self._slots = max(self._slots, len(pids))  # pools grow
        used = self._update(runs, now)
        found = self._overruns(runs, used)
        cost = self._clock() - begun - self._meter.exact_cost - self._descendants.cost
        self.interval = max(self._nearest(runs, used), cost / SHARE)
        return found

    def _running(self, row: Row, pid: int, generation: int, held: int) -> _Running:
        row.below = self._descendants.held(pid, self._meter)
        return _Running(row, pid, generation, max(0, held - row.begun) + row.below)

    def _update(self, runs: list[_Running], now: float) -> int:
        """Tell the board; what all workers use."""
        mine = self._meter.total()
        beside = max(self._meter.most(now), self._expected if now < self._settled_at else 0)
        inside = sum(min(run.using, run.row.size) for run in runs)
        self._read_group(now)
        bereaved = self._bereaved(now)
        try:
            with self._board.locked():
                if bereaved:
                    self._board.sweep()
                if self._row is None:
                    self._row = self._board.take(Kind.WORKER, slots=self._slots)
                if self._row is not None:
                    self._row.used = mine
                    self._board.change(self._row, max(0, beside - inside), slots=self._slots)
                used = max(self._board.used(), self._group_used)
                change = self._level(used, now)
        except Busy:
            return mine
        if change is not None:
            self._announce(change)
        return used

    def _bereaved(self, now: float) -> bool:
        if now - self._swept_at < SWEEP_EVERY:
            return False
        self._swept_at = now
        return self._board.bereaved()

    def _level(self, used: int, now: float) -> PressureChanged | None:
        before = self._board.level
        level = self._marks.level(used / self._board.budget, before=before)
        if self._stalled:
            level = max(level, Pressure.CRITICAL)
        if level == before:
            return None
        self._board.set_level(level, now)
        return PressureChanged(before=before, level=level, used=used, budget=self._board.budget)

    def _announce(self, change: PressureChanged) -> None:
        logger.log(
            logging.WARNING if max(change.level, change.before) >= Pressure.CRITICAL else logging.INFO,
            "memory pressure %s (was %s): %s of %s used",
            change.level.name, change.before.name, format_bytes(change.used), format_bytes(change.budget),
        )  # fmt: skip
        events.emit(change)

    def _read_group(self, now: float) -> None:
        """The kernel's own account, once a second: what is charged, stalls, kills."""
        if self._group is None or now - self._group_read_at < GROUP_EVERY:
            return
        self._group_read_at = now
        self._group_used = self._group.used or 0
        self._stalled = self._group.stalled >= STALLED
        kills = self._group.kills
        if kills > self._kills:
            logger.error(
                "the kernel killed %d processes of %s for memory", kills - self._kills, self._group.path
            )
        self._kills = kills

    def _overruns(self, runs: list[_Running], used: int) -> list[Overrun]:
        found = []
        for run in runs:
            row = run.row
            if row.hard and run.using > row.hard:
                found.append(run.over(row.hard, hard=True))
            elif row.soft and run.using > row.soft and row.told != run.generation:
                found.append(run.over(row.soft, hard=False))
        if not found and used > self._board.budget * self._marks.exhausted:
            found += self._worst(runs, hard=used > self._board.budget)
        return found

    def _worst(self, runs: list[_Running], *, hard: bool) -> list[Overrun]:
        """With the budget spent, the task that is furthest beyond what it reserved has to go."""
        beyond = [
            run for run in runs if run.using > run.row.size and (hard or run.row.told != run.generation)
        ]
        worst = max(beyond, key=lambda run: run.using - run.row.size, default=None)
        return [] if worst is None else [worst.over(worst.row.size, hard=hard)]

    def _nearest(self, runs: list[_Running], used: int) -> float:
        """Seconds in which the nearest limit could be passed."""
        room = [max(0, self._board.budget - used)]
        for run in runs:
            room += [limit - run.using for limit in (run.row.soft, run.row.hard) if limit > run.using]
        return min(LATEST, max(SOONEST, min(room) / GROWTH)) if runs else LATEST

    def retained(self, pids: Collection[int]) -> dict[int, int]:
        """What each process has of its own, as last read: the largest is worth replacing when it is idle."""
        return {pid: self._meter.own(pid) for pid in pids}

    def close(self) -> None:
        """Give up the worker's row."""
        self._meter.close()
        self._board.forget(os.getpid())
        self._row = None


def act(overrun: Overrun, send: Callable[[Overrun], bool]) -> bool:
    """Do something about an overrun, if its task still runs; whether it was done.

    `send` tells or kills the process and answers whether it did. What the process has started ends with it.
    """
    if not overrun.stands():
        return False
    if not overrun.hard:
        overrun.row.told = overrun.generation
    descendants = identified(below(overrun.pid)) if overrun.hard else {}
    if not send(overrun):
        return False
    end(descendants)
    logger.warning(
        "%s[%s] uses %s of memory, %s %s: %s",
        overrun.name, overrun.id, format_bytes(overrun.used), "limit" if overrun.hard else "budget",
        format_bytes(overrun.limit), "killed its process" if overrun.hard else "told it",
    )  # fmt: skip
    events.emit(
        LimitExceeded(
            task=overrun.name,
            id=overrun.id,
            pid=overrun.pid,
            used=overrun.used,
            limit=overrun.limit,
            hard=overrun.hard,
        )
    )
    return True
