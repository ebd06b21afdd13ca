"""What memory tells observers; names and fields are API and stand in docs/events.md."""

from dataclasses import dataclass

from seawall.events import Event
from seawall.memory.levels import Pressure


@dataclass(frozen=True, kw_only=True, slots=True)
class PressureChanged(Event):
    """The workers of this machine came nearer to their budget, or further from it."""

    before: Pressure
    level: Pressure
    used: int
    budget: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanedUp(Event):
    """A process reacted to pressure: callbacks, collection, trim. `late` are callbacks out of time."""

    level: Pressure
    freed: int
    late: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitExceeded(Event):
    """A task used more than its limit: told so (soft), or its process was killed (hard)."""

    task: str
    id: str
    pid: int
    used: int
    limit: int
    hard: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakSuspected(Event):
    """A task keeps memory from run to run; `growth` is what an average growing run keeps."""

    task: str
    growth: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakCleared(Event):
    """A task that was flagged keeps nothing any more."""

    task: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetFarOff(Event):
    """A declared budget has little to do with what the task was seen to use."""

    task: str
    declared: int
    learned: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRecycled(Event):
    """An idle process was replaced for what it retained."""

    pid: int
    retained: int
    reason: str
