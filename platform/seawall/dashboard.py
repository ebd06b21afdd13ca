"""Flower, told what our queues hold and who may use it: `python -m seawall.dashboard -A app flower ...`.

Flower reads queue lengths with LLEN, which sees nothing of a transport that keeps its queues elsewhere. Its
reader is replaced in this process for applications that use our transport; others keep Flower's own. It asks
workers about themselves once, when it starts, often before there is one: here it asks when it hears of one.
`dashboard_access` says who may use it. The names used here and there are held by
tests/unit/test_dashboard_contracts.py.
"""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from celery import states
from celery.__main__ import main as celery
from flower.app import Flower
from flower.urls import settings as flowers_settings
from flower.views import BaseHandler
from tornado.ioloop import PeriodicCallback
from tornado.template import Loader, Template

from seawall import dashboard_access
from seawall.delivery import Queues
from seawall.errors import ConfigError
from seawall.redaction import hide_passwords

GONE: Final = "its worker is gone: it runs again, unless it was acknowledged before it ran"
_LOOK_EVERY: Final = 5.0  # seconds
_GONE_AFTER: Final = 60.0  # seconds without a heartbeat: a busy machine is silent for some


class Lengths:
    """What Flower calls a broker: `queues` answers for its page and its API."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """One row for each queue that there is, those that Flower knows from workers (`names`) or not.

        In the words of RabbitMQ's management API, which Flower's page prints.
        """
        return await asyncio.to_thread(self._read, set(names))

    def _read(self, names: set[str]) -> list[dict[str, Any]]:
        with self._app.connection_for_read() as connection, Queues.open(connection) as queues:
            return [self._row(queues, name) for name in sorted(names.union(queues.names()))]

    def _row(self, queues: Queues, name: str) -> dict[str, Any]:
        counts = queues.counts(name)
        waiting = counts.ready + counts.delayed + sum(counts.parked.values())
        return {
            "name": name,
            "messages": waiting + counts.held,
            "messages_ready": counts.ready,
            "messages_unacknowledged": counts.held,
            "consumers": len(queues.consumers(name)),
        }


def use_our_lengths() -> None:
    """Let Flower's pages of this process read our queues, and name the broker as the settings do."""
    flowers_own = BaseHandler.get_broker

    def get_broker(self: Any) -> Any:
        app = self.application.capp
        try:
            with app.connection_for_read() as connection, Queues.open(connection):
                return Lengths(app)
        except ConfigError:
            return flowers_own(self)

    BaseHandler.get_broker = get_broker
    Flower.broker_uri = property(lambda self: hide_passwords(str(self.capp.conf.broker_url)))


class Templates(Loader):
    """Flower's templates, without the buttons of what a worker would only refuse."""

    WORKS_IF: Final = (
        (
            re.compile(r'<li>\s*<button id="worker-pool-restart".*?</li>', re.DOTALL),
            "handler.application.capp.conf.worker_pool_restarts",
        ),
        (
            re.compile(
                r'<div class="worker-control-group">\s*<label for="min-autoscale".*?(</div>\s*){2}', re.DOTALL
            ),
            "worker['stats'].get('autoscaler')",
        ),
    )

    def _create_template(self, name: str) -> Template:
        text = Path(self.root, name).read_text(encoding="utf-8")
        for part, condition in self.WORKS_IF:
            text = part.sub(rf"{{% if {condition} %}}\g<0>{{% end %}}", text)
        return Template(text, name=name, loader=self)


class Attendance:
    """Which workers there are, and what becomes of the tasks of those that are gone.

    A killed worker says nothing of its tasks: Flower would show them as started, and count them as active,
    for ever. Called in Flower's loop only.
    """

    def __init__(self, state: Any, ask: Callable[[], object]) -> None:
        self._state, self._ask = state, ask
        self._present = set[str]()

    def hear(self, event: Mapping[str, Any]) -> None:
        """An event of a worker has come, and the state has it."""
        name = str(event["hostname"])
        if event["type"] == "worker-online":  # another process, that cannot answer yet
            self._present.discard(name)
            self._release(name, before=event["timestamp"])
        elif event["type"] == "worker-heartbeat" and name not in self._present:
            self._present.add(name)
            self._ask()

    def look(self) -> None:
        """Notice who has gone: with a word, and then ends its tasks and tells of them, or without."""
        now = time.time()
        for worker in list(self._state.workers.values()):
            silent = bool(worker.heartbeats) and now - worker.heartbeats[-1] > _GONE_AFTER
            if worker.hostname not in self._present or not (silent or not worker.heartbeats):
                continue
            self._present.discard(worker.hostname)
            worker.active = 0
            self._state.metrics.worker_online.labels(worker.hostname).set(0)
            self._state.metrics.worker_number_of_currently_executing_tasks.labels(worker.hostname).set(0)
            if silent:
                self._release(worker.hostname, before=now)

    def _release(self, worker: str, *, before: float) -> None:
        for task in list(self._state.tasks.data.values()):
            held = task.state in {states.STARTED, states.RECEIVED} and task.timestamp < before
            if held and task.worker is not None and task.worker.hostname == worker:
                event = {"type": "task-retried", "uuid": task.uuid, "name": task.name, "exception": GONE}
                # Received at no time: else it would count as a sign of life of the worker.
                event |= {"hostname": worker, "timestamp": before, "clock": task.clock, "local_received": 0}
                self._state.event(event)


def follow_workers() -> None:
    """Let Flower ask workers when it hears of a new one, not when it starts and nobody may be there."""

    def start(self: Any) -> None:
        heard = self.events.on_event
        attendance = Attendance(self.events.state, self.update_workers)

        def on_event(event: dict[str, Any]) -> None:
            heard(event)
            if event["type"].startswith("worker-"):
                self.io_loop.add_callback(attendance.hear, event)

        self.events.on_event = on_event
        self.events.start()
        self.started = True
        PeriodicCallback(attendance.look, _LOOK_EVERY * 1000).start()
        self.io_loop.start()

    Flower.start = start


def main() -> None:
    """Celery's command line, with Flower prepared."""
    use_our_lengths()
    follow_workers()
    dashboard_access.install()
    logging.getLogger("kombu.mixins").setLevel(logging.WARNING)  # says where it connects, a second time
    flowers_settings["template_loader"] = Templates(flowers_settings["template_path"])
    sys.exit(celery())


if __name__ == "__main__":
    main()
