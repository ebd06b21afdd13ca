"""Acting for consumers that cannot act for themselves: the ones that are busy, or dead.

A worker's supervisor uses it for the processes it has forked. It keeps the leases of one whose task holds
the interpreter, gives back what that one has claimed and cannot start, and settles what a dead one left.
A process is known by the token that its supervisor gave it (`identity.py`) and by nothing else: another of
its host name and pid is a stranger.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kombu import Connection
from kombu.transport.virtual import Message

from seawall.cluster import Argument, micros
from seawall.delivery import scripts
from seawall.delivery.channel import Channel
from seawall.delivery.claimed import Claimed
from seawall.delivery.envelope import unwrap
from seawall.delivery.messages import tell_poisoned
from seawall.delivery.window import REQUEUED
from seawall.identity import process_of, worker_of


class Guardian:
    """The verbs, over the channel of a connection of one's own. Every one may raise RedisError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        channel = connection.channel()
        if not isinstance(channel, Channel):
            raise TypeError(f"{connection.as_uri()} has no leases")
        self.channel = channel

    @property
    def lease(self) -> float:
        """Seconds that a lease lasts."""
        return self.channel.delivery.lease

    def close(self) -> None:
        """Give the connection back."""
        self._connection.release()

    def renew(self, queues: Sequence[str], processes: Sequence[str]) -> None:
        """Extend the leases of processes that are known to live, by their tokens."""
        for queue in queues:
            if names := self._of(queue, processes):
                keys = [self.channel.keys.aboard(worker_of(names[0])), self.channel.keys.base(queue)]
                scripts.renew(self.channel.redis, keys, [micros(self.lease), *names])

    def recall(
        self, queues: Sequence[str], process: str, *, queue: str, tag: str, done: Iterable[str] = ()
    ) -> int:
        """Put back in line what a living process holds beside the message it works on; returns how many.

        Nothing, if that message (`tag`, of `queue`) has been settled meanwhile. What it is `done` with stays:
        the server may not have heard of it yet.
        """
        bases = [self.channel.keys.base(name) for name in (queue, *queues)]
        names = self._of(queue, [process])
        return sum(scripts.recall(self.channel.redis, bases, [name, tag, *done]) for name in names)

    def estate(self, queues: Sequence[str], process: str) -> "Estate":
        """What a dead process left."""
        return Estate(self, {queue: self._of(queue, [process]) for queue in queues})

    def _settle(self, queue: str, name: str, settlements: Iterable[str]) -> None:
        keys = [self.channel.keys.base(queue)]
        if settlements := list(settlements):
            arguments: list[Argument] = [name, self.channel.delivery.delivery_limit, *settlements]
            if dead := scripts.settle(self.channel.redis, keys, arguments):
                tell_poisoned(self.channel, queue, [tag.decode() for tag in dead])

    def _of(self, queue: str, processes: Sequence[str]) -> list[str]:
        names: Any = self.channel.redis.zrange(f"{self.channel.keys.base(queue)}:consumers", 0, -1)
        return [name.decode() for name in names if process_of(name.decode()) in processes]


class Estate:
    """What a dead process held. Stands as the channel of the messages that are settled for it."""

    no_ack_consumers: None = None  # kombu asks before it acknowledges

    def __init__(self, guardian: Guardian, names: dict[str, list[str]]) -> None:
        self._guardian = guardian
        self._names = names
        self._queue_of: dict[str, str] = {}
        self.decode_body: Callable[..., Any] = guardian.channel.decode_body

    @property
    def delivery_limit(self) -> int:
        """Lost processes after which a message is given up."""
        return self._guardian.channel.delivery.delivery_limit

    def acknowledge(self, tags: Iterable[tuple[str, str]]) -> None:
        """These (tag, queue) were done with, and perhaps nobody could say so any more."""
        by_queue: dict[str, list[str]] = {}
        for tag, queue in tags:
            by_queue.setdefault(queue, []).append(f"a{tag}")
        for queue, settlements in by_queue.items():
            for name in self._names.get(queue, []):
                self._guardian._settle(queue, name, settlements)  # noqa: SLF001 - one module

    def strike(self, queue: str, tag: str, reason: str) -> None:
        """Charge a message for the process that died with it in its hands, if nobody has settled it."""
        for name in self._names.get(queue, []):
            self._guardian._settle(queue, name, [f"k{tag}\n{reason}"])  # noqa: SLF001

    def strike_started(self, reason: str) -> None:
        """Charge everything that had started there, where nobody knows what ran."""
        channel = self._guardian.channel
        for queue, names in self._names.items():
            for name in names:
                held: Any = channel.redis.hgetall(f"{channel.keys.base(queue)}:held:{name}")
                for tag in (tag.decode() for tag, mark in held.items() if mark.startswith(b"+")):
                    self.strike(queue, tag, reason)

    def message(self, queue: str, tag: str) -> Message | None:
        """A message it held, to be settled; None if somebody has settled it."""
        channel = self._guardian.channel
        base = channel.keys.base(queue)
        if not any(channel.redis.hexists(f"{base}:held:{name}", tag) for name in self._names.get(queue, [])):
            return None
        body, history = (channel.redis.hget(f"{base}:{name}", tag) for name in ("messages", "history"))
        if not isinstance(body, bytes):
            return None
        self._queue_of[tag] = queue
        past = history if isinstance(history, bytes) else b""
        return Message(unwrap(Claimed(queue, tag, body, past)), channel=self)  # type: ignore[arg-type]

    def settle(self, tag: str, kind: str, detail: str = "") -> None:
        """Decide about a message that `message` returned; see `lua/layout.lua` for the kinds."""
        queue = self._queue_of[tag]
        for name in self._names[queue]:
            settlement = f"{kind}{tag}\n{detail}" if detail else kind + tag
            self._guardian._settle(queue, name, [settlement])  # noqa: SLF001

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - kombu's
        """As a channel's."""
        self.settle(delivery_tag, "a")

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """As a channel's."""
        if requeue:
            self.settle(delivery_tag, "r", REQUEUED)
        else:
            self.settle(delivery_tag, "a")

    def distribute(self) -> None:
        """Everything else it held had not started: back in line. It takes part in nothing any more."""
        channel = self._guardian.channel
        for queue, names in self._names.items():
            for name in names:
                arguments: list[Argument] = [name, channel.delivery.delivery_limit]
                scripts.leave(channel.redis, [channel.keys.base(queue)], arguments)
