"""What breakers did: every transition of a circuit that the fleet shares.

Each worker hears of each transition and writes it down; the circuit's epoch is the same for all of them, so
the table has it once, whoever of them was killed.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from seawall.breaker.events import BreakerChanged
from seawall.text import storable

if TYPE_CHECKING:
    from seawall.database.pool import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """One row of `seawall.breaker_transitions`; `worker` ("host/pid") is the process that caused it."""

    at: datetime
    name: str
    before: str
    after: str
    cause: str
    reason: str
    author: str
    calls: int
    failed: int
    slow: int
    worker: str


def transition(event: BreakerChanged) -> dict[str, Any]:
    """What `journal.line("b", ...)` takes."""
    return {
        "name": event.name,
        "epoch": event.epoch,
        "before": event.old,
        "after": event.new,
        "cause": event.cause,
        "reason": event.reason,
        "author": event.author,
        "calls": event.calls,
        "failed": event.failed,
        "slow": event.slow,
        "by": event.by,
    }


def history(database: "Database", name: str | None, *, limit: int) -> list[Transition]:
    """The last transitions of one circuit, or of all, the latest first."""
    name = None if name is None else storable(name)
    rows = database.fetch(
        "SELECT at, name, before, after, cause, reason, author, calls, failed, slow, worker"
        " FROM seawall.breaker_transitions WHERE %s::text IS NULL OR name = %s"
        " ORDER BY at DESC, id DESC LIMIT %s",
        [name, name, limit],
    )
    return [Transition(**row) for row in rows]
