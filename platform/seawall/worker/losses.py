"""What a worker has lost since it started, and which tasks wait until it is back.

A thread of the main process (`Watch`) asks the database and every service with a check whether they are
there. What it finds stands in one page of memory that the worker shares with the processes it forks (`Lost`):

    byte 0   critical services that are lost    nothing is consumed (`seawall.worker.memory.Flow`), and what
                                                was claimed goes back to the broker
    byte 1   1 while the database is lost       tasks with requires=["postgres"] wait in the broker

The breaker `postgres` says so too, but only after tasks have failed; this needs none. Redis and the broker
play no part: the transport waits for them by itself.
"""

import logging
import mmap
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from seawall import events
from seawall.admission import ADMIT, Candidate, Park, Verdict
from seawall.breaker.hub import undisturbed
from seawall.health import Check, CheckReport
from seawall.runtime import ServiceLost, ServiceReturned
from seawall.worker.periodic import Periodic

logger = logging.getLogger(__name__)

POSTGRES: Final = "postgres"
"""What a task names in `requires` that is held while the database is lost; also the database's breaker."""

DEPENDENCY: Final = "service:postgres"
"""Under which name tasks are parked for the database."""

_SERVICES: Final = 0
_DATABASE: Final = 1
_LOOK_EVERY: Final = 2.0  # PostgreSQL forks a process for each question
_LOOK_AGAIN: Final = 0.5
_PATIENCE: Final = 1.1  # seconds for the answers of one look: a little more than a probe may take
_CERTAIN: Final = 2
"""Looks in a row after which something counts as lost, or as back: pools of this worker's processes that know
the database to be away ask it every 0.3 s, and have found it as well before a task that waited starts."""

_BACK_SOON: Final = 2.0
_BACK_LATER: Final = 10.0


class Lost:
    """The page. One writer, the watch; any process of the worker reads it."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def note(self, *, services: int, database: bool) -> None:
        """What is lost now."""
        self._page[_SERVICES], self._page[_DATABASE] = min(services, 255), database

    @property
    def service(self) -> bool:
        """Whether a critical service is lost: this worker is of no use now."""
        return bool(self._page[_SERVICES])

    @property
    def database(self) -> bool:
        """Whether the database is."""
        return bool(self._page[_DATABASE])


_lost: Lost | None = None


def open_page() -> Lost:
    """The page of this worker from now on, for it and all it forks."""
    global _lost  # noqa: PLW0603 - one worker a process
    _lost = Lost()
    return _lost


def all_wait() -> bool:
    """Whether this worker may not consume now."""
    return _lost is not None and _lost.service


class Account:
    """What the gate asks. `parks`: the broker keeps tasks aside until somebody lets them go."""

    name = "losses"

    def __init__(self, lost: Lost, *, parks: bool = True) -> None:
        self._lost = lost
        self._later = _BACK_LATER if parks else _BACK_SOON

    def ask(self, candidate: Candidate) -> Verdict:
        """Send away what cannot be done here and now."""
        if self._lost.service:
            return Park("service", "this worker has lost a critical service", _spread(_BACK_SOON))
        if self._lost.database and POSTGRES in candidate.policy.requires:
            return Park(DEPENDENCY, "the database does not answer", _spread(self._later))
        return ADMIT

    def release(self, candidate: Candidate) -> None:
        """Nothing was reserved."""


@dataclass(slots=True)
class Watched:
    """One thing that may be lost, and what was seen of it; `since` is set while it is."""

    check: Check
    critical: bool
    database: bool = False
    contrary: int = 0  # looks in a row that said otherwise
    since: float | None = None

    def judge(self, report: CheckReport, now: float) -> events.Event | None:
        """Take an answer in; the event that it makes, if it changes anything."""
        since = self.since
        self.contrary = self.contrary + 1 if report.ok is (since is not None) else 0
        if self.contrary < _CERTAIN:
            return None
        self.contrary = 0
        if since is None:
            self.since = now
            return ServiceLost(service=self.check.name, reason=report.detail)
        self.since = None
        return ServiceReturned(service=self.check.name, seconds=now - since)


class Watch(Periodic):
    """A service: looks at what may be lost, and calls `back` when the database has returned."""

    thread = "seawall-losses"

    def __init__(
        self,
        watched: Iterable[Watched],
        lost: Lost,
        back: Callable[[], object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._watched = tuple(watched)
        self._lost = lost
        self._back = back
        self._clock = clock

    @property
    def missing(self) -> list[str]:
        """The names of what is lost now."""
        return [each.check.name for each in self._watched if each.since is not None]

    def start(self, **_: Any) -> None:
        """Look from now on."""
        if self._watched:
            super().start()

    def turn(self) -> float:
        """Look, and look again soon if anything is missed or lost."""
        self.look()
        unsure = any(each.contrary or each.since is not None for each in self._watched)
        return _LOOK_AGAIN if unsure else _LOOK_EVERY

    def look(self) -> None:
        """Ask all once, and write down what is lost."""
        deadline = self._clock() + _PATIENCE
        for each in self._watched:
            each.check.begin()
        now = self._clock()
        told = [each.judge(each.check.report(deadline - self._clock()), now) for each in self._watched]
        gone = [each for each in self._watched if each.since is not None]
        self._lost.note(
            services=sum(each.critical and not each.database for each in gone),
            database=any(each.database for each in gone),
        )
        for event in filter(None, told):
            self._tell(event)

    def _tell(self, event: events.Event) -> None:
        with undisturbed():
            if isinstance(event, ServiceLost):
                logger.warning("%s is lost, what needs it waits: %s", event.service, event.reason)
            elif isinstance(event, ServiceReturned):
                logger.warning("%s is back after %.1f s", event.service, event.seconds)
                if any(each.database and each.check.name == event.service for each in self._watched):
                    self._back()
            events.emit(event)


def _spread(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, keeps no secret
