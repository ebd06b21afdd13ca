"""Dead letters as PostgreSQL has them: the account of each, without secrets, kept when it left the broker."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from seawall.database.pool import Database
from seawall.text import storable

_COLUMNS: Final = """
    SELECT d.id, d.task_id, d.name, d.queue, d.args, d.kwargs, d.headers, d.size, d.traceback,
        d.first_failed_at, d.dead_at, d.reason, d.attempts, d.state, d.resolved_by, d.resolved_at,
        g.fingerprint, g.category
    FROM seawall.dead_letters d LEFT JOIN seawall.error_groups g ON g.id = d.error_group_id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """One row of `seawall.dead_letters`, with its error group's fingerprint and category."""

    id: int
    task_id: str
    name: str
    queue: str
    args: Any
    kwargs: Any
    headers: Any
    size: int | None
    traceback: str | None
    first_failed_at: datetime | None
    dead_at: datetime
    reason: str
    attempts: int
    state: str
    resolved_by: str | None
    resolved_at: datetime | None
    fingerprint: str | None
    category: str | None


def lineage(database: Database, task_id: str) -> list[Letter]:
    """Every time that this task was given up, the first one first."""
    rows = database.fetch(f"{_COLUMNS} WHERE d.task_id = %s ORDER BY d.id".encode(), [storable(task_id)])
    return [Letter(**row) for row in rows]


def resolve(database: Database, task_ids: Sequence[str], state: str, by: str) -> int:
    """Note that these were requeued or discarded; how many were open."""
    return database.execute(
        "UPDATE seawall.dead_letters SET state = %s, resolved_by = %s, resolved_at = now()"
        " WHERE state = 'open' AND task_id = ANY(%s)",
        [state, storable(by), [storable(each) for each in task_ids]],
    )


def attempts(database: Database, task_id: str) -> list[dict[str, Any]]:
    """The runs of a task that the ledger still has, the first one first."""
    return database.fetch(
        "SELECT attempt, state, queue, worker, enqueued_at, started_at, finished_at, run_ms"
        " FROM seawall.task_runs WHERE task_id = %s ORDER BY finished_at",
        [storable(task_id)],
    )
