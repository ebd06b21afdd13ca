"""Fixtures for every test; what they are is said where they are defined."""

import logging
import multiprocessing.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import celery.app.builtins  # shares Celery's own tasks, which no test is to be the first to do
import pytest
from celery.result import AsyncResult

from seawall import cluster, settings
from seawall import servers as servers_of_settings
from seawall.breaker.face import close
from seawall.delivery.keeper import keeper
from support.recorded import recorded
from support.servers import database_url, home, no_file_left, no_process_left, redis_url, servers
from support.waiting import busyness

__all__ = ["database_url", "home", "no_file_left", "no_process_left", "recorded", "redis_url", "servers"]

# Under nohup, or in the background of a script, what tests start would not hear these either.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of processes are started; each would compile every module anew where an image sets this.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A test that names no server asks for none by mistake: embedded ones would start in the tree, and stay.
os.environ["SEAWALL_HOME"] = "/dev/null/no-test-asked-for-servers"

collect_ignore_glob = ["support/*"]  # applications under test, some with tests of their own

LONGEST_RUN = 20 * 60.0  # seconds for the plain run, on a machine that has nothing else to do
PATIENT_FROM = 5.0  # seconds; who waits for a result for less expects that there is none

_begun = time.monotonic()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The plain run is a promise to whoever changes the code: it fails when it takes too long."""
    took, most = time.monotonic() - _begun, LONGEST_RUN * busyness()
    plain = "not slow" in session.config.option.markexpr
    if plain and took > most and not hasattr(session.config, "workerinput"):
        sys.stderr.write(
            f"\nthe plain run took {took:.0f} s, more than {most:.0f}: mark slow tests as slow\n"
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def _results_of_a_busy_machine() -> Iterator[None]:
    """Results are waited for as `wait_until` waits: longer while others want the machine too."""
    get = AsyncResult.get

    def patiently(self: Any, timeout: float | None = None, *args: Any, **options: Any) -> Any:
        if timeout is not None and timeout >= PATIENT_FROM:
            timeout *= busyness()
        return get(self, timeout, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncResult, "get", patiently)
        yield


@pytest.fixture(autouse=True)
def _settings_of_this_test(request: pytest.FixtureRequest) -> Iterator[None]:
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
    _leave_embedded_servers(request)


def _leave_embedded_servers(request: pytest.FixtureRequest) -> None:
    """What a test started by mistake, in a thread that outlived its settings, is not for the next one."""
    if servers_of_settings._attachment.cache_info().currsize:
        sys.stderr.write(f"\n{request.node.nodeid} left embedded servers behind\n")
        servers_of_settings._attachment.cache_clear()  # with the last reference goes the connection


@pytest.fixture(autouse=True)
def _shared_tasks_of_this_test() -> Iterator[None]:
    """A task that a test makes is no later test's: unless told otherwise, Celery gives it to every app."""
    shared: set[Any] = vars(celery._state)["_on_app_finalizers"]
    before = frozenset(shared)
    yield
    shared.intersection_update(before)


@pytest.fixture(autouse=True, scope="module")
def _no_claimant_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A channel a module leaves open in this process would speak of its dead server in every later test."""
    yield
    for claimant in keeper.claimants:
        left = f"{claimant.name} of {claimant.queues}"
        sys.stderr.write(f"\n{request.node.nodeid} left a channel open: {left}\n")
        keeper.discard(claimant)


@pytest.fixture(autouse=True)
def _forks_of_this_test() -> None:
    """A forked child closes kombu's pools first, and would wait there for what other tests had asked."""
    vars(multiprocessing.util)["_afterfork_registry"].clear()


@pytest.fixture(autouse=True)
def _logging_of_this_test() -> None:
    """A worker in this process sets the root logger's level, also from a fixture of a whole module."""
    logging.getLogger().setLevel(logging.WARNING)
