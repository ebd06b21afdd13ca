"""Cells and supervisors are killed at random while marked tasks run: nothing is lost, little is repeated."""

import contextlib
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from celery import Celery

from seawall import delivery
from seawall.delivery import Queues
from support.delivery import ROOT, Site, own_server, site
from support.processes import Proc, alive
from support.proxy import proxy
from support.waiting import wait_until

CELLS = 4
SECONDS = 0.004


@dataclass
class Storm:
    """One worker on a server of its own, and what is done to it."""

    place: Site
    tasks: int
    kills: list[float] = field(default_factory=list)
    orphans: int = 0
    supervisors: int = 0

    def start(self) -> Proc:
        argv = [sys.executable, "-m", "seawall.worker", "-A", "support.marked", "worker", "-c", str(CELLS)]
        argv += ["-l", "WARNING", "-n", "storm@test", "--without-gossip", "--without-mingle"]
        log = self.place.folder / f"supervisor-{len(self.place.workers)}-{self.supervisors}.log"
        proc = Proc(argv, log=log, env=self.place.environment, cwd=ROOT)
        self.place.workers.append(proc)
        wait_until(lambda: len(proc.tree()) == CELLS + 1, timeout=60, what="the cells")
        return proc

    def submit(self) -> None:
        with Celery("client", broker=self.place.url) as app:
            app.conf.update(
                broker_transport=delivery.transport_for(self.place.url),
                broker_transport_options={"delivery": self.place.delivery},
            )
            work = app.signature("support.marked.work")
            delivery.submit_many((work.clone((number, SECONDS)) for number in range(self.tasks)), app=app)

    def kill_cell(self, worker: Proc) -> None:
        cells = worker.tree()[1:]
        if cells:
            with contextlib.suppress(psutil.NoSuchProcess):
                random.choice(cells).kill()  # noqa: S311
                self.kills.append(time.time())

    def kill_supervisor(self, worker: Proc) -> Proc:
        """SIGKILL of the supervisor alone: its cells have to end by themselves."""
        everybody = worker.tree()
        os.kill(worker.pid, signal.SIGKILL)
        worker.popen.wait(20)
        wait_until(lambda: not alive(everybody), timeout=20, what="the cells to die with their supervisor")
        self.supervisors += 1
        self.place.workers.remove(worker)
        return self.start()

    def rage(self, worker: Proc, cells: int, supervisors: int) -> Proc:
        """So many kills, spread over the work."""
        victims = ["cell"] * cells + ["supervisor"] * supervisors
        random.shuffle(victims)
        for done, victim in enumerate(victims):
            due = self.tasks * 0.9 * done / len(victims)
            wait_until(lambda due=due: self.ended() >= due, timeout=120, what="progress")  # type: ignore[misc]
            if victim == "cell":
                self.kill_cell(worker)
            else:
                worker = self.kill_supervisor(worker)
        return worker

    def ended(self) -> int:
        path = self.place.marks.path
        return path.stat().st_size // 64 if path.exists() else 0  # about: two lines a task

    def replacement_times(self) -> list[float]:
        """Seconds from each kill of a cell to the first task of a process that had run none before."""
        first: dict[str, float] = {}
        for kind, _, moment, pid in self.place.marks.lines():
            if kind == "start":
                first.setdefault(pid, float(moment))
        births = sorted(first.values())
        found = ((next((birth for birth in births if birth > kill), None), kill) for kill in self.kills)
        return [birth - kill for birth, kill in found if birth is not None]


@pytest.fixture
def storm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Storm]:
    tasks = request.param
    with (
        own_server(tmp_path / "server", fsync="everysec") as server,
        site(server.url, tmp_path / "site", delivery={"lease": 3.0}) as place,
    ):
        yield Storm(place, tasks)


@pytest.fixture
def far_storm(tmp_path: Path) -> Iterator[Storm]:
    """A round trip to the server takes 100 ms."""
    with (
        own_server(tmp_path / "server", fsync="everysec") as server,
        proxy(server.url) as way,
        site(way.url, tmp_path / "site", delivery={"lease": 5.0}) as place,
    ):
        way.delay = 0.05
        yield Storm(place, 600)


def weather(storm: Storm, cells: int, supervisors: int) -> None:
    storm.submit()
    worker = storm.rage(storm.start(), cells, supervisors)
    marks = storm.place.marks
    wait_until(lambda: len(marks.counts("end")) == storm.tasks, timeout=120, what="every task to end")
    assert len(worker.tree()) == CELLS + 1
    storm.place.stop(worker)
    ends = marks.counts("end")
    starts = marks.counts("start")
    repeated = sum(count - 1 for count in starts.values())
    waits = storm.replacement_times()
    print(  # noqa: T201 - the figures are the point
        f"{len(storm.kills)} cells and {storm.supervisors} supervisors killed over {storm.tasks} tasks: "
        f"0 lost, {repeated} repeated, {sum(count - 1 for count in ends.values())} of them ended twice; "
        f"next task in a new cell after {statistics.median(waits):.3f} s (median), {max(waits):.3f} s (worst)"
    )
    # What ran at the moment of a kill, and after a supervisor's what had ended too lately to be on record:
    # acknowledgements travel together, ten milliseconds late at most.
    late = int(0.01 / SECONDS) + 2
    assert repeated <= len(storm.kills) + storm.supervisors * CELLS * (1 + late)


@pytest.mark.parametrize(
    ("storm", "cells", "supervisors"),
    [(800, 8, 1), pytest.param(2000, 20, 2, marks=pytest.mark.slow)],
    indirect=["storm"],
)
@pytest.mark.timeout(240)
def test_killed_cells_and_supervisors_lose_nothing(storm: Storm, cells: int, supervisors: int) -> None:
    weather(storm, cells, supervisors)


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_killed_cells_far_from_their_server_lose_nothing(far_storm: Storm) -> None:
    weather(far_storm, cells=15, supervisors=0)


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_stopped_workers_far_from_their_server_lose_and_repeat_nothing(far_storm: Storm) -> None:
    stops(far_storm, 3)


@pytest.mark.slow
@pytest.mark.parametrize("storm", [50_000], indirect=True)
@pytest.mark.timeout(1800)
def test_a_long_storm_of_kills_loses_nothing(storm: Storm) -> None:
    weather(storm, cells=500, supervisors=50)


def stops(storm: Storm, many: int) -> None:
    """So many workers are told to stop, one after another, in the midst of the work."""
    storm.submit()
    took = []
    with storm.place.connection() as connection, Queues.open(connection) as queues:
        for done in range(1, many + 1):
            worker = storm.start()
            due = storm.tasks * 0.9 * done / many
            wait_until(lambda due=due: storm.ended() >= due, timeout=120, what="progress")  # type: ignore[misc]
            took.append(storm.place.stop(worker))
            assert queues.counts("celery").held == 0, "given back, not left to the lease"
    storm.start()
    marks = storm.place.marks
    wait_until(lambda: len(marks.counts("end")) == storm.tasks, timeout=120, what="every task to end")
    repeated = [name for name, count in marks.counts("start").items() if count > 1]
    print(  # noqa: T201 - the figures are the point
        f"{many} workers stopped over {storm.tasks} tasks: 0 lost, {len(repeated)} repeated; "
        f"they left within {max(took):.2f} s"
    )
    assert not repeated


@pytest.mark.parametrize(
    ("storm", "many"), [(600, 2), pytest.param(1500, 4, marks=pytest.mark.slow)], indirect=["storm"]
)
def test_stopped_workers_lose_and_repeat_nothing(storm: Storm, many: int) -> None:
    stops(storm, many)


@pytest.mark.slow
@pytest.mark.parametrize("storm", [20_000], indirect=True)
@pytest.mark.timeout(1200)
def test_many_stopped_workers_lose_and_repeat_nothing(storm: Storm) -> None:
    stops(storm, 50)
