"""A process that stands still, alone or with its machine, takes that for no outage of its servers."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from seawall.database.migrations import Migrations
from seawall.startup import histories
from support import shop
from support.delivery import own_server
from support.nodes import StartWorker, start_worker

__all__ = ["start_worker"]  # a fixture

STALL = 8.0
"""Seconds: more than any timeout towards a server and its tolerance, less than a lease."""


@contextlib.contextmanager
def standing_still(*processes: psutil.Process) -> Iterator[None]:
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def test_a_machine_that_stood_still_is_no_outage(
    tmp_path: Path, start_worker: StartWorker, database_url: str
) -> None:
    Migrations(database_url, histories()).up()
    folder = tmp_path / "server"
    with own_server(folder, fsync="no") as server:
        env = {"SEAWALL_REDIS_URL": server.url, "SEAWALL_DATABASE_URL": database_url}
        env["SEAWALL_DATABASE__SLOW_QUERY"] = "60"  # a statement that was under way did take so long
        worker = start_worker("support.shop", "--concurrency=2", env=env)
        app = shop.create(server.url)
        assert app.tasks["shop.add"].delay(1, 1).get(timeout=20) == 2
        before = len(worker.logs())
        root = psutil.Process(worker.container.pid)
        workers = [root, *root.children(recursive=True)]
        assert server.proc is not None
        for late in (0.0, 0.5):  # seconds for which the server finds no core when the others do
            with standing_still(psutil.Process(server.proc.pid)):
                with standing_still(*workers):
                    time.sleep(STALL)  # what happens to them: nothing is waited for
                time.sleep(late)
            assert app.tasks["shop.add"].delay(1, 2).get(timeout=20) == 3
        app.close()
        after = worker.logs()[before:]
    said = [json.loads(line) for line in after.splitlines() if line.startswith("{")]
    assert [each["event"] for each in said if each["level"] not in {"info", "debug"}] == []
    outages = ("Connected to", "what is parked waits", "does not hear of this worker")
    assert not [each for each in said if any(outage in each["event"] for outage in outages)]
