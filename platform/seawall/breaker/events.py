"""What breakers tell whoever listens; the table stands in docs/events.md."""

from dataclasses import dataclass
from typing import Literal

from seawall.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerChanged(Event):
    """A circuit went from one state to another.

    `scope` is "cluster" for the state that the fleet shares and "process" for that of this process alone.
    Every process hears of the cluster's. `by` ("host/pid") is the process whose call caused it, and `ours` is
    true in that process, so that something that counts each transition once can tell. The counts are those
    that led to it.
    """

    name: str
    scope: Literal["cluster", "process"]
    old: str
    new: str
    cause: str
    reason: str = ""
    author: str = ""
    calls: int = 0
    failed: int = 0
    slow: int = 0
    reporters: int = 0
    open_for: float | None = None
    epoch: int = 0
    by: str = ""
    ours: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakersCutOff(Event):
    """Redis cannot be reached: the breakers of this process go by what it sees itself."""

    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakersRejoined(Event):
    """Redis is back and the state of every circuit has been read again; `cut_off_for` in seconds."""

    cut_off_for: float
