"""Flower, told what our queues hold: `python -m seawall.dashboard -A app flower ...`.

Flower reads queue lengths with LLEN, which sees nothing of a transport that keeps its queues elsewhere. Its
reader is replaced in this process for applications that use our transport; others keep Flower's own. The
names used here are held by tests/unit/test_dashboard_contracts.py.
"""

import asyncio
import sys
from collections.abc import Iterable
from typing import Any

from celery.__main__ import main as celery
from flower.views import BaseHandler

from seawall.delivery import Queues
from seawall.errors import ConfigError


class Lengths:
    """What Flower calls a broker: `queues` answers for its page and its API."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """One row per queue, in the words of RabbitMQ's management API, which Flower's page prints."""
        return await asyncio.to_thread(self._read, sorted(names))

    def _read(self, names: list[str]) -> list[dict[str, Any]]:
        with self._app.connection_for_read() as connection, Queues.open(connection) as queues:
            return [self._row(queues, name) for name in names]

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
    """Let Flower's pages of this process read our queues."""
    flowers_own = BaseHandler.get_broker

    def get_broker(self: Any) -> Any:
        app = self.application.capp
        try:
            with app.connection_for_read() as connection, Queues.open(connection):
                return Lengths(app)
        except ConfigError:
            return flowers_own(self)

    BaseHandler.get_broker = get_broker


def main() -> None:
    """Celery's command line, with Flower prepared."""
    use_our_lengths()
    sys.exit(celery())


if __name__ == "__main__":
    main()
