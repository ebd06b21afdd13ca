"""Seawall: Celery that survives production.

Nothing happens at import: no environment is read, no thread, connection or server is started. Celery itself
is imported only when an app is made, so that the command line stays quick and the servers' keeper small.
"""

from typing import TYPE_CHECKING, Any

from seawall import errors, memory
from seawall.boundary import error_boundary
from seawall.breaker import breaker
from seawall.classification import classify, register_failure
from seawall.config import Settings, settings
from seawall.database import database
from seawall.errors import (
    AlreadySubmitted,
    BreakerOpen,
    CommitUnknown,
    ConfigError,
    DatabaseUnavailable,
    LimitReached,
    MemoryBudgetExceeded,
    MessageTooLarge,
    MigrationError,
    Poisoned,
    QueueFull,
    SeawallError,
    StartupError,
)
from seawall.failure import Category, Failure, Severity
from seawall.policy import Limit, Retry, policy
from seawall.priority import Priority
from seawall.recovery import recovers
from seawall.runtime import service

if TYPE_CHECKING:
    from seawall.delivery import submit_many
    from seawall.limits import limit
    from seawall.system import Features, System, bootstrap
    from seawall.worker.app import Seawall, install

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # the app
    "Seawall",
    "install",
    "submit_many",
    # how a task runs
    "policy",
    "Priority",
    "Retry",
    "Limit",
    # what failed
    "classify",
    "register_failure",
    "error_boundary",
    "recovers",
    "Category",
    "Severity",
    "Failure",
    # what a task uses
    "breaker",
    "limit",
    "database",
    "memory",
    # what a process needs while it lives
    "bootstrap",
    "service",
    "Features",
    "System",
    # configuration
    "Settings",
    "settings",
    # what can go wrong
    "errors",
    "SeawallError",
    "ConfigError",
    "StartupError",
    "DatabaseUnavailable",
    "CommitUnknown",
    "MigrationError",
    "Poisoned",
    "MemoryBudgetExceeded",
    "BreakerOpen",
    "LimitReached",
    "AlreadySubmitted",
    "QueueFull",
    "MessageTooLarge",
]


def __getattr__(name: str) -> Any:
    if name in {"Seawall", "install"}:
        from seawall.worker import app

        return getattr(app, name)
    if name in {"bootstrap", "Features", "System"}:
        from seawall import system

        return getattr(system, name)
    if name == "submit_many":
        from seawall.delivery import submit_many

        return submit_many
    if name == "limit":
        from seawall.limits import limit

        return limit
    raise AttributeError(f"module 'seawall' has no attribute {name!r}")
