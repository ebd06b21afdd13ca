"""The events of a cluster, as a monitor hears them."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from celery import Celery


@contextlib.contextmanager
def listening(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """All events that are sent while this lasts."""
    seen: list[dict[str, Any]] = []
    ready = threading.Event()
    with app.connection_for_read() as connection:
        receiver: Any = app.events.Receiver(connection, handlers={"*": seen.append})
        receiver.on_consume_ready = lambda *_args, **_kwargs: ready.set()
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None}, name="listener")
        thread.start()
        try:
            assert ready.wait(30)
            yield seen
        finally:
            receiver.should_stop = True
            thread.join(30)


def about(seen: list[dict[str, Any]], task_id: str) -> list[dict[str, Any]]:
    """Those of one task, from where it was taken in, in the order in which they were sent."""
    found = [event for event in seen if event.get("uuid") == task_id and event["type"] != "task-sent"]
    return sorted(found, key=lambda event: event["timestamp"])


def kinds(seen: list[dict[str, Any]], task_id: str) -> list[str]:
    """The types of these."""
    return [event["type"] for event in about(seen, task_id)]
