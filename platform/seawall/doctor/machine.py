"""This machine and the fleet on it: memory, processors, files, and settings that contradict."""

import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from seawall.doctor.finding import Finding, error, info, warning
from seawall.quantity import format_bytes

if TYPE_CHECKING:
    from seawall.config import Settings
    from seawall.fleet import FleetSpec

_LEAST_CELL: Final = 64 * 1024 * 1024
_LEAST_FILES: Final = 1024  # what most systems allow; a process of ours opens about 60, its tasks some
_FILES_OF_A_CELL: Final = 32
_CROWDED: Final = 4  # processes to a processor
_CONNECTIONS_OF_A_CELL: Final = 8  # to Redis: consuming, renewing, results, events, shared state
_GROUPS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What there is to share."""

    memory: int
    cores: int
    files: int

    @classmethod
    def here(cls) -> "Machine":
        """This one, as its control group sees it."""
        return cls(
            memory=min(psutil.virtual_memory().total, *_group_limits()),
            cores=len(os.sched_getaffinity(0)),
            files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )


def cells(spec: "FleetSpec | None", cores: int) -> int:
    """How many processes run tasks."""
    if spec is None:
        return cores
    return sum(each.processes * (each.concurrency or cores) for each in spec.workers.values())


def workers(spec: "FleetSpec | None") -> int:
    """How many workers there are."""
    return 1 if spec is None else sum(each.processes for each in spec.workers.values())


def redis_clients(spec: "FleetSpec | None", cores: int) -> int:
    """About how many connections to Redis the fleet opens."""
    return _CONNECTIONS_OF_A_CELL * (cells(spec, cores) + workers(spec))


def database_connections(spec: "FleetSpec | None", settings: "Settings", cores: int) -> int:
    """How many connections to PostgreSQL the fleet may hold, or needs at least: one for each process."""
    return settings.database.max_connections or cells(spec, cores) + workers(spec)


def audit_fleet(spec: "FleetSpec", machine: Machine, *, longest_task: float | None) -> Iterator[Finding]:
    """What fleet.toml asks of the machine."""
    budgets = [each.memory * each.processes for each in spec.workers.values() if each.memory]
    if sum(budgets) > machine.memory:
        yield error(
            "fleet.memory",
            f"the workers' budgets add up to {format_bytes(sum(budgets))} and there are "
            f"{format_bytes(machine.memory)}: the kernel will kill",
            "lower `memory` or `processes` in fleet.toml",
        )
    for name, profile in spec.workers.items():
        share = (profile.memory or 0) // (profile.concurrency or machine.cores)
        if profile.memory and share < _LEAST_CELL:
            yield warning(
                "fleet.cell_memory",
                f"[workers.{name}] leaves each cell {format_bytes(share)}, less than Python and an app take",
                "raise `memory` or lower `concurrency`",
            )
    if cells(spec, machine.cores) > _CROWDED * machine.cores:
        yield warning(
            "fleet.concurrency",
            f"{cells(spec, machine.cores)} processes for {machine.cores} processors",
            'lower `concurrency`, or use pool = "threads" for tasks that wait',
        )
    if longest_task and spec.drain_timeout < longest_task:
        yield info(
            "fleet.drain",
            f"drain_timeout={spec.drain_timeout:g} s is below the longest task's {longest_task:g} s: "
            "a shutdown drops what still runs, and it runs again",
            "raise drain_timeout, if a second run is dear",
        )


def audit_machine(machine: Machine, processes: int) -> Iterator[Finding]:
    """The limits that a process of the fleet inherits from here."""
    needed = max(_LEAST_FILES, _FILES_OF_A_CELL * processes)
    if machine.files < needed:
        yield warning(
            "machine.files",
            f"a process may open {machine.files} files and the fleet may need {needed}",
            f"ulimit -n {needed}, LimitNOFILE={needed} in a unit, or the container's ulimits",
        )


def audit_settings(settings: "Settings", *, longest_task: float | None) -> Iterator[Finding]:
    """Seawall's own settings that contradict each other or Celery's."""
    limits = settings.database
    if 0 < limits.statement_timeout <= limits.lock_timeout:
        yield warning(
            "settings.lock_timeout",
            f"database.lock_timeout={limits.lock_timeout:g} s is not below statement_timeout="
            f"{limits.statement_timeout:g} s: a lock that is waited for looks like a slow statement",
            "lower SEAWALL_DATABASE__LOCK_TIMEOUT",
        )
    if longest_task and limits.statement_timeout > longest_task:
        yield warning(
            "settings.statement_timeout",
            f"database.statement_timeout={limits.statement_timeout:g} s is above the longest task's "
            f"{longest_task:g} s: the statement of a killed task goes on",
            "lower SEAWALL_DATABASE__STATEMENT_TIMEOUT",
        )
    if settings.redis_url is None and settings.broker_url is None and settings.database_url is not None:
        yield info(
            "settings.embedded",
            "database_url is set and redis_url is not: an embedded server keeps the tasks",
            "set SEAWALL_REDIS_URL where that is not meant",
        )


def _group_limits() -> Iterator[int]:
    yield sys.maxsize
    for path in _GROUPS:
        try:
            with open(path, encoding="ascii") as file:  # noqa: PTH123 - a virtual file
                yield int(file.read())
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
