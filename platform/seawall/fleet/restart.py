"""When a program that exited is started again: a pure decision over its history.

Exponential backoff with full jitter, so that a fleet whose database went away does not come back as
one herd. Enough exits within a window are a crash loop: it stays one, retried at the cap, until the
program has run for `healthy_after`; a window alone would forget the loop as soon as the delays outgrow it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from seawall.backoff import exponential, full_jitter


@dataclass(frozen=True, slots=True)
class History:
    """The exits since the program last ran healthily; `recent` holds the instants within the window."""

    exits: int = 0
    recent: tuple[float, ...] = ()
    looping: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Start again in `delay` seconds, and remember `history`."""

    delay: float
    history: History


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartPolicy:
    """Durations in seconds. `loop_exits` exits within `loop_window` are a crash loop."""

    base: float = 0.2
    cap: float = 30.0
    healthy_after: float = 60.0
    loop_exits: int = 5
    loop_window: float = 60.0

    def after_exit(
        self, history: History, *, now: float, uptime: float, rand: Callable[[], float] = random.random
    ) -> Decision:
        """What to do about a program that exited at `now` after running for `uptime`."""
        if self.is_healthy(uptime):
            history = History()
        exits = history.exits + 1
        recent = (*(at for at in history.recent if now - at < self.loop_window), now)
        looping = history.looping or len(recent) >= self.loop_exits
        ceiling = self.cap if looping else exponential(exits, base=self.base, cap=self.cap)
        return Decision(full_jitter(ceiling, rand=rand), History(exits, recent, looping))

    def is_healthy(self, uptime: float) -> bool:
        """Whether a run of `uptime` wipes out the exits before it."""
        return uptime >= self.healthy_after
