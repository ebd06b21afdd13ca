"""Error groups: what failures have in common, to be looked at and resolved."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from seawall.database.pool import Database
from seawall.text import storable

OPEN, RESOLVED, IGNORED = STATUSES = ("open", "resolved", "ignored")
"""A resolved group that is seen again is open again; an ignored one stays ignored."""

_MOST_RUNS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One row of `seawall.error_groups`."""

    id: int
    fingerprint: str
    exception: str
    task: str
    category: str
    severity: str
    status: str
    first_seen: datetime
    last_seen: datetime
    count: int
    sample: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which groups: None is any. In `task`, * and ? match; `fingerprints` may be cut short."""

    task: str | None = None
    category: str | None = None
    status: str | None = None
    fingerprints: Sequence[str] = ()

    @property
    def where(self) -> tuple[str, list[Any]]:
        """As a condition and its parameters."""
        pattern = None
        if self.task is not None:
            escaped = storable(self.task).replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
            pattern = escaped.replace("*", "%").replace("?", "_")
        heads = [f"{storable(each)}%" for each in self.fingerprints]
        condition = (
            "(%s::text IS NULL OR task LIKE %s) AND (%s::text IS NULL OR category = %s)"
            " AND (%s::text IS NULL OR status = %s)"
            " AND (cardinality(%s::text[]) = 0 OR fingerprint LIKE ANY(%s))"
        )
        return condition, [
            *(pattern, pattern, self.category, self.category, self.status, self.status),
            *(heads, heads),
        ]


def find(database: Database, wanted: Wanted, *, limit: int) -> list[Group]:
    """Groups, those seen last first."""
    condition, parameters = wanted.where
    query = f"SELECT * FROM seawall.error_groups WHERE {condition} ORDER BY last_seen DESC LIMIT %s"  # noqa: S608
    return [Group(**row) for row in database.fetch(query.encode(), [*parameters, limit])]


def mark(database: Database, wanted: Wanted, status: str) -> int:
    """Give them a status; how many there were."""
    condition, parameters = wanted.where
    query = f"UPDATE seawall.error_groups SET status = %s WHERE {condition}"  # noqa: S608 - our own words
    return database.execute(query.encode(), [status, *parameters])


def latest_runs(database: Database, group: Group) -> list[dict[str, Any]]:
    """The last attempts that ended so."""
    return database.fetch(
        "SELECT finished_at, task_id, attempt, state, queue, worker FROM seawall.task_runs"
        " WHERE error_group_id = %s AND state <> 'success' ORDER BY finished_at DESC LIMIT %s",
        [group.id, _MOST_RUNS],
    )


def open_letters(database: Database, group: Group) -> int:
    """Dead letters of it that nobody has dealt with."""
    query = "SELECT count(*) FROM seawall.dead_letters WHERE error_group_id = %s AND state = 'open'"
    return int(database.fetch_value(query, [group.id]))
