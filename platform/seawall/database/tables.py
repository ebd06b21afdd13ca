"""The platform's own tables as its code expects them; `seawall migrate check` compares."""

from typing import Final

from seawall.database.schema import Table

_TIME: Final = "timestamp with time zone"

TABLES: Final = (
    Table(
        "seawall.task_runs",
        {
            "finished_at": _TIME,
            "task_id": "text",
            "attempt": "integer",
            "state": "text",
            "priority": "smallint",
            "name": "text",
            "queue": "text",
            "worker": "text",
            "enqueued_at": _TIME,
            "started_at": _TIME,
            "wait_ms": "integer",
            "run_ms": "integer",
            "peak_rss_kib": "integer",
            "error_group_id": "bigint",
            "meta": "jsonb",
        },
        ("task_runs_pkey", "task_runs_task_id", "task_runs_failures", "task_runs_finished_at"),
    ),
    Table(
        "seawall.dead_letters",
        {
            "id": "bigint",
            "task_id": "text",
            "name": "text",
            "queue": "text",
            "args": "jsonb",
            "kwargs": "jsonb",
            "headers": "jsonb",
            "size": "bigint",
            "error_group_id": "bigint",
            "traceback": "text",
            "first_failed_at": _TIME,
            "dead_at": _TIME,
            "reason": "text",
            "attempts": "integer",
            "state": "text",
            "resolved_by": "text",
            "resolved_at": _TIME,
        },
        ("dead_letters_pkey", "dead_letters_open", "dead_letters_dead_at", "dead_letters_error_group"),
    ),
    Table(
        "seawall.error_groups",
        {
            "id": "bigint",
            "fingerprint": "text",
            "exception": "text",
            "task": "text",
            "category": "text",
            "severity": "text",
            "status": "text",
            "first_seen": _TIME,
            "last_seen": _TIME,
            "count": "bigint",
            "sample": "text",
        },
        ("error_groups_pkey", "error_groups_fingerprint", "error_groups_last_seen"),
    ),
    Table(
        "seawall.breaker_transitions",
        {
            "id": "bigint",
            "at": _TIME,
            "name": "text",
            "before": "text",
            "after": "text",
            "reason": "text",
            "worker": "text",
            "epoch": "bigint",
            "cause": "text",
            "author": "text",
            "calls": "bigint",
            "failed": "bigint",
            "slow": "bigint",
            "scope": "text",
        },
        (
            "breaker_transitions_pkey",
            "breaker_transitions_name",
            "breaker_transitions_at",
            "breaker_transitions_once",
        ),
    ),
    Table(
        "seawall.record_journals",
        {"journal": "text", "applied": "bigint", "at": _TIME},
        ("record_journals_pkey",),
    ),
)
