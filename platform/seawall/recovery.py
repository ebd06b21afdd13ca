"""Recoveries: what a process does about a failure of some category, beside failing.

    @seawall.recovers(Category.DEPENDENCY, every=60)
    def refresh_token(trouble: Trouble) -> str:
        gateway.log_in_again()
        return "logged in again"

A recovery runs in a thread of its own, one of each at a time, and at most once in `every` seconds; after a
failed one the pause doubles, up to ten minutes. Nobody waits for it: the task that failed is retried by its
policy. What it did is in `RecoveryEnded` and in the log. One that raises is logged and harms nobody.

What every worker has built in stands in `seawall.worker.recoveries`.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from seawall import events
from seawall.errors import ConfigError
from seawall.events import Event
from seawall.failure import Category, Failure
from seawall.later import called, refuse_later
from seawall.quantity import parse_duration

logger = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 600.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a recovery is about: the failure, the exception, and the name and policy of the task, if any."""

    failure: Failure
    error: BaseException
    task: str = ""
    policy: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryStarted(Event):
    """A recovery begins."""

    name: str
    category: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryEnded(Event):
    """It has ended; `did` says what it did, or how it failed."""

    name: str
    category: str
    ok: bool
    did: str
    seconds: float


Work = Callable[[Trouble], str | None]
W = TypeVar("W", bound=Work)


@dataclass(eq=False)
class Recovery:
    """One registered function, and when it may run next."""

    name: str
    category: Category
    work: Work
    every: float
    when: Callable[[Trouble], bool] = field(default=lambda _trouble: True)
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: float = float("-inf")
    _failures: int = 0
    _running: bool = False

    def consider(self, trouble: Trouble) -> bool:
        """Begin, unless it runs or ran a moment ago; whether it did."""
        if not called("recovers(when)", self.when, trouble):
            return False
        with self._lock:
            if self._running or self.clock() < self._next:
                return False
            self._running = True
            self._next = self.clock() + self.every
        try:
            name = f"seawall-recovery-{self.name}"
            threading.Thread(target=self._run, args=(trouble,), name=name, daemon=True).start()
        except RuntimeError:  # no thread is to be had, or the interpreter ends
            self._running = False
            return False
        return True

    def _run(self, trouble: Trouble) -> None:
        events.emit(
            RecoveryStarted(
                name=self.name, category=self.category.value, fingerprint=trouble.failure.fingerprint
            )
        )
        started, ok = self.clock(), True
        try:
            did = called("recovers()", self.work, trouble) or "done"
        except Exception as exc:
            ok, did = False, f"failed: {type(exc).__name__}"
            logger.exception("recovery %s failed", self.name)
        with self._lock:
            self._failures = 0 if ok else self._failures + 1
            pause = min(self.every * 2**self._failures, max(_LONGEST_PAUSE, self.every))
            self._next, self._running = self.clock() + pause, False
        seconds = self.clock() - started
        logger.info("recovery %s: %s, in %.2f s", self.name, did, seconds)
        events.emit(
            RecoveryEnded(name=self.name, category=self.category.value, ok=ok, did=did, seconds=seconds)
        )

    def forget(self) -> None:
        """In a forked child: the thread that ran it is not here."""
        self._lock = threading.Lock()
        self._running = False


_registered: list[Recovery] = []


def recovers(
    category: Category,
    *,
    every: float | str = 30.0,
    name: str | None = None,
    when: Callable[[Trouble], bool] = lambda _trouble: True,
) -> Callable[[W], W]:
    """Register the decorated function as a recovery of `category`; it gets a `Trouble` and says what it did.

    `when` is asked first, where the failure happened, and has to be quick.

    Raises:
        ConfigError: an argument is wrong.
    """
    if not isinstance(category, Category):
        raise ConfigError(f"recovers(category={category!r}) is none: use seawall.Category")
    seconds = parse_duration(every, field="recovers(every)")
    refuse_later(when, "recovers(when) cannot ask")

    def register(work: W) -> W:
        if not callable(work):
            raise ConfigError(f"recovers() decorates a function, not {work!r}")
        refuse_later(work, "recovers() cannot call", instead="Decorate a plain function")
        chosen = name or str(getattr(work, "__name__", type(work).__name__))
        if any(each.name == chosen for each in _registered):
            raise ConfigError(f"a recovery named {chosen!r} is registered already: give one of them a name=")
        _registered.append(Recovery(chosen, category, work, seconds, when))
        return work

    return register


def registered() -> list[Recovery]:
    """All of this process."""
    return list(_registered)


def unregister(name: str) -> None:
    """Forget one."""
    _registered[:] = [each for each in _registered if each.name != name]


def consider(failure: Failure, error: BaseException, *, task: str = "", policy: Any = None) -> None:
    """A failure was seen: begin what is registered for its category, if it is time to."""
    for each in _registered:
        if each.category is failure.category:
            try:
                each.consider(Trouble(failure, error, task, policy))
            except Exception:
                logger.exception("recovery %s could not be considered", each.name)


def _after_fork() -> None:
    for each in _registered:
        each.forget()


os.register_at_fork(after_in_child=_after_fork)
