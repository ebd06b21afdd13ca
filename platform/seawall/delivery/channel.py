"""Kombu's Redis channel with leases: what differs from the stock transport, and nothing else.

TLS, credentials, Sentinel, exchanges, fanout and the pidbox (`replies.py`) are the stock channel's.
Publishing to a queue, purging, counting and closing are ours, and so is the consuming side (`claiming.py`).

The private names of kombu used here are held by tests/unit/test_delivery_contracts.py.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from queue import Empty
from typing import Any

from kombu.transport import redis as stock
from redis import Connection, Redis, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.sentinel import SentinelManagedConnection

from seawall import holdings, silence
from seawall.backoff import equal_jitter
from seawall.cluster import Argument, Packer, Script, away, let_through, makes_room
from seawall.delivery import replication, scripts, server
from seawall.delivery.claiming import ClaimingChannel
from seawall.delivery.envelope import SUBMISSION, Envelope, Stencil, wrap
from seawall.delivery.keeper import keeper
from seawall.delivery.messages import Message
from seawall.delivery.options import LENGTH, Options
from seawall.delivery.refusal import refusals, sending
from seawall.delivery.replies import kept_for, push
from seawall.delivery.revocation import revoked_by, write_down
from seawall.delivery.scripts import Keys
from seawall.delivery.window import Window
from seawall.errors import AlreadySubmitted, ConfigError, QueueFull

logger = logging.getLogger(__name__)

_FULL_RETRY = 0.1
_OF_SILENCE = 0.8  # of the time that a server may say nothing: it has to be heard that replicas are late


class Channel(ClaimingChannel):
    """One channel: a producer until it first claims, then a consumer with a claimant of its own."""

    max_connections = silence.MOST_CONNECTIONS
    connection_class = silence.bounded(Connection)
    connection_class_ssl = silence.bounded(SSLConnection)
    Message = Message
    QoS: type[Window] = Window  # type: ignore[assignment]

    # Kombu's own, which the stubs lack.
    auto_delete_queues: set[str]
    _expires: dict[str, int]
    keyprefix_binding_permanent: str

    def __init__(self, transport: Any, **kwargs: Any) -> None:
        self.delivery = Options.from_transport_options(transport.client.transport_options)
        self.collect: Callable[[str, dict[str, Any]], None] | None = None  # see bulk.py
        self._length_limits: dict[str, int] = {}
        self._found: Collection[str] = ()  # the queues that an exchange has for a message
        self._pid = os.getpid()
        super().__init__(transport, **kwargs)
        self.keys = Keys(self.global_keyprefix)
        self.handlers["DOORBELL"] = self._doorbell_rang
        # Kombu's own client adds the prefix to some keys of some commands; ours are complete.
        self.redis: Redis = Redis(connection_pool=self.pool)
        self.warnings = server.check(self.redis, f"redis at {transport.client.as_uri()}")

    # Submitting

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, str]:
        """As kombu's, but text is not wrapped in base64 on top of JSON."""
        if isinstance(body, str):
            return body, "utf-8"
        return super().encode_body(body, encoding)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - kombu's
        params: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]
        return {**params, **silence.parameters(params, silence=self._silence), "command_packer": Packer()}

    def _next_delivery_tag(self) -> str:
        return secrets.token_hex(10)

    def _inplace_augment_message(
        self, message: dict[str, Any], exchange: str | None, routing_key: str
    ) -> None:
        super()._inplace_augment_message(message, exchange, routing_key)
        properties = message["properties"]
        properties.setdefault(SUBMISSION, properties["delivery_tag"])

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """As kombu's; but a task that no queue gets is no broadcast that nobody happens to hear.

        Raises:
            ConfigError: no queue is bound to the exchange for this routing key, and the message is a task, or
                says that it is `mandatory`.
        """
        self._found = [exchange]  # unless the exchange is asked for its queues
        answer = super().basic_publish(message, exchange, routing_key, **kwargs)
        if not any(self._found) and exchange and _has_to_arrive(message, exchange, kwargs):
            raise ConfigError(
                f"exchange={exchange!r} has no queue bound for routing_key={routing_key!r}: name a queue "
                f"(queue='...'), or bind one, task_queues=[Queue('...', Exchange({exchange!r}, type=...), "
                f"routing_key={routing_key!r})], here and where its workers are. Nothing was submitted"
            )
        return answer

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        self._found = super()._lookup(exchange, routing_key, default)
        return self._found

    def _put(self, queue: str, message: dict[str, Any], **_kwargs: Any) -> None:
        if self.connection is None:  # lost in this moment, in another thread: kombu is to connect anew
            raise RedisConnectionError("the connection of this channel is closed")
        if (lasts := kept_for(queue, message)) is not None:
            self._answer(queue, message, lasts)
        elif self.collect is not None:
            self.collect(queue, message)
        else:
            with refusals(self.connection.client):
                self.submit(queue, [self.envelope(message)], goes_on=_goes_on(message["headers"]))

    def _answer(self, queue: str, message: dict[str, Any], lasts: int) -> None:
        if self.redis.exists(f"{self.keys.base(queue)}:consumers"):
            self.submit(queue, [self.envelope(message)], lasts=lasts)
        else:
            push(self.redis, self.keys.stock_list(queue), message, lasts)

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

    def submit(
        self, queue: str, envelopes: Sequence[Envelope], *, lasts: int = 0, goes_on: bool = False
    ) -> None:
        """Put messages in line, all or none, and return once the server has confirmed.

        A queue that nobody declared as lasting goes after `lasts` milliseconds without use, if that is given.
        A server that is full takes only what `goes_on` with work that it has accepted.

        With the option `replicas` it returns when so many have it too. What `goes_on` with work need not
        wait: the acknowledgement of that work comes after it, and is replicated after it.

        Raises:
            QueueFull: the queue has reached its `max_length`.
            OperationalError: kombu's, too few replicas have it in time; the server has.
            OutOfMemoryError: redis-py's, the server has reached its maxmemory; nothing was submitted.
            AlreadySubmitted: a message's unique key is taken; the others are in line.
        """
        limit = self._length_limits.get(queue) or self.delivery.length_limit(queue)
        arguments: list[Argument] = [limit, self._expires.get(queue, lasts)]
        for envelope in envelopes:
            arguments.extend(envelope)
        verb = scripts.resubmit if goes_on else scripts.submit
        give_up_at = time.monotonic() + (self.delivery.block_for if self.delivery.when_full == "block" else 0)
        answered = sending()
        while True:
            try:
                answer = self._write(verb, queue, arguments, replicated=not (goes_on or lasts))
                if answer[0] != b"full":
                    break
                if time.monotonic() >= give_up_at:
                    raise QueueFull(
                        f"queue {queue} holds {answer[1]} messages and max_length is {limit}: submit later, "
                        "add workers, or raise broker_transport_options['delivery']['max_length']."
                    )
            except OutOfMemoryError:
                if time.monotonic() >= give_up_at:
                    raise
            answered()
            time.sleep(equal_jitter(_FULL_RETRY))
        answered()
        if answer[1:]:
            taken = envelopes[answer[1] - 1].unique
            raise AlreadySubmitted(taken, self._task_id_of(queue, answer[2]))

    def _write(self, verb: Script, queue: str, arguments: list[Argument], *, replicated: bool) -> Any:
        keys, options = [self.keys.base(queue)], self.delivery
        if not options.replicas or not replicated:
            return verb(self.redis, keys, arguments)
        within = min(options.replicas_within, self._silence * _OF_SILENCE)
        return replication.submit(self.redis, verb, keys, arguments, replicas=options.replicas, within=within)

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        if ids := revoked_by(exchange, message):
            write_down(self.redis, self.keys, ids)
        super()._put_fanout(exchange, message, routing_key, **kwargs)  # type: ignore[misc]

    def _receive_one(self, client: Any) -> bool:
        """As kombu's; a broadcast that anything fails over is skipped, as strangers publish some too."""
        try:
            return bool(super()._receive_one(client))  # type: ignore[misc]
        except Empty:  # kombu has said why
            return False
        except Exception as exc:  # whatever is in it, it ends no worker
            if away(exc):
                raise
            logger.exception("a broadcast cannot be read or obeyed, it is skipped")
            return False

    def _deliver_fanout_message(self, message: dict[str, Any], exchange: str) -> Any:
        """As kombu's; a revocation from the stock transport is written down by whoever hears it."""
        try:
            if ids := revoked_by(exchange, message):
                write_down(self.redis, self.keys, ids)
        except (RedisError, ValueError) as exc:
            logger.warning("a revocation reaches no worker that starts later: %s", exc)
        return super()._deliver_fanout_message(message, exchange)  # type: ignore[misc]

    def _task_id_of(self, queue: str, tag: bytes) -> str | None:
        body = self.redis.hget(f"{self.keys.base(queue)}:messages", tag.decode())
        try:
            task_id = json.loads(body)["headers"]["id"] if isinstance(body, bytes) else None
        except (ValueError, TypeError, KeyError, RecursionError):  # a stranger wrote it
            return None
        return task_id if isinstance(task_id, str) else None

    # Queues

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002
        super()._new_queue(queue, auto_delete=auto_delete, **kwargs)
        if limit := (kwargs.get("arguments") or {}).get("x-max-length"):
            self._length_limits[queue] = LENGTH.parse(limit, field=f"x-max-length of queue {queue!r}")
        if (lasts := self._expires.get(queue)) is not None:
            let_through(self.redis, "SET", f"{self.keys.base(queue)}:expires", lasts, "PX", lasts)
        elif not auto_delete:
            let_through(self.redis, "SADD", self.keys.queues, queue)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """As kombu's, whose commands a full server refuses, also for the queues of a worker that starts."""
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]
        except OutOfMemoryError as exc:
            logger.warning("the broker is full, what is submitted is refused until there is room: %s", exc)
            member: str = self.sep.join([routing_key or "", pattern or "", queue or ""])
            for table in filter(None, (self.keyprefix_queue, self.keyprefix_binding_permanent)):
                let_through(self.redis, "SADD", f"{self.keys.prefix}{table % (exchange,)}", member)

    @property
    def _refresh_binding(self) -> Any:
        kombus: Any = super()
        return makes_room(kombus._refresh_binding)  # noqa: SLF001

    def _has_queue(self, queue: str, **_kwargs: Any) -> bool:
        return self._size(queue) > 0 or bool(self.redis.sismember(self.keys.queues, queue))

    def _size(self, queue: str) -> int:
        """Messages that wait: in line, for their moment, or where stock publishers left them."""
        base = self.keys.base(queue)
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.zcard(f"{base}:ready")
            pipe.zcard(f"{base}:suspects")
            pipe.zcard(f"{base}:delayed")
            for stock_list in self._stock_lists(queue):
                pipe.llen(stock_list)
            return sum(pipe.execute())

    def _stock_lists(self, queue: str) -> list[str]:
        """Those from which claims import: the stock transport has one for each step of priority."""
        first = self.keys.imported(queue, self.delivery)
        return [first + step for step in scripts.STOCK_STEPS] if first else []

    def _purge(self, queue: str) -> int:
        imported = self.keys.imported(queue, self.delivery)
        return scripts.purge_all(self.redis, self.keys.base(queue), imported)

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
        self.auto_delete_queues.clear()  # or closing asks the server to delete them
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
            with silence.within(silence.Allowance(self._silence / 2)):
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
            with silence.within(silence.Allowance(self._silence / 2)):
                claimant.leave()
            keeper.discard(claimant)

    def _after_fork(self) -> None:
        self.claimant = self.line = None
        super()._after_fork()  # type: ignore[misc]
        self.redis = Redis(connection_pool=self.pool)


def _goes_on(headers: Mapping[str, Any]) -> bool:
    """Whether a message goes on with a task that a server has accepted: a retry, or what follows its end."""
    return bool(headers.get("retries") or (headers.get("parent_id") and not holdings.under_way()))


class SentinelChannel(Channel, stock.SentinelChannel):
    """The same over Sentinel: the master is looked up for every connection."""

    connection_class = silence.bounded(SentinelManagedConnection)
    connection_class_ssl = silence.bounded(stock.SentinelManagedSSLConnection)


def _has_to_arrive(message: Mapping[str, Any], exchange: str, options: Mapping[str, Any]) -> bool:
    """Whether a message must find a queue: a task. Who asked for a reply (pidbox) may have left by now."""
    if str(exchange).endswith(".pidbox"):
        return False
    return bool(options.get("mandatory")) or "task" in (message.get("headers") or {})
