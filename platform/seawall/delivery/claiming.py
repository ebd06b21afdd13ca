"""The consuming side of a channel: it claims, waits for the server's answer, hands out and settles.

The work is done by `Line` (what to ask the server), `Claimant` (what is held), `Window` (what Celery has),
`messages.py` (what is handed out) and the Lua verbs.

A delivery, on an event loop: each tick calls `turn`, which lets the line ask; the answer makes the socket
readable, `_brpop_read` takes it in and hands out what the window has room for. What remains is handed out
on later ticks: the doorbell, a pipe to ourselves, makes the poll return for it, so that Celery gets to
acknowledge between two hand-outs.

The private names of kombu used here are held by tests/unit/test_delivery_contracts.py.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from queue import Empty
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from seawall import silence
from seawall.cluster import MICROSECONDS
from seawall.delivery import older, scripts
from seawall.delivery.claimant import Claimant
from seawall.delivery.claimed import Claimed
from seawall.delivery.envelope import unwrap
from seawall.delivery.keeper import keeper
from seawall.delivery.line import Line
from seawall.delivery.messages import UnreadableError, give_up_unreadable, tell_poisoned
from seawall.delivery.options import Options
from seawall.delivery.replies import is_reply_queue, popped
from seawall.delivery.scripts import Keys
from seawall.delivery.window import Window

logger = logging.getLogger(__name__)

_MOST_REFUSALS = 10  # before a connection is given up: with Sentinel another server may be the primary
_HAND_OUT_SLICE = 0.005  # after this long the loop gets to settle, even if the window has room


class ClaimingChannel(older.Channel):
    """Kombu's channel with a claimant of its own, from when it first claims."""

    qos: Window
    keys: Keys
    delivery: Options
    redis: Redis

    # Kombu's own, which the stubs lack.
    connection_errors: tuple[type[Exception], ...]
    _brpop_sent_at: float | None
    _fanout_queues: dict[str, Any]
    _flush_brpop_reauth: Callable[[], None]
    _get_pool: Callable[[], Any]
    _in_poll: Any

    def __init__(self, transport: Any, **kwargs: Any) -> None:
        self.claimant: Claimant | None = None
        self.line: Line | None = None
        self.doorbell: Any = None  # given by the poller, once an event loop polls
        self._cancelled: set[str] = set()  # queues that are not left yet
        super().__init__(transport, **kwargs)

    @property
    def _silence(self) -> float:
        """Seconds a server may say nothing; a lease outlives two renewals that come to nothing.

        Not with a lease of less than three seconds: a server that is busy for a moment is no silent one.
        """
        return min(silence.SILENCE, max(1.0, self.delivery.lease / 3))

    def _consume(self) -> tuple[Claimant, Line]:
        """The claimant and its line, made on first use."""
        if self.claimant is None or self.line is None:
            self.claimant = Claimant(
                keys=self.keys,
                options=self.delivery,
                client=Redis(connection_pool=self._get_pool()),
                on_dead=partial(tell_poisoned, self),
            )
            self.line = Line(self.claimant)
            keeper.add(self.claimant)
        return self.claimant, self.line

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001
        """As kombu's; without acknowledgements a message is done with when it is handed out."""
        if not no_ack or queue in self._fanout_queues:
            return super().basic_consume(queue, no_ack, callback, *args, **kwargs)

        def done_at_once(message: Any) -> Any:
            self.settle(message.delivery_tag, "a")
            return callback(message)

        return super().basic_consume(queue, no_ack, done_at_once, *args, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        cancelled = super()._basic_cancel(consumer_tag)  # type: ignore[misc]
        if self.claimant is not None and queue is not None:
            self.claimant.give_back(lambda _waited, message: message.queue == queue)
            self._cancelled.add(queue)
            self._retire(self.claimant)
        return cancelled

    def _retire(self, claimant: Claimant) -> None:
        """Take no part in cancelled queues; not before a claim's answer, which may hold some of theirs."""
        if self.line is not None and self.line.state == "claiming":
            return
        for queue in self._cancelled.difference(self.active_queues):
            try:
                if not claimant.retire(queue):
                    continue
            except RedisError as exc:
                logger.debug("queue %s is left later: %s", queue, exc)
                continue
            self._cancelled.discard(queue)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """As kombu's: one message now, or None."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self.settle(str(message.delivery_tag), "a")
        return message

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002 - kombu's
        claimant, _ = self._consume()
        claimant.serve([queue])
        line = Line(claimant)
        keys, arguments = line.prepare([queue], 1)
        try:
            line.accept(scripts.claim(claimant.client, keys, arguments))
        except RedisError:
            line.drop()
            raise
        keeper.prompt(claimant.options.settle_within)
        claimed = claimant.next(queue)
        if claimed is None:
            raise Empty
        return unwrap(claimed)

    def turn(self, cycle: Any) -> None:
        """One tick of the event loop, or one round of `drain_events`."""
        claimant, line = self._consume()
        claimant.turned()
        claimant.looping = cycle.looping
        if self._cancelled:
            self._retire(claimant)
        if cycle.looping and self.doorbell is None:
            cycle.give_doorbell(self)
        if not self._in_poll:
            if line.state != "silent":
                line.drop()
            if line.wish(self.qos.room):
                self._drop_if_cut(cycle)
                cycle._register_BRPOP(self)  # noqa: SLF001 - kombu's name for: connect, register, ask
        elif line.overdue():
            self._give_up_waiting(line)
        elif line.state == "waiting" and not claimant.far and (claimant.decided or claimant.must_settle):
            self.flush()
        if claimant.outbox_age is not None:
            keeper.prompt(claimant.options.settle_within)
        if self.doorbell is not None and claimant.ahead and self.qos.room > 0:
            self.doorbell.ring()

    def _is_cut(self) -> bool:
        """Whether the server has ended the connection on which nothing is asked."""
        return _is_readable(self.client.connection)

    def _drop_if_cut(self, cycle: Any) -> None:
        """Connect anew where no loop listens: a caller is not told of what happened before it called."""
        if not cycle.looping and self._is_cut():
            self.client.connection.disconnect()

    def _give_up_waiting(self, line: Line) -> None:
        """Have Celery connect anew: no event says that nothing comes, and the loop has no timeout."""
        connection = self.client.connection
        if _is_readable(connection):
            return  # the loop was late, not the server
        asked = line.state
        line.drop()
        connection.disconnect()
        raise RedisTimeoutError(f"the broker has not answered for {self._silence:g} s while {asked}")

    def flush(self) -> None:
        """Send what was decided, now; what cannot be sent is kept."""
        try:
            if self.claimant is not None:
                self.claimant.flush()
        except RedisError as exc:
            logger.debug("settlements wait for the broker: %s", exc)

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's
        claimant, line = self._consume()
        queues = list(self.active_queues)
        claimant.serve(queues)
        connection = self.client.connection
        self._in_poll = connection
        self._brpop_sent_at = time.monotonic()
        line.ask(connection, queues, self.qos.room, self._replies, silence=self._silence)
        if claimant.nudge_at is not None:
            keeper.prompt(max(claimant.nudge_at - time.monotonic(), 0.0))

    def _brpop_read(self, **_options: Any) -> bool:
        _, line = self._consume()
        waited = line.state == "waiting"
        ready = self._take_answer(line)
        if line.reply is not None:
            self._hand_out_reply(*line.take_reply())
            return True
        if waited and line.wish(self.qos.room) and not self._is_cut():
            self._brpop_start()  # a token: claim now and not a tick later
        if not ready:
            raise Empty  # `drain_events` must not take this for a message
        self.hand_out()
        return True

    @property
    def _replies(self) -> list[str]:
        """Queues of replies that are consumed here."""
        return [queue for queue in self.active_queues if is_reply_queue(queue)]

    def _hand_out_reply(self, stock_list: str, body: bytes) -> None:
        queue = next((each for each in self._replies if self.keys.stock_list(each) == stock_list), "")
        if queue in (self.connection._callbacks or ()):  # noqa: SLF001 - its asker still listens
            self.connection._deliver(popped(body), queue)  # noqa: SLF001 - kombu's hand-over

    def _take_answer(self, line: Line) -> bool:
        """Read what the line asked for; whether there is something to hand out."""
        if not self._in_poll:  # taken already, between a poll and its turn
            return False
        connection = self.client.connection
        try:
            return line.read(connection)
        except self.connection_errors as exc:
            if isinstance(exc, silence.NotNowError) and line.refusals < _MOST_REFUSALS:
                self._wait_with(line, exc)
                return False
            connection.disconnect()
            raise
        except ResponseError as exc:  # out of memory, a replica, a script killed: Celery must reconnect
            connection.disconnect()
            raise RedisConnectionError(str(exc)) from exc
        finally:
            if line.state == "silent":
                self._in_poll = None
                self._flush_brpop_reauth()

    def _wait_with(self, line: Line, refusal: silence.NotNowError) -> None:
        """Ask again later, on this connection."""
        if not line.refusals:
            logger.warning("the broker gives nothing out now: %s", refusal)
        cycle: Any = self.connection.cycle
        cycle.turn_in(line.refused())

    @property
    def unstarted(self) -> int:
        """Messages claimed and not handed out; a claim under way counts for one, as it may bring some."""
        if self.claimant is None or self.line is None:
            return 0
        return self.claimant.ahead + (self.line.state == "claiming")

    @property
    def far(self) -> bool:
        """Whether the server is so far that nobody may wait for it between two messages."""
        return self.claimant is not None and self.claimant.far

    def give_back(self) -> None:
        """Return what is claimed and not handed out, with what a claim under way brings.

        Raises:
            RedisError: the answer is lost, and what it brought is reconciled later; or the server is away.
        """
        claimant, _ = self._consume()
        self._finish_claim()
        claimant.give_back(lambda _waited, _message: True)
        # Whoever recalled what we held must not find us working on that message still: our next claim may be
        # there before what another thread is telling of it.
        claimant.flush()

    def hand_out(self, most: int | None = None) -> int:
        """Give Celery what the window has room for; returns how many messages it got."""
        claimant, _ = self._consume()
        stop_at, handed = time.monotonic() + _HAND_OUT_SLICE, 0
        while handed != most and self.qos.room > 0 and (claimed := claimant.next()) is not None:
            self._hand_out_one(claimant, claimed)
            handed += 1
            if time.monotonic() > stop_at:
                break
        return handed

    def _hand_out_one(self, claimant: Claimant, claimed: Claimed) -> None:
        if claimed.queue not in (self.connection._callbacks or ()):  # noqa: SLF001 - consuming was cancelled
            claimant.settle(claimed.id, "r")
            return
        if (take_in := Claimant.on_taking_in) is not None:
            take_in(claimed.id, claimed.queue)
        claimant.busy = True
        try:
            if (message := self._read(claimant, claimed)) is not None:
                self.connection._deliver(message, claimed.queue)  # noqa: SLF001 - kombu's hand-over
        except UnreadableError as exc:
            give_up_unreadable(self, claimant, claimed, exc)
        finally:
            claimant.busy = False
            claimant.turned()
        if take_in is not None:  # not after an error: it may end this process
            take_in("", "")

    def _read(self, claimant: Claimant, claimed: Claimed) -> dict[str, Any] | None:
        """The message; None for one that is none, and is a dead letter now."""
        try:
            return unwrap(claimed)
        except ValueError as exc:
            give_up_unreadable(self, claimant, claimed, exc)
            return None

    def _doorbell_rang(self) -> None:
        if self.doorbell is not None:
            self.doorbell.answer()
        self.hand_out()

    def _finish_claim(self) -> None:
        """Take in a claim that is under way, so that it is given back in order.

        Raises:
            RedisError, OSError: its answer is lost.
        """
        while self.line is not None and self.line.state == "claiming" and self._in_poll:
            self._take_answer(self.line)

    # Settling

    def settle(self, tag: str, kind: str, detail: str = "") -> None:
        """Decide about a message of this channel's, also after the channel was closed."""
        if self.claimant is not None and self.claimant.settle(tag, kind, detail):
            keeper.prompt(self.delivery.settle_within)

    def started(self, tag: str) -> None:
        """A task begins to run; see `Claimant.started`."""
        if self.claimant is not None:
            self.claimant.started(tag)

    def waited(self, tag: str) -> float:
        """Seconds since this was first asked about a message that is held, by the server's clock.

        Raises:
            RedisError: it cannot be asked.
        """
        queue = "" if self.claimant is None else self.claimant.queue_of(tag)
        return scripts.since(self.redis, [self.keys.base(queue)], [tag]) / MICROSECONDS if queue else 0.0


def _is_readable(connection: Any) -> bool:
    """Whether an answer, or the end of the connection, is in the socket, where it stays.

    Older releases of redis-py take it out when they are asked (`can_read`), and no poll tells of it any more.
    """
    sock = getattr(connection, "_sock", None)
    return sock is not None and bool(wait([sock], timeout=0))
