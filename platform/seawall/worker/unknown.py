"""What a worker does with a task that it does not know: it waits for one that does (`names`).

In a rolling deploy the old workers are handed tasks of the new release. Such a task is parked in the broker
under `name:<task>`, which spends neither a retry nor a strike, and `accounts.Waiting` of a worker that knows
the name and consumes the queue lets it go. The time is counted from when the task was first set aside, and
anew when a dead letter is put back in line: after `worker.unknown_for` seconds it is a dead letter.

On a broker that parks nothing a worker keeps such a task for some seconds and submits it again, with the
moment since which that is so in a header; then it acknowledges the message, so a crash in between can double
it.
"""

import logging
import time
from typing import Any, Final

from kombu.utils.encoding import ensure_bytes
from redis.exceptions import RedisError

from seawall import delivery
from seawall.backoff import equal_jitter
from seawall.config import settings
from seawall.delivery.refusal import is_outage
from seawall.worker.names import PREFIX, waits_for

logger = logging.getLogger(__name__)

SINCE_HEADER: Final = "seawall-unknown-since"
"""Header with the moment since which a task waits on a broker that parks nothing, as `time.time()`."""

_KEPT_FOR: Final = 5.0
"""Seconds that a worker keeps what it does not know, where nothing is parked."""

_NAMED_APART: Final = frozenset(
    ("application_headers", "headers", "content_type", "content_encoding", "expiration")
)
_TELL_EVERY: Final = 1.0


class Unknown:
    """Sets aside what this worker does not know, and says so once a second at most."""

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._told_at = float("-inf")

    def park(self, message: Any, name: str) -> float | None:
        """Park the message for the seconds returned; None if its time is over or its broker parks nothing."""
        if not delivery.counts(message):
            return None
        left = _seconds_left(message)
        dependency = waits_for(name)
        if left <= 0 or not delivery.park(message, dependency, at_most=left):
            return None
        self._waiting[dependency] = self._waiting.get(dependency, 0) + 1
        self._tell(time.monotonic())
        return left

    def _tell(self, now: float) -> None:
        if now - self._told_at < _TELL_EVERY:
            return
        shown = ", ".join(each.removeprefix(PREFIX) for each in list(self._waiting)[:5])
        logger.warning("%d parked: nobody here knows %s", sum(self._waiting.values()), shown)
        self._waiting.clear()
        self._told_at = now


def _seconds_left(message: Any) -> float:
    """Seconds that a message may wait yet; the whole time if the broker cannot be asked."""
    unknown_for = settings().worker.unknown_for
    try:
        return unknown_for - delivery.waited(message)
    except (RedisError, OSError) as exc:
        logger.info("since when %s waits cannot be asked: %s", message.delivery_tag, exc)
        return unknown_for


def put_back_later(c: Any, message: Any) -> tuple[float, bool] | None:
    """Where nothing is parked: keep the message here for a while, and then put it at the end of its queue.

    Returns for how long it may wait at most, and whether it came back from that; None if its time is over.
    A connection that is lost takes what is kept along: the broker delivers it again.
    """
    headers, now = message.headers or {}, time.time()
    if delivery.counts(message) or "task" not in headers:
        return None
    since = headers.get(SINCE_HEADER) or now
    left = settings().worker.unknown_for - (now - since)
    if left <= 0:
        return None
    c.qos.increment_eventually()  # what is kept here keeps nobody else out
    # Jittered: workers that ask for messages at a fixed rhythm would have it fall to the same one each time.
    c.timer.call_after(min(equal_jitter(_KEPT_FOR), left), _put_back, (c, message, since))
    return left, SINCE_HEADER in headers


def _put_back(c: Any, message: Any, since: float) -> None:
    channel = message.channel
    if getattr(channel, "closed", not getattr(channel, "is_open", True)):
        return  # its connection was lost, and the broker delivers it again
    try:
        with c.app.producer_or_acquire() as producer:
            _submit_again(producer, message, _queue_of(c, message), since)
    except Exception as exc:
        if is_outage(exc, c.connection_errors):
            logger.info("what nobody here knows is kept longer: %s", exc)
            c.timer.call_after(_KEPT_FOR, _put_back, (c, message, since))
            return
        logger.exception("what nobody here knows cannot be put back in line")
        message.reject_log_error(logger, c.connection_errors)
    else:
        message.ack_log_error(logger, c.connection_errors)
    c.qos.decrement_eventually()


def _queue_of(c: Any, message: Any) -> str | None:
    tags = {tag: queue for queue, tag in c.task_consumer._active_tags.items()}  # noqa: SLF001 - else unknown
    return tags.get(message.delivery_info.get("consumer_tag"))


def _submit_again(producer: Any, message: Any, queue: str | None, since: float) -> None:
    """As it came, at the end of its queue or, if that is not known, by the way it came."""
    headers = {**message.headers, SINCE_HEADER: since}
    properties = {name: value for name, value in message.properties.items() if name not in _NAMED_APART}
    expiration = message.properties.get("expiration")
    producer.publish(
        ensure_bytes(message.body),  # kombu has decompressed it
        compression=headers.pop("compression", None),
        headers=headers,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        expiration=float(expiration) / 1000 if expiration else None,  # milliseconds there, and seconds here
        exchange=message.delivery_info.get("exchange") if queue is None else "",
        routing_key=message.delivery_info.get("routing_key") if queue is None else queue,
        **properties,
    )
