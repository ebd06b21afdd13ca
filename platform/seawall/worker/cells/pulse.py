"""AMQP heartbeats while a task runs in the thread that would send them.

A cell's loop stands still during a task. RabbitMQ closes a connection that is silent for two intervals and
delivers its messages again, so a thread sends the heartbeats meanwhile. The connection is not made for two
threads: this one writes only while the task's own code runs, when nobody else does, and `hush` waits for a
write that is under way. A task that keeps the interpreter's lock in C code for minutes silences it too.
"""

import contextlib
import threading
import time
from typing import Any

from seawall.worker.cells.table import Row


class Pulse:
    """Keeps one consumer's connections alive; a daemon thread that lives as long as its process."""

    def __init__(self, consumer: Any, row: Row) -> None:
        self._consumer = consumer
        self._row = row
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seawall-amqp-pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; safe to repeat."""
        self._over.set()

    def hush(self) -> None:
        """Called by the loop's thread when the task's code has ended, before it writes itself."""
        with self._lock:
            pass

    def _run(self) -> None:
        while not self._over.wait(self._beat()):
            pass

    def _beat(self) -> float:
        """Send what is due; seconds until the next time."""
        intervals = [60.0]
        with self._lock:
            for connection in self._connections():
                interval = float(getattr(connection, "heartbeat", 0) or 0)
                if not interval:
                    continue
                intervals.append(interval / 4)
                if self._row.inside:
                    with contextlib.suppress(OSError):  # the loop will notice by itself
                        connection.send_heartbeat()
                        connection.last_heartbeat_received = time.monotonic()
        return max(min(intervals), 0.25)

    def _connections(self) -> list[Any]:
        consumer = self._consumer
        dispatcher = consumer.event_dispatcher
        sources = [consumer.connection, dispatcher.connection if dispatcher else None]
        return [source._connection for source in sources if source is not None and source._connection]  # noqa: SLF001
