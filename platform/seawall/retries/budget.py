"""The retry budget: for each task name, retries are at most a share of first attempts, cluster-wide.

Attempts multiply the load of whatever is failing, at the moment it can bear it least. With a share of 0.2
an outage costs at most 1.2 calls a task, however many tasks fail. A few retries a minute are always granted,
or a rare task could never be retried.

A process counts its first attempts by itself, which costs a success nothing, and reports them when it asks
for a retry; those of processes without a failure are not known to the others, so the budget errs towards
fewer retries. Redis away: each process keeps to the same share of what it has seen itself.

Source: "Handling Overload" and "Addressing Cascading Failures", in B. Beyer et al., "Site Reliability
Engineering", O'Reilly 2016; the minimum, and counting over a short window: Finagle's RetryBudget.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from seawall.cluster import Script

if TYPE_CHECKING:
    from redis import Redis

WINDOW: Final = 60.0
"""Seconds over which both are counted."""

ALWAYS: Final = 10
"""Retries per window and task name that are granted whatever the share."""

_ASK_AGAIN: Final = 2.0
"""Seconds without Redis after it did not answer: each question may cost a timeout."""

_SLOT: Final = 10.0
_TAKE: Final = Script("seawall.retries", "take")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Count:
    """One task's first attempts and granted retries of this process, as [slot, first, retries]."""

    slots: deque[list[int]] = field(default_factory=lambda: deque(maxlen=int(WINDOW / _SLOT)))
    unreported: int = 0

    def at(self, now: float) -> list[int]:
        slot, slots = int(now / _SLOT), self.slots
        if slots and slots[-1][0] == slot:
            return slots[-1]
        while slots and slots[0][0] <= slot - WINDOW / _SLOT:
            slots.popleft()
        slots.append([slot, 0, 0])
        return slots[-1]

    def allows(self, share: float) -> bool:
        first = sum(slot[1] for slot in self.slots)
        return sum(slot[2] for slot in self.slots) < ALWAYS + int(first * share)


class RetryBudget:
    """The budget as this process sees it. `client` gives the shared Redis, or None where there is none."""

    def __init__(
        self, client: Callable[[], "Redis | None"], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, _Count] = {}
        self._away_until = float("-inf")

    def first_attempt(self, task: str) -> None:
        """A task begins for the first time."""
        with self._lock:
            count = self._count(task)
            count.at(self._clock())[1] += 1
            count.unreported += 1

    def take(self, task: str, share: float) -> bool:
        """Whether one more retry of `task` is within `share` of its first attempts; True spends it."""
        now = self._clock()
        with self._lock:
            count = self._count(task)
            slot = count.at(now)
            report, count.unreported = min(count.unreported, sum(each[1] for each in count.slots)), 0
            ask = now >= self._away_until
        granted = self._ask(task, report, share) if ask else None
        with self._lock:
            if granted is None:
                count.unreported += report
                granted = count.allows(share)
            slot[2] += granted
        return granted

    def forget(self) -> None:
        """Count from zero in this process."""
        with self._lock:
            self._counts.clear()

    def _count(self, task: str) -> _Count:
        count = self._counts.get(task)
        if count is None:
            count = self._counts[task] = _Count()
        return count

    def _ask(self, task: str, report: int, share: float) -> bool | None:
        """The cluster's answer; None if it gave none."""
        try:
            client = self._client()
            if client is None:
                return None
            keys = [f"seawall:{{retries:{task}}}"]
            return bool(_TAKE(client, keys, [report, round(share * 1000), ALWAYS]))
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with Redis, the task's failure goes on
            logger.warning("the retry budget is this process's own for now, Redis does not answer: %s", exc)
            self._away_until = self._clock() + _ASK_AGAIN
            return None
