"""Messages as kombu hands them out, and what is told of those that are given up instead."""

import contextlib
import json
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from kombu.transport import virtual
from redis.exceptions import RedisError

from seawall.delivery import events
from seawall.delivery.claimant import Claimant
from seawall.delivery.claimed import Claimed
from seawall.delivery.envelope import from_json, unwrap

if TYPE_CHECKING:
    from seawall.delivery.claiming import ClaimingChannel

logger = logging.getLogger(__name__)

_JSON: Final = "application/json"


class UnreadableError(ValueError):
    """Kombu cannot make a message of what a stranger has sent."""


class Message(virtual.Message):
    """Kombu's message; the arguments of most tasks are plain JSON and need none of kombu's types."""

    accept: set[str] | None

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except Exception as exc:
            raise UnreadableError(f"{type(exc).__name__}: {exc}") from exc

    def _decode(self) -> Any:
        body: Any = self.body
        accepted = self.accept is None or _JSON in self.accept
        if accepted and self.content_type == _JSON and isinstance(body, bytes):
            with contextlib.suppress(Exception):  # kombu says what is wrong with it
                return from_json(body)
        return super()._decode()


def give_up_unreadable(
    channel: "ClaimingChannel", claimant: Claimant, claimed: Claimed, error: ValueError
) -> None:
    """Make a dead letter of what is no message at all, and tell."""
    queue, tag, body, _ = claimed
    logger.error("queue %s: message %s cannot be read, it is a dead letter", queue, tag, exc_info=error)
    events.unreadable.send(sender=channel, queue=queue, tag=tag, body=body, error=error)
    claimant.settle(tag, "b", f"validation: cannot be read: {error}")


def tell_poisoned(channel: "ClaimingChannel", queue: str, tags: Iterable[str]) -> None:
    """Say that messages became dead letters, because they were lost with their process too often.

    Raises:
        RedisError: they cannot be read now.
    """
    for tag in tags:
        try:
            _tell_poisoned(channel, queue, tag)
        except RedisError:
            raise
        except Exception:  # it is a dead letter already, and may be no message at all
            logger.exception(
                "queue %s: message %s lost its process too often, it is a dead letter", *(queue, tag)
            )


def _tell_poisoned(channel: "ClaimingChannel", queue: str, tag: str) -> None:
    base = channel.keys.base(queue)
    body, past = (channel.redis.hget(f"{base}:{name}", tag) for name in ("messages", "history"))
    if isinstance(body, bytes) and isinstance(past, bytes):
        try:
            unwrap(Claimed(queue, tag, body, past))
        except ValueError as exc:  # whoever took it died of it before anybody could say so
            events.unreadable.send(sender=channel, queue=queue, tag=tag, body=body, error=exc)
            return
        known = json.loads(past)
        message = json.loads(body)
        headers = message.get("headers") or {}
        logger.error(
            "%s[%s] lost its process %d times and is a dead letter of queue %s",
            *(headers.get("task"), headers.get("id"), channel.delivery.delivery_limit, queue),
        )
        events.poisoned.send(
            sender=channel,
            queue=queue,
            message=message,
            history=known["events"],
            strikes=known["strikes"],
        )
