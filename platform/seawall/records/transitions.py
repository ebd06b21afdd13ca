"""What breakers did: every transition of a circuit that the fleet shares, and of those of single processes.

Each worker hears of each transition of the fleet's and writes it down; the circuit's epoch is the same for
all of them, so the table has it once, whoever of them was killed. A process alone knows what its own circuit
did, and writes it down itself: such a row has an epoch that nobody else draws.
"""

import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from seawall.breaker.events import BreakerChanged
from seawall.text import storable

if TYPE_CHECKING:
    from seawall.database.pool import Database


_EPOCH_BITS: Final = 56
"""So that the microseconds are a moment that PostgreSQL has, should anybody read them as one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """One row of `seawall.breaker_transitions`; `worker` ("host/pid") is the process that caused it.

    `scope` is "cluster", or "process" for the circuit of `worker` alone.
    """

    at: datetime
    name: str
    scope: str
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
    """What `journal.line("b", ...)` takes. The moment of the fleet's is its epoch, by Redis's clock."""
    alone = event.scope == "process"
    return {
        "name": event.name,
        "scope": event.scope,
        "at": time.time() if alone else None,
        "epoch": -secrets.randbits(_EPOCH_BITS) if alone else event.epoch,
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


def history(database: "Database", name: str | None, scope: str | None, *, limit: int) -> list[Transition]:
    """The last transitions of one circuit, or of all, of one scope or of both; the latest first."""
    name = None if name is None else storable(name)
    rows = database.fetch(
        "SELECT at, name, scope, before, after, cause, reason, author, calls, failed, slow, worker"
        " FROM seawall.breaker_transitions"
        " WHERE (%s::text IS NULL OR name = %s) AND (%s::text IS NULL OR scope = %s)"
        " ORDER BY at DESC, id DESC LIMIT %s",
        [name, name, scope, scope, limit],
    )
    return [Transition(**row) for row in rows]
