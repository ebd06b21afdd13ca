"""A pytest plugin for Celery's own integration tests: their app is a `Seawall`, their prefork pool our cells.

    pytest -p seawall_in_celerys_tests t/integration

The tests are Celery's, unchanged. Their worker lives in a thread of pytest's process, which makes that
process the supervisor; Celery's embedded worker brings the logs of its children back through a queue, which
is done here for cells as it is there for prefork. With CELERYS_DEFAULTS=1 the settings in which a Seawall app
starts from other values than Celery, and which the tests assert, have Celery's values.
"""

import functools
import os
from logging import getLogger
from logging.handlers import QueueListener
from typing import Any

import billiard
from celery import concurrency
from celery.contrib.testing import app as testing_app
from celery.contrib.testing import worker as testing_worker
from tblib import pickling_support

from seawall import Seawall
from seawall.worker.cells.pool import Pool
from seawall.worker.defaults import CELLS_POOL

_testing_app: Any = testing_app
_testing_worker: Any = testing_worker
_concurrency: Any = concurrency

CELERYS = {
    "task_acks_late": False,
    "worker_deduplicate_successful_tasks": False,
    "task_default_priority": None,
    "task_queue_max_priority": None,
    "task_soft_time_limit": None,
    "task_time_limit": None,
}


class _Worker(_testing_worker.TestWorkController):  # type: ignore[misc]
    """Celery's embedded worker, whose records of cells reach the handlers of this process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not issubclass(self.pool_cls, Pool):  # one test asks for the solo pool
            return
        self.logger_queue = billiard.Queue()
        self.pid = os.getpid()
        pickling_support.install()
        root: Any = getLogger()  # it handles records as a handler does
        self.queue_listener = QueueListener(self.logger_queue, root)
        self.queue_listener.start()


def _seawall(*args: Any, **kwargs: Any) -> Seawall:
    app = Seawall(*args, **kwargs)
    if os.environ.get("CELERYS_DEFAULTS"):
        app.add_defaults(lambda: dict(CELERYS))
    return app


_concurrency.ALIASES["prefork"] = CELLS_POOL
_testing_app.Celery = _seawall
_testing_worker.start_worker = functools.partial(_testing_worker.start_worker, WorkController=_Worker)
