"""Where this process's circuits live: a table, and the hub behind it, here or in the process that forked us.

A process has one place, made by the first call of any breaker. A forked child starts without one, unless its
parent said `share()`: then it reads the parent's table and has no connection of its own.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from redis import Redis

from seawall import cluster, holdings, servers
from seawall.breaker.hub import OUTAGE, Hub
from seawall.breaker.machine import Answer, ProbeOutcome, Rules
from seawall.breaker.store import Shared, Store
from seawall.breaker.table import UNKNOWN, WAKE, Table

if TYPE_CHECKING:
    from seawall.breaker.circuit import Circuit

LOST_AFTER: Final = 5.0
"""Seconds without a sign of the hub after which a child stops following it."""

FIRST_ANSWER: Final = cluster.TIMEOUT
"""Seconds that a child waits for the hub to say where a new circuit is."""


def _connect() -> "Redis":
    return cluster.connect(servers.redis_url())


class Place:
    """The table of this process, and the way to the hub and to Redis."""

    def __init__(
        self, connect: Callable[[], "Redis"] = _connect, *, shared: bool = False, host: str | None = None
    ) -> None:
        self._connect = connect
        self.shared = shared
        self.host = (host or socket.gethostname()).replace("/", "-")
        self.asker = f"{self.host}/{os.getpid()}"
        self.table = Table()
        self.hub: Hub | None = Hub(self.table, connect, host=self.host, asker=self.asker)

    def follow(self) -> None:
        """In a child: from now on the hub is somebody else's."""
        self.hub = None
        self.table.after_fork()

    def successor(self) -> "Place":
        """A place of this process's own, to the same Redis."""
        return Place(self._connect, host=self.host)

    def close(self) -> None:
        """Stop the hub, if it is ours, and let go of the table."""
        if self.hub is not None:
            self.hub.stop()
        self.table.close()

    def enter(self, name: str, rules: Rules) -> int | None:
        """The slot of a circuit, with the hub running; None if the table is full."""
        slot = self.table.slot(name, rules)
        if self.hub is not None:
            self.hub.start()
        return slot

    @holdings.interruptible
    def first_look(self, slot: int) -> None:
        """Have the state of a new circuit read before its first call, if Redis answers in time."""
        if self.table.pulse()[1]:
            return
        if self.hub is not None:
            try:
                self.hub.sync()
            except OUTAGE as exc:
                self.hub.cut_off(exc)
            return
        self.table.send(WAKE)
        deadline = time.monotonic() + FIRST_ANSWER
        while self.table.flag(slot)[0] == UNKNOWN and time.monotonic() < deadline:
            time.sleep(0.001)

    @property
    def lost(self) -> bool:
        """Whether we follow a hub that has died or hangs."""
        return self.hub is None and time.monotonic() - self.table.pulse()[0] > LOST_AFTER

    @property
    def cut_off(self) -> bool:
        """Whether Redis is known to be away."""
        return self.table.pulse()[1]

    @holdings.interruptible
    def ask(self, circuit: "Circuit", lease: str) -> Answer | None:
        """Ask Redis for a probe, one process of the worker at a time. None: Redis is away."""
        with self.table.asking(circuit.slot) as alone:
            if not alone:
                return "refused"
            try:
                with self._store() as store:
                    answer, shared = store.ask(circuit.name, circuit.rules, lease, known=circuit.known())
            except OUTAGE as exc:
                self._missed(exc)
                return None
        self._learn(shared)
        circuit.answered(shared)
        return answer

    @holdings.interruptible
    def finish(self, circuit: "Circuit", lease: str, epoch: int, outcome: ProbeOutcome) -> None:
        """Give a probe's lease back; if Redis is away it ends by itself."""
        try:
            with self._store() as store:
                self._learn(store.finish(circuit.name, circuit.rules, lease, epoch, outcome))
        except OUTAGE as exc:
            self._missed(exc)

    def force(  # noqa: PLR0913 - what an operator says
        self, name: str, rules: Rules, to: str, *, for_: float | None, reason: str, author: str
    ) -> Shared:
        """An operator's word, for the whole fleet. Raises redis-py's errors."""
        with self._store() as store:
            shared = store.force(name, rules, to, for_=for_, reason=reason, author=author)
        self._learn(shared)
        return shared

    @contextmanager
    def _store(self) -> Iterator[Store]:
        """A child without a hub connects for this one question: 200 cells are not 200 connections."""
        if self.hub is not None:
            yield self.hub.store
            return
        with self._connect() as client:
            yield Store(client, self.asker)

    def unlock(self) -> None:
        """After an interruption: this thread is inside no more."""
        self.table.unlock()
        if self.hub is not None:
            self.hub.unlock()

    def _learn(self, shared: Shared) -> None:
        if self.hub is not None:
            self.hub.learn(shared)

    def _missed(self, exc: Exception) -> None:
        if self.hub is not None:
            self.hub.cut_off(exc)


_lock = threading.Lock()
_place: Place | None = None


def current() -> Place:
    """This process's place, made on first use."""
    global _place  # noqa: PLW0603 - one per process
    if (place := _place) is not None:
        return place
    with _lock:
        if _place is None:
            _place = Place()
        return _place


def share(connect: Callable[[], "Redis"] = _connect) -> Place:
    """Have the children that are forked from now on read this process's table. Call it before forking.

    Safe to repeat. The process must live as long as its children are to hear news; one that has had none for
    five seconds connects by itself.
    """
    global _place  # noqa: PLW0603
    with _lock:
        if _place is None:
            _place = Place(connect)
        _place.shared = True
    if _place.hub is not None:
        _place.hub.start()
    return _place


def use(place: Place | None) -> None:
    """Put `place` in force, and close the one that was; None: the next call makes a new one."""
    global _place
    with _lock:
        before, _place = _place, place
    if before is not None:
        before.close()


def leave(place: Place) -> None:
    """Give up a place whose hub is lost for one of this process's own."""
    global _place  # noqa: PLW0603
    with _lock:
        if _place is place:
            _place = place.successor()
            place.close()


def _after_fork() -> None:
    global _lock, _place  # noqa: PLW0603
    _lock = threading.Lock()
    if _place is None:
        return
    if _place.shared:
        _place.follow()
    else:
        _place.table.close()
        _place = None


os.register_at_fork(after_in_child=_after_fork)
