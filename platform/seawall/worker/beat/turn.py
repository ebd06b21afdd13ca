"""One beat of a cluster sends a schedule at a time; the others wait for its end.

Beats of one name share a lease in Redis. Its holder renews it at every turn and before each send, and records
the send in the same step. A beat whose lease was taken over cannot send any more, also when it was frozen
and goes on. Whoever takes over counts from the recorded sends, so that no run is repeated or left out, and
sends once more what its predecessor had begun and not reported. On our transport each send has a unique key,
so that it is there once; on others it may be there twice, under one id.

The scheduler stays the application's own, whatever its class: three of its methods are wrapped when Celery
says that beat begins.
"""

import logging
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from celery import signals
from celery.utils import uuid
from celery.utils.time import maybe_make_aware
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from seawall import cluster, identity, servers
from seawall.cluster import MICROSECONDS, Argument, Script, micros
from seawall.config import settings
from seawall.errors import AlreadySubmitted, SeawallError
from seawall.worker.beat import ROOT
from seawall.worker.task import SeawallTask

logger = logging.getLogger(__name__)

_TURNS: Final = 5  # per lease
_AGAIN: Final = 0.5  # seconds until Redis is asked once more
_REMEMBERED: Final = 3600.0  # seconds for which a message is not taken twice
_AWAY: Final = (RedisError, OSError, SeawallError)
_OUTAGES: Final = (OperationalError, RedisError, OSError)
_NOT_SENT: Final = SimpleNamespace(id=None)

Verb = partial(Script, __package__)

_hold = Verb("hold")
_begin = Verb("begin")
_adopt = Verb("adopt")
_leave = Verb("leave")


def connect() -> None:
    """Have every beat of our applications take turns. Safe to repeat."""
    signals.beat_init.connect(_on_init, dispatch_uid="seawall.beat")


def _on_init(sender: Any = None, **_: Any) -> None:
    app, scheduler = sender.app, sender.scheduler
    if not issubclass(app.Task, SeawallTask):
        return
    if not servers.redis_is_known():
        logger.warning(
            "beat: no Redis is named, so nothing keeps another beat from sending this schedule too"
        )
        return
    Turn(scheduler, settings().beat.name or name_of(scheduler), lease=settings().beat.lease).install()


def name_of(scheduler: Any) -> str:
    """Of a schedule for which none is set: its application, that one's queue, and who keeps the schedule."""
    app = scheduler.app
    return f"{app.main or 'app'} {app.conf.task_default_queue} {type(scheduler).__name__}"


class Turn:
    """A scheduler's part in it: `install` puts it around the scheduler, which is used by one thread."""

    def __init__(
        self,
        scheduler: Any,
        name: str,
        *,
        lease: float,
        client: Callable[[], "Redis"] = cluster.client,
        token: str | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._name = name
        self._lease = lease
        self._client = client
        self._token = token or identity.current().process
        self._who = f"{socket.gethostname()}:{os.getpid()}"
        self._tick = scheduler.tick
        self._apply_async = scheduler.apply_async
        self._close = scheduler.close
        self._sent = ""  # mark of the last send that has ended
        self._counts = False  # whether the entries count from the recorded sends
        self._said = ""

    def install(self) -> None:
        """Wrap the scheduler's methods."""
        self._scheduler.tick = self.tick
        self._scheduler.apply_async = self.apply_async
        self._scheduler.close = self.close

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """As the scheduler's, while the lease is ours; seconds until the next."""
        longest = self._lease / _TURNS
        try:
            if not self._holds():
                return longest
        except _AWAY as exc:
            self._wait("beat: waits for Redis", exc)
            return min(_AGAIN, longest)
        return min(self._tick(*args, **kwargs) or 0.0, longest)

    def apply_async(self, entry: Any, producer: Any = None, **options: Any) -> Any:
        """As the scheduler's, if the lease is ours; otherwise nothing is sent, and it is looked at again."""
        now, mark = micros(maybe_make_aware(entry.default_now()).timestamp()), uuid()
        arguments = [self._name, self._token, micros(self._lease), entry.name, now, mark]
        self._sent = ""
        try:
            ours = _begin(self._client(), [ROOT], arguments)
        except _AWAY as exc:
            self._wait(f"beat: waits for Redis to send {entry.name}", exc)
            return _NOT_SENT
        if not ours:
            self._wait(f"beat: does not send {entry.name}: another beat has taken over")
            return _NOT_SENT
        return self._send(entry, mark, producer=producer, **options)

    def close(self) -> None:
        """As the scheduler's, and another beat may send at once. Celery calls it twice."""
        try:
            self._close()
        finally:
            try:
                _leave(self._client(), [ROOT], [self._name, self._token, self._who, self._sent])
            except _AWAY as exc:
                logger.info("beat: its lease ends by itself: %s", exc)

    def _holds(self) -> bool:
        """Take or renew the lease; what has to be done for it is done."""
        arguments: list[Argument] = [self._name, self._token, self._who, micros(self._lease), self._sent]
        other, *more = _hold(self._client(), [ROOT], arguments)
        if other:
            self._wait(f"beat: waits while {other.decode()} sends the schedule {self._name!r}")
            return False
        taken, entry, mark = more
        if taken or not self._counts:
            self._count_from_sends()
        self._say(logging.WARNING if self._said else logging.INFO, f"beat: sends the schedule {self._name!r}")
        if mark:
            self._send_begun(entry.decode(), mark.decode())
        return True

    def _count_from_sends(self) -> None:
        """Have each entry count from its last send, whoever sent it."""
        entries = {each.name: each for each in self._scheduler.schedule.values() if each.last_run_at}
        arguments: list[Argument] = [self._name]
        for name, entry in entries.items():
            arguments += [name, micros(maybe_make_aware(entry.last_run_at).timestamp())]
        found = iter(_adopt(self._client(), [ROOT], arguments))
        for name, moment in zip(found, found, strict=True):
            if (entry := entries.get(name.decode())) is not None:
                self._set_last(entry, float(moment) / MICROSECONDS)
        self._scheduler._heap = None  # noqa: SLF001 - Celery makes it anew
        self._counts = True

    def _set_last(self, entry: Any, moment: float) -> None:
        last = datetime.fromtimestamp(moment, entry.last_run_at.tzinfo or UTC)
        entry.last_run_at = last if entry.last_run_at.tzinfo else last.replace(tzinfo=None)
        model = getattr(entry, "model", None)
        if model is not None:  # django-celery-beat's, which is read again from its table
            model.last_run_at = entry.last_run_at
            self._scheduler._dirty.add(entry.name)  # noqa: SLF001

    def _send_begun(self, name: str, mark: str) -> None:
        """Send what a beat, perhaps this one, had begun to send."""
        entry = self._scheduler.schedule.get(name)
        if entry is None:
            logger.warning("beat: it is not known whether %s[%s] was sent, and the entry is gone", name, mark)
            self._sent = mark
            return
        logger.warning("beat: it is not known whether %s[%s] was sent: sending it again", name, mark)
        try:
            self._send(entry, mark, producer=self._scheduler.producer, advance=False)
        except Exception as exc:
            if isinstance(exc.__context__, AlreadySubmitted):
                logger.info("beat: %s[%s] was sent", name, mark)
            else:
                logger.exception("beat: %s[%s] could not be sent", name, mark)

    def _send(self, entry: Any, mark: str, **options: Any) -> Any:
        once = {"unique_key": f"beat {mark}", "unique_for": _REMEMBERED}
        named = object.__new__(type(entry))  # `copy` would make django-celery-beat's of what makes Celery's
        vars(named).update(vars(entry))
        headers = {**once, **(entry.options.get("headers") or {})}
        named.options = {**entry.options, "task_id": entry.options.get("task_id") or mark, "headers": headers}
        try:
            result = self._apply_async(named, **options)
        except Exception as exc:
            if not isinstance(exc.__context__, _OUTAGES):  # what Celery's error is about
                self._sent = mark
            raise
        self._sent = mark
        return result

    def _wait(self, line: str, reason: object = "") -> None:
        """Send nothing for now; what was sent meanwhile is looked up before anything is."""
        self._counts = False
        self._say(logging.WARNING, line, reason)

    def _say(self, level: int, line: str, reason: object = "") -> None:
        """Once, until there is something else to say."""
        if line != self._said:
            logger.log(level, "%s%s", line, reason and f" ({reason})")
            self._said = line
