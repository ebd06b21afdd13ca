"""An application whose every step asks a server: its workers' way to the servers fails at random moments.

Each run is written down over a way of its own that never fails (STRUCK_DIRECT), by number and task id.
"""

import os
import threading
import time
from functools import cache
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from seawall import Limit, Seawall, breaker, policy

RUNS = "struck:runs"


@cache
def direct() -> "Redis":
    """The journal of runs."""
    return Redis.from_url(os.environ["STRUCK_DIRECT"])


def create(broker_url: str | None = None) -> Seawall:
    """The application, of its own, with the URL given or that of the settings."""
    made = Seawall("struck", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        made.conf.update(broker_url=broker_url, result_backend=broker_url)
    made.task(name="struck.run", bind=True, shared=False)(run)
    return made


@policy(limit=Limit("struck:{number}", 3), requires=["struck"])
def run(self: Any, number: int) -> int:
    """Asks the broker, the results, a breaker and a limit, and is in the ledger."""
    direct().rpush(RUNS, f"{number} {self.request.id}")
    with breaker("struck"):
        return number


def runs() -> list[str]:
    """The task id of every run, in order."""
    lines: Any = direct().lrange(RUNS, 0, -1)
    return [line.decode().split()[1] for line in lines]


class Producer(threading.Thread):
    """Submits on and on; every number ends as accepted, perhaps or refused."""

    def __init__(self, app: Celery) -> None:
        super().__init__(name="producer")
        self._app = app
        self.stopping = threading.Event()
        self.ids: dict[str, str] = {}
        self.outcomes: dict[str, str] = {}
        self.said: list[str] = []
        self.longest = 0.0

    def run(self) -> None:
        number = 0
        while not self.stopping.wait(0.02):
            number += 1
            self.submit(str(number))

    def submit(self, task_id: str) -> None:
        begun = time.monotonic()
        try:
            self._app.tasks["struck.run"].apply_async((int(task_id),), task_id=task_id)
            self.outcomes[task_id] = "accepted"
        except OperationalError as exc:
            self.outcomes[task_id] = "perhaps" if "may have been accepted" in str(exc) else "refused"
            self.said.append(f"{time.monotonic() - begun:.1f} s: {exc}")
        self.longest = max(self.longest, time.monotonic() - begun)


app = create() if "STRUCK_DIRECT" in os.environ else None
