"""Which idle process is worth replacing for the memory it retains, and how soon after the last one.

A replacement has to be able to help. A process that has run nothing shows what every replacement will have of
its own, so only what another one has beyond that is gained by replacing it. And it has to have helped: each
time that the workers use about as much as before, the next one waits twice as long.
"""

from collections.abc import Mapping
from typing import Final

WORTH: Final = 32 << 20
"""Bytes that have to be gained."""

EVERY: Final = 5.0
"""Seconds from one replacement to the next."""

SELDOM: Final = 300.0
"""The same where they do not help."""


class Recycling:
    """The decision of one worker. `now` is monotonic."""

    def __init__(self) -> None:
        self._due = 0.0
        self._every = EVERY
        self._newborn = 0
        self._used_before: int | None = None

    def due(self, now: float, *, pressed: bool) -> bool:
        """Whether it is time to look. `pressed`: memory is short."""
        if not pressed:
            self._every, self._used_before = EVERY, None
        return now >= self._due

    def choose(
        self, now: float, held: Mapping[int, int], unused: Mapping[int, int], *, used: int
    ) -> int | None:
        """The process to replace now, or None.

        `held`: bytes of idle processes by pid; `unused`: the same of those that have run nothing yet;
        `used`: bytes that all workers use.
        """
        self._newborn = max(unused.values(), default=self._newborn)
        if not held:
            return None
        self._due = now + self._every
        pid = max(held, key=lambda each: held[each])
        if held[pid] - self._newborn < WORTH:
            return None
        if self._used_before is not None:
            helped = self._used_before - used >= WORTH // 2
            self._every = EVERY if helped else min(2 * self._every, SELDOM)
            self._due = now + self._every
        self._used_before = used
        return pid
