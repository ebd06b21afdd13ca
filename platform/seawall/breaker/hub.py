"""The one thread of a worker that talks with Redis about circuits.

It subscribes to the changes, writes them into the table that all processes of the worker read, and reports
what they see of their calls: a failure at once (one of its own process in the thread that saw it, `tell`),
successes once a second, or every 20 ms while somebody in the fleet sees failures. Once a second it reads one
version that grows with every change of any circuit, so a lost message costs a second. After each subscribe it
reads every circuit again. While all probes of a circuit are taken it looks whether their holders live.

While Redis is away it says so in the table and tries again with growing pauses; the processes go by what they
see themselves. What they saw in that time is not reported later: it is no news then.
"""

import logging
import math
import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from seawall import backoff, holdings
from seawall.breaker.events import BreakerChanged, BreakersCutOff, BreakersRejoined
from seawall.breaker.machine import Report, Rules, State
from seawall.breaker.own import OwnCircuits
from seawall.breaker.store import CHANGES, Hot, Shared, Store, is_of_the_dead, read_message
from seawall.breaker.table import WAKE, Record, Table, View
from seawall.errors import SeawallError
from seawall.events import emit

logger = logging.getLogger(__name__)

POLL_EVERY: Final = 1.0
KEEP_EVERY: Final = 3600.0
"""All circuits are read again so often: it keeps those that are forced without an end from expiring."""

LONGEST_PAUSE: Final = 5.0
_CERTAIN: Final = 3
"""Failures in a row after which Redis is said to be away: on a busy machine one answer may be late."""

OUTAGE: Final = (RedisError, OSError, SeawallError)

_busy = threading.RLock()
"""Held while a hub does anything but wait, and by a fork: a child would inherit every lock that it holds
then, of a module it imports or a property it computes, and wait for it for ever."""


@dataclass
class Tracked:
    """One circuit as the hub sees it."""

    name: str
    rules: Rules
    shared: Shared | None = None
    learnt_at: float = 0.0
    view: View = field(default_factory=View)
    calm: bool = False
    pending: dict[int, list[int]] = field(default_factory=dict)
    urgent: bool = False
    fresh: bool = False
    reported_at: float = -math.inf

    @property
    def epoch(self) -> int:
        """The newest one known."""
        return self.shared.epoch if self.shared else 0

    def known(self, now: float) -> str:
        """What a server without memory is told."""
        return self.shared.text(older=now - self.learnt_at) if self.shared and self.shared.epoch else ""

    def add(self, record: Record) -> None:
        """Keep what a process saw until it is reported; of another epoch, it is late."""
        if record.epoch != self.epoch:
            return
        sums = self.pending.setdefault(record.pid, [0, 0, 0, 0])
        for number, value in enumerate((record.earlier, record.succeeded, record.failed, record.slow)):
            sums[number] += value
        self.urgent = self.urgent or bool(record.failed or record.slow)
        self.fresh = self.fresh or bool(record.succeeded)

    def forget(self) -> None:
        """Nothing waits to be reported."""
        self.pending, self.urgent, self.fresh = {}, False, False

    def due(self, now: float) -> float:
        """When to report. Successes of unknown age are in no hurry, they decide nothing while it is hot."""
        if not self.pending:
            return math.inf
        if self.urgent:
            return now
        hot = self.fresh and now < self.view.hot_until
        return self.reported_at + (self.view.hot_every if hot else POLL_EVERY)

    def changes_at(self, now: float) -> float:
        """When time alone changes what calls do."""
        view = self.view
        if view.state.forced:
            return view.until
        if view.state is State.CLOSED and not view.calm(now):
            return max(view.hot_until, view.since + view.ramp_for)
        return math.inf


class Hub:
    """The thread, and what it knows. `host` and `asker` are how the fleet sees this worker."""

    def __init__(self, table: Table, connect: Callable[[], "Redis"], *, host: str, asker: str) -> None:
        self._table = table
        self._connect = connect
        self._host = host
        self._asker = asker
        self._lock = threading.RLock()
        self._tracked: dict[int, Tracked] = {}
        self._slots: dict[str, int] = {}
        self._own = OwnCircuits(host)
        self._store: Store | None = None
        self._version = -1
        self._cut_off_at: float | None = None
        self._told = False  # in the log, that Redis is away
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run; safe to repeat."""
        with self._lock:
            if self._thread is None:
                self._table.beat(time.monotonic(), cut_off=False)
                self._thread = threading.Thread(target=self._run, name="seawall-breakers", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread; safe to repeat and before `start`."""
        self._stopping = True
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._table.send(WAKE)
            thread.join(5)

    # For the threads of this process

    def unlock(self) -> None:
        """After an interruption: this thread is inside no more."""
        holdings.unlock(self._lock)
        holdings.unlock(_busy)

    @property
    def store(self) -> Store:
        """The verbs; the client behind them is safe for threads."""
        with self._lock:
            if self._store is None:
                self._store = Store(self._connect(), self._asker)
            return self._store

    def sync(self) -> None:
        """Read the circuits that are new, now and in the caller's thread.

        Raises redis-py's errors.
        """
        with self._lock:
            self._find_circuits()
            asked = {slot: one for slot, one in self._tracked.items() if one.shared is None}
        self._sync(asked)

    def learn(self, shared: Shared) -> None:
        """Take in what a script returned or published; what is older than what is known changes nothing."""
        with self._lock:
            now = time.monotonic()
            slot, tracked = self._named(shared.name)
            if tracked is None or shared.epoch < tracked.epoch:
                return
            before, tracked.shared, tracked.learnt_at = tracked.shared, shared, now
            if before is None or shared.epoch > before.epoch:
                tracked.forget()
            if shared.version == self._version + 1:
                self._version = shared.version
            self._show(slot, tracked, view_of(shared, now), now)
        if (
            before is not None
            and shared.epoch > before.epoch
            and (before.epoch or shared.state is not before.state)
        ):
            emit(_changed(before, shared, ours=shared.by == self._asker))

    def _named(self, name: str) -> tuple[int, Tracked | None]:
        slot = self._slots.get(name, -1)
        return slot, self._tracked.get(slot)

    def _show(self, slot: int, tracked: Tracked, view: View, now: float) -> None:
        tracked.view, tracked.calm = view, view.calm(now)
        self._table.put(slot, view, now=now)

    def cut_off(self, exc: Exception) -> None:
        """Redis did not answer: from now on everybody goes by what they see."""
        with self._lock:
            if self._cut_off_at is not None:
                return
            self._cut_off_at = time.monotonic()
            self._table.beat(self._cut_off_at, cut_off=True)
            for tracked in self._tracked.values():
                tracked.forget()
        emit(BreakersCutOff(error=str(exc)))

    @holdings.interruptible
    def tell(self, record: Record) -> None:
        """Report in the caller's thread what it saw; with Redis away, at most a timeout."""
        with _busy:
            if self._cut_off_at is not None:
                return
            with self._lock:
                self._find_circuits()
                if (tracked := self._tracked.get(record.slot)) is not None:
                    tracked.add(record)
            try:
                self._report(time.monotonic())
            except OUTAGE as exc:
                self.cut_off(exc)

    # The thread

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                with _busy:
                    client = self.store.client
                with client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
                    with _busy:
                        self._join(subscription)
                    failures = 0
                    poll_at = keep_at = time.monotonic()
                    keep_at += KEEP_EVERY
                    while not self._stopping:
                        poll_at, keep_at = self._turn(subscription, poll_at, keep_at)
            except OUTAGE as exc:
                self.cut_off(exc)
                self._tell_loss(exc, failures + 1)
            except Exception:
                logger.exception("breakers: the hub failed and starts again")
            failures += 1
            self._pause(failures)
        if self._store is not None:
            self._store.client.close()

    def _tell_loss(self, exc: Exception, failures: int) -> None:
        if failures >= _CERTAIN and not self._told:
            self._told = True
            logger.warning("breakers: Redis cannot be reached, each process goes by its own calls: %s", exc)

    def _join(self, subscription: Any) -> None:
        """Subscribe first, then read: nothing can fall between."""
        subscription.subscribe(CHANGES)
        self._version = self.store.version()
        with self._lock:
            self._find_circuits()
        self._sync(self._tracked)
        with self._lock:
            since, self._cut_off_at = self._cut_off_at, None
            now = time.monotonic()
            self._table.beat(now, cut_off=False)
        self._own.repeat()
        self._tell_own(now)
        if self._told:
            self._told = False
            logger.warning("breakers: Redis is back")
        if since is not None:
            emit(BreakersRejoined(cut_off_for=now - since))

    def _pause(self, failures: int) -> None:
        """Wait before the next try; the pipe is kept empty and the pulse beats."""
        if self._stopping:
            return
        wait = backoff.equal_jitter(
            backoff.exponential(failures, base=0.25, cap=LONGEST_PAUSE), rand=random.random
        )
        end = time.monotonic() + wait
        while not self._stopping and (now := time.monotonic()) < end:
            select.select([self._table.reader], [], [], min(end - now, POLL_EVERY))
            self._own.take_in(self._table.receive())
            self._table.beat(now, cut_off=self._cut_off_at is not None)

    def _turn(self, subscription: Any, poll_at: float, keep_at: float) -> tuple[float, float]:
        """Wait for something to do, and do it. Returns when to poll and to read everything next."""
        now = time.monotonic()
        wait = max(0.0, min(poll_at - now, self._next(now)))
        heard = subscription.connection._sock  # noqa: SLF001
        ready, _, _ = select.select([self._table.reader, heard], [], [], wait)
        with _busy:
            while heard in ready and (message := subscription.get_message(timeout=0)) is not None:
                self._hear(read_message(message["data"]))
            self._collect()
            now = time.monotonic()
            self._report(now)
            self._tell_own(now)
            self._expire(now)
            if now >= poll_at:
                self._poll(everything=now >= keep_at)
                self._free_probes()
                self._own.forget(now)
                self._table.beat(now, cut_off=False)
                poll_at = now + POLL_EVERY
                keep_at = keep_at if now < keep_at else now + KEEP_EVERY
        return poll_at, keep_at

    def _next(self, now: float) -> float:
        """Seconds until something is due by itself."""
        with self._lock:
            return min(
                (min(one.due(now), one.changes_at(now)) for one in self._tracked.values()), default=math.inf
            ) - now  # fmt: skip

    def _hear(self, message: Shared | Hot) -> None:
        if isinstance(message, Shared):
            self.learn(message)
            return
        with self._lock:
            slot, tracked = self._named(message.name)
            if tracked is not None:
                now = time.monotonic()
                self._show(slot, tracked, heated(tracked.view, message, now), now)

    def _collect(self) -> None:
        records = self._own.take_in(self._table.receive())
        with self._lock:
            found = self._find_circuits()
            for record in records:
                if (tracked := self._tracked.get(record.slot)) is not None:
                    tracked.add(record)
        if found or any(one.shared is None for one in list(self._tracked.values())):
            self.sync()

    def _tell_own(self, now: float) -> None:
        """Publish what processes hold open by themselves; nothing is sent while nothing changes."""
        with self._lock:
            circuits = {slot: (one.name, one.rules) for slot, one in self._tracked.items()}
        self._own.tell(self.store, circuits, now)

    def _find_circuits(self) -> bool:
        """Track what has been given a slot; its rules come with it."""
        found = self._table.circuits(len(self._tracked))
        for name, rules in found:
            slot = len(self._tracked)
            self._tracked[slot], self._slots[name] = Tracked(name, rules), slot
        return bool(found)

    def _report(self, now: float) -> None:
        with self._lock:
            due = [one for one in self._tracked.values() if one.due(now) <= now]
            reports = []
            for one in due:
                seen = [
                    Report(
                        reporter=f"{self._host}/{pid}",
                        earlier=sums[0],
                        succeeded=sums[1],
                        failed=sums[2],
                        slow=sums[3],
                    )
                    for pid, sums in one.pending.items()
                ]
                reports.append((one.name, one.rules, one.known(now), one.epoch, seen))
                one.forget()
                one.reported_at = now
        if not reports:
            return
        for answer in self.store.report(reports):
            if answer is not None:
                self.learn(answer)

    def _expire(self, now: float) -> None:
        """What time alone changed: a ramp or a hot time that ended, a forced state at its end."""
        ended = {}
        with self._lock:
            for slot, one in self._tracked.items():
                if one.view.state.forced and now >= one.view.until:
                    ended[slot] = one
                elif not one.calm and one.view.calm(now):
                    self._show(slot, one, one.view, now)
        if ended:
            self._sync(ended)

    def _poll(self, *, everything: bool) -> None:
        version = self.store.version()
        if version != self._version or everything:
            self._version = version
            self._sync(self._tracked)

    def _free_probes(self) -> None:
        """A probe whose process is gone is somebody else's to make: its lease could last for a long call."""
        with self._lock:
            taken = [
                one
                for one in self._tracked.values()
                if one.view.state is State.HALF_OPEN and one.view.free < 1
            ]
        for one in taken:
            for lease in filter(is_of_the_dead, self.store.leases(one.name)):
                self.learn(self.store.finish(one.name, one.rules, lease, one.epoch, "released"))

    def _sync(self, asked: dict[int, Tracked]) -> None:
        """Read these circuits; a server that knows less than we do learns from us."""
        with self._lock:
            now = time.monotonic()
            questions = [(one.name, one.rules, one.known(now)) for one in asked.values()]
        if not questions:
            return
        for shared in self.store.sync(questions):
            self.learn(shared)


def view_of(shared: Shared, now: float) -> View:
    """What the shared state means on this machine's clock."""
    until = math.inf if shared.left is None else now + shared.left
    return View(
        state=shared.state,
        cause=shared.cause,
        free=shared.free,
        trips=shared.trips,
        epoch=shared.epoch,
        since=now - shared.passed,
        until=until,
        ramp_for=shared.ramp_for if shared.ramping else 0.0,
        hot_until=now + shared.hot_left,
        hot_every=shared.hot_every,
    )


def heated(view: View, hot: Hot, now: float) -> View:
    """The same circuit, with everybody reporting often."""
    return replace(view, hot_until=now + hot.hot_left, hot_every=hot.hot_every)


def _changed(before: Shared, after: Shared, *, ours: bool) -> BreakerChanged:
    return BreakerChanged(
        name=after.name,
        scope="cluster",
        old=before.state,
        new=after.state,
        cause=after.cause,
        reason=after.reason,
        author=after.author,
        calls=after.calls,
        failed=after.failed,
        slow=after.slow,
        reporters=after.reporters,
        open_for=after.left,
        epoch=after.epoch,
        by=after.by,
        ours=ours,
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """No fork in the middle of this block; for other threads of a process that forks. Keep it short."""
    with _busy:
        yield


def _after_fork() -> None:
    global _busy  # noqa: PLW0603
    _busy = threading.RLock()


os.register_at_fork(
    before=lambda: _busy.acquire(),  # noqa: PLW0108 - the lock of that moment: a child has another
    after_in_parent=lambda: _busy.release(),  # noqa: PLW0108
    after_in_child=_after_fork,
)
