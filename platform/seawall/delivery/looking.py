"""Looking at messages without taking them: what some processes hold, and what waits for its moment."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kombu.transport.virtual import Message

from seawall.cluster import MICROSECONDS
from seawall.delivery.channel import Channel
from seawall.delivery.claimed import Claimed
from seawall.delivery.envelope import unwrap
from seawall.identity import process_of


@dataclass(frozen=True, slots=True)
class Seen:
    """A message that was looked at; `due` (ISO 8601, UTC) for one that waits for its moment."""

    message: Message
    due: str | None = None


def at(channel: Channel, places: Iterable[tuple[str, str]]) -> dict[str, Message]:
    """The messages at these (queue, tag), by tag; those that are done with are missing."""
    by_queue: dict[str, list[str]] = {}
    for queue, tag in places:
        by_queue.setdefault(queue, []).append(tag)
    found: dict[str, Message] = {}
    for queue, tags in by_queue.items():
        bodies: Any = channel.redis.hmget(f"{channel.keys.base(queue)}:messages", tags)
        for tag, body in zip(tags, bodies, strict=True):
            if body is not None and (message := _readable(channel, queue, tag, body)):
                found[tag] = message
    return found


def held(channel: Channel, queues: Sequence[str], processes: Sequence[str], *, limit: int) -> Iterator[Seen]:
    """What processes have claimed, by their tokens, started or not, `limit` at most."""
    for queue in queues:
        base = channel.keys.base(queue)
        names: Any = channel.redis.zrange(f"{base}:consumers", 0, -1)
        tags: list[str] = []
        for name in names:
            if process_of(name.decode()) in processes:
                claimed: Any = channel.redis.hkeys(f"{base}:held:{name.decode()}")
                tags += [tag.decode() for tag in claimed]
        tags = tags[:limit]
        limit -= len(tags)
        if tags:
            yield from map(Seen, at(channel, [(queue, tag) for tag in tags]).values())


def delayed(channel: Channel, queues: Sequence[str], *, limit: int) -> Iterator[Seen]:
    """What waits for its moment, the next ones first, `limit` of each queue at most."""
    for queue in queues:
        key = f"{channel.keys.base(queue)}:delayed"
        moments: Any = channel.redis.zrange(key, 0, limit - 1, withscores=True)
        due = {tag.decode(): datetime.fromtimestamp(score / MICROSECONDS, UTC) for tag, score in moments}
        for tag, message in at(channel, [(queue, tag) for tag in due]).items():
            yield Seen(message, due[tag].isoformat())


def _readable(channel: Channel, queue: str, tag: str, body: bytes) -> Message | None:
    try:
        return Message(unwrap(Claimed(queue, tag, body, b"")), channel=channel)
    except ValueError:
        return None
