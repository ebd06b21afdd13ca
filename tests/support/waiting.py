"""Waiting for a condition instead of sleeping and hoping."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_OFTEN, _SELDOM = 0.01, 0.1  # seconds between two looks
_LONGEST_LEASE = 15.0  # seconds, as by default: more is not needed to outlive a stall


def wait_until(condition: Callable[[], T | None], *, timeout: float = 10.0, what: str = "the condition") -> T:
    """Poll `condition` until it returns something true and return that.

    `timeout` is in seconds of a machine that has time. One whose processes share each core with others is
    given so many times longer: a test says that something happens, and never how busy its machine is.

    Raises:
        AssertionError: `timeout` seconds passed; the message says for `what` we waited.
    """
    begun = asked = time.monotonic()
    while not (result := condition()):
        now = time.monotonic()
        if (waited := now - begun) > timeout * busyness():
            raise AssertionError(f"waited {waited:.1f} s for {what}")
        time.sleep(min(max(_OFTEN, 4 * (now - asked)), _SELDOM))  # what is dear to ask is asked less often
        asked = time.monotonic()
    return result


def lease(seconds: float) -> float:
    """A lease for tests in which living workers have to keep theirs: longer on a machine that is busy."""
    return seconds * min(busyness(), _LONGEST_LEASE / seconds)


def busyness() -> float:
    """How many processes want each of this machine's cores, over the last minute; at least one."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
