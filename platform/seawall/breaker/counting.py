"""What a circuit counts: of its own process for the local machine, and for the hub, which tells the cluster.

Successes of calm calls are counted in rounds of 128 by `ok`, an iterator: `next(ok)` counts one and is False
for the last of a round. That call hands the round on to the local machine and to the hub, unless another did
a moment ago; a failure takes along what was not handed on yet. `ok` also names the epoch: it is replaced when
the epoch changes, so a straggler that began in an older one counts where nobody looks.
"""

import asyncio
import itertools
import operator
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from seawall.breaker.config import Config
from seawall.breaker.events import BreakerChanged
from seawall.breaker.hub import Hub
from seawall.breaker.machine import Machine, Report, Rules, State
from seawall.breaker.table import Record, View
from seawall.events import emit

if TYPE_CHECKING:
    from seawall.breaker.place import Place

Ok = Iterator[bool]

FAILURES_AT_ONCE: Final = 10
"""Failures that a process sends the hub at once, and as many more each second; others wait 20 ms."""

COALESCED: Final = 0.02
NEVER: Final = -1
_LAST: Final = False
_ROUND: Final = (True,) * 127 + (_LAST,)


class Counting:
    """The counting side of a circuit."""

    __slots__ = (
        "_counted_at",
        "_earlier",
        "_fresh",
        "_lock",
        "_place",
        "_rounds",
        "_sent_at",
        "_tokens",
        "_tokens_at",
        "_unseen",
        "_view",
        "calm",
        "config",
        "local",
        "name",
        "ok",
        "rules",
        "slot",
    )

    name: str
    config: Config
    rules: Rules
    local: Machine
    slot: int
    _lock: Any
    _place: "Place | None"
    _view: View | None

    def _begin_epoch(self) -> None:
        self.calm = NEVER
        self.ok: Ok = itertools.cycle(_ROUND)
        self._rounds = self._earlier = self._unseen = 0
        self._fresh = [0, 0, 0]
        self._sent_at, self._counted_at = 0.0, time.monotonic()
        self._tokens, self._tokens_at = float(FAILURES_AT_ONCE), 0.0

    def _hand_on(self, ok: Ok, now: float) -> bool:
        """Another round of calm successes, and those before it, unless that was done a moment ago."""
        with self._lock:
            if ok is not self.ok:
                return False
            self._rounds += len(_ROUND)
            if now - self._counted_at < COALESCED:
                return False
            self._take_in(now)
            self._send(now)
        return True

    def note(self, ok: Ok, *, failed: bool = False, slow: bool = False) -> None:
        """A call ended, in the epoch of `ok`; one of an older epoch is late and not counted."""
        now = time.monotonic()
        with self._lock:
            if ok is not self.ok:
                return
            before, fresh = self.local.state, self._fresh
            fresh[1 if failed else 0] += 1
            fresh[2] += slow
            if failed or slow:
                last = Report(reporter="", succeeded=not failed, failed=failed, slow=slow)
                self._count_calm(now, last)
                if self.local.state is not State.CLOSED:
                    self.calm = NEVER
            else:
                self._unseen += 1
            hub = self._place.hub if failed and self._place and _may_wait() else None
            record = self._send(now, hub)
        if hub is not None and record is not None:
            hub.tell(record)
        self._tell(before)

    def _count_calm(self, now: float, *last: Report) -> None:
        """Bring the unfinished round to account too, by running it to its end; then what came `last`."""
        left = operator.indexOf(self.ok, _LAST) + 1  # in one go: no other thread counts meanwhile
        self._rounds += len(_ROUND) - left
        self._take_in(now, *last)

    def _take_in(self, now: float, *last: Report) -> None:
        """Give the local machine what was counted, and what came last."""
        new, self._rounds = self._rounds, 0
        since, self._counted_at = now - self._counted_at, now
        if since > self.rules.window:  # most of them are older than anybody looks back
            new = round(new * self.rules.window / since)
        self._earlier += new
        unseen, self._unseen = self._unseen + new, 0
        seen = [Report(reporter="", succeeded=unseen), *last] if unseen else list(last)
        if seen:
            self.local.report(now, self.local.epoch, seen)

    def _send(self, now: float, hub: Hub | None = None) -> Record | None:
        """Tell the hub, at once if it matters and not too often. The caller tells `hub` itself, if given."""
        view, place, (good, bad, slow) = self._view, self._place, self._fresh
        if view is None or place is None:
            self._earlier, self._fresh = 0, [0, 0, 0]  # nobody to tell: Redis was never reached
            return None
        if bad or slow:
            self._tokens = min(
                float(FAILURES_AT_ONCE), self._tokens + (now - self._tokens_at) * FAILURES_AT_ONCE
            )
            self._tokens_at = now
            if self._tokens >= 1:
                self._tokens -= 1
            elif now - self._sent_at < COALESCED:
                return None
        elif now - self._sent_at < (view.hot_every or COALESCED):
            return None
        record = Record(self.slot, os.getpid(), view.epoch, self._earlier, good, bad, slow)
        if hub is None and not place.table.send(record):
            return None
        self._earlier, self._fresh, self._sent_at = 0, [0, 0, 0], now
        return record

    def _tell(self, before: State) -> None:
        """Say what the local machine did, outside the lock."""
        local = self.local
        if local.state is before:
            return
        emit(
            BreakerChanged(
                name=self.name,
                scope="process",
                old=before,
                new=local.state,
                cause=local.cause,
                calls=local.seen.calls,
                failed=local.seen.failed,
                slow=local.seen.slow,
                open_for=local.open_time if local.state is State.OPEN else None,
                epoch=local.epoch,
                by=f"{self._place.host}/{os.getpid()}" if self._place else "",
            )
        )


def _may_wait() -> bool:
    """Whether a round trip stops nothing but this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
