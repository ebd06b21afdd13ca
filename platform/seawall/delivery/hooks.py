"""What a worker tells delivery about a message, whatever the transport.

Each takes the kombu message of a request. On another transport `started` does nothing and the others
return False: the caller falls back to what that broker can do.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any

from redis.exceptions import RedisError

from seawall.cluster import micros
from seawall.delivery.channel import Channel
from seawall.delivery.claimant import Aboard, Claimant
from seawall.delivery.guardian import Estate
from seawall.delivery.keeper import keeper

logger = logging.getLogger(__name__)


def started(message: Any) -> None:
    """The task begins to run in some process. Call it before the task's own code, on every attempt.

    A message that once came back from a lost worker is put on record before this returns. If the broker
    cannot be reached for that the task runs all the same: refusing would leave it to nobody.
    """
    if isinstance(message.channel, Channel):
        try:
            message.channel.started(message.delivery_tag)
        except RedisError as exc:
            logger.warning("the start of %s goes on record later: %s", message.delivery_tag, exc)


def came_back(message: Any) -> bool:
    """Whether the message had been put aside (`defer`, `park`) and is here again; said once."""
    channel = message.channel
    if not isinstance(channel, Channel) or channel.claimant is None:
        return False
    back, tag = channel.claimant.back, message.delivery_tag
    if tag not in back:
        return False
    back.discard(tag)
    return True


def strike(message: Any, reason: str = "child lost") -> bool:
    """The process that ran the task died: charge the message and redeliver it, or give it up at the limit.

    Returns whether the message is taken care of; it must not be acknowledged or rejected then.
    """
    return _settle(message, "k", reason)


def counts(message: Any) -> bool:
    """Whether its transport counts lost processes by itself."""
    return isinstance(message.channel, Channel | Estate)


def limit_of(message: Any, otherwise: int) -> int:
    """Lost processes after which the message is given up; `otherwise` where its transport does not count."""
    channel = message.channel
    if isinstance(channel, Estate):
        return channel.delivery_limit
    return channel.delivery.delivery_limit if isinstance(channel, Channel) else otherwise


def defer(message: Any, seconds: float) -> bool:
    """Put the message back to become due in so many seconds. No retry and no strike is spent."""
    return _settle(message, "d", str(micros(seconds)))


def delay(message: Any, seconds: float) -> bool:
    """Put a message back that was taken in before its moment, which comes in so many seconds."""
    return _settle(message, "t", str(micros(seconds)))


def gives_way(channel: Any) -> bool:
    """Whether all that a worker has in its hands and has not begun is to go back.

    A suspect that is to run alone waits until the worker of this channel holds nothing that may begin.
    """
    claimant = channel.claimant if isinstance(channel, Channel) else None
    return claimant is not None and claimant.aboard is Aboard.DRAINS


def gathered(message: Any) -> None:
    """The message is kept for a batch, which begins only when that is allowed (`may_begin`)."""
    if isinstance(message.channel, Channel) and message.channel.claimant is not None:
        message.channel.claimant.gathered(message.delivery_tag)


def may_begin(messages: Iterable[Any]) -> bool:
    """Whether a batch of these messages may begin: not beside a suspect that is to run alone."""
    by_claimant: dict[Claimant, list[str]] = {}
    for message in messages:
        claimant = message.channel.claimant if isinstance(message.channel, Channel) else None
        if claimant is not None:
            by_claimant.setdefault(claimant, []).append(message.delivery_tag)
    return all(claimant.may_begin(tags) for claimant, tags in by_claimant.items())


def park(message: Any, dependency: str, *, at_most: float | None = None) -> bool:
    """Put the message aside until `Queues.release(queue, dependency)`, or for `at_most` seconds."""
    detail = dependency if at_most is None else f"{dependency}\n{micros(at_most)}"
    return _settle(message, "p", detail)


def server_time(message: Any) -> float:
    """The broker's time, seconds since the epoch, as far as this process knows it; else this machine's."""
    channel = message.channel
    claimant = channel.claimant if isinstance(channel, Channel) else None
    return time.time() + (0.0 if claimant is None else claimant.clock_ahead)


def waited(message: Any) -> float:
    """Seconds since this was first asked about the message; a dead letter that is requeued begins anew.

    Raises:
        RedisError: the broker cannot be asked.
    """
    channel, tag = message.channel, str(message.delivery_tag)
    return channel.waited(tag) if isinstance(channel, Channel) else 0.0


def let_go(queue: str, dependency: str) -> bool:
    """Have one message that was parked for `dependency` go, with this process's next round trip to the queue.

    Returns whether this process takes part in the queue; `Queues.release` does it from anywhere.
    """
    for claimant in keeper.claimants:
        if claimant.let_go(queue, dependency):
            keeper.prompt(claimant.options.settle_within)
            return True
    return False


def give_back(message: Any) -> bool:
    """Put the message back in its place in line, as if it had not been taken in."""
    return _settle(message, "r", "")


def bury(message: Any, reason: str) -> bool:
    """Make the message a dead letter now."""
    return _settle(message, "b", reason)


def _settle(message: Any, kind: str, detail: str) -> bool:
    channel = message.channel
    if not isinstance(channel, Channel | Estate):
        return False
    (channel if isinstance(channel, Estate) else channel.qos).settle(message.delivery_tag, kind, detail)
    message._state = "REQUEUED"  # noqa: SLF001 - kombu refuses to acknowledge it a second time
    return True
