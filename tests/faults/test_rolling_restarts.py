"""`seawall up` with some workers under load, restarted again and again: nothing is lost, doubled or idle."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from seawall import delivery
from support.delivery import ROOT, Marks, own_server
from support.nodes import environment
from support.processes import started
from support.waiting import busyness, wait_until

RATE = 50.0
SEAWALL = (sys.executable, "-m", "seawall.cli")
FLEET = """
app = "support.marked"
drain_timeout = "60s"
[workers.default]
processes = {workers}
concurrency = 1
options = ["--without-mingle", "--without-gossip"]
[flower]
enabled = false
"""


@contextlib.contextmanager
def load(url: str) -> Iterator[list[int]]:
    """Tasks of 5 ms, steadily; the numbers of those that were accepted."""
    accepted: list[int] = []
    over = threading.Event()

    def run() -> None:
        with Celery("client", broker=url) as app:
            app.conf.update(broker_transport=delivery.transport_for(url))
            for number in itertools.count():
                if over.wait(1 / RATE):
                    return
                app.send_task("support.marked.work", (number, 0.005))
                accepted.append(number)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield accepted
    finally:
        over.set()
        thread.join()


def roll(folder: Path, database_url: str, times: int, workers: int) -> None:
    """Restart a fleet of so many workers so often, and look at what its tasks left behind."""
    spec = folder / "fleet.toml"
    spec.write_text(FLEET.format(workers=workers))
    with own_server(folder / "server") as server:
        variables = environment(
            server.url,
            DELIVERY_BROKER=server.url,
            DELIVERY_MARKS=str(folder / "marks"),
            SEAWALL_DATABASE_URL=database_url,
            SEAWALL_STARTUP__MIGRATIONS="ignore",
            SEAWALL_FLEET=str(spec),
            SEAWALL_HOME=str(folder / "home"),
        )
        _roll(folder, server.url, variables, times)


def _roll(folder: Path, url: str, variables: dict[str, str], times: int) -> None:
    marks = Marks(folder / "marks")
    took = []
    with started([*SEAWALL, "up", "--no-migrate"], log=folder / "log", env=variables, cwd=ROOT) as fleet:
        fleet.wait_for("fleet ready", timeout=120)
        with load(url) as accepted:
            wait_until(lambda: marks.counts("end"), timeout=30, what="the first task")
            for _ in range(times):
                begun = time.monotonic()
                _restart(variables)
                took.append(time.monotonic() - begun)
        wait_until(lambda: len(marks.counts("end")) >= len(accepted), timeout=60, what="every task to end")
        fleet.signal(signal.SIGTERM)
        assert fleet.wait(60) == 0
    starts, ends = marks.counts("start"), marks.counts("end")
    silence = _longest_silence(marks)
    print(  # noqa: T201 - the figures are the point
        f"\n{times} rolling restarts over {len(accepted)} tasks in {sum(took):.0f} s: "
        f"{len(accepted) - len(ends)} lost, {sum(n > 1 for n in starts.values())} started twice; "
        f"longest time without the end of a task {silence:.2f} s"
    )
    assert set(ends) == {str(number) for number in accepted}
    assert set(starts.values()) == set(ends.values()) == {1}
    assert silence < 2.0 * busyness(), "all workers but one go on"


def _longest_silence(marks: Marks) -> float:
    moments = sorted(moment for times in marks.times("end").values() for moment in times)
    return max(after - before for before, after in itertools.pairwise(moments))


def _restart(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [*SEAWALL, "restart"],
        env={**os.environ, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_a_rolling_restart_loses_doubles_and_interrupts_nothing(tmp_path: Path, database_url: str) -> None:
    roll(tmp_path, database_url, 1, workers=2)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_fifty_rolling_restarts_lose_double_and_interrupt_nothing(tmp_path: Path, database_url: str) -> None:
    roll(tmp_path, database_url, 50, workers=4)
