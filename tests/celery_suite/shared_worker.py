"""A pytest plugin: Celery's integration tests get a worker process of ours, or stock prefork, as their worker.

`celery.contrib.pytest.celery_session_worker` starts one in a thread of the test's process; here it is what a
user starts, `celery worker`, under the node name that the tests expect. Configured by SUITE_POOL ("cells" or
"prefork") and SUITE_FOLDER, where the worker's log goes.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery.contrib.pytest
import celery.contrib.testing.app
import pytest
from celery.utils.nodenames import anon_nodename
from celery_suite import application

from support.processes import started


@pytest.fixture(scope="session")
def celery_session_worker(celery_session_app: Any, celery_class_tasks: list[Any]) -> Iterator[Any]:
    """The worker process, ready; what the tests get is its app."""
    celery_session_app.loader.import_task_module("t.integration.tasks")
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    argv = [sys.executable, "-m", "celery", "-A", "celery_suite.application", "worker", "-c", "1"]
    argv += ["-n", anon_nodename(), "-l", "INFO", "--without-mingle", "--without-gossip"]
    with started(argv, log=Path(os.environ["SUITE_FOLDER"]) / "worker.log") as worker:
        worker.wait_for("ready.", timeout=60)
        yield celery_session_app


# Its conftest.py takes the fixture from there; the apps of the tests are of the same kind as the worker's.
celery.contrib.pytest.celery_session_worker = celery_session_worker
_plain = celery.contrib.testing.app.TestApp


def _test_app(*arguments: Any, **options: Any) -> Any:
    return application.furnish(_plain(*arguments, **options))


celery.contrib.testing.app.TestApp = _test_app
