"""The names of tasks: what workers know, what a message asks for, and what happens while the two do not meet.

In a rolling deploy the old workers are handed tasks of the new release. Such a task is parked in the broker
under `name:<task>`, which spends neither a retry nor a strike, and `accounts.Waiting` of a worker that knows
the name and consumes the queue lets it go. The time is counted from when the task was first set aside, and
anew when a dead letter is put back in line: after `worker.unknown_for` seconds it is a dead letter.

On a broker that parks nothing a worker keeps such a task for some seconds and submits it again, with the
moment since which that is so in a header; then it acknowledges the message, so a crash in between can double
it.

Who submits hears of it too. Heartbeats say which names a worker knows: a digest in each beat, and the list
under that digest once for all workers that have the same (`lua/layout.lua`). `Submissions` looks a name up
when it is submitted, in a thread of its own, and warns once where workers live and none knows it.

A name is a stranger's text. `waits_for` makes of it what keys and settlements can carry.
"""

import hashlib
import logging
import os
import threading
import time
from typing import Any, Final
from urllib.parse import quote

from kombu.utils.encoding import ensure_bytes
from redis import Redis
from redis.exceptions import RedisError

from seawall import cluster, delivery, servers
from seawall.backoff import equal_jitter
from seawall.cluster import Script, let_through
from seawall.config import settings
from seawall.delivery.refusal import is_outage
from seawall.errors import SeawallError
from seawall.quantity import format_age

logger = logging.getLogger(__name__)

PREFIX: Final = "name:"
WORKERS: Final = "seawall:{workers}"
"""What the keys of workers begin with; see `lua/layout.lua`."""

LOOK_AGAIN: Final = 600.0
"""Seconds after which a name that was known, or could not be asked for, is looked up again."""

SINCE_HEADER: Final = "seawall-unknown-since"
"""Header with the moment since which a task waits on a broker that parks nothing, as `time.time()`."""

_KEPT_FOR: Final = 5.0
"""Seconds that a worker keeps what it does not know, where nothing is parked."""

_NAMED_APART: Final = frozenset(
    ("application_headers", "headers", "content_type", "content_encoding", "expiration")
)
_LONGEST: Final = 200
_TELL_EVERY: Final = 1.0
_AT_ONCE: Final = 500
_MOST_NAMES: Final = 10_000

_unknown: Final = Script("seawall.worker", "unknown")


def waits_for(name: str) -> str:
    """Under which dependency tasks of that name are parked: ASCII, without line feeds, of bounded length."""
    shown = quote(name, safe="", errors="surrogatepass")
    if len(shown) > _LONGEST:
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        shown = f"{shown[: _LONGEST // 2]}:{digest}"  # a quoted name holds no colon of its own
    return PREFIX + shown


def name_in(dependency: str) -> str | None:
    """The name that tasks parked for this dependency wait for, as `waits_for` shows it; None for others."""
    return dependency.removeprefix(PREFIX) if dependency.startswith(PREFIX) else None


def advice(name: str) -> str:
    """What to do about tasks that wait for a worker that knows `name`."""
    longest = format_age(settings().worker.unknown_for)
    return (
        f"start a worker that knows {name} and consumes the queue, or correct the name where it is "
        f"submitted; after {longest} (worker.unknown_for) each is a dead letter, to be requeued or discarded"
    )


class Known:
    """The names that an application's workers know, and a digest of them; it follows late registrations."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._names: list[str] = []
        self._digest = ""

    def look(self) -> tuple[str, list[str]]:
        """The digest and the names, in order."""
        if len(self._names) != len(self._app.tasks):
            self._names = sorted(self._app.tasks)
            self._digest = digest_of(self._names)
        return self._digest, self._names


def digest_of(texts: list[str]) -> str:
    """A short text that is the same for the same texts only."""
    return hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()[:32]


def write_down(client: "Redis", digest: str, names: list[str], seconds: float) -> None:
    """Put the list of names under its digest, for so many seconds."""
    key = f"{WORKERS}:known:{digest}"
    with client.pipeline() as pipe:
        for start in range(0, len(names), _AT_ONCE):
            let_through(pipe, "SADD", key, *names[start : start + _AT_ONCE])
        pipe.pexpire(key, round(seconds * 1000))
        pipe.execute()


def unknown_among(client: "Redis", names: list[str]) -> list[str]:
    """Those of the names that no living worker knows; none if no worker lives, or one does not say."""
    found = _unknown(client, [WORKERS], list(names))
    return [names[index - 1] for index in found]


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


class Submissions:
    """Warns of submitted names that no living worker knows: once per name, from a thread that soon ends.

    To note a name costs one look into a dictionary. One round trip answers for all names that came meanwhile.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, also in a forked child: the thread stayed with its parent."""
        self._look_at: dict[str, float] = {}
        self._asked: list[str] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def note(self, name: str) -> None:
        """A task of this name is submitted."""
        if not self._is_due(name) or not servers.redis_is_known() or len(self._look_at) >= _MOST_NAMES:
            return
        with self._lock:
            if not self._is_due(name):  # another thread submits it too
                return
            self._look_at[name] = time.monotonic() + LOOK_AGAIN
            self._asked.append(name)
            if self._thread is None:
                # No daemon: a program that submits and ends is told as well. It takes a round trip at most.
                self._thread = threading.Thread(target=self._run, name="seawall-names", daemon=False)
                self._thread.start()

    def _is_due(self, name: str) -> bool:
        return time.monotonic() >= self._look_at.get(name, 0.0)

    def _run(self) -> None:
        while names := self._next():
            try:
                self._look(names)
            except (RedisError, OSError, SeawallError) as exc:
                logger.debug("nobody says which names workers know: %s", exc)
            except Exception:
                logger.exception("the names of submitted tasks cannot be looked up")

    def _next(self) -> list[str]:
        with self._lock:
            names, self._asked = self._asked[:_AT_ONCE], self._asked[_AT_ONCE:]
            if not names:
                self._thread = None
        return names

    def _look(self, names: list[str]) -> None:
        if not servers.redis_is_known():  # any more
            return
        for name in unknown_among(cluster.client(), names):
            self._look_at[name] = float("inf")
            logger.warning(
                "no worker that runs now knows the task %r: it waits for one that does, and is a dead letter "
                "after %s (worker.unknown_for); correct the name, or start workers of its release",
                *(name, format_age(settings().worker.unknown_for)),
            )


submissions: Final = Submissions()
os.register_at_fork(after_in_child=submissions.forget)
