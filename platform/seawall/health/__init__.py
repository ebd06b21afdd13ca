"""Whether a process lives, is ready, and has started: answered at once, whatever its servers do."""

from seawall.health.checks import Beat, Check, CheckReport, Health, HealthReport, Question
from seawall.health.probes import broker_answers, database_answers, redis_answers, server_checks
from seawall.health.serving import HealthServer, ask

__all__ = [
    "Beat",
    "Check",
    "CheckReport",
    "Health",
    "HealthReport",
    "HealthServer",
    "Question",
    "ask",
    "broker_answers",
    "database_answers",
    "redis_answers",
    "server_checks",
]
