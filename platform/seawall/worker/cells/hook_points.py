"""The functions of prefork that tools wrap to be there when a process ends.

Sentry wraps `billiard.pool.Worker.workloop`, to send what it has gathered; New Relic wraps
`celery.concurrency.prefork.process_destructor`, to end its agent. A cell is no billiard process and ends by
`os._exit`, so what stands there would never be called: it lives inside these two functions instead.

tests/integration/test_observability.py looks at what arrives from prefork and from cells.
"""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import billiard.pool
from celery.concurrency import prefork

_prefork: Any = prefork  # celery-types lacks half of it


def live_within(live: Callable[[], int], hostname: str) -> int:
    """The exit status of `live`, called where a process of prefork would work; `hostname` is the worker's."""
    code = 1
    try:
        _Worker(live).workloop()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        _prefork._process_hostname = hostname  # noqa: SLF001 - the sender of the signal
        _prefork.process_destructor(os.getpid(), code)
    return code


class _Worker(billiard.pool.Worker):
    """All that `Worker.workloop` asks of its worker; a cell's life is what it waits for as its first job."""

    def __init__(self, live: Callable[[], int]) -> None:  # not super().__init__(): that makes pipes
        asked: dict[str, Any] = dict.fromkeys(("inqW_fd", "synqW_fd", "maxtasks", "max_memory_per_child"))
        asked |= dict.fromkeys(("prepare_result", "wait_for_syn", "on_ready_counter"))
        vars(self).update(asked, outq=SimpleNamespace(put=lambda _: None))
        self._live = live

    def wait_for_job(self) -> Any:
        raise SystemExit(self._live())
