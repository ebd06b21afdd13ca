"""Events of tasks: what a cell sends of them, and when.

They travel in batches, and what a cell has not sent when it dies would be lost: the endings of the tasks
before, and the beginning of the one that killed it. So it stands in the table until it is sent, and the
supervisor sends what it finds there. A death between the sending and the note of it repeats a batch.
"""

import json
import logging
import threading
from collections.abc import Iterable
from typing import Any, Final

from celery.worker.consumer.events import Events as CeleryEvents
from celery.worker.state import reserved_requests
from kombu.utils.functional import maybe_list

from seawall.worker.cells.table import Row
from seawall.worker.task_events import Dispatcher as TaskDispatcher
from seawall.worker.task_events import passes

logger = logging.getLogger(__name__)
_EventsStep: Any = CeleryEvents  # celery-types lacks half of it

_JSON: Final = json.JSONEncoder(default=repr)
_SEND_EVERY: Final = 0.1
_MOST: Final = 128
"""Events that wait for that; a batch costs a round trip and what the table holds is written anew after it."""

_SILENT: Final = ("worker",)  # the groups of events that pass while those of tasks do not


class Dispatcher(TaskDispatcher):
    """Celery's, with what is not sent yet in a row of the table."""

    row: Row
    _outbound_buffer: Iterable[tuple[Any, str]]  # Celery's, which the stubs lack

    def __init__(self, *args: Any, row: Row, **kwargs: Any) -> None:
        self.row = row
        self._keeping = threading.RLock()
        super().__init__(*args, **kwargs)

    def send(self, type: str, *args: Any, **fields: Any) -> Any:  # noqa: A002 - Celery's signature
        """As Celery's."""
        buffered = self._group_buffer["task"]
        with self._keeping:
            many = len(buffered)
            sent = super().send(type, *args, **fields)
            if len(buffered) > many and not self.row.keep_event(_encode(buffered[-1])):
                self.flush(errors=False)  # what is not kept dies with the process
        return sent

    def flush(self, *args: Any, **kwargs: Any) -> None:
        """As Celery's."""
        super().flush(*args, **kwargs)
        with self._keeping:
            offline = [each for event, _ in self._outbound_buffer for each in maybe_list(event)]
            self.row.keep_events(map(_encode, [*offline, *self._group_buffer["task"]]))


def _encode(event: Any) -> bytes:
    return _JSON.encode(event).encode()


class Events(_EventsStep):  # type: ignore[misc]
    """Celery's step: events of tasks only where somebody asked for them (`-E`), in batches, by a thread.

    The loop cannot send them: it stands still during a task, and its beginning is to be seen. The dispatcher
    is there from the start, as Celery's strategies and requests keep the one they were made with; until it is
    turned on it lets no event of a task pass, and its connection is not opened.
    """

    def __init__(self, c: Any, *, task_events: bool = True, **options: Any) -> None:
        super().__init__(c, task_events=task_events, **options)
        self.enabled = True  # Celery leaves the step out where nothing is to be sent yet
        c.events = self
        self.groups = set() if task_events else set(_SILENT)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, c: Any) -> None:
        """Have a dispatcher for this connection; what the last one could not send goes with it."""
        previous = self._close(c)
        c.event_dispatcher = Dispatcher(
            c.app.connection_for_write(),
            app=c.app,
            row=c.controller.row,
            hostname=c.hostname,
            groups=self.groups,
            buffer_group=["task"],
            buffer_limit=_MOST,
        )
        if previous is not None:
            c.event_dispatcher.extend_buffer(previous)
            for request in tuple(reserved_requests):
                request.eventer = c.event_dispatcher
        self._send_soon(c)

    def turn(self, c: Any, *, on: bool) -> None:
        """Begin or cease to send, because an operator said so; a later connection keeps to it."""
        dispatcher = c.event_dispatcher
        if dispatcher is None:  # between two connections
            self.groups = set() if on else set(_SILENT)
        elif on:
            dispatcher.groups.clear()
            self._send_soon(c)
        else:
            dispatcher.groups.update(_SILENT)

    def _send_soon(self, c: Any) -> None:
        if self._thread is None and passes(c.event_dispatcher):
            self._thread = threading.Thread(target=self._run, args=(c,), name="seawall-events", daemon=True)
            self._thread.start()

    def _run(self, c: Any) -> None:
        while not self._over.wait(_SEND_EVERY):
            self._flush(c)

    def _flush(self, c: Any) -> None:
        try:
            if c.event_dispatcher is not None:
                c.event_dispatcher.flush()
        except Exception as exc:  # noqa: BLE001 - whatever a broker raises; the loop reconnects
            logger.debug("events wait for the broker: %s", exc)

    def shutdown(self, c: Any) -> None:
        """Send what is left."""
        self._over.set()
        self._flush(c)
        super().shutdown(c)
