"""The side that knows the tables: rows as journals hold them become rows of PostgreSQL, in one transaction.

Runs pass through as the text they are: one JSON array a batch, taken apart by the server. Failures are summed
up by their fingerprint first and written in its order, so that workers that see the same problems do not wait
for each other crosswise.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from seawall.database.sqlstate import waits
from seawall.errors import SeawallError

logger = logging.getLogger(__name__)

RUN: Final = (
    "finished_at", "task_id", "attempt", "state", "priority", "name", "queue", "worker", "enqueued_at",
    "started_at", "wait_ms", "run_ms", "peak_rss_kib", "fingerprint", "meta",
)  # fmt: skip
"""The fields of a run, in their order; moments are seconds since the epoch.

`peak_rss_kib` is the most that the run's process held (`seawall.memory.meter`). The column has its name from
when pages of files were counted too.
"""

_RUNS: Final = """
    INSERT INTO seawall.task_runs (finished_at, task_id, attempt, state, priority, name, queue, worker,
        enqueued_at, started_at, wait_ms, run_ms, peak_rss_kib, error_group_id, meta)
    SELECT to_timestamp((r ->> 0)::float8), r ->> 1, (r ->> 2)::integer, r ->> 3, (r ->> 4)::smallint,
        r ->> 5, r ->> 6, r ->> 7, to_timestamp((r ->> 8)::float8), to_timestamp((r ->> 9)::float8),
        (r ->> 10)::integer, (r ->> 11)::integer, (r ->> 12)::integer,
        CASE WHEN r ->> 13 IS NOT NULL
            THEN (SELECT id FROM seawall.error_groups WHERE fingerprint = r ->> 13) END,
        nullif(r -> 14, 'null')
    FROM jsonb_array_elements(%s::jsonb) AS r
    ON CONFLICT DO NOTHING
"""
_GROUPS: Final = """
    INSERT INTO seawall.error_groups AS known
        (fingerprint, exception, task, category, severity, first_seen, last_seen, count, sample)
    SELECT g ->> 'fingerprint', g ->> 'exception', g ->> 'task', g ->> 'category', g ->> 'severity',
        to_timestamp((g ->> 'first')::float8), to_timestamp((g ->> 'last')::float8), (g ->> 'count')::bigint,
        g ->> 'sample'
    FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS each (g, place) ORDER BY place
    ON CONFLICT (fingerprint) DO UPDATE SET
        first_seen = least(known.first_seen, excluded.first_seen),
        last_seen = greatest(known.last_seen, excluded.last_seen),
        count = known.count + excluded.count,
        sample = coalesce(excluded.sample, known.sample),
        status = CASE known.status WHEN 'resolved' THEN 'open' ELSE known.status END
"""
_LETTERS: Final = """
    INSERT INTO seawall.dead_letters AS known (task_id, name, queue, args, kwargs, headers, size,
        error_group_id, traceback, first_failed_at, dead_at, reason, attempts)
    SELECT DISTINCT ON (d ->> 'task_id') d ->> 'task_id', d ->> 'name', d ->> 'queue', d -> 'args',
        d -> 'kwargs', d -> 'headers', (d ->> 'size')::bigint,
        (SELECT id FROM seawall.error_groups WHERE fingerprint = d ->> 'fingerprint'), d ->> 'traceback',
        coalesce((SELECT min(finished_at) FROM seawall.task_runs
            WHERE task_id = d ->> 'task_id' AND state = 'retried'), to_timestamp((d ->> 'at')::float8)),
        to_timestamp((d ->> 'at')::float8), d ->> 'reason', (d ->> 'attempts')::integer
    FROM jsonb_array_elements(%s::jsonb) AS d ORDER BY d ->> 'task_id', (d ->> 'at')::float8 DESC
    ON CONFLICT (task_id) WHERE state = 'open' DO UPDATE SET
        error_group_id = excluded.error_group_id, traceback = excluded.traceback, dead_at = excluded.dead_at,
        reason = excluded.reason, attempts = excluded.attempts, headers = excluded.headers
"""
_TRANSITIONS: Final = """
    INSERT INTO seawall.breaker_transitions
        (at, name, epoch, before, after, cause, reason, author, calls, failed, slow, worker, scope)
    SELECT to_timestamp(coalesce((b ->> 'at')::numeric, (b ->> 'epoch')::numeric / 1e6)),
        b ->> 'name', (b ->> 'epoch')::bigint,
        b ->> 'before', b ->> 'after', b ->> 'cause', b ->> 'reason', b ->> 'author',
        (b ->> 'calls')::bigint, (b ->> 'failed')::bigint, (b ->> 'slow')::bigint, b ->> 'by',
        coalesce(b ->> 'scope', 'cluster')
    FROM jsonb_array_elements(%s::jsonb) AS b ORDER BY 2, 3
    ON CONFLICT (name, epoch) DO NOTHING
"""
_APPLIED: Final = """
    INSERT INTO seawall.record_journals (journal, applied)
    SELECT * FROM unnest(%s::text[], %s::bigint[]) ORDER BY 1
    ON CONFLICT (journal) DO UPDATE SET applied = excluded.applied, at = now()
"""


_REASON: Final = 500


@dataclass(slots=True)
class Batch:
    """Rows of several journals, and how far into each they reach."""

    reached: dict[str, int] = field(default_factory=dict)
    runs: list[bytes] = field(default_factory=list)
    letters: list[bytes] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)
    transitions: list[bytes] = field(default_factory=list)
    gaps: list[bytes] = field(default_factory=list)

    def add(self, journal: str, start: int, text: bytes, most: int) -> None:
        """Take lines from `text`, which begins at `start` of the journal, until there are `most` rows."""
        by_kind = {
            b"r": self.runs,
            b"d": self.letters,
            b"e": self.failures,
            b"b": self.transitions,
            b"g": self.gaps,
        }
        position = start
        for row in text.splitlines(keepends=True):
            if len(self) >= most:
                break
            position += len(row)
            rows = by_kind.get(row[:1])
            if rows is not None and row.endswith(b"\n"):
                rows.append(row[1:-1])
            elif row != b"\n":
                self.gaps.append(b'{"rows":1,"why":"it was cut off"}')
        self.reached[journal] = position

    def __len__(self) -> int:
        kinds = (self.runs, self.letters, self.failures, self.transitions, self.gaps)
        return sum(len(rows) for rows in kinds)

    def lost(self) -> list[tuple[int, str]]:
        """What journals say is missing: how many rows, and why."""
        return [_parsed(row) or (1, "it was cut off") for row in self.gaps]

    def alone(self) -> "list[Batch]":
        """Each row in a batch of its own, for one of which the server takes exception to."""
        return [
            *(Batch(failures=[row]) for row in self.failures),
            *(Batch(runs=[row]) for row in self.runs),
            *(Batch(letters=[row]) for row in self.letters),
            *(Batch(transitions=[row]) for row in self.transitions),
        ]


def write(connection: psycopg.Connection[Any], batch: Batch) -> None:
    """All rows of a batch, and how far it reaches, inside the caller's transaction."""
    if batch.failures:
        connection.execute(_GROUPS, [json.dumps(_summed_up(batch.failures))])
    if batch.runs:
        connection.execute(_RUNS, [_array(batch.runs)])
    if batch.letters:
        connection.execute(_LETTERS, [_array(batch.letters)])
    if batch.transitions:
        connection.execute(_TRANSITIONS, [_array(batch.transitions)])
    if batch.reached:
        connection.execute(_APPLIED, [list(batch.reached), list(batch.reached.values())])


def write_apart(connection: psycopg.Connection[Any], batch: Batch) -> list[str]:
    """As `write`, row by row; what the server takes exception to is left out and returned in words."""
    refused = []
    for one in batch.alone():
        try:
            with connection.transaction():
                write(connection, one)
        except Exception as exc:
            if not of_a_row(exc):
                raise
            refused.append(" ".join(f"{type(exc).__name__}: {exc}".split())[:_REASON])
    write(connection, Batch(reached=batch.reached))
    return refused


def of_a_row(error: Exception) -> bool:
    """Whether `error` comes from what a row holds, so that the row is left out and the others are written.

    PostgreSQL and our pool say that something is away by a closed list of errors. All else is about the row,
    whatever class it has: `program_limit_exceeded`, say, is psycopg's OperationalError.
    """
    if isinstance(error, psycopg.Error):
        return not waits(error)
    return not isinstance(error, SeawallError | OSError)


def applied(connection: psycopg.Connection[Any], journals: Sequence[str]) -> dict[str, int]:
    """How far each of these journals was written; 0 for those that never were."""
    query = "SELECT journal, applied FROM seawall.record_journals WHERE journal = ANY(%s)"
    rows = connection.execute(query, [list(journals)]).fetchall()
    return {**dict.fromkeys(journals, 0), **{row["journal"]: row["applied"] for row in rows}}


def forget(connection: psycopg.Connection[Any], journals: Iterable[str]) -> None:
    """These journals are deleted."""
    connection.execute("DELETE FROM seawall.record_journals WHERE journal = ANY(%s)", [list(journals)])


def _array(rows: list[bytes]) -> str:
    return "[" + b",".join(rows).decode() + "]"


def _summed_up(failures: Iterable[bytes]) -> list[dict[str, Any]]:
    """One entry a fingerprint, in its order: first and last moment, count, the last sample."""
    groups: dict[str, dict[str, Any]] = {}
    for row in failures:
        seen = json.loads(row)
        at = seen.pop("at")
        group = groups.setdefault(seen["fingerprint"], {**seen, "first": at, "last": at, "count": 0})
        group["first"], group["last"] = min(group["first"], at), max(group["last"], at)
        group["count"] += 1
        group["sample"] = seen["sample"] or group["sample"]
    return [groups[fingerprint] for fingerprint in sorted(groups)]


def _parsed(row: bytes) -> tuple[int, str] | None:
    """What a gap says: how many rows are missing, and why."""
    try:
        found = json.loads(row)
        return int(found["rows"]), str(found["why"])
    except Exception:  # noqa: BLE001 - whatever stands there, it is no gap of ours
        return None
