"""The thread that keeps leases alive while the event loop is busy.

One per process, started with the first claimant and gone with the last. It renews leases, sends
settlements nobody else came by to carry, gives back what was claimed ahead of a task that turned out long,
and looks after abandoned claimants until their last task has ended.

The lease is tied to the event loop: a loop that has not turned for `stall_limit` seconds and is not inside
a task loses its leases (see `Claimant.stalled`), because a worker that hangs must not hold messages for
ever. A task that runs in the loop's own thread (the solo pool) may take any time; its time limits bound it.
A task that keeps the interpreter's lock inside C code stops this thread too: where that happens, the
process that supervises the worker renews for it (`Guardian.renew`).
"""

import logging
import os
import threading
import time

from redis.exceptions import RedisError

from seawall.backoff import equal_jitter
from seawall.delivery.claimant import Claimant

logger = logging.getLogger(__name__)

_IDLE_WAIT = 5.0
_RETRY_WAIT = 0.5
_SLACK = 1.5


class Keeper:
    """Calls `upkeep` on its claimants when it is due. Safe to use from any thread and after a fork."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._wakeup = threading.Condition()
        self._claimants: list[Claimant] = []
        self._thread: threading.Thread | None = None
        self._wakes_at = float("inf")
        self._failing: set[Claimant] = set()

    @property
    def claimants(self) -> list[Claimant]:
        """Those it looks after now, in this process."""
        return list(self._claimants) if self._pid == os.getpid() else []

    def add(self, claimant: Claimant) -> None:
        """Look after `claimant` until it has left."""
        if self._pid != os.getpid():  # a child starts anew: the thread stayed with the parent
            self._reset()
        with self._wakeup:
            self._claimants.append(claimant)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="seawall-lease-keeper", daemon=True)
                self._thread.start()
            self._wake()

    def discard(self, claimant: Claimant) -> None:
        """Forget a claimant that has left."""
        if self._pid == os.getpid():
            with self._wakeup:
                if claimant in self._claimants:
                    self._claimants.remove(claimant)
                self._wake()

    def prompt(self, within: float) -> None:
        """Something is due in so many seconds; cheap if the thread is up by then anyway."""
        if self._wakes_at > time.monotonic() + within * _SLACK and self._pid == os.getpid():
            with self._wakeup:
                self._wakes_at = time.monotonic() + within
                self._wakeup.notify()

    def _wake(self) -> None:
        self._wakes_at = time.monotonic()
        self._wakeup.notify()

    def _run(self) -> None:
        while True:
            wait = self._round()
            with self._wakeup:
                self._claimants = [claimant for claimant in self._claimants if not claimant.left]
                self._failing.intersection_update(self._claimants)
                if not self._claimants:
                    self._thread = None
                    return
                self._wakes_at = time.monotonic() + wait
                while (left := self._wakes_at - time.monotonic()) > 0:  # a prompt moves it forward
                    self._wakeup.wait(left)

    def _round(self) -> float:
        wait = _IDLE_WAIT
        for claimant in list(self._claimants):
            try:
                if not claimant.left:
                    wait = min(wait, claimant.upkeep())
                self._failing.discard(claimant)
            except (RedisError, OSError) as exc:
                wait = min(wait, equal_jitter(_RETRY_WAIT))
                if not self._failing:
                    logger.warning("broker away, leases are kept and settlements wait: %s", exc)
                self._failing.add(claimant)
            except Exception:
                logger.exception("lease upkeep failed, trying again")
                wait = _RETRY_WAIT
        return wait


keeper = Keeper()
