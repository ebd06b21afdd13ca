"""Celery's events of tasks, as Seawall sends them: what monitors such as Flower and celery-exporter read.

Every ending of a task has its event, one:

    task-succeeded   task-failed (also a dead letter of any kind)   task-revoked (also expired, terminated)
    task-retried (also after a lost process)   task-rejected (by the task itself)   task-parked (put aside)

One that was parked and is here again has `task-released` before its next `task-received`.

Whoever settles an ending sends it: the process that ran the task, its worker's main process or supervisor,
or the process that noticed that delivery gives a message up. Each carries `name` and `queue`, because
monitors label by them and may have missed `task-sent` and `task-received`. Celery's own state of a cluster
takes an event of an unknown type for a state of that name, so `task-parked` shows as PARKED, and
`task-released` ends that.
"""

import json
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher

_CELERYS: Final = "celery.app.events:Events"
OURS: Final = f"{__name__}:Events"


class Dispatcher(EventDispatcher):
    """Celery's; an event of a task that says nothing of its queue gets the one that the task came from.

    Celery's strategy, and what it does about messages that no task takes, send events past the request.
    Whatever takes a message in says so in `arrived` just before.
    """

    _group_buffer: dict[str, list[Any]]  # Celery's, which the stubs lack
    arrived: tuple[Any, dict[str, Any]] = (None, {})
    """The id of the message taken in last, its name and queue. The message itself must not be kept alive."""

    def send(self, type: str, *args: Any, **fields: Any) -> Any:  # noqa: A002 - Celery's signature
        """As Celery's."""
        task_id, place = self.arrived
        if task_id is not None and "queue" not in fields and fields.get("uuid") == task_id:
            fields = {**place, **fields}
        return super().send(type, *args, **fields)

    def pass_on(self, events: Iterable[dict[str, Any]]) -> None:
        """Send whole events, in one batch."""
        self._group_buffer["task"].extend(events)
        self.flush(errors=False)


class Events(CeleryEvents):
    """Celery's `app.events` with our dispatcher."""

    dispatcher_cls = f"{Dispatcher.__module__}:{Dispatcher.__qualname__}"


def install(app: Any) -> None:
    """Have an app send its events by our dispatcher, unless it brought a class of its own."""
    if app.events_cls == _CELERYS:
        app.events_cls = OURS


def queue_of(message: Any) -> str:
    """The queue that a message came from; its routing key where the broker does not say."""
    place = getattr(message, "delivery_info", None)
    if not isinstance(place, dict):
        return ""
    return str(place.get("queue") or place.get("routing_key") or "")


def passes(eventer: Any) -> bool:
    """Whether it sends events of tasks."""
    return bool(eventer and eventer.enabled and not (eventer.groups and "task" not in eventer.groups))


def arrives(eventer: Any, task_id: Any, name: Any, message: Any) -> None:
    """A message is taken in: the next events of its task are about this name and queue."""
    if passes(eventer) and isinstance(eventer, Dispatcher):
        eventer.arrived = task_id, {"name": name, "queue": queue_of(message)}


def pass_on(eventer: Any, events: Sequence[bytes]) -> None:
    """Send whole events that another process had no time to send."""
    if events and isinstance(eventer, Dispatcher) and eventer.enabled:
        eventer.pass_on([json.loads(event) for event in events])


def moment_after(seconds: float) -> float | None:
    """When so many seconds are over, since the epoch; None for never, which JSON cannot say otherwise."""
    return time.time() + seconds if math.isfinite(seconds) else None
