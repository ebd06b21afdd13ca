"""Who is speaking to PostgreSQL, as `application_name` and pg_stat_activity show it."""

import functools
from contextvars import ContextVar
from typing import Final

_MOST: Final = 63  # bytes PostgreSQL keeps

_process = "seawall"
_task: ContextVar[str] = ContextVar("seawall_task", default="")


def name_process(name: str) -> None:
    """What this process is, such as `worker1@host`; forked children inherit it."""
    global _process  # noqa: PLW0603 - one process, one name
    _process = name


def name_task(name: str) -> None:
    """What this thread runs from now on; empty for nothing."""
    _task.set(name)


def current() -> str:
    """The process and, if there is one, the task."""
    return _shown(_process, _task.get())


@functools.lru_cache(maxsize=256)
def _shown(process: str, task: str) -> str:
    name = f"{process} {task}" if task else process
    return name.encode(errors="replace")[:_MOST].decode(errors="ignore")
