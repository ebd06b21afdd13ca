"""`Runtime`: starts services in order, keeps trying those it can do without, stops all in reverse.

One loop decides everything, so there is nothing to lock but its inbox: attempts run in threads of their own
and post their outcomes. `start` runs the loop in its caller's thread until every service is up, degraded or
failed. While some are degraded the same loop goes on in a thread.

A service starts as soon as all it requires are up; services that do not depend on each other start side by
side. A failure that may pass is tried again after a backoff; a wrong setting is not. When a critical service
has failed, what had started is stopped, last first, before `start` raises: a process is ready or it has
nothing left running.
"""

import contextlib
import logging
import math
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from seawall import events
from seawall.backoff import equal_jitter, exponential
from seawall.errors import ConfigError, MigrationError, StartupError
from seawall.runtime.attempt import Attempt, Outcome, Started, Stop, in_words, is_within
from seawall.runtime.declaration import Declaration, Service, declaration_of
from seawall.runtime.events import (
    RuntimeRolledBack,
    RuntimeStarted,
    RuntimeStopped,
    ServiceAttemptFailed,
    ServiceChanged,
    ServiceStopFailed,
)
from seawall.runtime.graph import ordered
from seawall.runtime.report import ServiceReport, StartReport
from seawall.runtime.states import State, may_follow

logger = logging.getLogger(__name__)

_PERMANENT: Final = (ConfigError, MigrationError)  # another attempt would find the same
_LAST_CALL: Final = 0.5  # seconds kept for each service that is still to be stopped when one hangs


def pause_after(attempt: int) -> float:
    """Seconds between attempt number `attempt` and the next: 0.1 and doubling, 5 at most, with jitter."""
    return equal_jitter(exponential(attempt, base=0.1, cap=5.0))


@dataclass(slots=True)
class _Entry:
    """One service as the loop sees it."""

    declaration: Declaration
    state: State = State.STOPPED
    service: Service | None = None
    value: object = None
    attempt: Attempt | None = None
    attempts: int = 0
    due: float = 0.0  # when the next attempt may begin
    deadline: float = 0.0  # when the running one is given up
    began: float = 0.0
    ended: float = 0.0
    error: BaseException | None = None

    @property
    def last_moment(self) -> float:
        """When all attempts together have taken too long. A degraded service is tried for ever."""
        within = self.declaration.within
        return math.inf if within is None or self.state is State.DEGRADED else self.began + within


class Runtime:
    """The services of one process. Safe to use from any thread, and across fork.

    `services` are what `@service` decorated, or `Declaration`s. `stop_timeout` bounds a stop and a rollback.

    Raises:
        ConfigError: they cannot be put in order; nothing was started.
    """

    def __init__(
        self,
        services: Iterable[object],
        *,
        stop_timeout: float = 30.0,
        pause: Callable[[int], float] = pause_after,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._declarations = ordered(declaration_of(each) for each in services)
        self._stop_timeout = stop_timeout
        self._pause = pause
        self._clock = clock
        self._reset()
        _runtimes.add(self)

    def _reset(self) -> None:
        """As if nothing had been started in this process."""
        self._verb = threading.Lock()  # one start or stop at a time
        self._cancelled = threading.Event()
        self._inbox: queue.SimpleQueue[tuple[Attempt, Outcome] | None] = queue.SimpleQueue()
        self._loop: threading.Thread | None = None
        self._entries = {name: _Entry(each) for name, each in self._declarations.items()}
        self._up: list[str] = []  # in the order in which they came up
        self._strays: list[Attempt] = []  # given up and perhaps still running
        self._began = self._ended = 0.0
        self._started = False

    def __getitem__(self, name: str) -> object:
        """What the service `name` returned or yielded, or the service itself. KeyError if it is not up."""
        entry = self._entries[name]
        if entry.state is not State.READY:
            raise KeyError(f"{name} is {entry.state.value}")
        return entry.value

    @property
    def started(self) -> bool:
        """Whether a start has succeeded and no stop has begun since."""
        return self._started

    @property
    def ready(self) -> bool:
        """Whether it is started and every critical service is up."""
        return self._started and all(
            each.state is State.READY for each in self._entries.values() if each.declaration.critical
        )

    @property
    def calls_here(self) -> bool:
        """Whether the caller is a service's `start` or `stop`, which this runtime has called."""
        return is_within(self)

    def states(self) -> dict[str, State]:
        """Every service's state now."""
        return {name: each.state for name, each in self._entries.items()}

    def report(self) -> StartReport:
        """What the start took, with the states as of now."""
        services = tuple(_report(each, self._began) for each in self._entries.values())
        return StartReport(seconds=max(0.0, self._ended - self._began), services=services)

    def start(self) -> StartReport:
        """Start every service; safe to repeat.

        Raises:
            StartupError: a critical service could not be started; it names it, with the cause. Everything
                that had started was stopped.
        """
        with self._verb:
            if self._started:
                return self.report()
            self._begin()
            try:
                self._run(until=self._settled)
                self._raise_failure()
            except BaseException as exc:
                self._roll_back(exc)
                self._cancelled.clear()
                raise
            self._ended = self._clock()
            self._started = True
            report = self.report()
            events.emit(RuntimeStarted(seconds=report.seconds, degraded=report.degraded))
            if report.degraded:
                self._loop = threading.Thread(target=self._recover, name="seawall-runtime", daemon=True)
                self._loop.start()
            return report

    def stop(self) -> tuple[str, ...]:
        """Stop everything in reverse, within `stop_timeout`; safe to repeat, before a start and during one.

        A service that calls it in its own `start` has that start undone, and one in its own `stop` is being
        stopped: both wait for nothing.

        Returns the names of the services that did not end well or in time.
        """
        self._cancelled.set()
        self._inbox.put(None)
        if self.calls_here and self._verb.locked():
            return ()
        with self._verb:
            self._cancelled.set()
            running = self._started
            self._started = False
            self._inbox.put(None)
            loop, self._loop = self._loop, None
            if loop is not None and loop is not threading.current_thread():
                loop.join(self._stop_timeout)
            began = self._clock()
            unfinished = self._stop_all()
            self._cancelled.clear()
            if running:
                events.emit(RuntimeStopped(seconds=self._clock() - began, unfinished=unfinished))
            return unfinished

    def _begin(self) -> None:
        self._inbox = queue.SimpleQueue()
        self._entries = {name: _Entry(each) for name, each in self._declarations.items()}
        self._began = self._ended = self._clock()

    # --- the loop ---------------------------------------------------------------------------------------

    def _run(self, until: Callable[[], bool]) -> None:
        """Turn until `until` holds or somebody stops us."""
        while not self._cancelled.is_set():
            now = self._clock()
            self._give_up_late(now)
            self._begin_due(now)
            if until():
                return
            with contextlib.suppress(queue.Empty):
                if message := self._inbox.get(timeout=self._next_moment(now)):
                    self._settle(*message)

    def _recover(self) -> None:
        try:
            self._run(until=lambda: not self.report().degraded and not self._starting())
        except Exception:
            logger.exception("degraded services are no longer tried")

    def _settled(self) -> bool:
        states = {each.state for each in self._entries.values()}
        return State.FAILED in states or states <= {State.READY, State.DEGRADED}

    def _starting(self) -> list[_Entry]:
        return [each for each in self._entries.values() if each.state is State.STARTING]

    def _begin_due(self, now: float) -> None:
        for name, entry in self._entries.items():
            if entry.state in {State.READY, State.FAILED} or entry.attempt is not None:
                continue
            lacking = [
                required
                for required in entry.declaration.requires
                if self._entries[required].state is not State.READY
            ]
            if lacking:
                self._degrade_with(name, lacking)
            elif entry.due <= now:
                self._begin_attempt(name, now)

    def _degrade_with(self, name: str, lacking: list[str]) -> None:
        """What requires a degraded service is degraded with it; it is begun once that is up."""
        degraded = [each for each in lacking if self._entries[each].state is State.DEGRADED]
        entry = self._entries[name]
        if degraded and entry.state is State.STOPPED:
            entry.error = StartupError(f"requires {degraded[0]!r}, which is degraded")
            self._transition(name, State.DEGRADED)

    def _begin_attempt(self, name: str, now: float) -> None:
        entry = self._entries[name]
        if entry.state is not State.STARTING:
            entry.began = entry.began or now
            self._transition(name, State.STARTING)
        entry.attempts += 1
        entry.deadline = min(now + entry.declaration.timeout, entry.last_moment)
        inbox = self._inbox
        entry.attempt = Attempt(
            entry.declaration, lambda attempt, outcome: inbox.put((attempt, outcome)), self
        )

    def _give_up_late(self, now: float) -> None:
        for name, entry in self._entries.items():
            if entry.attempt is not None and entry.deadline <= now and entry.attempt.give_up():
                self._strays.append(entry.attempt)
                took = min(entry.declaration.timeout, entry.declaration.within or math.inf)
                late = TimeoutError(f"its start did not return within {took:g} s")
                # At the very end the reason of the attempt before says more than that time is up.
                self._failed(name, (entry.error or late) if entry.last_moment <= now else late)

    def _settle(self, attempt: Attempt, outcome: Outcome) -> None:
        entry = self._entries[attempt.name]
        if entry.attempt is not attempt:
            return
        if not isinstance(outcome, Started):
            self._failed(attempt.name, outcome)
            return
        entry.attempt, entry.error = None, None
        entry.service, entry.value = outcome.service, outcome.value
        entry.ended = self._clock()
        self._up.append(attempt.name)
        self._transition(attempt.name, State.READY)

    def _failed(self, name: str, error: BaseException) -> None:
        """Decide what follows a failed attempt: another, life without it, or the end of the start."""
        entry = self._entries[name]
        entry.attempt, entry.error, entry.ended = None, error, self._clock()
        declaration = entry.declaration
        pause: float | None = self._pause(entry.attempts)
        last = (
            entry.attempts >= declaration.attempts
            or isinstance(error, _PERMANENT)
            or entry.ended + (pause or 0.0) >= entry.last_moment
        )
        if last and declaration.critical:
            pause = None
        entry.due = entry.ended + (pause or 0.0)
        events.emit(
            ServiceAttemptFailed(service=name, attempt=entry.attempts, error=in_words(error), retry_in=pause)
        )
        if last:
            self._transition(name, State.FAILED if declaration.critical else State.DEGRADED)

    def _next_moment(self, now: float) -> float | None:
        """Seconds until something has to be done without a message; None if never."""
        moments = []
        for entry in self._entries.values():
            if entry.attempt is not None:
                moments.append(entry.deadline)
            elif entry.state in {State.STARTING, State.DEGRADED} and entry.due > now:
                moments.append(entry.due)
        return max(0.0, min(moments) - now) if moments else None

    def _transition(self, name: str, after: State) -> None:
        entry = self._entries[name]
        before = entry.state
        if not may_follow(after, before):
            raise RuntimeError(f"service {name} cannot go from {before.value} to {after.value}")
        entry.state = after
        reason = None if entry.error is None else in_words(entry.error)
        level = logging.WARNING if after in {State.FAILED, State.DEGRADED} else logging.DEBUG
        logger.log(level, "service %s is %s%s", name, after.value, f": {reason}" if reason else "")
        events.emit(ServiceChanged(service=name, before=before, after=after, reason=reason))

    # --- the end ----------------------------------------------------------------------------------------

    def _raise_failure(self) -> None:
        if self._cancelled.is_set():
            raise StartupError("the runtime was stopped while it was starting")
        for name, entry in self._entries.items():
            if entry.state is State.FAILED and entry.error is not None:
                tries = f" ({entry.attempts} attempts)" if entry.attempts > 1 else ""
                raise StartupError(
                    f"service {name!r} did not start: {in_words(entry.error)}{tries}"
                ) from entry.error

    def _roll_back(self, error: BaseException) -> None:
        failed = next((name for name, each in self._entries.items() if each.state is State.FAILED), "")
        for name in self._stop_all():
            error.add_note(f"service {name!r} could not be stopped cleanly")
        seconds = self._clock() - self._began
        events.emit(RuntimeRolledBack(service=failed, error=in_words(error), seconds=seconds))

    def _stop_all(self) -> tuple[str, ...]:
        """End what starts, then what is up, last first; the names of those that did not end well."""
        deadline = self._clock() + self._stop_timeout
        unfinished = self._end_attempts(deadline)
        while self._up:
            name = self._up.pop()
            entry = self._entries[name]
            service, entry.service, entry.value = entry.service, None, None
            if service is None:
                continue
            self._transition(name, State.STOPPING)
            left = deadline - self._clock() - _LAST_CALL * len(self._up)
            problem = Stop(name, service, self).problem(max(left, _LAST_CALL))
            if problem is not None:
                unfinished.append(name)
                logger.error("service %s: %s", name, problem)
                events.emit(ServiceStopFailed(service=name, error=problem))
            self._transition(name, State.STOPPED)
        for name, entry in self._entries.items():
            if entry.state is not State.STOPPED:
                self._transition(name, State.STOPPED)
        return tuple(unfinished)

    def _end_attempts(self, deadline: float) -> list[str]:
        """Wait for attempts that run, taking over what still comes up; give up those that take too long."""
        half = (self._clock() + deadline) / 2  # the rest belongs to those that are up
        while running := [each for each in self._entries.values() if each.attempt is not None]:
            left = half - self._clock()
            if left <= 0:
                for entry in running:
                    if entry.attempt is not None and entry.attempt.give_up():
                        self._strays.append(entry.attempt)
                        entry.attempt = None
                if not any(entry.attempt for entry in running):
                    break
                left = 1.0  # one ended just now: its outcome is on its way
            with contextlib.suppress(queue.Empty):
                if message := self._inbox.get(timeout=left):
                    self._take_over(*message)
        strays, self._strays = self._strays, []
        self._strays = [each for each in strays if not each.gone(half - self._clock())]
        return sorted({each.name for each in self._strays})

    def _take_over(self, attempt: Attempt, outcome: Outcome) -> None:
        """An attempt that ended during a stop: what came up is stopped with the others, no other is begun."""
        entry = self._entries[attempt.name]
        if entry.attempt is not attempt:
            return
        if isinstance(outcome, Started):
            self._settle(attempt, outcome)
        else:
            entry.attempt, entry.error = None, outcome


def _report(entry: _Entry, began: float) -> ServiceReport:
    error = None if entry.error is None or entry.state is State.READY else in_words(entry.error)
    return ServiceReport(
        name=entry.declaration.name,
        state=entry.state,
        requires=entry.declaration.requires,
        critical=entry.declaration.critical,
        after=max(0.0, entry.began - began) if entry.began else 0.0,
        seconds=max(0.0, entry.ended - entry.began),
        attempts=entry.attempts,
        error=error,
    )


_runtimes: "weakref.WeakSet[Runtime]" = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    """A child has none of its parent's threads and stops none of its services: it starts from nothing."""
    for each in list(_runtimes):
        _inherited.append(each._entries)  # noqa: SLF001 - kept, so that no destructor speaks for the parent
        each._reset()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
