"""What began with a worker ends with it, after a cold shutdown too, of which Celery tells nobody."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seawall.cluster import connect
from seawall.worker.heartbeat import workers
from support.nodes import StartWorker, environment
from support.waiting import wait_until


@pytest.mark.parametrize("signum", ["SIGTERM", pytest.param("SIGQUIT", marks=pytest.mark.slow)])
def test_the_cluster_forgets_a_worker_that_has_ended(
    start_worker: StartWorker, redis_url: str, signum: str
) -> None:
    client = connect(redis_url, timeout=10)
    worker = start_worker("support.shop", "--concurrency=1")
    wait_until(lambda: workers(client), what="its heartbeat")
    worker.kill(signum)
    worker.container.wait(20)
    assert workers(client) == {}
    client.close()


@pytest.mark.parametrize(
    "pools", [pytest.param(["solo", "solo", "cells"], marks=pytest.mark.slow), ["cells", "threads", "cells"]]
)
def test_workers_that_follow_each_other_in_one_program_leave_nothing_to_each_other(
    pools: list[str], redis_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.guests", *pools],
        env={**environment(redis_url), "PATH": ""}, cwd=tmp_path, capture_output=True, text=True, timeout=150,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for each in json.loads(done.stdout):
        assert each == {
            "returned": [0, 1, 2] * 3,
            "accounts": ["breakers", "limits", "memory"],
            "left": [],
            "services": ["started", "stopped"],
        }
