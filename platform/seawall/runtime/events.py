"""What the runtime tells observers; docs/events.md lists the fields."""

from dataclasses import dataclass

from seawall.events import Event
from seawall.runtime.states import State


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceChanged(Event):
    """A service went from one state to another; `reason` says why if it did not go well."""

    service: str
    before: State
    after: State
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceAttemptFailed(Event):
    """An attempt to start a service failed; the next follows in `retry_in` seconds, None if there is none."""

    service: str
    attempt: int
    error: str
    retry_in: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceStopFailed(Event):
    """A service's `stop` raised or did not return in time; the others were stopped all the same."""

    service: str
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeStarted(Event):
    """Every critical service is up; `degraded` names those that are not."""

    seconds: float
    degraded: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeRolledBack(Event):
    """The start failed because of `service` and everything that had started was stopped."""

    service: str
    error: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeStopped(Event):
    """Every service was told to stop; `unfinished` names those that did not end well or in time."""

    seconds: float
    unfinished: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceLost(Event):
    """A service that was up does not answer any more: its check failed twice in a row."""

    service: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceReturned(Event):
    """A lost service answers again, after so many seconds."""

    service: str
    seconds: float
