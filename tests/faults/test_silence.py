"""Peers that fall silent: a frozen server, a connection that leads nowhere."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from support import shop
from support.delivery import Server, own_server
from support.nodes import ROOT, StartWorker, start_worker
from support.processes import Proc
from support.proxy import proxy
from support.waiting import busyness, wait_until

LEASE = 15.0
LATE = 5.0
HEARD_WITHIN = 10.0

__all__ = ["start_worker"]  # a fixture

pytestmark = pytest.mark.slow
POOLS = ("cells", "prefork", "threads", "solo")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with own_server(tmp_path / "server", fsync="no") as running:
        yield running


@contextmanager
def app_of(url: str) -> Iterator[Celery]:
    made = shop.create(url)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    assert server.proc is not None
    os.kill(server.proc.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.proc.pid, signal.SIGCONT)


def of(pool: str) -> list[str]:
    return [] if pool == "cells" else ["-P", pool]


def adds(app: Celery, number: int, *, within: float) -> float:
    """Seconds until a task has run."""
    begun = time.monotonic()
    assert app.tasks["shop.add"].delay(number, 1).get(timeout=within * busyness()) == number + 1
    return time.monotonic() - begun


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_whose_connections_lead_nowhere_works_again_within_its_lease(
    server: Server, start_worker: StartWorker, pool: str
) -> None:
    with proxy(server.url) as way, app_of(server.url) as app:
        start_worker("support.shop", "--concurrency=2", *of(pool), env={"SEAWALL_REDIS_URL": way.url})
        adds(app, 1, within=20)
        way.black_hole()
        pause = adds(app, 2, within=LEASE + LATE)
        print(f"{pool}: works again after {pause:.1f} s")  # noqa: T201


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_works_again_when_its_server_goes_on(
    server: Server, start_worker: StartWorker, pool: str
) -> None:
    with app_of(server.url) as app:
        start_worker("support.shop", "--concurrency=2", *of(pool), env={"SEAWALL_REDIS_URL": server.url})
        adds(app, 1, within=20)
        with frozen(server):
            until = time.monotonic() + 12
            wait_until(lambda: time.monotonic() > until, timeout=30)
        pause = adds(app, 2, within=LEASE + LATE)
        print(f"{pool}: works again after {pause:.1f} s")  # noqa: T201


@pytest.mark.parametrize("moment", ["as it starts", "idle", "after the outage was noticed"])
@pytest.mark.parametrize("pool", POOLS)
def test_sigterm_ends_a_worker_whose_server_is_frozen(
    server: Server, start_worker: StartWorker, pool: str, moment: str
) -> None:
    environment = {"SEAWALL_REDIS_URL": server.url}
    starts = moment == "as it starts"
    with frozen(server) if starts else contextlib.nullcontext():
        worker = start_worker("support.shop", "-c", "2", *of(pool), env=environment, wait=not starts)
        with frozen(server):
            if starts:
                wait_until(
                    lambda: "trying again" in worker.logs() or "waits for" in worker.logs(), timeout=40
                )
            elif moment == "after the outage was noticed":
                wait_until(lambda: "broker" in worker.logs().partition("ready.")[2], timeout=40)
            begun = time.monotonic()
            worker.kill("SIGTERM")
            worker.container.wait(60)
            took = time.monotonic() - begun
    print(f"{pool} {moment}: ended after {took:.1f} s")  # noqa: T201
    assert took < (LEASE + LATE) * busyness()


def test_a_producer_hears_within_ten_seconds(server: Server) -> None:
    with app_of(server.url) as app:
        app.tasks["shop.add"].delay(1, 1)
        for _ in range(2):
            with frozen(server):
                begun = time.monotonic()
                with pytest.raises(OperationalError):
                    app.tasks["shop.add"].delay(1, 1)
                took = time.monotonic() - begun
            print(f"heard after {took:.1f} s")  # noqa: T201
            assert took < HEARD_WITHIN + 0.5 * busyness()


COMMANDS = {
    "status": ["status"],
    "breakers": ["breakers", "list"],
    "queues": ["queues", "list"],
    "dead": ["dead", "list"],
    "doctor": ["doctor"],
    "memory": ["memory", "show"],
}


@pytest.mark.parametrize("interrupted", [False, True], ids=["to the end", "Ctrl-C"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_ends_in_time_while_the_server_is_frozen(
    server: Server, tmp_path: Path, database_url: str, command: list[str], interrupted: bool
) -> None:
    environment = {
        "SEAWALL_REDIS_URL": server.url,
        "SEAWALL_DATABASE_URL": database_url,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests", ROOT))),
    }
    argv = [str(Path(sys.executable).with_name("seawall")), *command]
    with frozen(server):
        program = Proc(argv, log=tmp_path / "log", env=environment, cwd=ROOT)
        try:
            if interrupted:
                wait_until(lambda: waits(program, server), timeout=20, what="it to ask the server")
                program.signal(signal.SIGINT)
            begun = time.monotonic()
            program.wait(60)
            took = time.monotonic() - begun
        except subprocess.TimeoutExpired:
            took = float("inf")
        finally:
            program.destroy()
    print(f"{command}: ended after {took:.1f} s: {program.output[-300:]}")  # noqa: T201
    assert took < (2 if interrupted else 20) * busyness(), program.output
    assert "Traceback" not in program.output


def waits(program: Proc, server: Server) -> bool:
    """Whether it is connected to the server, or has ended."""
    if program.popen.poll() is not None:
        return True
    return any(
        each.raddr and each.raddr.port == server.port
        for process in program.tree()
        for each in process.net_connections("tcp")
    )
