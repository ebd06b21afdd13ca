"""An application in two releases: NAMES lists the tasks that a worker of this release knows.

Each task leaves a mark in Redis, its label or its name, so that runs are counted in their order.
"""

import os

from redis import Redis

from seawall import Seawall

app = Seawall("releases")
if os.environ.get("STOCK"):
    app.conf.broker_transport = "redis"


def _leave_mark(name: str) -> None:
    with Redis.from_url(os.environ["SEAWALL_REDIS_URL"]) as client:
        client.rpush("marks", name)


def _add_task(name: str) -> None:
    @app.task(name=name)
    def mark(label: str = name) -> str:
        _leave_mark(label)
        return label


for _name in os.environ.get("NAMES", "old").split(","):
    _add_task(_name)
