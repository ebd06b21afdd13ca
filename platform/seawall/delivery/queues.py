"""The operator's view of the queues: count, pause, purge, park and release, dead letters, dead workers."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis import Redis

from seawall.cluster import MICROSECONDS, Argument, Script, let_through, micros
from seawall.delivery import scripts
from seawall.delivery.options import Options
from seawall.delivery.scripts import Keys
from seawall.errors import ConfigError
from seawall.failure import Category
from seawall.quantity import DAY, Number, Whole, parse_duration

if TYPE_CHECKING:
    from kombu import Connection

_CATEGORIES = frozenset(each.value for each in Category)
_MOST, _ROWS = Whole(), Whole(least=1)
_RATE = Number(least=1 / DAY, most=1e9)
_AT_ONCE = 1000  # one call is one uninterrupted moment of the server's time


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one queue holds, by where it is; `oldest` is the wait in seconds of the next in line."""

    ready: int
    delayed: int
    held: int
    parked: dict[str, int]
    dead: int
    paused: bool
    oldest: float | None


@dataclass(frozen=True, kw_only=True)
class ParkedFor:
    """How many messages of a queue are parked for a dependency; `oldest` is in line for so many seconds."""

    dependency: str
    many: int
    oldest: float


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message that was given up, and why: history is (seconds since the epoch, consumer, reason).

    One that was requeued and died again has the history of its earlier lives too.
    """

    id: str
    died_at: float
    message: dict[str, Any]
    history: list[tuple[float, str, str]]

    @property
    def task(self) -> str:
        """The task's name; empty if the message cannot be read."""
        return self._header("task")

    @property
    def task_id(self) -> str:
        """The task's id; empty if the message cannot be read."""
        return self._header("id")

    @property
    def reason(self) -> str:
        """Why it was given up, in one line."""
        return self.history[-1][2].partition("\n")[0] if self.history else ""

    @property
    def category(self) -> str:
        """What failed, as `Category` has it; what nobody classified is internal."""
        first = self.reason.partition(":")[0]
        return first if first in _CATEGORIES else Category.INTERNAL.value

    def _header(self, name: str) -> str:
        headers = self.message.get("headers")
        return str(headers.get(name) or "") if isinstance(headers, dict) else ""


class Queues:
    """The verbs on queues, over one client. `open` gives one for a kombu connection."""

    def __init__(self, client: "Redis", *, prefix: str = "", options: Options | None = None) -> None:
        self._client = client
        self._keys = Keys(prefix)
        self._options = options or Options()

    @classmethod
    @contextmanager
    def open(cls, connection: "Connection") -> Iterator["Queues"]:
        """The queues behind a connection (`app.connection_for_write()`), for the length of a block.

        Raises:
            ConfigError: the connection does not use this transport.
        """
        from seawall.delivery.channel import Channel  # long to import, for who brings a client of his own

        with connection.channel() as channel:
            if not isinstance(channel, Channel):
                raise ConfigError(
                    f"{connection.as_uri()} uses {type(channel).__module__}: these verbs need "
                    "broker_transport='seawall.delivery:Transport'."
                )
            yield cls(channel.redis, prefix=channel.keys.prefix, options=channel.delivery)

    def names(self) -> list[str]:
        """Every queue that was declared and not deleted."""
        members: Any = self._client.smembers(self._keys.queues)
        return sorted(member.decode() for member in members)

    def counts(self, queue: str) -> Counts:
        """What the queue holds now."""
        ready, delayed, held, dead, paused, waited, parked = self._run(
            scripts.count, queue, self._keys.imported(queue, self._options)
        )
        cluster_paused = bool(self._client.exists(self._keys.paused))
        return Counts(
            ready=ready,
            delayed=delayed,
            held=held,
            dead=dead,
            paused=bool(paused) or cluster_paused,
            oldest=None if waited < 0 else waited / MICROSECONDS,
            parked={name.decode(): n for name, n in zip(parked[::2], parked[1::2], strict=True)},
        )

    def dependencies(self, queue: str) -> set[str]:
        """What the queue's parked messages wait for."""
        members: Any = self._client.smembers(f"{self._keys.base(queue)}:parked")
        return {member.decode() for member in members}

    def parked(self, queue: str) -> list[ParkedFor]:
        """What is parked, by dependency."""
        found = self._run(scripts.parked, queue)
        triples = zip(found[::3], found[1::3], found[2::3], strict=True)
        return sorted(
            (
                ParkedFor(dependency=d.decode(), many=many, oldest=us / MICROSECONDS)
                for d, many, us in triples
            ),
            key=lambda each: each.dependency,
        )

    def _run(self, verb: Script, queue: str, *arguments: Argument) -> Any:
        return verb(self._client, [self._keys.base(queue)], list(arguments))

    def pause(self, queue: str | None = None) -> None:
        """Claims get nothing from this queue, or from any; what is held goes on."""
        let_through(self._client, "SET", self._pause_key(queue), "1")

    def resume(self, queue: str | None = None) -> None:
        """Undo `pause`. A queue paused by its own name stays so when all are resumed."""
        self._client.delete(self._pause_key(queue))
        if bases := [self._keys.base(name) for name in (self.names() if queue is None else [queue])]:
            scripts.nudge(self._client, bases, [])

    def _pause_key(self, queue: str | None) -> str:
        return self._keys.paused if queue is None else f"{self._keys.base(queue)}:paused"

    def purge(self, queue: str) -> int:
        """Remove what waits in line or for its moment; returns how many. Parked and dead ones stay."""
        return scripts.purge_all(
            self._client, self._keys.base(queue), self._keys.imported(queue, self._options)
        )

    def release(
        self, queue: str, dependency: str, *, rate: float | None = None, most: int | None = None
    ) -> int:
        """Let go of what is parked for `dependency`: all at once, or `rate` a second; `most` at most.

        Returns how many there were.

        Raises:
            ConfigError: `rate` is less than one a day or no number, or `most` is no count.
        """
        most = _MOST.parse(_MOST.most if most is None else most, field="most")
        gap = 0 if rate is None else micros(1 / _RATE.parse(rate, field="rate"))
        released = 0
        while released < most:
            wanted = min(_AT_ONCE, most - released)
            count = self._run(scripts.release, queue, dependency, wanted, gap, released)
            if not count:
                break
            released += count
        return released

    def dead(self, queue: str, *, limit: int = 100, skip: int = 0) -> list[DeadLetter]:
        """Dead letters, the latest first: `limit` of them, after the first `skip`."""
        limit, skip = _ROWS.parse(limit, field="limit"), _MOST.parse(skip, field="skip")
        base = self._keys.base(queue)
        latest: Any = self._client.zrevrange(f"{base}:dead", skip, skip + limit - 1, withscores=True)
        if not latest:
            return []
        ids = [tag for tag, _ in latest]
        bodies: Any = self._client.hmget(f"{base}:messages", ids)
        histories: Any = self._client.hmget(f"{base}:history", ids)
        lineages: Any = self._client.hmget(f"{base}:lineage", ids)
        return [
            DeadLetter(
                id=tag.decode(),
                died_at=died_at / MICROSECONDS,
                message=_readable(body),
                history=_events(lineage, history),
            )
            for (tag, died_at), body, history, lineage in zip(
                latest, bodies, histories, lineages, strict=True
            )
        ]

    def dead_letters(self, queue: str) -> Iterator[DeadLetter]:
        """All of them, the latest first, read in pages: one that dies meanwhile may show another twice."""
        skip = 0
        while page := self.dead(queue, limit=_AT_ONCE, skip=skip):
            yield from page
            skip += len(page)

    def revive(self, queue: str, ids: Sequence[str]) -> int:
        """Put dead letters back in line with no strikes; returns how many there were."""
        return self._in_parts(scripts.revive, queue, ids)

    def discard(self, queue: str, ids: Sequence[str]) -> int:
        """Forget dead letters for good; returns how many there were."""
        return self._in_parts(scripts.discard, queue, ids)

    def prune(self, queue: str, *, older_than: float, most: int) -> int:
        """Forget dead letters older than so many seconds, and the oldest beyond `most`; how many it was."""
        older_than, most = parse_duration(older_than, field="older_than"), _MOST.parse(most, field="most")
        key, pruned = f"{self._keys.base(queue)}:dead", 0
        now: Any = self._client.time()
        until = micros(now[0] + now[1] / MICROSECONDS - older_than)
        client: Any = self._client
        while ids := client.zrangebyscore(key, "-inf", until, start=0, num=_AT_ONCE):
            pruned += self.discard(queue, [tag.decode() for tag in ids])
        while (excess := client.zcard(key) - most) > 0:
            ids = client.zrange(key, 0, min(excess, _AT_ONCE) - 1)
            pruned += self.discard(queue, [tag.decode() for tag in ids])
        return pruned

    def _in_parts(self, verb: Script, queue: str, ids: Sequence[str]) -> int:
        starts = range(0, len(ids), _AT_ONCE)
        return sum(int(self._run(verb, queue, *ids[start : start + _AT_ONCE])) for start in starts)

    def consumers(self, queue: str) -> dict[str, float]:
        """Who takes part in a queue, by name (see `lua/layout.lua`), and seconds until the lease ends."""
        now: Any = self._client.time()
        leases: Any = self._client.zrange(f"{self._keys.base(queue)}:consumers", 0, -1, withscores=True)
        return {name.decode(): end / MICROSECONDS - now[0] - now[1] / MICROSECONDS for name, end in leases}


def _events(lineage: bytes | None, history: bytes | None) -> list[tuple[float, str, str]]:
    events = [*json.loads(lineage or b"[]"), *json.loads(history or b'{"events": []}')["events"]]
    return [(at, who, why) for at, who, why in events]


def _readable(body: bytes | None) -> dict[str, Any]:
    try:
        message = json.loads(body or b"")
    except (ValueError, RecursionError):
        return {"unreadable": repr(body)}
    return message if isinstance(message, dict) else {"unreadable": repr(body)}
