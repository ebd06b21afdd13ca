"""The one thread of a database that is not a caller's: it renews the share of the budget and ends outages.

While no connection can be made, callers are refused at once and nobody of them tries; this thread logs in a
few times a second, briefly, and lets them through when that works.
"""

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Final

from seawall import events
from seawall.database import connecting
from seawall.database.connecting import Params
from seawall.database.connection import TOLERANCE, Journal
from seawall.database.elastic import ElasticPool
from seawall.database.events import DatabaseCameBack, DatabaseWentAway
from seawall.database.sqlstate import Kind

if TYPE_CHECKING:
    from seawall.database.governor import Governor

logger = logging.getLogger(__name__)

_PROBE: Final = 1.5
"""Seconds a login may take to end an outage; with the pause this bounds how late the end is noticed."""

_PAUSE: Final = {Kind.AUTHENTICATION: 5.0}  # no password becomes right by asking often
_SHORT_PAUSE: Final = 0.3
_QUIET: Final = 3600.0
_RECENT: Final = 10.0  # seconds a need is remembered


class Demand:
    """How many connections a process could use: the most it needed within the last seconds."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._seen: list[tuple[float, int]] = []
        self._requests = 0

    def note(self, now: float, needed: int, requests: int) -> int:
        """`needed` is the need at this moment, `requests` counts all uses so far; returns what to wish for.

        A need that came and went between two looks shows in `requests` and counts as one.
        """
        if requests != self._requests:
            self._requests, needed = requests, max(1, needed)
        self._seen = [(at, need) for at, need in self._seen if at > now - _RECENT]
        self._seen.append((now, needed))
        return min(self._ceiling, max(need for _, need in self._seen))


class Keeper:
    """Runs from `start` to `stop`; both may be repeated."""

    def __init__(self, params: Params, journal: Journal, governor: "Governor | None" = None) -> None:
        self._params = params
        self._journal = journal
        self._governor = governor
        self._demand: Demand | None = None
        self._pool: ElasticPool | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._told_away = False
        self._hungry = False
        self._renew_at = self._probe_at = 0.0
        self._thread: threading.Thread | None = None

    @property
    def grant(self) -> int | None:
        """The connections granted; None if nobody governs them or nothing was granted yet."""
        return self._governor.grant if self._governor else None

    def start(self, pool: ElasticPool) -> None:
        """Look after `pool`."""
        self._pool, self._demand = pool, Demand(pool.ceiling)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="seawall-database-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and give the share of the budget back; call it when the pool is closed."""
        thread, self._thread = self._thread, None
        if thread is None or self._pool is None:
            return
        self._stopping = True
        self._wake.set()
        if thread.ident is not None:  # else interrupted before it began
            thread.join()
        if self._governor:
            self._governor.leave(self._pool.held())

    def wake(self) -> None:
        """Look now: connecting failed."""
        self._wake.set()

    def hungry(self) -> None:
        """Ask for more connections now: a caller waits for one."""
        self._hungry = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            try:
                pause = self._look(time.monotonic())
            except Exception:
                logger.exception("the database's keeper goes on after an error")
                pause = 1.0
            self._wake.wait(pause)
            self._wake.clear()

    def _look(self, now: float) -> float:
        """Do what is due; returns the seconds until something is again."""
        return min(self._govern(now), self._end_outage(now))

    def _govern(self, now: float) -> float:
        if self._governor is None or self._pool is None or self._demand is None:
            return _QUIET
        if now < self._renew_at and not self._hungry:
            return self._renew_at - now
        self._hungry = False  # before the question: who gets hungry during it is asked for next
        needed = self._pool.demand() if self._journal.error is None else max(1, self._pool.demand())
        want = self._demand.note(now, needed, self._pool.requests())
        grant, pause = self._governor.renew(now, want, self._pool.held())
        self._pool.cap(min(grant, self._pool.ceiling))
        self._renew_at = time.monotonic() + pause
        return pause

    def _end_outage(self, now: float) -> float:
        journal, pool = self._journal, self._pool
        if journal.error is None or pool is None:
            self._tell_back(now)
            return _QUIET
        if not journal.away(now):
            return journal.failing_since + TOLERANCE - now
        self._tell_away()
        pool.refuse_waiting()
        if now >= self._probe_at and pool.reserve():
            try:
                reason = connecting.probe(self._params, timeout=_PROBE)
            finally:
                pool.release()
            if reason is None:
                journal.succeeded()
                self._tell_back(time.monotonic())
                pool.grow_for_waiters()
                return _QUIET
            pause = _PAUSE.get(journal.kind, _SHORT_PAUSE) if journal.kind else _SHORT_PAUSE
            self._probe_at = time.monotonic() + random.uniform(0.7, 1.0) * pause  # noqa: S311 - no secret
        return max(0.05, self._probe_at - time.monotonic())

    def _tell_away(self) -> None:
        if not self._told_away and self._journal.error is not None:
            self._told_away = True
            reason = connecting.one_line(self._journal.error)
            logger.error("PostgreSQL at %s is away: %s", connecting.address(self._params), reason)
            events.emit(DatabaseWentAway(reason=reason))

    def _tell_back(self, now: float) -> None:
        if self._told_away:
            self._told_away = False
            seconds = now - self._journal.failing_since
            logger.warning("PostgreSQL at %s is back after %.1f s", connecting.address(self._params), seconds)
            events.emit(DatabaseCameBack(seconds=seconds))
