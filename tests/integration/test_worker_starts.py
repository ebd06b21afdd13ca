"""What Celery does at a worker's start and at a lost connection, and Seawall spares."""

import sys
from pathlib import Path

import pytest
from celery import Celery
from kombu import pools

from seawall.cluster import connect
from support import reef
from support.nodes import environment, producer_of
from support.processes import Proc
from support.waiting import wait_until

app = producer_of(reef.create)


@pytest.mark.parametrize("pool", ["cells", "threads"])
def test_a_worker_neither_searches_for_neighbours_nor_warns_of_a_setting(
    app: Celery, redis_url: str, tmp_path: Path, pool: str
) -> None:
    argv = [sys.executable, "-m", "seawall.worker", "-A", "support.reef", "worker", "-c1", "-l", "INFO"]
    argv += [] if pool == "cells" else ["-P", pool]
    worker = Proc(argv, log=tmp_path / "worker.log", env=environment(redis_url), cwd=tmp_path)
    try:
        worker.wait_for("ready.")
        with connect(redis_url, timeout=10) as client:

            def lost() -> bool:
                """The worker has said so; one that says "ready" may not have opened every connection yet."""
                client.client_kill_filter(_type="normal", skipme=True)
                client.client_kill_filter(_type="pubsub", skipme=True)
                return "onnection to broker lost" in worker.output

            wait_until(lost, timeout=30, what="the loss")
        assert app.tasks["reef.mark"].delay("after").get(timeout=40) == "after"
        assert "mingle" not in worker.output
        assert "CPendingDeprecationWarning" not in worker.output
    finally:
        worker.destroy()
        pools.reset()  # kombu's, of all applications of this process: theirs were cut as well
