"""An application whose every step asks a server: its workers' way to the servers fails at random moments.

Each run is written down over a way of its own that never fails (STRUCK_DIRECT), by number and task id.
"""

import os
from functools import cache
from typing import Any

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


app = create() if "STRUCK_DIRECT" in os.environ else None
