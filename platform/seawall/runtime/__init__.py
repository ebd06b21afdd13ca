"""What lives as long as a process: services that start in order, stop in reverse, and never half.

    @service("gateway", requires=("redis",), attempts=5, timeout=10)
    def gateway() -> Iterator[Client]:
        with Client() as client:
            yield client

    runtime = Runtime([gateway, ...])
    runtime.start()     # returns when every critical service is up, else raises with nothing left running
    runtime["gateway"]
    runtime.stop()

The runtime knows no server and no Celery; `seawall.bootstrap` declares those.
"""

from seawall.runtime.declaration import Declaration, Service, declaration_of, service
from seawall.runtime.events import (
    RuntimeRolledBack,
    RuntimeStarted,
    RuntimeStopped,
    ServiceAttemptFailed,
    ServiceChanged,
    ServiceLost,
    ServiceReturned,
    ServiceStopFailed,
)
from seawall.runtime.report import ServiceReport, StartReport
from seawall.runtime.runtime import Runtime
from seawall.runtime.states import State

__all__ = [
    "Declaration",
    "Runtime",
    "RuntimeRolledBack",
    "RuntimeStarted",
    "RuntimeStopped",
    "Service",
    "ServiceAttemptFailed",
    "ServiceChanged",
    "ServiceLost",
    "ServiceReport",
    "ServiceReturned",
    "ServiceStopFailed",
    "StartReport",
    "State",
    "declaration_of",
    "service",
]
