"""A process that does nothing but submit says nothing: its output goes into mails and other programs."""

import os
import subprocess
import sys
from pathlib import Path

from support.delivery import own_server
from support.nodes import StartWorker, environment, start_worker

__all__ = ["start_worker"]  # a fixture

PUBLISHES = """
from support import shop
app = shop.create()
app.tasks["shop.add"].delay(1, 2)
app.tasks["shop.add"].apply_async((1, 2), countdown=60)
"""


def test_a_process_that_only_submits_is_silent_and_a_worker_says_what_its_broker_may_lose(
    tmp_path: Path, start_worker: StartWorker
) -> None:
    folder = tmp_path / "server"
    with own_server(folder, extra=("--appendonly", "no")) as server:
        env = {**os.environ, **environment(server.url), "PYTHONWARNINGS": "default"}
        done = subprocess.run(
            [sys.executable, "-c", PUBLISHES], env=env, capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == ("", "")
        worker = start_worker("support.shop", "--concurrency=2", env={"SEAWALL_REDIS_URL": server.url})
        worker.wait_for_log("appendonly is off")
    assert worker.logs().count("appendonly is off") == 1
