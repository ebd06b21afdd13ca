"""Waiting for a condition instead of sleeping and hoping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], *, timeout: float = 10.0, what: str = "the condition") -> T:
    """Poll `condition` until it returns something true and return that.

    Raises:
        AssertionError: `timeout` seconds passed; the message says for `what` we waited.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.1f} s for {what}")
        time.sleep(0.01)
    return result
