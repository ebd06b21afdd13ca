"""Fixtures for every test; what they are is said where they are defined."""

import logging
import signal
import sys
from collections.abc import Iterator

import pytest

from seawall import cluster, settings
from seawall.breaker.face import close
from support.recorded import recorded
from support.servers import database_url, home, no_process_left, redis_url, servers

__all__ = ["database_url", "home", "no_process_left", "recorded", "redis_url", "servers"]

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, what tests start would not hear it either


@pytest.fixture(autouse=True)
def _settings_of_this_test() -> Iterator[None]:
    """What a test puts into its environment is read, and forgotten with it; so is the Redis it names.

    Breakers follow that Redis from a thread, and would start embedded servers once no setting names one.
    """
    settings.cache_clear()
    cluster.client.cache_clear()
    yield
    close()
    if (task := sys.modules.get("seawall.worker.task")) is not None:
        task.retry_budget.forget()  # what other tests retried counts for a minute
    settings.cache_clear()
    cluster.client.cache_clear()


@pytest.fixture(autouse=True)
def _logging_of_this_test() -> None:
    """A worker in this process sets the root logger's level, also from a fixture of a whole module."""
    logging.getLogger().setLevel(logging.WARNING)
