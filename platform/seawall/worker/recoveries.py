"""The recoveries that every worker has, each limited and told like all others (`seawall.recovery`).

DATABASE: idle connections are tried, dead ones dropped, and the server's health is waited for.
NETWORK, DEPENDENCY: a task that requires a breaker but does not call through it says nothing to it. After
    so many such failures as would trip it the breaker is opened for the fleet, for as long as it would be by
    itself; then its probe decides.
MEMORY: callbacks, collection and trim, as under pressure; a cell is replaced when its task has ended.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from celery.worker import state

from seawall.failure import Category
from seawall.memory import Pressure
from seawall.memory.cleanup import CLEANER
from seawall.quantity import format_bytes
from seawall.recovery import Trouble, recovers, registered

_PATIENCE: Final = 15.0
_TRIP_AFTER: Final = 5
_WITHIN: Final = 30.0

_lock = threading.Lock()
_seen: dict[str, deque[tuple[float, int]]] = {}
total_count: Any = state.total_count  # of tasks that this process has run, by name

replace: Callable[[], None] | None = None
"""Ends this process when its task has: given by a cell, which is replaced."""


def connect() -> None:
    """Register them. Safe to repeat."""
    if "database" in {each.name for each in registered()}:
        return
    recovers(Category.DATABASE, name="database", every=5.0)(database)
    recovers(Category.NETWORK, name="network", every=5.0, when=goes_on)(dependency)
    recovers(Category.DEPENDENCY, name="dependency", every=5.0, when=goes_on)(dependency)
    recovers(Category.MEMORY, name="memory", every=30.0)(memory)


def database(_trouble: Trouble) -> str:
    """Try what is idle, drop what is dead, and wait until the server answers."""
    from seawall.database import opened

    found = opened()
    if not found:
        return "this process has opened no database"
    said = []
    for each in found:
        dropped = each.mend()
        health = each.health()
        give_up_at = time.monotonic() + _PATIENCE
        while not health.ok and time.monotonic() < give_up_at:
            time.sleep(0.5)
            health = each.health()
        if not health.ok:
            raise ConnectionError(f"{each.server} is still away after {_PATIENCE:g} s")
        said.append(f"{each.server}: {dropped} dead connections dropped, healthy")
    return "; ".join(said)


def goes_on(trouble: Trouble) -> bool:
    """Whether a task that requires breakers fails as often, in this process, as would trip one."""
    from seawall.breaker import breaker

    requires = getattr(trouble.policy, "requires", ())
    if not requires:
        return False
    now, ran = time.monotonic(), int(total_count[trouble.task])
    with _lock:
        seen = _seen.setdefault(trouble.task, deque(maxlen=_TRIP_AFTER))
        seen.append((now, ran))
        since, ran_then = seen[0]
    if len(seen) < _TRIP_AFTER or since < now - _WITHIN:
        return False
    share = _TRIP_AFTER / max(ran - ran_then + 1, _TRIP_AFTER)
    return share >= min(breaker(name).circuit.config.failure_rate for name in requires)


def dependency(trouble: Trouble) -> str:
    """Open the breakers that the task requires, if they hear nothing of its failures."""
    from seawall.breaker import State, breaker

    said = []
    for name in trouble.policy.requires:
        known = breaker(name)
        snapshot = known.snapshot()
        if snapshot.state is not State.CLOSED:
            said.append(f"{name} is {snapshot.state.value}, its probe decides")
        elif snapshot.failed:
            said.append(f"{name} counts by itself")
        else:
            why = f"{trouble.task} fails and does not call through it"
            known.force_open(why, known.circuit.config.open_for)
            said.append(f"opened {name}")
    return "; ".join(said)


def memory(_trouble: Trouble) -> str:
    """Give back what can be given back, and let the process be replaced."""
    freed = format_bytes(CLEANER.react(Pressure.CRITICAL).freed)
    if replace is None:
        return f"freed {freed}"
    replace()
    return f"freed {freed}; this process is replaced when its task has ended"
