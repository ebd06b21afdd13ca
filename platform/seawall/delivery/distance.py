"""How far a consumer is from its server, and how much it therefore claims ahead.

A claim takes a round trip, and whoever has nothing left to do meanwhile stands still. Beside its server that
is a fraction of a millisecond; 200 ms are ten times as long as a task of 20 ms. So a consumer that is *far*
asks for the next messages while it still has as many as it works off in a round trip, and its settlements
travel on a connection of their own, where nobody waits for them.

An answer may wait here until a task has ended. So only that of a claim for which nothing was left to do says
how far the server is; what is read sooner than that was known shows that it is nearer. Of the last few
the quickest counts: a machine that is busy for a moment is not far away.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

_NEAR: Final = 0.01
"""Seconds: a round trip up to this long costs less than what is done about it."""

_FURTHEST: Final = 1.0
"""Seconds: nobody claims ahead for more."""

_ROUND_TRIPS: Final = 4
_LEAST: Final = 0.001
_LEARN_AFTER: Final = 1.0  # seconds of work on messages none of which has ended


class Distance:
    """The seconds of a round trip, as `seconds`; 0 for a server that is near."""

    def __init__(self) -> None:
        self._lasted: deque[float] = deque(maxlen=_ROUND_TRIPS)
        self.seconds = 0.0

    def learn(self, lasted: float, *, awaited: bool) -> None:
        """A round trip lasted so long at most; just so long if it was `awaited` with nothing else to do."""
        if awaited or (self._lasted and lasted < min(self._lasted)):
            self._lasted.append(lasted)
            quickest = min(self._lasted)
            self.seconds = min(quickest, _FURTHEST) if quickest > _NEAR else 0.0


class Work:
    """How long there was something to do, and how quickly it was done: messages a second, as `speed`.

    Not a second counts in which no message was here, so this is no smaller for a server that is far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at: float | None = None
        self._worked = 0.0
        self._done = 0
        self.speed = 0.0

    def begin(self) -> None:
        """There is a message here; nothing if there was one before."""
        if self._began_at is None:
            self._began_at = self._clock()

    def rest(self) -> None:
        """There is none."""
        self._pass()
        self._began_at = None

    def done(self) -> None:
        """One more is done with."""
        self._done += 1

    def learn(self) -> None:
        """Learn from what was done since the last time."""
        self._pass()
        if self._done or self._worked > _LEARN_AFTER:
            latest = self._done / max(self._worked, _LEAST)
            self.speed = (self.speed + latest) / 2 if self.speed else latest
            self._worked, self._done = 0.0, 0

    def _pass(self) -> None:
        if self._began_at is not None:
            now = self._clock()
            self._worked += now - self._began_at
            self._began_at = now
