"""One try to start one service, in a thread of its own, so that a start that hangs can be given up.

A thread cannot be ended from outside. So an attempt that was given up cleans up after itself: whenever its
`start` comes back, however late, the same thread calls `stop` at once. Nobody else touches its service.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from seawall.later import called
from seawall.runtime.declaration import Declaration, Service

logger = logging.getLogger(__name__)

_here = threading.local()


def is_within(owner: object) -> bool:
    """Whether the caller is a service's `start` or `stop` that `owner` has called."""
    return getattr(_here, "owner", None) is owner


@dataclass(frozen=True, slots=True)
class Started:
    """The service is up; `value` is what its `start` returned, or the service itself."""

    service: Service
    value: object


Outcome = Started | BaseException


class Attempt:
    """Begins at once; `tell(attempt, outcome)` is called from its thread unless it was given up before."""

    def __init__(
        self, declaration: Declaration, tell: "Callable[[Attempt, Outcome], object]", owner: object
    ) -> None:
        self._owner = owner
        self.name = declaration.name
        self._declaration = declaration
        self._tell = tell
        self._lock = threading.Lock()
        self._ended = False
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name=f"seawall-start-{self.name}", daemon=True)
        self._thread.start()

    def give_up(self) -> bool:
        """Want no outcome any more; False if there is one already, which then still counts."""
        with self._lock:
            self._given_up = not self._ended
            return self._given_up

    def gone(self, timeout: float) -> bool:
        """Whether its thread ends within `timeout` seconds."""
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def _run(self) -> None:
        _here.owner = self._owner
        service: Service | None = None
        outcome: Outcome
        try:
            service = self._declaration.factory()
            value = called(f"service {self.name!r}", service.start)
            outcome = Started(service, service if value is None else value)
        except BaseException as exc:  # noqa: BLE001 - SystemExit too: no start may end without an outcome
            outcome = exc
            self._clean_up(service)
        with self._lock:
            self._ended = not self._given_up
        if self._ended:
            self._tell(self, outcome)
        elif isinstance(outcome, Started):
            logger.warning("service %s came up after it had been given up; it is stopped", self.name)
            self._clean_up(service)

    def _clean_up(self, service: Service | None) -> None:
        if service is None:
            return
        try:
            service.stop()
        except Exception:
            logger.exception("service %s could not be stopped after a failed start", self.name)


class Stop:
    """A service's `stop` in a thread of its own, so that one that hangs holds up nobody for ever."""

    def __init__(self, name: str, service: Service, owner: object) -> None:
        self._owner = owner
        self._service = service
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"seawall-stop-{name}", daemon=True)
        self._thread.start()

    def problem(self, timeout: float) -> str | None:
        """What went wrong once it has ended, or that it has not after `timeout` seconds."""
        with contextlib.suppress(RuntimeError):  # called from a service that stops its own runtime
            self._thread.join(max(0.0, timeout))
        if self._thread.is_alive():
            return f"did not stop within {timeout:.1f} s"
        return None if self._error is None else in_words(self._error)

    def _run(self) -> None:
        _here.owner = self._owner
        try:
            self._service.stop()
        except BaseException as exc:  # noqa: BLE001 - reported by `problem`
            self._error = exc


def in_words(error: BaseException) -> str:
    """`ConnectionError: refused`, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
