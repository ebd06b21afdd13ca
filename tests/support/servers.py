"""Embedded servers for tests: one pair per test process, a clean Redis and a fresh database per test."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis
from psycopg import sql

from seawall.embedded import Servers, attach, status
from seawall.embedded.home import lock
from support.processes import alive
from support.waiting import wait_until

_MARK = "PYTEST_SEAWALL_SESSION"


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A home with a short path, open to the user that root's servers run as; gone at the end, servers too."""
    above = Path(tempfile.mkdtemp(prefix="seawall-"))
    above.chmod(0o711)
    try:
        yield above / "home"
    finally:
        stop(above / "home")
        shutil.rmtree(above)


def stop(home: Path) -> None:
    """End the keeper of `home`, whoever uses it, and wait until all of its processes are gone."""
    before = status(home)
    if before.running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(before.pids["keeper"], signal.SIGTERM)
        wait_until(lambda: not status(home).running, timeout=20, what="the keeper to leave")
    directory = before.directory
    if directory is not None and directory.exists():
        descriptor = os.open(directory, os.O_RDONLY)
        lock(descriptor, time.monotonic() + 20)  # the last of the servers' processes gives it up
        os.close(descriptor)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of this test's own, whose servers leave soon after their last user."""
    monkeypatch.setenv("SEAWALL_EMBEDDED__LINGER", "0.1")
    with temporary_home() as path:
        yield path


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Redis and PostgreSQL, shared by all tests of this process: ask for `redis_url` or `database_url`."""
    with temporary_home() as path, attach(path) as attachment:
        yield attachment.servers


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty Redis."""
    url = str(servers.redis_url)
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """A database of this test's own, dropped at its end whoever is still connected."""
    admin = str(servers.database_url)
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield urlsplit(admin)._replace(path=f"/{name}").geturl()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session", autouse=True)
def no_file_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What processes leave among temporary files when a test kills them goes with the last test."""
    tmp_path_factory.getbasetemp()  # pytest's own files lie where they always do, and so do this process's
    with tempfile.TemporaryDirectory(prefix="seawall-") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o1777)  # as the one above it: root's servers run as another user
        patch.setenv("TMPDIR", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_process_left(no_file_left: None) -> Iterator[None]:
    """Every process that a test starts inherits a mark in its environment; at the end none may be left."""
    mark = uuid.uuid4().hex
    os.environ[_MARK] = mark
    yield

    def marked() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                    found += alive([process])
        return found

    try:
        wait_until(lambda: not marked(), timeout=10, what="the end of all processes that tests started")
    except AssertionError as exc:
        left = [(process.pid, process.cmdline()) for process in marked()]
        for process in marked():
            process.kill()
        raise AssertionError(f"{exc}; left and killed: {left}") from None
