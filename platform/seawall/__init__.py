"""Seawall: Celery that survives production.

Nothing happens at import: no environment is read, no thread, connection or server is started. What takes long
to import (Celery, pydantic, the clients of the servers) is imported with the first name that needs it, so
that the command line stays quick and the servers' keeper small.
"""

from typing import TYPE_CHECKING, Any, Final

from seawall import errors, memory
from seawall.breaker import breaker
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
from seawall.lazily import imported
from seawall.policies import Limit, Retry, policy
from seawall.priority import Priority

if TYPE_CHECKING:
    from seawall.boundary import error_boundary
    from seawall.classification import classify, register_failure
    from seawall.config import Settings, settings
    from seawall.delivery import submit_many
    from seawall.limits import limit
    from seawall.recovery import recovers
    from seawall.runtime import service
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


_LATER: Final = {
    **dict.fromkeys(("Seawall", "install"), "seawall.worker.app"),
    **dict.fromkeys(("bootstrap", "Features", "System"), "seawall.system"),
    **dict.fromkeys(("Settings", "settings"), "seawall.config"),
    **dict.fromkeys(("classify", "register_failure"), "seawall.classification"),
    "error_boundary": "seawall.boundary",
    "recovers": "seawall.recovery",
    "service": "seawall.runtime",
    "submit_many": "seawall.delivery",
    "limit": "seawall.limits",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'seawall' has no attribute {name!r}")
    found = globals()[name] = imported(module, name)
    return found
