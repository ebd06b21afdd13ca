"""Who is speaking to PostgreSQL, as `application_name` and pg_stat_activity show it."""

import functools
import sys
from typing import Final

from seawall.text import storable

_MOST: Final = 63  # bytes PostgreSQL keeps

_process = "seawall"


def name_process(name: str) -> None:
    """What this process is, such as `worker1@host`; forked children inherit it."""
    global _process  # noqa: PLW0603 - one process, one name
    _process = _shown(name)


def current() -> str:
    """The process and, if one runs here, the task."""
    # Asked for each statement: who is in a scope has imported logs, which take long to import.
    logs = sys.modules.get("seawall.logs")
    scope = None if logs is None else logs.scope.get()
    if scope is None or not (task := scope.fields.get("task")):
        return _process
    return _shown(f"{_process} {task}")


@functools.lru_cache(maxsize=256)
def _shown(name: str) -> str:
    return storable(name).encode()[:_MOST].decode(errors="ignore")
