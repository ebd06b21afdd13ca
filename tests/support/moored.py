"""An application that can lose what it needs after it has started: a database, and a service of its own.

The service is a Redis at MOORED_SERVICE. A worker is started with `celery -A support.moored worker`; a test
submits through `create()`.
"""

import os
from typing import Any

from redis import Redis

from seawall import Retry, Seawall, database, policy, service
from support.shop import store

TABLE = "CREATE TABLE moored (number int)"


def lighthouse_shines() -> None:
    with Redis.from_url(os.environ["MOORED_SERVICE"], socket_timeout=0.5) as client:
        client.ping()


@service("lighthouse", check=lighthouse_shines)
def lighthouse() -> None:
    lighthouse_shines()


def row(_self: Any, number: int) -> int:
    """Needs the database, and does not forgive."""
    database().execute("INSERT INTO moored (number) VALUES (%s)", (number,))
    return number


def other(self: Any, number: int) -> int:
    store(self.app).rpush("others", number)
    return number


ONCE = Retry(max_attempts=1)
TASKS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (row, {"requires": ["postgres"], "retry": ONCE}),
    (other, {"retry": ONCE}),
)


def create(broker_url: str | None = None) -> Seawall:
    """The application, of its own."""
    services = [lighthouse] if os.environ.get("MOORED_SERVICE") else []
    app = Seawall("moored", set_as_current=False, autofinalize=True, services=services)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function, wanted in TASKS:
        app.task(bind=True, shared=False, name=f"moored.{function.__name__}")(policy(**wanted)(function))
    return app


app = create()
