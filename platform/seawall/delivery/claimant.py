"""What one channel holds of the queues, and what became of it.

A claimant is the name under which messages are leased. It knows every message it was given and has not
settled: the ones claimed ahead and not handed out yet, and the ones Celery has. What becomes of a message
(a settlement: started, acknowledged, returned, struck, deferred, parked, buried) goes into the outbox and
from there to the server, with the next claim or at the latest after `settle_within`. Settlements are
idempotent: one whose reply was lost is sent again, so an acknowledgement survives any outage; but not one
that would take a message from us that we have claimed again meanwhile. To let go what is parked is no
settlement and travels with them; done twice it costs a second look.

Two things outlive the channel. When a connection is lost, Celery drops the channel but keeps running what
had started: the claimant is then *abandoned*, keeps its lease and its outbox through the keeper, and
settles what the running tasks report. What Celery forgot instead (requests it had not started) is noticed
by the message object's end of life, and goes back. Once nothing is left, the claimant leaves.

A message that was lost with a whole worker may be what killed it, and nobody can tell which of several did.
Who is a suspect, how suspects are served and who is charged is decided by the scripts, for all processes of a
worker together: the rules stand in `lua/layout.lua`. Two things are left to this side. A start of a message
that ever came back is written down, and confirmed, before it runs: one that kills its worker at once would
otherwise leave no record and run for ever. And while nothing may be taken for the sake of a suspect that is
to run alone, the line waits without taking other workers' tokens, and what has not begun gives way
(`Aboard`).

Locking: `_lock` guards the three tables and is never held over a round trip.
"""

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import IntEnum
from functools import partial
from itertools import count
from typing import Any, ClassVar

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from seawall import identity
from seawall.cluster import Script, micros
from seawall.delivery import scripts
from seawall.delivery.claimed import Claimed
from seawall.delivery.distance import Distance, Work
from seawall.delivery.options import Options
from seawall.delivery.scripts import Keys

logger = logging.getLogger(__name__)

_serial = count(1)


class Aboard(IntEnum):
    """What a process is told of a suspect that is to run alone in its worker, in the scripts' numbers."""

    NOTHING = 0
    ALONE = 2  # it is there, and nothing else begins
    DRAINS = 3  # it comes when the worker holds nothing that may begin


Settlements = dict[str, dict[str, str]]
"""By queue, by message id: the settlement as the scripts read it."""


class Claimant:
    """The holder of leases behind one channel. Safe to use from any thread."""

    before_settling: ClassVar[Callable[[], None] | None] = None
    """Called before any claimant of this process sends settlements; raises RedisError if they must wait."""

    on_taking_in: ClassVar[Callable[[str, str], None] | None] = None
    """Called with tag and queue of each message before anything reads it, and with "" when it is taken in."""

    def __init__(
        self,
        *,
        keys: Keys,
        options: Options,
        client: "Redis",
        on_dead: Callable[[str, list[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity.current()
        self.name = identity.new_name(next(_serial))
        self.pid = os.getpid()
        self.keys = keys
        self.options = options
        self.client = client
        self.abandoned = False
        self.left = False
        self.busy = False  # the loop's thread is inside a delivery: a task may run there
        self.looping = False  # an event loop turns; without one nobody can tell a stall from work
        self.on_dead = on_dead
        self._clock = clock
        self._lock = threading.Lock()
        # Held from taking settlements until the server has them: to leave while another thread sends some
        # would give back what they were about.
        self._sending = threading.RLock()
        self._queues: set[str] = set()
        self._held: dict[str, str] = {}
        self._came_back: set[str] = set()
        self._ahead: deque[tuple[float, Claimed]] = deque()
        self._outbox: Settlements = {}
        self._outbox_since = 0.0
        self._watched: dict[str, weakref.ref[Any]] = {}
        self._forgotten_tags: deque[str] = deque()
        self._renewed_at = clock()
        self._lapsed = False  # the lease may have ended while this machine, or this process, stood still
        self._turned_at = clock()
        self.decided = False  # the outbox holds more than starts
        self.back: set[str] = set()  # held messages that had been put aside, until somebody is told
        self.worked_off = 0  # acknowledged or parked
        self.distance = Distance()
        self.work = Work(clock)
        self._under_way = 0  # settlements that were taken to be sent, until they are confirmed
        self.aboard = Aboard.NOTHING
        self.alone = ""  # the message that runs alone, if it is here
        self.clock_ahead = 0.0  # seconds by which the server's clock is ahead of this machine's
        self.nudge_at: float | None = None  # when to interrupt our own wait: a delay ends then

    # What is held

    @property
    def queues(self) -> list[str]:
        """Those it takes part in."""
        with self._lock:
            return sorted(self._queues)

    @property
    def held(self) -> int:
        """Messages leased and not settled."""
        return len(self._held)

    @property
    def ahead(self) -> int:
        """Of those, the ones not handed out yet."""
        return len(self._ahead)

    @property
    def far(self) -> bool:
        """Whether the server is so far that nobody may wait for it between two messages (`distance.py`)."""
        return self.distance.seconds > 0

    @property
    def unsettled(self) -> int:
        """Settlements that the server has not confirmed."""
        return self._under_way + sum(map(len, list(self._outbox.values())))

    def compare_clocks(self, asked: float, server: float, answered: float) -> None:
        """Learn how far the clocks are apart: the server looked at its own between two looks at ours.

        The answer may have waited here for long, so what is known is changed only as far as it must be.
        """
        self.clock_ahead = min(max(self.clock_ahead, server - answered), server - asked)

    def queue_of(self, tag: str) -> str:
        """The queue of a message that is held; empty if it is not."""
        return self._held.get(tag, "")

    def serve(self, queues: Iterable[str]) -> None:
        """Take part in these queues from now on: their leases are renewed."""
        with self._lock:
            self._queues.update(queues)

    def retire(self, queue: str) -> bool:
        """Take no part in a queue any more, if nothing of it is held; whether that is so now.

        Raises:
            RedisError: it still does, and its settlements are kept.
        """
        with self._sending:
            self._prepare_to_settle()
            with self._lock:
                if queue in self._held.values():
                    return False
                if queue not in self._queues:
                    return True
                self._queues.discard(queue)
                settlements = self._outbox.pop(queue, {})
            try:
                self._send(scripts.leave, queue, list(settlements.values()))
            except RedisError:
                self.serve([queue])
                self.put_back({queue: settlements})
                raise
        return True

    def claimed(self, messages: Iterable[Claimed]) -> None:
        """Record what a claim returned; it waits here to be handed out, in the server's order.

        What is claimed while others still wait here is more urgent than some, and overtakes those.
        """
        now = self._clock()
        with self._lock:
            place = self._place_of if self._ahead else None
            for message in messages:
                self._held[message.id] = message.queue
                if message.history:
                    self._came_back.add(message.id)
                self._ahead.insert(place(message) if place else len(self._ahead), (now, message))
            if self._held:
                self.work.begin()

    def _place_of(self, message: Claimed) -> int:
        for index, (_, other) in enumerate(self._ahead):
            if other.queue == message.queue and other.level > message.level:
                return index
        return len(self._ahead)

    @property
    def least_urgent(self) -> int:
        """The highest level among those not handed out yet; 0 if there are none."""
        with self._lock:
            return max((message.level for _, message in self._ahead), default=0)

    def next(self, queue: str | None = None) -> Claimed | None:
        """The next message to hand out, or the next of one queue."""
        with self._lock:
            for index, (_, message) in enumerate(self._ahead):
                if queue in (None, message.queue):
                    del self._ahead[index]
                    return message
        return None

    def give_back(self, chosen: Callable[[float, Claimed], bool]) -> int:
        """Return those messages claimed ahead that `chosen` picks by (seconds waiting, message)."""
        now = self._clock()
        with self._lock:
            returned = [message for since, message in self._ahead if chosen(now - since, message)]
            if returned:
                ids = {message.id for message in returned}
                self._ahead = deque(entry for entry in self._ahead if entry[1].id not in ids)
        for message in returned:
            self.settle(message.id, "r")
        return len(returned)

    # What becomes of it

    def settle(self, tag: str, kind: str, detail: str = "") -> bool:
        """Decide about a message; returns whether it was held. See `lua/layout.lua` for the kinds."""
        with self._lock:
            queue = self._held.pop(tag, None)
            if queue is None or os.getpid() != self.pid:
                return False
            self._came_back.discard(tag)
            self.back.discard(tag)
            self._watched.pop(tag, None)
            self._put(queue, tag, f"{kind}{tag}\n{detail}" if detail else kind + tag)
            self.decided = True
            if kind in "ap":
                self.worked_off += 1
                self.work.done()
            if not self._held:
                self.work.rest()
        return True

    def gathered(self, tag: str) -> None:
        """It is kept for a batch, which does not begin while a suspect is to run alone (`may_begin`)."""
        with self._lock:
            if (queue := self._held.get(tag)) is not None and tag not in self._outbox.get(queue, {}):
                self._put(queue, tag, f"g{tag}")

    def may_begin(self, tags: Collection[str]) -> bool:
        """Whether work on these may begin: not while another message is to run alone in this worker."""
        return self.aboard is Aboard.NOTHING or self.alone in tags

    def let_go(self, queue: str, dependency: str) -> bool:
        """Have one more message go that is parked for `dependency`; False if others have to see to it."""
        with self._lock:
            if queue not in self._queues or self.abandoned or self.left or os.getpid() != self.pid:
                return False
            known = self._outbox.get(queue, {}).get(dependency)
            many = int(known.rpartition("\n")[2]) + 1 if known else 1
            self._put(queue, dependency, f"l{dependency}\n{many}")
            self.decided = True
        return True

    def started(self, tag: str) -> None:
        """A task begins to run: from now on it is charged for the loss of its process.

        For a message that came back once the call returns when the server has it on record.

        Raises:
            RedisError: it could not be put on record yet; it will be with the next settlements.
        """
        with self._lock:
            queue = self._held.get(tag)
            if queue is None:
                return
            self._put(queue, tag, f"s{tag}")
            came_back = tag in self._came_back
        if came_back:
            self.flush()

    def _put(self, queue: str, tag: str, settlement: str) -> None:
        if not self._outbox:
            self._outbox_since = self._clock()
        self._outbox.setdefault(queue, {})[tag] = settlement

    @property
    def outbox_age(self) -> float | None:
        """Seconds the oldest unsent settlement has waited; None if there is none."""
        return self._clock() - self._outbox_since if self._outbox else None

    @property
    def must_settle(self) -> bool:
        """Whether a settlement has waited for as long as it may."""
        age = self.outbox_age
        return age is not None and age >= self.options.settle_within

    def take_outbox(self) -> Settlements:
        """Take all settlements to send them; `put_back` what could not be confirmed, as errors do here."""
        with self._lock:
            decided = self.decided
            taken, self._outbox, self.decided = self._outbox, {}, False
            self._under_way = sum(map(len, taken.values()))
        try:  # not before they are taken: what is decided meanwhile is none of them
            if decided:
                self._prepare_to_settle()
        except BaseException:
            self.put_back(taken)
            raise
        return taken

    @staticmethod
    def _prepare_to_settle() -> None:
        if (prepare := Claimant.before_settling) is not None:
            prepare()

    def put_back(self, settlements: Mapping[str, Mapping[str, str]]) -> None:
        """Settlements without a confirmation: they go again, unless something newer was decided.

        Of what was claimed again here meanwhile only a start and an end are as true as before: to return it
        now would take it from who works on it.
        """
        with self._lock:
            self.decided = self.decided or bool(settlements)
            for queue, by_id in settlements.items():
                for tag, settlement in by_id.items():
                    outlived = tag in self._held and settlement[0] not in "as"
                    if tag not in self._outbox.get(queue, {}) and not outlived:
                        self._put(queue, tag, settlement)

    # Round trips of its own

    def flush(self) -> None:
        """Send all settlements now.

        Raises:
            RedisError: they are kept, and sent again later.
        """
        with self._sending:
            taken = self.take_outbox()
            try:
                for queue in list(taken):
                    self._send(scripts.settle, queue, list(taken[queue].values()))
                    del taken[queue]
            except RedisError:
                self.put_back(taken)
                raise
            finally:
                self._under_way = 0

    def _send(self, verb: Script, queue: str, settlements: list[str]) -> None:
        step = 500
        for start in range(0, max(len(settlements), 1), step):
            part = settlements[start : start + step]
            dead = verb(self.client, [self.keys.base(queue)], [self.name, self.options.delivery_limit, *part])
            if dead:
                self.on_dead(queue, [tag.decode() for tag in dead])

    def renew(self) -> None:
        """Extend the lease on everything held."""
        queues = self.queues
        if queues:
            keys = [self.keys.aboard(self.identity.worker), *map(self.keys.base, queues)]
            told: Any = scripts.renew(self.client, keys, [micros(self.options.lease), self.name])
            self.aboard = Aboard(told)
        self.renewed()

    def renewed(self) -> None:
        """A claim extended the lease as well."""
        now = self._clock()
        self._lapsed = self._lapsed or now - self._renewed_at > self.options.lease
        self._renewed_at = now

    def reconcile(self, *, claiming: bool = False) -> None:
        """Make the server's idea of what is held equal to ours.

        While a claim may be under way, only what others took for lost is taken again.
        """
        for queue in self.queues:
            with self._sending:
                with self._lock:
                    known = [tag for tag, holds in self._held.items() if holds == queue]
                    known += self._outbox.get(queue, {})
                leaked, taken = scripts.reconcile(
                    self.client,
                    [self.keys.base(queue)],
                    [self.name, micros(self.options.lease), int(claiming), *known],
                )
                # What was given back between the question and the answer is taken by mistake.
                with self._lock:
                    for tag in {tag.decode() for tag in taken} - self._held.keys():
                        if tag not in self._outbox.get(queue, {}):
                            self._put(queue, tag, f"r{tag}")
            if leaked or taken:
                logger.info("queue %s: gave back %d leases, took %d again", queue, leaked, len(taken))
        self.renewed()
        self._lapsed = False

    def leave(self) -> None:
        """Settle, give everything else back and deregister. Errors are left to the lease's end."""
        if self.left or os.getpid() != self.pid:
            return
        self.left = True
        with self._sending:
            try:
                taken = self.take_outbox()
            except (RedisError, OSError) as exc:
                taken = {}
                logger.warning("what ended last is run again, its results cannot be stored: %s", exc)
            with self._lock:
                self._held.clear()
                self._ahead.clear()
                self._watched.clear()
            for queue in self.queues:
                try:
                    self._send(scripts.leave, queue, list(taken.get(queue, {}).values()))
                except (RedisError, OSError) as exc:
                    logger.warning("could not leave queue %s, the lease ends by itself: %s", queue, exc)
                    if not isinstance(exc, ResponseError):
                        break  # the server is away: each further queue would wait for it as long
        self.client.close()
        self.client.connection_pool.disconnect()

    # Outliving the channel

    def abandon(self, messages: Mapping[str, Any]) -> None:
        """The channel is lost: live on for those `messages` that somebody still works on."""
        self.busy = False
        self.aboard = Aboard.NOTHING  # it will not hear any more of that
        self.give_back(lambda _waited, _message: True)
        for tag, message in messages.items():
            watch = weakref.ref(message, partial(self._forgotten, tag))
            with self._lock:
                if tag in self._held:
                    self._watched[tag] = watch
        self.abandoned = True

    def _forgotten(self, tag: str, _dead: object) -> None:
        # Runs wherever the last reference died, perhaps under our own lock: only note it.
        self._forgotten_tags.append(tag)

    # Upkeep, called by the keeper

    def turned(self) -> None:
        """The event loop is alive."""
        self._turned_at = self._clock()

    @property
    def stalled(self) -> bool:
        """Whether the loop is silent for so long, outside any task, that others should take over."""
        silent = self._clock() - self._turned_at
        return self.looping and not self.busy and not self.abandoned and silent > self.options.stall_limit

    def upkeep(self) -> float:
        """Do what is due and return the seconds until something may be due again.

        Raises:
            RedisError: the server is away; nothing is lost, try again.
        """
        while self._forgotten_tags:
            self.settle(self._forgotten_tags.popleft(), "r")
        self.give_back(lambda waited, _message: waited > self._hoard_for)
        if self.must_settle:
            self.flush()
        if self.abandoned and not self.held:
            self.leave()
            return self.options.lease
        self._nudge()
        interval = self.options.lease / 3
        if self._clock() - self._renewed_at >= interval and not self.stalled:
            if self.abandoned:
                self.reconcile()
            else:
                self.renew()
        if self._lapsed and not self.stalled:
            self.reconcile(claiming=True)
        return self._next_upkeep(interval)

    @property
    def _hoard_for(self) -> float:
        return self.options.hoard_for + 2 * self.distance.seconds

    def _nudge(self) -> None:
        # The server ends a blocking wait up to 100 ms late, a token ends it at once.
        if self.nudge_at is not None and self._clock() >= self.nudge_at:
            self.nudge_at = None
            scripts.nudge(self.client, [self.keys.base(queue) for queue in self.queues], [])

    def _next_upkeep(self, interval: float) -> float:
        now = self._clock()
        due = [max(self._renewed_at + interval - now, interval / 10)]
        with self._lock:
            if self._ahead:  # an overtaker is younger than those behind it
                oldest = min(since for since, _ in self._ahead)
                due.append(oldest + self._hoard_for - now)
            if self._outbox:
                due.append(self._outbox_since + self.options.settle_within - now)
        if self.abandoned:
            due.append(0.05)
        if (nudge_at := self.nudge_at) is not None:
            due.append(nudge_at - now)
        return max(min(due), 0.001)
