"""`seawall doctor`: looks at servers, settings, fleet and machine, and says what to change.

It changes nothing. Each audit gathers facts and then decides in plain functions; a finding has a stable name,
a severity, a reason and a fix.
"""

from typing import TYPE_CHECKING

from seawall import servers
from seawall.config import settings
from seawall.doctor.celery import audit_celery
from seawall.doctor.finding import Finding, Severity
from seawall.doctor.machine import (
    Machine,
    audit_fleet,
    audit_machine,
    audit_settings,
    cells,
    database_connections,
    redis_clients,
    workers,
)
from seawall.doctor.postgres import audit_postgres
from seawall.doctor.queues import audit_queues
from seawall.doctor.redis import audit_redis
from seawall.doctor.versions import audit_versions
from seawall.startup import expected_tables, histories
from seawall.urls import REDIS_SCHEMES, scheme_of

if TYPE_CHECKING:
    from celery import Celery

    from seawall.database.migrations import Migrations
    from seawall.fleet import FleetSpec

__all__ = [
    "Finding",
    "Machine",
    "Severity",
    "audit_celery",
    "audit_fleet",
    "audit_machine",
    "audit_postgres",
    "audit_queues",
    "audit_redis",
    "audit_settings",
    "audit_versions",
    "examine",
]


def examine(
    app: "Celery", spec: "FleetSpec | None" = None, *, machine: Machine | None = None
) -> list[Finding]:
    """Everything there is to say of what `audit_versions` accepts, the worst first."""
    machine, current = machine or Machine.here(), settings()
    longest = app.conf.task_time_limit
    found = [
        *audit_settings(current, longest_task=longest),
        *audit_celery(app, spec),
        *(audit_fleet(spec, machine, longest_task=longest) if spec is not None else ()),
        *audit_machine(machine, cells(spec, machine.cores) + workers(spec)),
        *(
            finding
            for url in _redis_urls(app)
            for finding in audit_redis(url, clients=redis_clients(spec, machine.cores))
        ),
        *audit_queues(app),
        *audit_postgres(
            servers.database_url(),
            demand=database_connections(spec, current, machine.cores),
            migrations=_migrations,
        ),
    ]
    severities = list(Severity)
    return sorted(found, key=lambda finding: severities.index(finding.severity))


def _redis_urls(app: "Celery") -> list[str]:
    """The Redis of the settings, and the broker where that is another one."""
    broker = app.conf.broker_url if isinstance(app.conf.broker_url, str) else app.conf.broker_url[0]
    own = broker.partition(";")[0]
    return list(dict.fromkeys([servers.redis_url(), *([own] if scheme_of(own) in REDIS_SCHEMES else [])]))


def _migrations() -> "Migrations":
    from seawall.database.migrations import Migrations

    return Migrations(servers.migration_url(), histories(), expected=expected_tables())
