"""An application whose tasks succeed, fail for a while, fail for good, and kill what runs them."""

import os
import signal
import time
from typing import Any

from seawall import Retry, Seawall, policy


@policy(retry=Retry(max_attempts=4, base=0.01, cap=0.05, budget=10))
def work(self: Any, kind: str, payload: str = "") -> int:
    """What `kind` says: fine, flaky (its first attempt fails), broken or deadly."""
    if kind == "flaky" and not self.request.retries:
        raise ConnectionError("not yet")
    if kind == "broken":
        raise ValueError("never")
    if kind == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return len(payload)


def nap(_self: Any, seconds: float = 0.004) -> None:
    """Time passes."""
    time.sleep(seconds)


def create(url: str | None = None) -> Seawall:
    """The application, with the URL given or that of the settings."""
    made = Seawall("mixed", set_as_current=False)
    if url is not None:
        made.conf.update(broker_url=url, result_backend=url)
    made.conf.task_ignore_result = True
    for function in (work, nap):
        made.task(name=f"mixed.{function.__name__}", bind=True, shared=False)(function)
    return made


app = create()
