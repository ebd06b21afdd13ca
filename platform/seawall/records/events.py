"""What records tell observers; names and fields stand in docs/events.md. Times are seconds."""

from dataclasses import dataclass

from seawall.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordsHeldBack(Event):
    """PostgreSQL does not take rows; they wait on disk."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordsCaughtUp(Event):
    """All that had waited is written."""

    rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordsAdopted(Event):
    """This worker writes what one that was killed left behind: so many bytes."""

    spool: str
    waiting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordsLost(Event):
    """So many rows are in no table and will not be."""

    rows: int
    reason: str
