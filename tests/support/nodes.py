"""pytest-celery's nodes, each a process of this machine instead of a Docker container.

pytest-celery gives tests a `celery_setup`: broker, backend and worker nodes with `ready`, `kill`, `restart`,
`logs`, `assert_log_exists`. Its containers are Docker's; `ProcessContainer` has the same face over a worker
in a session of its own, and `ServerContainer` over a server that runs already.

For a test that needs other workers than the default one there is the fixture `start_worker`; for one that
needs neither fork nor signals `thread_worker`, which is quicker.
"""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import celery as celery_package
import psutil
import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker as start_in_thread
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestContainer,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from support import shop
from support.processes import Proc
from support.waiting import wait_until

__all__ = [
    "celery_backend_cluster",
    "celery_broker_cluster",
    "celery_setup_app",
    "celery_worker_cluster",
    "shop_app",
    "start_worker",
    "thread_worker",
]

READY = "ready."
ROOT = Path(__file__).resolve().parents[2]
StartWorker = Callable[..., CeleryTestWorker]
ThreadWorker = Callable[[Celery], contextlib.AbstractContextManager[Any]]


class ProcessContainer(CeleryTestContainer):  # type: ignore[misc] # pytest-celery has no types
    """A worker process, started at once, with the face of pytest-celery's container.

    `options` follow `celery -A application worker`. The log of all its starts is one file in `directory`;
    readiness is looked for only after the latest start.
    """

    def __init__(
        self, application: str, *options: str, directory: Path, env: Mapping[str, str], queue: str = "celery"
    ) -> None:
        # Not super().__init__(): that is where Docker comes in.
        self._id = uuid.uuid4().hex
        self._queue = queue
        self._env = dict(env)
        self._directory = directory
        self._log = directory / f"{self.id[:12]}.log"
        self._argv = [
            *(sys.executable, "-m", "seawall.worker", "-A", application, "worker"),
            *("-n", f"{self.worker_name()}@{self.id[:12]}", "-Q", queue, "-l", self.log_level()),
            "--without-mingle",  # it waits a second for neighbours
            *options,
        ]
        self._start()

    def _start(self) -> None:
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._proc = Proc(self._argv, log=self._log, env=self._env, cwd=self._directory)

    @property
    def id(self) -> str:
        return self._id

    @property
    def name(self) -> str:
        return f"{self.worker_name()}-{self.id[:12]}"

    @property
    def env(self) -> dict[str, str]:
        return self._env

    @property
    def attrs(self) -> dict[str, Any]:
        return {"Id": self.id, "State": {"Status": self.status, "Pid": self.pid}}

    @property
    def status(self) -> str:
        return "running" if self._proc.popen.poll() is None else "exited"

    @property
    def pid(self) -> int:
        return self._proc.pid

    def children(self) -> list[psutil.Process]:
        """The processes that run this worker's tasks."""
        return self._proc.tree()[1:]

    def reload(self) -> None:
        """Nothing: what is asked is looked up, not remembered."""

    def kill(self, signal: str | int | signal.Signals = "SIGKILL") -> None:
        """Signal the worker's main process; SIGKILL goes to all of its session, as it does in a container."""
        signum = _signal(signal)
        with contextlib.suppress(ProcessLookupError):
            if signum == _signal("SIGKILL"):
                os.killpg(self.pid, signum)
            else:
                os.kill(self.pid, signum)
        if signum == _signal("SIGKILL"):
            self._proc.destroy()

    def wait(self, timeout: float = 30.0) -> int:
        """The exit status, once the worker has ended by itself; where it does not, its log has its stacks."""
        try:
            return self._proc.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill("SIGUSR1")
            with contextlib.suppress(AssertionError):
                wait_until(lambda: "LOCAL VARIABLES" in self.logs(), timeout=5)
            raise

    def restart(self, timeout: float = 10.0) -> None:
        """Stop it as Docker does, SIGTERM and SIGKILL after `timeout` seconds, and start it again."""
        if self.status == "running":
            self.kill("SIGTERM")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(timeout)
        self.start_again()
        self.ready()

    def start_again(self) -> None:
        """Start a process in place of the one that was; it is not waited for."""
        self._proc.destroy()
        self._start()

    def logs(self) -> str:
        """What the worker wrote since its latest start."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")

    @property
    def ready_prompt(self) -> str:
        return READY

    def ready(self) -> bool:
        """Wait until the worker says so; a worker that exits instead fails the test with its log."""

        def said_so() -> bool:
            if self.status == "exited":
                raise AssertionError(f"{self.name} exited {self._proc.popen.returncode}:\n{self.logs()}")
            return READY in self.logs()

        return wait_until(said_so, timeout=60, what=f"{self.name} to be ready")

    def exec_run(self, command: str) -> tuple[int, bytes]:
        """Run a shell command where the worker runs: with its environment and directory."""
        done = subprocess.run(
            ["sh", "-c", command],
            env={**os.environ, **self._env},
            cwd=self._directory,
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def teardown(self) -> None:
        self._proc.destroy()

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {}

    @property
    def client(self) -> psutil.Process:
        return psutil.Process(self.pid)

    # pytest-celery asks these of its containers' classes, and of their instances through the node.
    @classmethod
    def version(cls) -> str:
        return celery_package.__version__

    @classmethod
    def log_level(cls) -> str:
        return "INFO"

    @classmethod
    def worker_name(cls) -> str:
        return "shop"

    def worker_queue(self) -> str:
        return self._queue


class ServerContainer(CeleryTestContainer):  # type: ignore[misc]
    """A server that others started and will stop: only its URL matters here."""

    status = "running"
    id = name = "embedded-server"

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def celeryconfig(self) -> dict[str, str]:
        return {"url": self._url, "host_url": self._url}

    def ready(self) -> bool:
        return True

    def reload(self) -> None:
        """Nothing: see `ProcessContainer.reload`."""

    def logs(self) -> str:
        return ""


def environment(redis_url: str, **more: str) -> dict[str, str]:
    """The variables of a worker that talks to `redis_url` and imports what the tests import."""
    return {
        "SEAWALL_REDIS_URL": redis_url,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests", ROOT))),
        # A worker that would start the embedded servers by mistake must not start the developer's own.
        "SEAWALL_HOME": "unused",
        **more,
    }


def producer_of(create: Callable[[str], Celery]) -> Any:
    """The fixture `app` of a module of tests: the producer's side of a module of `support`."""

    @pytest.fixture(name="app")
    def producer(redis_url: str) -> Iterator[Celery]:
        made = create(redis_url)
        yield made
        made.close()

    return producer


@pytest.fixture
def shop_app(redis_url: str) -> Iterator[Celery]:
    """The producer's side of `support.shop`."""
    app = shop.create(redis_url)
    yield app
    app.close()


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker process and waits until it is ready; all of them end with the test.

    `start_worker("module", "--concurrency=2", env={...})`; without a module it runs `support.shop`.
    """
    with contextlib.ExitStack() as stack:

        def start(
            application: str = "support.shop",
            *options: str,
            env: Mapping[str, str] | None = None,
            queue: str = "celery",
            wait: bool = True,
        ) -> CeleryTestWorker:
            variables = environment(redis_url, **(env or {}))
            container = ProcessContainer(
                application, *options, directory=tmp_path, env=variables, queue=queue
            )
            stack.callback(container.teardown)
            if wait:
                container.ready()
            return CeleryTestWorker(container, app=None)

        yield start


@pytest.fixture
def thread_worker() -> ThreadWorker:
    """A worker in a thread of this process, for as long as the context lasts that it is called for."""

    @contextlib.contextmanager
    def run(app: Celery) -> Iterator[Any]:
        with start_in_thread(app, perform_ping_check=False, shutdown_timeout=20.0) as worker:
            yield worker

    return run


@pytest.fixture
def celery_broker_cluster(redis_url: str) -> Iterator[CeleryBrokerCluster]:
    cluster = CeleryBrokerCluster(CeleryTestBroker(ServerContainer(redis_url)))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster(redis_url: str) -> Iterator[CeleryBackendCluster]:
    cluster = CeleryBackendCluster(CeleryTestBackend(ServerContainer(redis_url)))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_setup_app(shop_app: Celery) -> Celery:
    """Instead of pytest-celery's plain app: the one whose tasks the workers run."""
    return shop_app


@pytest.fixture
def celery_worker_cluster(
    start_worker: StartWorker, celery_setup_app: Celery
) -> Iterator[CeleryWorkerCluster]:
    """One worker with two processes, ready when the test starts."""
    worker = start_worker("support.shop", "--concurrency=2")
    cluster = CeleryWorkerCluster(CeleryTestWorker(worker.container, app=celery_setup_app))
    yield cluster
    cluster.teardown()


def _signal(name: str | int) -> signal.Signals:
    return signal.Signals[name] if isinstance(name, str) else signal.Signals(name)


def processes_of(worker: CeleryTestWorker) -> Sequence[psutil.Process]:
    """The processes in which `worker` runs tasks, once there is at least one."""
    return wait_until(worker.container.children, timeout=20, what="a pool process")
