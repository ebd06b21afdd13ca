"""Tasks that kill their worker, and their neighbours: the guilty are given up, the innocent are not.

`test_suspect_storms.py` has many rounds of it and other ways to kill.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from support.suspects import MOST_RUNS, Fleet, Storm, neighbours, own_fleet, storm

POOLS = ("cells", "prefork")
DEAR = ("cells", pytest.param("prefork", marks=pytest.mark.slow))
"""For what starts five workers: the pool of ours, and in the slow run Celery's too."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with own_fleet(tmp_path) as made:
        yield made


@pytest.mark.parametrize("pool", [*POOLS, pytest.param("threads", marks=pytest.mark.slow)])
def test_suspects_run_one_at_a_time_and_their_neighbours_beside_them(
    fleet: Fleet, tmp_path: Path, pool: str
) -> None:
    gate = tmp_path / "gate"
    fleet.submit("hold", [("hold-a", str(gate)), ("hold-b", str(gate))])
    victim = fleet.worker(pool, 4)
    fleet.until(lambda: fleet.on_record() == 2, "both to start")
    fleet.place.kill(victim)
    fleet.worker(pool, 4)
    fleet.until(lambda: fleet.started("hold-a") + fleet.started("hold-b") == 3, "the first suspect's turn")
    fleet.submit("work", neighbours("beside", 40))
    fleet.until(lambda: fleet.ended("beside") == 40, "the neighbours to end beside a suspect that runs")
    assert fleet.started("hold-a") + fleet.started("hold-b") == 3
    assert fleet.ended("hold") == 0
    gate.touch()
    fleet.until(lambda: fleet.ended("hold") == 2, "both suspects to end, one after the other")
    fleet.until(lambda: fleet.queues.counts("celery").held == 0, "their acknowledgements")
    assert fleet.queues.counts("celery").dead == 0


@pytest.mark.parametrize("pool", DEAR)
def test_at_its_last_strike_a_suspect_runs_alone_in_its_worker_and_other_workers_go_on(
    fleet: Fleet, tmp_path: Path, pool: str
) -> None:
    gate = tmp_path / "gate"
    fleet.submit("hold", [("hold", str(gate))])
    for runs in (1, 2, 3):  # one that makes it a suspect, and two strikes
        victim = fleet.worker(pool, 2)
        fleet.until(lambda runs=runs: fleet.started("hold") == runs, f"run {runs}")  # type: ignore[misc]
        fleet.until(lambda: fleet.on_record() == 1, "its start to be on record")
        fleet.place.kill(victim)
    fleet.submit("hold", [("neighbour", str(tmp_path / "neighbour"))], priority=9)
    alone = fleet.worker(pool, 2)
    fleet.until(lambda: fleet.started("neighbour") == 1, "a neighbour that is there first")
    (tmp_path / "neighbour").touch()  # once it has ended, the worker is empty
    fleet.until(lambda: fleet.started("hold") == 4, "the run alone")
    fleet.submit("work", neighbours("elsewhere", 20))
    other = fleet.worker(pool, 2)
    fleet.until(lambda: fleet.ended("elsewhere") == 20, "the neighbours to end in the other worker")
    there = {process.pid for process in other.tree()}
    assert fleet.pids("elsewhere") <= there
    assert fleet.ended("hold") == 0
    assert alone.popen.poll() is None
    gate.touch()
    fleet.until(lambda: fleet.ended("hold") == 1, "its end")
    fleet.until(lambda: fleet.queues.counts("celery").held == 0, "its acknowledgement")
    assert fleet.queues.counts("celery").dead == 0


LATER = 3600.0  # seconds
UNBEGUN = ("gathered", "rated", "held", "of protocol 1", "without an offset")


def submit_unbegun(fleet: Fleet, kind: str) -> int:
    """What a worker takes in and does not begin, each ahead of the suspect; how many."""
    if kind in ("gathered", "rated", "held"):
        names = [(f"{kind}-{number}",) for number in range(3 if kind != "held" else 1)]
        fleet.submit(kind, names, application="unbegun", priority=9)
        return len(names)
    eta = datetime.now(UTC) + timedelta(seconds=LATER)
    with Celery("stock", broker=fleet.place.url) as stock:
        stock.conf.update(broker_transport="redis", task_protocol=1 if kind == "of protocol 1" else 2)
        naive = {"headers": {"eta": eta.replace(tzinfo=None).isoformat()}}
        where: dict[str, Any] = naive if kind == "without an offset" else {"eta": eta}
        stock.send_task("support.unbegun.plain", (kind.replace(" ", "-"),), priority=9, **where)
    return 1


@pytest.mark.parametrize(
    ("pool", "kinds"),
    [
        *((pool, UNBEGUN) for pool in POOLS),
        *(pytest.param(pool, UNBEGUN, marks=pytest.mark.slow) for pool in ("threads", "solo", "gevent")),
        *(pytest.param("prefork", (kind,), marks=pytest.mark.slow) for kind in UNBEGUN),
    ],
)
def test_a_suspect_that_is_to_run_alone_waits_for_nothing_that_has_not_begun(
    fleet: Fleet, tmp_path: Path, pool: str, kinds: tuple[str, ...]
) -> None:
    gate, room, flush = (tmp_path / name for name in ("gate", "room", "flush"))
    fleet.submit("hold", [("hold", str(gate))])
    fleet.lose(strikes=2)
    fleet.environment |= {"UNBEGUN_FLUSH": str(flush), "UNBEGUN_ROOM": str(room)}
    submitted = sum(submit_unbegun(fleet, kind) for kind in kinds)
    worker = fleet.worker(pool, 2, application="support.unbegun")
    fleet.until(lambda: fleet.started("hold") == 1, "the suspect's turn", 15)
    ran = fleet.place.marks.counts("end")
    assert {name.partition("-")[0] for name in ran} <= {"rated"}, "each process has a token"
    flush.touch()
    if pool != "solo":  # where nothing else turns
        fleet.until(lambda: fleet.place.marks.counts("flush"), "a strategy to begin what it has")
    assert fleet.ended("gathered") == 0
    gate.touch()
    fleet.until(lambda: fleet.ended("hold") == 1, "its end")
    room.touch()
    if "held" in kinds:
        fleet.until(lambda: fleet.ended("held") == 1, "what had no room")
    if "gathered" in kinds:
        fleet.until(lambda: fleet.ended("gathered") == 3, "the batches")
    fleet.until(lambda: fleet.queues.counts("celery").ready == 0, "the others to be taken in")
    fleet.place.stop(worker)
    counts, ended = fleet.queues.counts("celery"), fleet.place.marks.counts("end")
    assert (counts.dead, counts.held) == (0, 0)
    assert counts.ready + counts.delayed + ended.total() == 1 + submitted
    assert set(ended.values()) == {1}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", DEAR)
def test_killers_of_their_worker_are_given_up_and_no_innocent_is(fleet: Fleet, pool: str) -> None:
    account = storm(fleet, Storm(pool=pool, concurrency=4, seconds=1.0))
    assert account.buried == ["('killer-0',)"]
    assert account.runs[0] <= MOST_RUNS


def test_a_message_that_kills_cells_before_it_runs_is_given_up_and_the_others_run(fleet: Fleet) -> None:
    fleet.environment = {**fleet.environment, "MARKED_DIES_OF": "support.marked.lethal"}
    fleet.submit("lethal", [("lethal-a",), ("lethal-b",)], priority=9)  # as many as there are cells
    fleet.submit("work", neighbours("beside", 20))
    worker = fleet.worker("cells", 2, wait=False)
    fleet.until(lambda: fleet.ended("beside") == 20, "the others to run")
    fleet.until(lambda: fleet.queues.counts("celery").dead == 2, "two dead letters")
    assert fleet.place.marks.counts("taken-in") == {"support.marked.lethal": 2 * 3}
    assert fleet.place.marks.counts("start").total() == 20
    for letter in fleet.queues.dead("celery"):
        assert [why.endswith("while it took the message in") for _, _, why in letter.history] == [True] * 3
    fleet.place.stop(worker)
