"""Kombu's Redis channel with leases: what differs from the stock transport, and nothing else.

TLS, credentials, Sentinel, exchanges, fanout and the pidbox are the stock channel's. Publishing to a queue,
claiming, settling, purging, counting and closing are ours; the work is done by `Line` (what to ask the
server), `Claimant` (what is held), `Window` (what Celery has) and the Lua verbs.

A delivery, on an event loop: each tick calls `turn`, which lets the line ask; the answer makes the socket
readable, `_brpop_read` takes it in and hands out what the window has room for. What remains is handed out
on later ticks: the doorbell, a pipe to ourselves, makes the poll return for it, so that Celery gets to
acknowledge between two hand-outs.

The private names of kombu used here are held by tests/unit/test_delivery_contracts.py.
"""

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any

from kombu.transport import redis as stock
from kombu.transport import virtual
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from seawall.backoff import equal_jitter
from seawall.cluster import Argument
from seawall.delivery import events, scripts, server
from seawall.delivery.claimant import Claimant, Claimed
from seawall.delivery.envelope import SUBMISSION, Envelope, Stencil, from_json, unwrap, wrap
from seawall.delivery.keeper import keeper
from seawall.delivery.line import Line
from seawall.delivery.options import Options
from seawall.delivery.revocation import revoked_by, write_down
from seawall.delivery.scripts import Keys
from seawall.delivery.window import Window
from seawall.errors import AlreadySubmitted, QueueFull

logger = logging.getLogger(__name__)

_HAND_OUT_SLICE = 0.005  # after this long the loop gets to settle, even if the window has room
_FULL_RETRY = 0.1
_JSON = "application/json"


class Message(virtual.Message):
    """Kombu's message; the arguments of most tasks are plain JSON and need none of kombu's types."""

    accept: set[str] | None

    def _decode(self) -> Any:
        body: Any = self.body
        accepted = self.accept is None or _JSON in self.accept
        if accepted and self.content_type == _JSON and isinstance(body, bytes):
            with contextlib.suppress(Exception):  # kombu says what is wrong with it
                return from_json(body)
        return super()._decode()


class Channel(stock.Channel):
    """One channel: a producer until it first claims, then a consumer with a claimant of its own."""

    Message = Message
    QoS: type[Window] = Window  # type: ignore[assignment]
    qos: Window

    # Kombu's own, which the stubs lack.
    connection_errors: tuple[type[Exception], ...]
    _brpop_sent_at: float | None
    _expires: dict[str, int]
    _fanout_queues: dict[str, Any]
    _flush_brpop_reauth: Callable[[], None]
    _get_pool: Callable[[], Any]
    _in_poll: Any

    def __init__(self, transport: Any, **kwargs: Any) -> None:
        self.delivery = Options.from_transport_options(transport.client.transport_options)
        self.claimant: Claimant | None = None
        self.line: Line | None = None
        self.doorbell: Any = None  # given by the poller, once an event loop polls
        self.collect: Callable[[str, Envelope], None] | None = None  # see bulk.py
        self._length_limits: dict[str, int] = {}
        self._cancelled: set[str] = set()  # queues that are not left yet
        self._pid = os.getpid()
        super().__init__(transport, **kwargs)
        self.keys = Keys(self.global_keyprefix)
        self.handlers["DOORBELL"] = self._doorbell_rang
        # Kombu's own client adds the prefix to some keys of some commands; ours are complete.
        self.redis: Redis = Redis(connection_pool=self.pool)
        server.check(self.redis, f"redis at {transport.client.as_uri()}")

    # Submitting

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, str]:
        """As kombu's, but text is not wrapped in base64 on top of JSON."""
        if isinstance(body, str):
            return body, "utf-8"
        return super().encode_body(body, encoding)

    def _next_delivery_tag(self) -> str:
        return secrets.token_hex(10)

    def _inplace_augment_message(
        self, message: dict[str, Any], exchange: str | None, routing_key: str
    ) -> None:
        super()._inplace_augment_message(message, exchange, routing_key)
        properties = message["properties"]
        properties.setdefault(SUBMISSION, properties["delivery_tag"])

    def _put(self, queue: str, message: dict[str, Any], **_kwargs: Any) -> None:
        if self.collect is not None:
            self.collect(queue, self.envelope(message))
        else:
            self.submit(queue, [self.envelope(message)])

    def envelope(self, message: dict[str, Any]) -> Envelope:
        """A prepared message as `submit` takes it."""
        level = self._get_message_priority(message, reverse=True)
        return wrap(message, level=level, limit=self.delivery.max_message)

    def stencil(
        self, headers: dict[str, Any], properties: dict[str, Any], content: dict[str, str]
    ) -> Stencil:
        """For many messages that share these headers, properties and type of content."""
        level = self._get_message_priority({"properties": properties}, reverse=True)
        return Stencil(headers, properties, content, level=level, limit=self.delivery.max_message)

    def submit(self, queue: str, envelopes: Sequence[Envelope]) -> None:
        """Put messages in line, all or none, and return once the server has confirmed.

        Raises:
            QueueFull: the queue has reached its `max_length`.
            AlreadySubmitted: a message's unique key is taken; the others are in line.
        """
        limit = self._length_limits.get(queue) or self.delivery.length_limit(queue)
        arguments: list[Argument] = [limit, self._expires.get(queue, 0)]
        for envelope in envelopes:
            arguments.extend(envelope)
        give_up_at = time.monotonic() + self.delivery.block_for
        while (answer := scripts.submit(self.redis, [self.keys.base(queue)], arguments))[0] == b"full":
            if self.delivery.when_full == "refuse" or time.monotonic() > give_up_at:
                raise QueueFull(
                    f"queue {queue} holds {answer[1]} messages and max_length is {limit}: submit later, add "
                    "workers, or raise broker_transport_options['delivery']['max_length']."
                )
            time.sleep(equal_jitter(_FULL_RETRY))
        if answer[1:]:
            taken = envelopes[answer[1] - 1].unique
            raise AlreadySubmitted(taken, self._task_id_of(queue, answer[2]))

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        if ids := revoked_by(exchange, message):
            write_down(self.redis, self.keys, ids)
        super()._put_fanout(exchange, message, routing_key, **kwargs)  # type: ignore[misc]

    def _task_id_of(self, queue: str, tag: bytes) -> str | None:
        body = self.redis.hget(f"{self.keys.base(queue)}:messages", tag.decode())
        task_id = json.loads(body)["headers"].get("id") if isinstance(body, bytes) else None
        return task_id if isinstance(task_id, str) else None

    # Claiming

    def _consume(self) -> tuple[Claimant, Line]:
        """The claimant and its line, made on first use."""
        if self.claimant is None or self.line is None:
            pool = self._get_pool()
            if pool.connection_kwargs.get("socket_timeout") is None:  # the keeper must never hang
                pool.connection_kwargs["socket_timeout"] = self.delivery.lease / 3
            self.claimant = Claimant(
                keys=self.keys,
                options=self.delivery,
                client=Redis(connection_pool=pool),
                on_dead=self.tell_poisoned,
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
                cycle._register_BRPOP(self)  # noqa: SLF001 - kombu's name for: connect, register, ask
        elif line.state == "waiting" and (claimant.decided or claimant.must_settle):
            self.flush()
        if claimant.outbox_age is not None:
            keeper.prompt(claimant.options.settle_within)
        draining = claimant.draining and self.qos.messages
        if self.doorbell is not None and claimant.ahead and self.qos.room > 0 and not draining:
            self.doorbell.ring()

    def flush(self) -> None:
        """Send what was decided, now; what cannot be sent is kept."""
        try:
            if self.claimant is not None:
                self.claimant.flush()
        except RedisError as exc:
            logger.debug("settlements wait for the broker: %s", exc)

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's
        claimant, line = self._consume()
        claimant.serve(self.active_queues)
        connection = self.client.connection
        self._in_poll = connection
        self._brpop_sent_at = time.monotonic()
        line.ask(connection, list(self.active_queues), self.qos.room)
        if claimant.nudge_at is not None:
            keeper.prompt(max(claimant.nudge_at - time.monotonic(), 0.0))

    def _brpop_read(self, **_options: Any) -> bool:
        _, line = self._consume()
        waited = line.state == "waiting"
        ready = self._take_answer(line)
        if waited and self.qos.room > 0:
            self._brpop_start()  # a token: claim now and not a tick later
        if not ready:
            raise Empty  # `drain_events` must not take this for a message
        self.hand_out()
        return True

    def _take_answer(self, line: Line) -> bool:
        """Read what the line asked for; whether there is something to hand out."""
        if not self._in_poll:  # taken already, between a poll and its turn
            return False
        connection = self.client.connection
        try:
            return line.read(connection)
        except self.connection_errors:
            connection.disconnect()
            raise
        except ResponseError as exc:  # out of memory, a replica, a script killed: Celery must reconnect
            connection.disconnect()
            raise RedisConnectionError(str(exc)) from exc
        finally:
            if line.state == "silent":
                self._in_poll = None
                self._flush_brpop_reauth()

    @property
    def unstarted(self) -> int:
        """Messages claimed and not handed out; a claim under way counts for one, as it may bring some."""
        if self.claimant is None or self.line is None:
            return 0
        return self.claimant.ahead + (self.line.state == "claiming")

    def give_back(self) -> None:
        """Return what is claimed and not handed out, with what a claim under way brings.

        Raises:
            RedisConnectionError: that claim's answer is lost; what it brought is reconciled later.
        """
        claimant, _ = self._consume()
        self._finish_claim()
        claimant.give_back(lambda _waited, _message: True)

    def hand_out(self, most: int | None = None) -> int:
        """Give Celery what the window has room for; returns how many messages it got."""
        claimant, _ = self._consume()
        stop_at, handed = time.monotonic() + _HAND_OUT_SLICE, 0
        while handed != most and self.qos.room > 0 and (claimed := claimant.next()) is not None:
            if claimant.must_run_alone(claimed):
                if self.qos.messages:
                    claimant.postpone(claimed)
                    break
                claimant.run_alone(claimed)
            claimant.draining = False
            self._hand_out_one(claimant, claimed)
            handed += 1
            if time.monotonic() > stop_at:
                break
        return handed

    def _hand_out_one(self, claimant: Claimant, claimed: Claimed) -> None:
        if claimed.queue not in (self.connection._callbacks or ()):  # noqa: SLF001 - consuming was cancelled
            claimant.settle(claimed.id, "r")
            return
        try:
            message = unwrap(claimed)
        except ValueError as exc:
            logger.exception("queue %s: message %s cannot be read, it is a dead letter", *claimed[:2])
            queue, tag, body, _ = claimed
            events.unreadable.send(sender=self, queue=queue, tag=tag, body=body, error=exc)
            claimant.settle(claimed.id, "b", f"validation: cannot be read: {exc}")
            return
        claimant.busy = True
        try:
            self.connection._deliver(message, claimed.queue)  # noqa: SLF001 - kombu's hand-over
        finally:
            claimant.busy = False
            claimant.turned()

    def _doorbell_rang(self) -> None:
        if self.doorbell is not None:
            self.doorbell.answer()
        self.hand_out()

    # Settling

    def settle(self, tag: str, kind: str, detail: str = "") -> None:
        """Decide about a message of this channel's, also after the channel was closed."""
        if self.claimant is not None and self.claimant.settle(tag, kind, detail):
            keeper.prompt(self.delivery.settle_within)

    def started(self, tag: str) -> None:
        """A task begins to run; see `Claimant.started`."""
        if self.claimant is not None:
            self.claimant.started(tag)

    def tell_poisoned(self, queue: str, tags: list[str]) -> None:
        """Say that messages became dead letters."""
        base = self.keys.base(queue)
        for tag in tags:
            body, past = (self.redis.hget(f"{base}:{name}", tag) for name in ("messages", "history"))
            if isinstance(body, bytes) and isinstance(past, bytes):
                history = json.loads(past)["events"]
                message = json.loads(body)
                headers = message.get("headers", {})
                logger.error(
                    "%s[%s] lost its process %d times and is a dead letter of queue %s",
                    *(headers.get("task"), headers.get("id"), self.delivery.delivery_limit, queue),
                )
                events.poisoned.send(sender=self, queue=queue, message=message, history=history)

    # Queues

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002
        super()._new_queue(queue, auto_delete=auto_delete, **kwargs)
        if limit := (kwargs.get("arguments") or {}).get("x-max-length"):
            self._length_limits[queue] = int(limit)
        if not auto_delete and queue not in self._expires:
            self.redis.sadd(self.keys.queues, queue)

    def _has_queue(self, queue: str, **_kwargs: Any) -> bool:
        return self._size(queue) > 0 or bool(self.redis.sismember(self.keys.queues, queue))

    def _size(self, queue: str) -> int:
        """Messages that wait: in line, or for their moment."""
        base = self.keys.base(queue)
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.zcard(f"{base}:ready")
            pipe.zcard(f"{base}:delayed")
            return sum(pipe.execute())

    def _purge(self, queue: str) -> int:
        return scripts.purge_all(self.redis, self.keys.base(queue))

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)  # bindings, and what stock publishers left
        client = kwargs.get("client") or self.redis
        client.srem(self.keys.queues, queue)
        scripts.delete(self.redis, [self.keys.base(queue)], [])

    # The end

    def abandon(self) -> None:
        """The connection is lost: what runs goes on and is settled later, the rest goes back."""
        if self.line is not None:
            self.line.drop()
        if self.claimant is not None:
            self.claimant.abandon(self.qos.abandon())
            keeper.prompt(0)

    def close(self) -> None:
        """As kombu's: everything not settled goes back. An abandoned channel's claimant lives on.

        What a forked child inherited is its parent's: the child closes its copies of the sockets, no more.
        """
        if self.closed:
            return
        if os.getpid() != self._pid:
            self.closed = True
            self._disconnect_pools()  # type: ignore[attr-defined]  # kombu's own; stubs lack it
            return
        try:
            self._finish_claim()
        except (RedisError, OSError) as exc:
            logger.debug("a claim's answer is lost, its lease will end: %s", exc)
        self._in_poll = None  # or the stock channel waits for an answer
        if self.doorbell is not None:
            cycle: Any = self.connection.cycle
            cycle.silence(self)
        claimant = self.claimant
        super().close()
        if claimant is not None and not claimant.abandoned:
            claimant.leave()
            keeper.discard(claimant)

    def _finish_claim(self) -> None:
        """Take in a claim that is under way, so that it is given back in order.

        Raises:
            RedisError, OSError: its answer is lost.
        """
        while self.line is not None and self.line.state == "claiming" and self._in_poll:
            self._take_answer(self.line)

    def _after_fork(self) -> None:
        self.claimant = self.line = None
        super()._after_fork()  # type: ignore[misc]
        self.redis = Redis(connection_pool=self.pool)


class SentinelChannel(Channel, stock.SentinelChannel):
    """The same over Sentinel: the master is looked up for every connection."""
