"""The memory account at the worker's gate: a request starts when its budget fits what is still unpromised.

A task reserves what its policy declares, else what its name was seen to need (p95), else a fair share of what
the worker has. The sum of all reservations and of what the workers use beside them stays at or below the mark
of EXHAUSTED. Smaller requests flow past one that does not fit, until it has waited `PATIENCE` seconds: then
nobody as urgent or less takes what it waits for.

Between two tasks a process keeps the share of the first while nobody waits: the next one of the same size has
it without a lock. `rest` gives it up, as soon as somebody waits or the process is idle.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from seawall.admission import ADMIT, Candidate, Hold, Refuse, Verdict
from seawall.errors import MemoryBudgetExceeded
from seawall.memory.board import Board, Busy, Kind, Row
from seawall.memory.levels import Marks, Pressure
from seawall.policies import Policy
from seawall.quantity import format_bytes

PATIENCE: Final = 2.0
"""Seconds a request lets others flow past."""

SILENT: Final = 1.5
"""Seconds without asking after which a waiting request counts no more: revoked, or its process hangs."""

ASK_AGAIN: Final = 0.02
ASK_UNDER_PRESSURE: Final = 5.0
"""Where there is no room for it here, a request waits so long in the broker."""

STUCK: Final = 10.0
"""Seconds of pressure with nothing running after which one request may start: waiting frees nothing then."""


@dataclass(slots=True)
class _Waiting:
    """A request of this process that did not fit."""

    size: int
    priority: int
    since: float
    asked: float


class MemoryAccount:
    """`seawall.admission.Account` over a board. One per process that admits; `clock` is monotonic."""

    name = "memory"

    def __init__(
        self,
        board: Board,
        marks: Marks | None = None,
        *,
        unknown: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._marks = marks or Marks()
        self._unknown = unknown
        self._clock = clock
        self._pid = os.getpid()
        self._shares: dict[str, Row] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._row: Row | None = None
        self._spare: Row | None = None  # promised, and no request's
        self._rested = False
        self._freed = 0
        self._guard = threading.Lock()

    @property
    def limit(self) -> int:
        """What may be promised in all."""
        return int(self._board.budget * self._marks.exhausted)

    def reservation(self, name: str, policy: Policy) -> int:
        """Bytes that a run of this task reserves."""
        return self._reckon(name, policy)[0]

    def _reckon(self, name: str, policy: Policy) -> tuple[int, bool]:
        """That, and whether it is a guess."""
        if policy.memory is not None:
            return policy.memory, False
        learned = self._board.learned(name)
        if learned is not None:
            return min(learned, self.limit), False
        if self._unknown is not None:
            return self._unknown, False
        return self._fair(), True

    def _fair(self) -> int:
        """A fair share of what the workers have, for a task that nobody knows."""
        return max(0, self.limit - self._board.beside) // max(1, self._board.slots)

    def ask(self, candidate: Candidate) -> Verdict:
        """See `Account.ask`."""
        self._of_this_process()
        now, level = self._clock(), self._board.level
        if candidate.priority < self._marks.floor(level) and not self._stuck(now):
            return Hold(f"memory pressure is {level.name}", ASK_UNDER_PRESSURE)
        size, guessed = self._reckon(candidate.name, candidate.policy)
        if size > self._board.budget:
            return Refuse(
                MemoryBudgetExceeded(
                    f"{candidate.name} declares memory={format_bytes(size)}, and all workers here share "
                    f"{format_bytes(self._board.budget)}: lower the policy's memory or raise memory.budget"
                )
            )
        try:
            with self._guard:
                if self._reuse(candidate, size, guessed=guessed):
                    return ADMIT
                with self._board.locked():
                    self._free_spare()
                    return self._decide(candidate, size, now, guessed=guessed)
        except Busy:
            return Hold("the memory account is busy", 0.01)

    def _reuse(self, candidate: Candidate, size: int, *, guessed: bool) -> bool:
        """Whether the spare share fits and may be taken past everybody else."""
        spare = self._spare
        if spare is None or self._board.waits or spare.size != size or candidate.id in self._shares:
            return False
        self._spare, self._rested = None, False
        spare.id, spare.guessed = candidate.id.encode(errors="backslashreplace")[:63], guessed
        self._shares[candidate.id] = spare
        return True

    def _free_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            self._board.free(spare)

    def rest(self) -> None:
        """Now and then: give up a share that nobody here took since the last time, or that somebody needs."""
        if self._spare is None or self._pid != os.getpid():
            return
        if not self._rested and not self._board.waits:
            self._rested = True
            return
        with contextlib.suppress(Busy), self._guard, self._board.locked():
            self._free_spare()

    def promised_to(self, request: str) -> int | None:
        """Bytes that an admitted request of this process reserved."""
        row = self._shares.get(request)
        return None if row is None else row.size

    def paused(self) -> bool:
        """Whether nothing should be consumed: nothing may start, and what runs will change that."""
        return self._board.level is Pressure.EXHAUSTED and not self._stuck(self._clock())

    def worth_asking(self) -> bool:
        """Whether requests of this process wait, and something was freed since this was last asked."""
        freed, self._freed = self._freed, self._board.freed
        return bool(self._waiting) and freed != self._freed

    def _decide(self, candidate: Candidate, size: int, now: float, *, guessed: bool) -> Verdict:
        if candidate.id in self._shares:
            return ADMIT
        waiting = self._waiting.get(candidate.id)
        since = waiting.since if waiting else now
        fits = self._fits(size) or (self._make_room() and self._fits(size))
        ahead = self._ahead(candidate, size, since, now) if fits else None
        name = candidate.id.encode(errors="backslashreplace")[:63]
        row = (
            self._board.take(Kind.SHARE, size=size, id=name, guessed=guessed)
            if fits and ahead is None
            else None
        )
        if row is not None:
            self._shares[candidate.id] = row
            self._stop_waiting(candidate.id, now)
            return ADMIT
        self._waiting[candidate.id] = _Waiting(size, candidate.priority, since, now)
        self._tell_others(now)
        return Hold(self._reason(size, ahead), ASK_AGAIN)

    def _make_room(self) -> bool:
        """Take back what the dead held, and what guesses have too much since the pool grew."""
        swept = self._board.sweep()
        return self._board.cut_guesses(self._fair()) or swept

    def _fits(self, size: int) -> bool:
        """Whether it can be promised. One that is alone may: there is nothing it could wait for."""
        return self._board.promised + size <= self.limit or self._board.shares == 0

    def _ahead(self, candidate: Candidate, size: int, since: float, now: float) -> Row | None:
        """Who waited long enough to be served first, and could not be beside this one."""
        if not self._board.waits:
            return None
        name = candidate.id.encode(errors="backslashreplace")[:63]
        for row in self._board.rows(Kind.WAIT):
            stands = now - row.since > PATIENCE and now - row.asked < SILENT
            first = (row.priority, -row.since) > (candidate.priority, -since)
            other = row.id != name
            if stands and first and other and self._board.promised + size + row.size > self.limit:
                return row
        return None

    def _reason(self, size: int, ahead: Row | None) -> str:
        if ahead is not None:
            return f"{format_bytes(ahead.size)} are kept for a request that waits longer"
        free = max(0, self.limit - self._board.promised)
        return f"needs {format_bytes(size)} of memory, {format_bytes(free)} are unpromised"

    def release(self, candidate: Candidate) -> None:
        """See `Account.release`."""
        self._of_this_process()
        with self._guard:
            row = self._shares.pop(candidate.id, None)
            if row is None and candidate.id not in self._waiting:
                return
            if row is not None and self._spare is None and not self._board.waits and not self._waiting:
                row.id = b""
                self._spare, self._rested = row, False
                return
            with self._board.locked(patience=1.0):
                if row is not None:
                    self._board.free(row)
                self._stop_waiting(candidate.id, self._clock())

    def _stuck(self, now: float) -> bool:
        return not self._board.shares and now - self._board.level_since > STUCK

    def _stop_waiting(self, request: str, now: float) -> None:
        if self._waiting.pop(request, None) is not None:
            self._tell_others(now)

    def _tell_others(self, now: float) -> None:
        """Keep this process's WAIT row true: its most urgent request, the oldest of those."""
        for request, each in tuple(self._waiting.items()):
            if now - each.asked > SILENT:
                del self._waiting[request]
        if not self._waiting:
            if self._row is not None:
                self._board.free(self._row)
                self._row = None
            return
        request, most = max(self._waiting.items(), key=lambda item: (item[1].priority, -item[1].since))
        if self._row is None:
            self._row = self._board.take(Kind.WAIT)
        if self._row is not None:
            self._row.id = request.encode(errors="backslashreplace")[:63]
            self._row.size, self._row.priority = most.size, most.priority
            self._row.since, self._row.asked = most.since, most.asked

    def _of_this_process(self) -> None:
        """A forked process starts with nothing: what its parent holds is the parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._shares, self._waiting, self._row, self._spare = {}, {}, None, None
            self._guard = threading.Lock()
