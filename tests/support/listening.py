"""The events of a cluster, as a monitor hears them."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from celery import Celery

from support.waiting import wait_until

_PROBE = "listening-probe"


@contextlib.contextmanager
def listening(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """All events that are sent while this lasts; it begins when it is sure to hear them.

    Kombu subscribes at its first poll, after the receiver has said that it consumes.
    """
    seen: list[dict[str, Any]] = []
    hears = threading.Event()

    def hear(event: dict[str, Any]) -> None:
        if event["type"] == _PROBE:
            hears.set()
        else:
            seen.append(event)

    with app.connection_for_read() as connection:
        receiver: Any = app.events.Receiver(connection, handlers={"*": hear})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None}, name="listener")
        thread.start()
        try:
            _probe(app, hears)
            yield seen
        finally:
            receiver.should_stop = True
            thread.join(30)


def _probe(app: Celery, hears: threading.Event) -> None:
    events: Any = app.events
    with events.default_dispatcher() as dispatcher:

        def heard() -> bool:
            dispatcher.send(_PROBE)
            return hears.wait(0.05)

        wait_until(heard, timeout=30, what="the listener to hear")


def about(seen: list[dict[str, Any]], task_id: str) -> list[dict[str, Any]]:
    """Those of one task, from where it was taken in, in the order in which they were sent."""
    found = [event for event in seen if event.get("uuid") == task_id and event["type"] != "task-sent"]
    return sorted(found, key=lambda event: event["timestamp"])


def kinds(seen: list[dict[str, Any]], task_id: str) -> list[str]:
    """The types of these."""
    return [event["type"] for event in about(seen, task_id)]
